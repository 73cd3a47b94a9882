"""A pool of earlier translations that discriminators are shown again (Shrivastava et al. 2017, section 2.3)."""

import torch
from torch import Tensor

from pipeline.engines.state import RandomState


class ImagePool:
    """Returns, with probability one half each, the image given or an earlier one that it replaces, one after the other.

    All it does is arithmetic on tensors of the engine's device, which no program on the CPU waits for. Its randomness
    comes from its own generator, so that it is saved and restored with the pool.

    Args:
        size: How many images are kept; 0 returns every batch as it is.
        seed: Of the pool's own random generator.
        device: Where the images are.
    """

    def __init__(self, size: int, seed: int, device: torch.device):
        self.size, self.device = size, device
        self.random = RandomState(seed, device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)  # of images that are there
        self._places: Tensor | None = None  # (size + 1, 1, H, W): the last one takes what is to be thrown away
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None  # images, the places for them, how many are new

    @property
    def generator(self) -> torch.Generator:
        """The pool's own."""
        return self.random.generator

    @property
    def images(self) -> Tensor | None:
        """The images that are there (count, 1, H, W), or None; a GPU is waited for."""
        count = int(self._count)
        return self._places[:count] if count else None

    def query(self, batch: Tensor) -> Tensor:
        """Return a batch (N, 1, H, W) mixed from `batch` and the pool, detached; `commit` then changes the pool."""
        batch = batch.detach()
        if self.size == 0:
            return batch
        if self._places is None:
            self._places = torch.zeros(self.size + 1, *batch.shape[1:], dtype=batch.dtype, device=batch.device)
        count, device = len(batch), batch.device
        coins, drawn = (one.to(device) for one in (self.random.uniform(count), self.random.integers(self.size, count)))
        free = self._count + torch.arange(count, device=device) if count > 1 else self._count[None]
        fills = free < self.size  # `free` is the place of each, while there is one
        exchanged = (coins < 0.5) > fills  # and not filling
        places = torch.where(fills, free, torch.where(exchanged, drawn, self.size))
        theirs = self._places[drawn].to(batch)
        if count > 1:
            theirs, places = _in_turn(batch, places, drawn, theirs, self.size)
        self._pending = batch, places, fills.sum() if count > 1 else fills[0]
        return _where(exchanged, theirs, batch)

    def commit(self, is_finite: Tensor) -> None:
        """Put what the last `query` exchanged into the pool, unless its step was skipped, `is_finite` () false.

        What is not to be kept goes to the place that nothing reads.
        """
        if self._pending is not None:
            batch, places, filled = self._pending
            self._places.index_copy_(0, torch.where(is_finite, places, self.size), batch.to(self._places))
            self._count += filled * is_finite
            self._pending = None

    def state_dict(self) -> dict:
        """Return the images and the state of the random generator."""
        images = self.images
        return {"images": None if images is None else images.clone(), "random": self.random.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned, or what it did when pools drew on the CPU alone."""
        images, random = state["images"], state["random"]
        self._places, self._pending = None, None
        self._count.fill_(0 if images is None else len(images))
        if images is not None:
            self._places = torch.zeros(self.size + 1, *images.shape[1:], dtype=images.dtype, device=self.device)
            self._places[: len(images)] = images
        self.random.load_state_dict({"generator": random} if isinstance(random, Tensor) else random)


def _in_turn(batch: Tensor, places: Tensor, drawn: Tensor, theirs: Tensor, nowhere: int) -> tuple[Tensor, Tensor]:
    """Have the images of a batch come one after the other to their places.

    Args:
        batch: (N, 1, H, W).
        places: (N,), to which each goes.
        drawn: (N,), from which each would take what is there.
        theirs: (N, 1, H, W), what was there before this batch.
        nowhere: The place of what is not kept.

    Returns:
        What is there when it is each one's turn: where an earlier one of the batch has come to the place, that one. And
        `places` for what stays: of all that come to a place the last.
    """
    order = torch.arange(len(batch), device=batch.device)
    before = torch.where((places == drawn[:, None]) & (order < order[:, None]), order, -1).amax(dim=1)
    replaced = ((places == places[:, None]) & (order > order[:, None])).any(dim=1)
    there = _where(before >= 0, batch[before.clamp(min=0)], theirs)
    return there, torch.where(replaced, nowhere, places)


def _where(chosen: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Return, for each (N,), one of the images (N, 1, H, W) or one of the others."""
    return torch.where(chosen[:, None, None, None], images, others)
