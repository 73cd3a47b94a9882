"""From the slice store to training batches: what a batch holds is a function of seed, epoch and position alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.data.loader_workers import as_it_is, end_workers_at_exit, leave_signals_to_the_parent
from pipeline.data.slice_cache import StoredCase, decode
from pipeline.utils.errors import UserError
from transforms.augmentation import Augmentation, AugmentationParameters


class SliceBank:
    """The slices of several stored cases as one sequence, each read from its file when it is asked for.

    Files are opened for one read: that costs less than to map them into memory, the same for any number of volumes,
    and leaves it to the operating system which of them it keeps in memory.
    """

    def __init__(self, stored: Sequence[StoredCase]):
        self.paths = [str(entry.path) for entry in stored]
        self.ends = np.cumsum([entry.count for entry in stored])
        self.first = [entry.first for entry in stored]  # of the slices in each file that are used
        self.counts = [entry.count for entry in stored]
        self.in_file = [entry.count if entry.stored is None else entry.stored for entry in stored]
        self._layouts: dict[int, tuple[int, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_layouts": {}}  # a worker finds out itself what it needs

    def gather(self, indices: Sequence[int], flips: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Return the slices at `indices` as (N, 1, S, S) float32 in [-1, 1].

        Args:
            indices: Of slices, from 0.
            flips: For each the steps, 1 or -1, in which its two axes are walked: a flip while a slice is converted
                costs nothing. None flips none.

        Raises:
            UserError: a file is gone, or is not what was stored.
        """
        volumes, shape = np.searchsorted(self.ends, indices, side="right").tolist(), self.shape
        stored, gathered = np.empty(shape, dtype=np.uint16), np.empty((len(indices), 1, *shape), dtype=np.float32)
        flips = [(1, 1)] * len(indices) if flips is None else flips
        for target, volume, index, (rows, columns) in zip(gathered, volumes, indices, flips, strict=True):
            self._read(volume, int(index - self.ends[volume - 1]) if volume else int(index), stored)
            decode(stored[::rows, ::columns], out=target[0])
        return torch.from_numpy(gathered)

    def changed(
        self, augmentation: Augmentation, indices: Sequence[int], changes: list[AugmentationParameters]
    ) -> Tensor:
        """Return slices as `gather` does, with one change each."""
        if augmentation.jitter != 1:
            return augmentation.apply(self.gather(indices), changes)
        return augmentation.apply_to_flipped(self.gather(indices, [change.flips for change in changes]), changes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every slice."""
        return self._layout(0)[1]

    def volume(self, number: int) -> np.ndarray:
        """Return a volume's slices as they are stored, (N, S, S) uint16; see `gather` for what is raised."""
        self._layout(number)
        first = self.first[number]
        with _stored_file(self.paths[number]):
            return np.load(self.paths[number], allow_pickle=False)[first : first + self.counts[number]]

    def _read(self, volume: int, place: int, stored: np.ndarray) -> None:
        """Read one slice of a volume."""
        start, _ = self._layout(volume)
        with _stored_file(self.paths[volume]), FileIO(self.paths[volume]) as file:
            file.seek(start + (self.first[volume] + place) * stored.nbytes)
            if file.readinto(stored) != stored.nbytes:
                raise ValueError("its end is missing")

    def _layout(self, volume: int) -> tuple[int, tuple[int, int]]:
        """Return where in a volume's file the first slice begins, and the slices' (height, width)."""
        if volume not in self._layouts:
            with _stored_file(self.paths[volume]), Path(self.paths[volume]).open("rb") as file:
                np.lib.format.read_magic(file)
                (count, *shape), by_column, kind = np.lib.format.read_array_header_1_0(file)
                expected = shape if volume == 0 else [*self.shape]
                if by_column or kind != np.uint16 or (count, shape) != (self.in_file[volume], expected):
                    raise ValueError(f"{count} arrays of shape {(*shape,)} and type {kind}")
                self._layouts[volume] = file.tell(), tuple(shape)
        return self._layouts[volume]


@contextmanager
def _stored_file(path: str) -> Iterator[None]:
    """Name the file that cannot be read: something has touched the store since the run began."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not the stored slices ({reason}); the same command makes them again") from error


class SliceSource(Protocol):
    """The slices of a contrast, of several volumes one after the other: `SliceBank`, `DeviceSliceBank`."""

    ends: np.ndarray  # of each volume, in slices

    def __len__(self) -> int: ...

    def changed(
        self, augmentation: Augmentation, indices: Sequence[int], changes: list[AugmentationParameters]
    ) -> Tensor:
        """Return the slices at `indices` as (N, 1, S, S) float32 in [-1, 1], with one change each."""


class ShuffledSampler:
    """Which slice stands at each place of an epoch and how it is changed: a function of seed, stream and key alone.

    Args:
        count: How many slices there are.
        augmentation: Whose changes are drawn.
        seed: Of order and augmentation.
        stream: Tells apart what is drawn independently from one seed.
    """

    def __init__(self, count: int, augmentation: Augmentation, seed: int, stream: int):
        self.count, self.augmentation, self.seed, self.stream = count, augmentation, seed, stream
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def indices(self, keys: Sequence[tuple[int, int]]) -> list[int]:
        """Return the slice at each (epoch, position); when all had their turn, a new shuffle begins."""
        return [self._index(*key) for key in keys]

    def changes(self, keys: Sequence[tuple[int, int]]) -> list[AugmentationParameters]:
        """Return how the slice at each (epoch, position) is changed."""
        return [self.augmentation.draw(np.random.default_rng([self.seed, self.stream, 1, *key])) for key in keys]

    def _index(self, epoch: int, position: int) -> int:
        lap, place = divmod(position, self.count)
        if (epoch, lap) not in self._orders:
            if len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]  # a lap that is over; if it should not be, it is drawn again
            random = np.random.default_rng([self.seed, self.stream, 0, epoch, lap])
            self._orders[epoch, lap] = random.permutation(self.count)
        return int(self._orders[epoch, lap][place])


class UnpairedSlices(Dataset):
    """Batches of slices of both contrasts, each shuffled on its own.

    Args:
        first: Slices of the first contrast.
        second: Slices of the second.
        augmentation: Applied to each slice.
        seed: Of order and augmentation.
    """

    def __init__(self, first: SliceSource, second: SliceSource, augmentation: Augmentation, seed: int):
        self.banks, self.augmentation = (first, second), augmentation
        self.draws = [ShuffledSampler(len(bank), augmentation, seed, stream) for stream, bank in enumerate(self.banks)]

    def __len__(self) -> int:
        return max(len(bank) for bank in self.banks)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return the batch (N, 1, S, S) of each contrast for the given (epoch, position) keys."""
        first, second = (
            bank.changed(self.augmentation, draws.indices(keys), draws.changes(keys))
            for bank, draws in zip(self.banks, self.draws, strict=True)
        )
        return first, second


class PairedSlices(Dataset):
    """Batches of the same slices in both contrasts, shuffled together and changed alike.

    Args:
        first: Slices of the first contrast.
        second: The same slices in the second.
        augmentation: Applied to both slices of a pair with one draw.
        seed: Of order and augmentation.

    Raises:
        ValueError: the contrasts have different numbers of slices.
    """

    def __init__(self, first: SliceSource, second: SliceSource, augmentation: Augmentation, seed: int):
        if not np.array_equal(first.ends, second.ends):
            raise ValueError(f"{len(first)} and {len(second)} slices are not pairs")
        self.banks, self.augmentation = (first, second), augmentation
        self.draws = ShuffledSampler(len(first), augmentation, seed, stream=0)

    def __len__(self) -> int:
        return self.draws.count

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return the batch (N, 1, S, S) of each contrast for the given (epoch, position) keys."""
        indices, changes = self.draws.indices(keys), self.draws.changes(keys)
        first, second = (bank.changed(self.augmentation, indices, changes) for bank in self.banks)
        return first, second


class EpochBatches(Sampler):
    """The (epoch, position) keys of one epoch's batches, from a given batch on; of each batch all slots or some."""

    def __init__(
        self, epoch: int, batches: int, batch_size: int, first_batch: int = 0, slots: Sequence[int] | None = None
    ):
        if not 0 <= first_batch <= batches:
            raise ValueError(f"batch {first_batch} is not within an epoch of {batches}")
        self.epoch, self.batches, self.batch_size, self.first_batch = epoch, batches, batch_size, first_batch
        self.local_slots = range(batch_size) if slots is None else slots

    def __len__(self) -> int:
        return self.batches - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in range(self.first_batch, self.batches):
            start = batch * self.batch_size
            yield [(self.epoch, start + slot) for slot in self.local_slots]


def epoch_loader(
    slices: UnpairedSlices | PairedSlices,
    *,
    epoch: int,
    batches: int,
    batch_size: int,
    first_batch: int,
    workers: int,
    pin_memory: bool,
    slots: Sequence[int] | None = None,
) -> DataLoader:
    """Return a loader over one epoch from `first_batch` on; its order does not depend on the number of workers.

    Where several processes share each batch, `local_slots` are the places in it that are this process's.
    """
    if workers:
        end_workers_at_exit()
    return DataLoader(
        slices,
        batch_sampler=EpochBatches(epoch, batches, batch_size, first_batch, slots),
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=leave_signals_to_the_parent,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # so that starting workers draws nothing from the global state
    )
