"""From the slice cache to training batches: a batch is a function of seed, epoch and position alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.stored_slices import LEVELS, StoredSlices, decode
from pipeline.utils.errors import UserError
from transforms.augmentation import Augmentation, AugmentationParameters, on_device
from transforms.neighbours import NO_NEIGHBOURS, Neighbours

MEMORY_SHARE = 0.7  # largest share of a GPU's free memory for slices; the rest is for networks and activations
GIB = 2**30
AIR = -1  # in place of where a slice lies, beyond the end of a file
PAIRS_STREAM = 2  # random stream of pairs beside unpaired slices, whose contrasts have 0 and 1


class SliceBank:
    """The slices of several cached cases as one sequence, each read from its file on access.

    Each read opens its file anew: that costs less than memory-mapping, whatever the number of volumes, and leaves
    caching to the operating system.

    Each slice comes with its `neighbours`, as channels in their order. Beyond the ends of a file they are air where the
    volume goes on there, else its first or last slice is repeated.
    """

    def __init__(self, stored: Sequence[StoredSlices], neighbours: Neighbours = NO_NEIGHBOURS):
        self.entries, self.channels = list(stored), neighbours.channels
        self.ends = np.cumsum([entry.count for entry in stored])
        self.file_ends = np.cumsum([entry.file_count for entry in stored])
        self._steps = np.array([neighbours.steps(entry.slice_mm) for entry in stored])  # (volumes, channels)
        self._layouts: dict[int, tuple[int, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def gather(self, indices: Sequence[int], flips: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Return the slices at `indices` as (N, C, S, S) float32 in [-1, 1]; UserError if a file was changed.

        C is 1, or more with neighbours. `flips` are steps along each slice's two axes, 1 or -1: flipping while a
        slice is converted costs nothing.
        """
        shape, slice_numbers = self.shape, self.slice_numbers(indices)
        volumes = np.searchsorted(self.file_ends, slice_numbers, side="right").tolist()
        stored, gathered = np.empty(shape, dtype=np.uint16), np.empty((*slice_numbers.shape, *shape), dtype=np.float32)
        flips = [(1, 1)] * len(indices) if flips is None else flips
        for targets, stack, numbers, (rows, columns) in zip(
            gathered, slice_numbers.tolist(), volumes, flips, strict=True
        ):
            for target, slice_number, number in zip(targets, stack, numbers, strict=True):
                if slice_number == AIR:
                    target.fill(-1)
                    continue
                self._read(number, slice_number - int(self.file_ends[number]) + self.entries[number].file_count, stored)
                decode(stored[::rows, ::columns], out=target)
        return torch.from_numpy(gathered)

    def slice_numbers(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return where slices and their neighbours lie, (N, C), counted through all slices of all files; or `AIR`."""
        volumes = np.searchsorted(self.ends, indices, side="right")
        entries = [self.entries[volume] for volume in volumes.tolist()]
        counts = np.array([[entry.file_count] for entry in entries])
        used_ends = np.array([entry.first + entry.count for entry in entries])  # in the files
        file_indices = np.asarray(indices, dtype=np.int64) - self.ends[volumes] + used_ends
        stack_indices = file_indices[:, None] + self._steps[volumes]
        before, after = np.array([entry.air_beyond for entry in entries])[:, :, None].swapaxes(0, 1)
        is_air = (before & (stack_indices < 0)) | (after & (stack_indices >= counts))
        slice_numbers = self.file_ends[volumes][:, None] - counts + stack_indices.clip(0, counts - 1)
        return np.where(is_air, AIR, slice_numbers)

    def augmented(
        self, augmentation: Augmentation, indices: Sequence[int], changes: list[AugmentationParameters]
    ) -> Tensor:
        """Return the slices at `indices`, as `gather` does, each with its own augmentation; neighbours are alike."""
        if augmentation.jitter != 1:
            return augmentation.apply(self.gather(indices), changes)
        return augmentation.apply_to_flipped(self.gather(indices, [change.flips for change in changes]), changes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every slice."""
        return self._layout(0)[1]

    def volume(self, number: int) -> np.ndarray:
        """Return all slices in a volume's file as stored, (N, S, S) uint16; raises like `gather`."""
        self._layout(number)
        entry = self.entries[number]
        with _naming_file(entry.path):
            return np.load(entry.path, allow_pickle=False)

    def _read(self, number: int, index: int, stored: np.ndarray) -> None:
        """Read the slice of this index in a volume's file into `stored`."""
        entry, (start, _) = self.entries[number], self._layout(number)
        with _naming_file(entry.path), FileIO(entry.path) as file:
            file.seek(start + index * stored.nbytes)
            if file.readinto(stored.data) != stored.nbytes:
                raise ValueError("its end is missing")

    def _layout(self, number: int) -> tuple[int, tuple[int, int]]:
        """Return the offset of the first slice in a volume's file, and the slices' (height, width)."""
        if number not in self._layouts:
            entry = self.entries[number]
            with _naming_file(entry.path), entry.path.open("rb") as file:
                np.lib.format.read_magic(file)
                (count, *shape), is_fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
                expected = shape if number == 0 else [*self.shape]
                if is_fortran_order or dtype != np.uint16 or (count, shape) != (entry.file_count, expected):
                    raise ValueError(f"{count} arrays of shape {(*shape,)} and type {dtype}")
                self._layouts[number] = file.tell(), (shape[0], shape[1])
        return self._layouts[number]


@contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    """Turn a read error into a UserError with the file's name: the cache was changed since the run began."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not the stored slices ({reason}); the same command makes them again") from error


class DeviceSliceBank:
    """All of a bank's slices in one tensor on a device, which are augmented there."""

    def __init__(self, bank: SliceBank, device: torch.device):
        self.ends, self.slice_numbers = bank.ends, bank.slice_numbers
        count = int(bank.file_ends[-1])
        self.stored = torch.empty((count + 1, *bank.shape), dtype=torch.int16, device=device)  # the bits of uint16
        for number, end in enumerate(bank.file_ends):
            volume = torch.from_numpy(bank.volume(number).view(np.int16))
            self.stored[int(end) - len(volume) : int(end)].copy_(volume)
        self.stored[AIR] = 0  # the last one, of which 0 is the level of -1

    def __len__(self) -> int:
        return int(self.ends[-1])

    def gather(self, indices: Sequence[int]) -> Tensor:
        """Return the slices at `indices` as (N, C, S, S) float32 in [-1, 1], equal to `SliceBank.gather`'s."""
        levels = self.stored[on_device(self.slice_numbers(indices), self.stored.device)]
        values = (levels.to(torch.int32) & 0xFFFF).to(torch.float32)
        return values.mul_(float(np.float32(2 / LEVELS))).sub_(1)

    def augmented(
        self, augmentation: Augmentation, indices: Sequence[int], changes: list[AugmentationParameters]
    ) -> Tensor:
        """See `SliceBank.augmented`."""
        return augmentation.apply_batched(self.gather(indices), changes)


SliceSource = SliceBank | DeviceSliceBank


def on_device_slices(banks: Sequence[SliceBank], device: torch.device) -> list[DeviceSliceBank]:
    """Return the banks with their slices moved to the device's memory; UserError: they do not fit."""
    needed_bytes = sum(2 * int(bank.file_ends[-1]) * bank.shape[0] * bank.shape[1] for bank in banks)
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if needed_bytes > MEMORY_SHARE * free_bytes:
            raise UserError(
                f"training.slices_on_device = true: {needed_bytes / GIB:.1f} GiB of slices do not fit into "
                f"{MEMORY_SHARE:.0%} of the {free_bytes / GIB:.1f} GiB that are free on {device}; "
                "set it to false, and the store is read"
            )
    return [DeviceSliceBank(bank, device) for bank in banks]


class ShuffledSampler:
    """The order of slices in an epoch and their augmentations: a function of seed, stream and key alone.

    Different streams of one seed are independent.
    """

    def __init__(self, count: int, augmentation: Augmentation, seed: int, stream: int):
        self.count, self.augmentation, self.seed, self.stream = count, augmentation, seed, stream
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def indices(self, keys: Sequence[tuple[int, int]]) -> list[int]:
        """Return the index of the slice at each (epoch, position); after a pass over all, they are reshuffled."""
        return [self._index(*key) for key in keys]

    def changes(self, keys: Sequence[tuple[int, int]]) -> list[AugmentationParameters]:
        """Return the augmentation of the slice at each (epoch, position)."""
        return [self.augmentation.draw(np.random.default_rng([self.seed, self.stream, 1, *key])) for key in keys]

    def _index(self, epoch: int, position: int) -> int:
        pass_number, offset = divmod(position, self.count)
        if (epoch, pass_number) not in self._orders:
            if len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]  # a finished lap's; drawn again if needed
            random = np.random.default_rng([self.seed, self.stream, 0, epoch, pass_number])
            self._orders[epoch, pass_number] = random.permutation(self.count)
        return int(self._orders[epoch, pass_number][offset])


