"""From the slice store to training batches: what a batch holds is a function of seed, epoch and position alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.data.store import StoredCase, decode
from transforms.augmentation import Augmentation


class SliceBank:
    """The slices of several stored cases as one sequence, gathered straight from their memory maps."""

    def __init__(self, stored: Sequence[StoredCase]):
        self.paths = [entry.path for entry in stored]
        self.ends = np.cumsum([entry.count for entry in stored])
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_maps": {}}  # a worker opens its own maps instead of receiving copies of them

    def gather(self, indices: Sequence[int]) -> Tensor:
        """Return the slices at `indices` as (N, 1, S, S) float32 in [-1, 1]."""
        volumes = np.searchsorted(self.ends, indices, side="right")
        found = [
            self._map(volume)[index - (self.ends[volume - 1] if volume else 0)]
            for volume, index in zip(volumes, indices, strict=True)
        ]
        return torch.from_numpy(decode(np.stack(found)))[:, None]

    def _map(self, volume: int) -> np.ndarray:
        if volume not in self._maps:
            self._maps[volume] = np.load(self.paths[volume], mmap_mode="r", allow_pickle=False)
        return self._maps[volume]


class UnpairedSlices(Dataset):
    """Batches of slices of both contrasts, each shuffled on its own.

    Args:
        first: Slices of the first contrast.
        second: Slices of the second.
        augmentation: Applied to each slice.
        seed: Of order and augmentation.
    """

    def __init__(self, first: SliceBank, second: SliceBank, augmentation: Augmentation, seed: int):
        self.banks, self.augmentation, self.seed = (first, second), augmentation, seed
        self._orders: dict[tuple[int, int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return max(len(bank) for bank in self.banks)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Return the batch (N, 1, S, S) of each contrast for the given (epoch, position) keys."""
        return self._side(0, keys), self._side(1, keys)

    def _side(self, side: int, keys: list[tuple[int, int]]) -> Tensor:
        slices = self.banks[side].gather([self._index(side, *key) for key in keys])
        changes = [self.augmentation.draw(np.random.default_rng([self.seed, side, 1, *key])) for key in keys]
        return self.augmentation.apply(slices, changes)

    def _index(self, side: int, epoch: int, position: int) -> int:
        """Return which slice stands at a position; a contrast with fewer slices begins a new shuffle when through."""
        count = len(self.banks[side])
        lap, place = divmod(position, count)
        if (side, epoch, lap) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[1] >= epoch}
            random = np.random.default_rng([self.seed, side, 0, epoch, lap])
            self._orders[side, epoch, lap] = random.permutation(count)
        return int(self._orders[side, epoch, lap][place])


class EpochBatches(Sampler):
    """The (epoch, position) keys of one epoch's batches, from a given batch on."""

    def __init__(self, epoch: int, batches: int, batch_size: int, first_batch: int = 0):
        if not 0 <= first_batch <= batches:
            raise ValueError(f"batch {first_batch} is not within an epoch of {batches}")
        self.epoch, self.batches, self.batch_size, self.first_batch = epoch, batches, batch_size, first_batch

    def __len__(self) -> int:
        return self.batches - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in range(self.first_batch, self.batches):
            start = batch * self.batch_size
            yield [(self.epoch, position) for position in range(start, start + self.batch_size)]


def epoch_loader(
    slices: UnpairedSlices,
    *,
    epoch: int,
    batches: int,
    batch_size: int,
    first_batch: int,
    workers: int,
    pin_memory: bool,
) -> DataLoader:
    """Return a loader over one epoch from `first_batch` on; its order does not depend on the number of workers."""
    return DataLoader(
        slices,
        batch_sampler=EpochBatches(epoch, batches, batch_size, first_batch),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_parent,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # so that starting workers draws nothing from the global state
    )


def _as_it_is(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return batch


def _leave_signals_to_the_parent(_: int) -> None:
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
