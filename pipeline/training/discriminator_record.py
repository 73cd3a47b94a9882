"""How well discriminators tell real slices from translations: their logged losses, relative to those by chance.

A loss at chance is no failure in itself: R1 keeps discriminators there that still teach. So they count as blind only
while their translations have stopped gaining in validation.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import replace

from pipeline.training.failure_checks import CheckResult, check_value, detector_values
from pipeline.training.validation_scores import direction_score

PATIENCE = 3  # validations in a row without a new best score, after which a translation has stopped gaining
LOGGED = 50  # number of logged losses in a mean; nothing is said before there are as many
METRIC = "discriminator_loss"


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


def scores_by_direction(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the `direction_score` of each direction that a validation has scored, "T1_to_T2"."""
    names = [name.split("/") for name in metrics if name.startswith("validation/")]
    directions = dict.fromkeys(parts[1] for parts in names if parts[2:] in (["psnr"], ["cycle_error"]))
    return {direction: direction_score(metrics, direction) for direction in directions}


def gaining_directions(history: Mapping[int, Mapping[str, float]]) -> set[str]:
    """Return the directions that have their best score in one of the latest `PATIENCE` validations.

    Args:
        history: `scores_by_direction` of each validation so far, by epoch, in order.
    """
    best: dict[str, tuple[float, int]] = {}  # score, number of the validation
    for number, scores in enumerate(history.values()):
        best |= {
            direction: (score, number)
            for direction, score in scores.items()
            if score > best.get(direction, (-math.inf, 0))[0]  # NaN is not
        }
    return {direction for direction, (_, number) in best.items() if number >= len(history) - PATIENCE}


def check_discriminators(metrics: Mapping[str, float], gaining: Collection[str] = ()) -> list[CheckResult]:
    """Return the results of both checks of the discriminators for each direction that has a mean loss.

    `gaining` directions have no blind discriminator, whatever its loss.
    """
    results = []
    for direction, name, value in detector_values(metrics):
        if name != METRIC:
            continue
        blind = check_value("blind_discriminator", direction, value)
        if blind.triggered and direction in gaining:
            blind = replace(blind, triggered=False)
        elif blind.triggered:
            blind = replace(blind, details=f"no new best score in {PATIENCE} validations")
        results += [blind, check_value("unerring_discriminator", direction, value)]
    return results