class UnpairedSlices:
    """Batches of slices of both contrasts, each shuffled on its own, and of pairs from a stream of their own."""

    def __init__(
        self,
        first: SliceSource,
        second: SliceSource,
        augmentation: Augmentation,
        seed: int,
        pairs: "PairedSlices | None" = None,
    ):
        self.banks, self.augmentation, self.pairs = (first, second), augmentation, pairs
        self.samplers = [
            ShuffledSampler(len(bank), augmentation, seed, number) for number, bank in enumerate(self.banks)
        ]

    def __len__(self) -> int:
        return max(len(bank) for bank in self.banks)

    def batch(self, keys: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        """Return the batch (N, C, S, S) of each contrast for the given (epoch, position) keys, then those of pairs."""
        batches = tuple(
            bank.augmented(self.augmentation, sampler.indices(keys), sampler.changes(keys))
            for bank, sampler in zip(self.banks, self.samplers, strict=True)
        )
        return batches if self.pairs is None else (*batches, *self.pairs.batch(keys))


class PairedSlices(UnpairedSlices):
    """Batches of the same slices in both contrasts, shuffled together and augmented alike.

    Pairs that are shown beside unpaired slices have `PAIRS_STREAM`. ValueError: the contrasts have different numbers of
    slices.
    """

    def __init__(self, first: SliceSource, second: SliceSource, augmentation: Augmentation, seed: int, stream: int = 0):
        if not np.array_equal(first.ends, second.ends):
            raise ValueError(f"{len(first)} and {len(second)} slices are not pairs")
        super().__init__(first, second, augmentation, seed)
        self.samplers = [ShuffledSampler(len(first), augmentation, seed, stream)] * 2


def epoch_keys(
    epoch: int, batches: int, batch_size: int, first_batch: int = 0, slots: Sequence[int] | None = None
) -> Iterator[list[tuple[int, int]]]:
    """Yield the (epoch, position) keys of each of an epoch's batches from `first_batch` on.

    Where several processes share each batch, `slots` are this process's positions in it.
    """
    for batch in range(first_batch, batches):
        yield [(epoch, batch * batch_size + slot) for slot in (range(batch_size) if slots is None else slots)]


def epoch_batches(
    slices: UnpairedSlices | PairedSlices,
    *,
    epoch: int,
    batches: int,
    batch_size: int,
    first_batch: int,
    pin_memory: bool,
    slots: Sequence[int] | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of an epoch from `first_batch` on, as in `UnpairedSlices.batch`; arguments: `epoch_keys`.

    `pin_memory` puts them into page-locked memory, from which copying to a GPU does not wait.
    """
    for keys in epoch_keys(epoch, batches, batch_size, first_batch, slots):
        images = slices.batch(keys)
        yield tuple(image.pin_memory() for image in images) if pin_memory else images
