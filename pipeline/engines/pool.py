"""A pool of earlier translations that discriminators are shown again (Shrivastava et al. 2017, section 2.3)."""

import torch
from torch import Tensor


class ImagePool:
    """Returns, with probability one half each, the image given or an earlier one that it replaces.

    Its randomness comes from its own generator, so that it is saved and restored with the pool.

    Args:
        size: How many images are kept; 0 returns every batch as it is.
        seed: Of the pool's own random generator.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.random = torch.Generator().manual_seed(seed)
        self.images: Tensor | None = None  # (count, 1, H, W)
        self._pending: list[tuple[int, Tensor]] = []  # (slot, image), not yet in the pool

    def query(self, batch: Tensor) -> Tensor:
        """Return a batch (N, 1, H, W) mixed from `batch` and the pool, detached; `commit` then changes the pool."""
        batch = batch.detach()
        if self.size == 0:
            return batch
        returned, self._pending = batch.clone(), []
        if self.images is not None:
            self.images = self.images.to(batch)  # a restored pool lies on the CPU, whatever the engine's device
        count = 0 if self.images is None else len(self.images)
        for index in range(len(batch)):
            if count < self.size:
                self._pending.append((count, batch[index]))
                count += 1
            elif self.images is not None and torch.rand((), generator=self.random) < 0.5:
                slot = int(torch.randint(len(self.images), (), generator=self.random))
                returned[index] = self.images[slot]
                self._pending.append((slot, batch[index]))
        return returned

    def commit(self) -> None:
        """Put what the last `query` exchanged into the pool; left out when the step it served was skipped."""
        for slot, image in self._pending:
            if self.images is None or slot == len(self.images):
                self.images = image[None] if self.images is None else torch.cat([self.images, image[None]])
            else:
                self.images[slot] = image
        self._pending = []

    def state_dict(self) -> dict:
        """Return the images and the state of the random generator."""
        return {"images": self.images, "random": self.random.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` returned."""
        self.images = None if state["images"] is None else state["images"].clone()
        self.random.set_state(state["random"])
