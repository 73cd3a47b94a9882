"""How well discriminators tell real slices from translations: their logged losses, relative to those by chance."""

import math
from collections import deque
from collections.abc import Mapping

from pipeline.training.failure_checks import FAILURE_CHECKS, CheckResult

LOGGED = 50  # number of logged losses in a mean; nothing is said before there are as many
METRIC = "discriminator_loss"
CHECKS = ("blind_discriminator", "unerring_discriminator")


class DiscriminatorRecord:
    """The latest logged losses of both discriminators.

    Args:
        chance_loss: Loss of a discriminator whose logits are the best ones that do not depend on the image.
        directions: The translation that each discriminator judges, such as "T2_to_T1", by the name of its loss.
    """

    def __init__(self, chance_loss: float, directions: Mapping[str, str]):
        self.chance_loss, self.directions = chance_loss, directions
        self._losses: dict[str, deque[float]] = {name: deque(maxlen=LOGGED) for name in directions}

    def record(self, metrics: Mapping[str, float]) -> None:
        """Take the discriminators' losses, "train/<name>", from logged metrics."""
        for name, losses in self._losses.items():
            loss = metrics.get(f"train/{name}", math.nan)
            if math.isfinite(loss):
                losses.append(loss)

    def metrics(self) -> dict[str, float]:
        """Return "detectors/<direction>/discriminator_loss", each a mean loss as a share of that by chance.

        It is 1 for a discriminator that tells nothing, and 0 for one that is always sure and right.
        """
        return {
            f"detectors/{direction}/{METRIC}": sum(self._losses[name]) / LOGGED / self.chance_loss
            for name, direction in self.directions.items()
            if len(self._losses[name]) == LOGGED
        }


def check_discriminators(metrics: Mapping[str, float]) -> list[CheckResult]:
    """Return the results of both checks of the discriminators for each direction that has a mean loss."""
    results = []
    for metric, value in metrics.items():
        family, _, qualified_name = metric.partition("/")
        direction, _, name = qualified_name.rpartition("/")
        for check_name in CHECKS if (family, name) == ("detectors", METRIC) else ():
            triggered, threshold = FAILURE_CHECKS[check_name].exceeded(value)
            results.append(CheckResult(check_name, direction, value, threshold, triggered))
    return results
