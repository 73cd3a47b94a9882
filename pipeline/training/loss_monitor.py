"""The losses of a run's steps, read in batches so that not every step waits for a GPU."""

import logging
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.training.trainer_state import TrainerState
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)

NAMED = 3  # the first skipped steps, each of which gets a warning; later only the 10th, the 100th, … do
POWERS = {10**power for power in range(1, 10)}


class NotFinite(UserError):
    """Training ran into numbers that are not finite; for advice see `training.failure_advice`."""


class LossMonitor:
    """Records every step's losses, and updates a `TrainerState`'s counts of steps that were not finite.

    Args:
        position: State of the run; it keeps the latest value of each loss, for not every step has all of them.
        limit: Number of consecutive steps that are not finite that ends a run.
    """

    def __init__(self, position: TrainerState, limit: int):
        self.position, self.limit = position, limit
        self._unread: list[tuple[int, tuple[str, ...], Tensor]] = []  # step, names, values (K,) on the device

    def record(self, losses: Mapping[str, Tensor]) -> None:
        """Record the losses of the latest step, without waiting for a GPU."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        self._unread.append((self.position.step, tuple(losses), values))

    def flush(self) -> None:
        """Read the recorded losses into the trainer state; warn of steps that the engine skipped.

        Raises:
            NotFinite: too many in a row were skipped.
        """
        if self._unread:
            unread, self._unread = self._unread, []
            values = iter(
                torch.cat([values for _, _, values in unread]).tolist()
            )  # one synchronisation for all of them
            for step, names, _ in unread:
                self._enter(step, {name: next(values) for name in names})

    def _enter(self, step: int, losses: Mapping[str, float]) -> None:
        self.position.losses.update(losses)
        bad = ", ".join(name for name, loss in losses.items() if not math.isfinite(loss))
        if not bad:
            self.position.bad_in_a_row = 0
            return
        self.position.bad_steps += 1
        self.position.bad_in_a_row += 1
        count = self.position.bad_steps
        if count <= NAMED or count in POWERS:
            more = {NAMED: "; of further ones, the 10th, 100th, … are named"}.get(count, "")
            total = f"; {count:,} so far" if count > NAMED else more
            logger.warning(f"step {step}: {bad} not finite; the step was skipped{total}")
        if self.position.bad_in_a_row >= self.limit:
            raise NotFinite(f"training stopped at step {step}: {self.limit} losses in a row were not finite ({bad})")
