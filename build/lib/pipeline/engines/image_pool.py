"""A pool of earlier translations that discriminators are shown again (Shrivastava et al. 2017, section 2.3)."""

import torch
from torch import Tensor

from pipeline.engines.state import RandomState


class ImagePool:
    """A pool of images. For each new image it returns, with probability one half each, that image or a stored one.

    A stored image that is returned is replaced by the new one. All work is arithmetic on tensors of the engine's
    device, without host synchronisation. The pool has its own random generator, which is saved and restored with it.

    Args:
        size: Number of stored images; 0 returns every batch unchanged.
        seed: Seed of the pool's random generator.
        device: Device of the images.
    """

    def __init__(self, size: int, seed: int, device: torch.device):
        self.size, self.device = size, device
        self.random = RandomState(seed, device)
        self._count = torch.zeros((), dtype=torch.int64, device=device)  # number of stored images
        self._slots: Tensor | None = None  # (size + 1, 1, H, W): the last slot takes discarded images
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None  # images, their slots, number of slots they fill

    @property
    def generator(self) -> torch.Generator:
        """The pool's random generator."""
        return self.random.generator

    @property
    def images(self) -> Tensor | None:
        """The stored images (count, 1, H, W), or None; reading them waits for a GPU."""
        count = int(self._count)
        return self._slots[:count] if count else None

    def query(self, batch: Tensor) -> Tensor:
        """Return a batch (N, 1, H, W) mixed from `batch` and the pool, detached; `commit` then changes the pool."""
        batch = batch.detach()
        if self.size == 0:
            return batch
        if self._slots is None:
            self._slots = torch.zeros(self.size + 1, *batch.shape[1:], dtype=batch.dtype, device=batch.device)
        count, device = len(batch), batch.device
        coins, drawn_slots = (
            draw.to(device) for draw in (self.random.uniform(count), self.random.integers(self.size, count))
        )
        free_slots = self._count + torch.arange(count, device=device) if count > 1 else self._count[None]
        is_filling = free_slots < self.size  # while the pool is not full, each image takes a free slot
        is_exchanged = (coins < 0.5) > is_filling  # and the pool is full
        slots = torch.where(is_filling, free_slots, torch.where(is_exchanged, drawn_slots, self.size))
        pool_images = self._slots[drawn_slots].to(batch)
        if count > 1:
            pool_images, slots = _resolve_order(batch, slots, drawn_slots, pool_images, self.size)
        self._pending = batch, slots, is_filling.sum() if count > 1 else is_filling[0]
        return _select(is_exchanged, pool_images, batch)

    def commit(self, is_finite: Tensor) -> None:
        """Store the new images of the last `query`, unless its step was skipped (`is_finite` () is false).

        Images that are not stored go to the last slot, which is never read.
        """
        if self._pending is not None:
            batch, slots, new_count = self._pending
            self._slots.index_copy_(0, torch.where(is_finite, slots, self.size), batch.to(self._slots))
            self._count += new_count * is_finite
            self._pending = None

    def state_dict(self) -> dict:
        """Return the images and the state of the random generator."""
        images = self.images
        return {"images": None if images is None else images.clone(), "random": self.random.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned; "random" may be the bare state of a CPU generator."""
        images, random = state["images"], state["random"]
        self._slots, self._pending = None, None
        self._count.fill_(0 if images is None else len(images))
        if images is not None:
            self._slots = torch.zeros(self.size + 1, *images.shape[1:], dtype=images.dtype, device=self.device)
            self._slots[: len(images)] = images
        self.random.load_state_dict({"generator": random} if isinstance(random, Tensor) else random)


def _resolve_order(
    batch: Tensor, slots: Tensor, drawn_slots: Tensor, pool_images: Tensor, discard_slot: int
) -> tuple[Tensor, Tensor]:
    """Resolve a batch as if its images came to the pool one after the other.

    Args:
        batch: New images (N, 1, H, W).
        slots: (N,), the slot into which each new image goes.
        drawn_slots: (N,), the slot from which each new image would be exchanged.
        pool_images: (N, 1, H, W), the images in `drawn_slots` before this batch.
        discard_slot: The slot of discarded images.

    Returns:
        The images in `drawn_slots` at each image's turn, which may be earlier ones of the batch, and `slots` with all
        but the last image of each slot discarded.
    """
    order = torch.arange(len(batch), device=batch.device)
    predecessor = torch.where((slots == drawn_slots[:, None]) & (order < order[:, None]), order, -1).amax(dim=1)
    is_overwritten = ((slots == slots[:, None]) & (order > order[:, None])).any(dim=1)
    exchanged_images = _select(predecessor >= 0, batch[predecessor.clamp(min=0)], pool_images)
    return exchanged_images, torch.where(is_overwritten, discard_slot, slots)


def _select(mask: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """Return `images` (N, 1, H, W) where `mask` (N,) is true, and `others` elsewhere."""
    return torch.where(mask[:, None, None, None], images, others)
