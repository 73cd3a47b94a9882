"""Thresholds of the failure detectors, what a value beyond them means, and what to do then.

Thresholds lie between the values of trained networks or true targets and those of failed networks. The comments give
values of the phantom, and of real T1 and T2 volumes, skull-stripped and whole heads, with one training subject.
"""

from collections.abc import Mapping
from dataclasses import dataclass

# Trained networks are of the phantom only: five trainings, after 400 to 4,000 steps.
# True targets 0.66 to 0.99, trained networks 0.4 to 0.99; the inside inverted with the scalp right, below -0.59.
INVERTED_BELOW = -0.3
# In pixels. True targets and intensities mapped by a table 0 to 0.1, a real T1 and T2 of one session 0.2, trained
# networks 0 to 0.8 (0 to 1.0 against the true target, so these shifts are real).
SHIFTED_ABOVE_PX = 0.5
OPPOSED_ABOVE_PX = 0.3
# True targets 2.3 to 5.7, trained networks 0.8 to 2.3, matched histograms 0.9 to 3.5; copies 0, noisy copies 0.2.
COPIED_BELOW = 0.5
# True targets 0.8 to 1.3, blurred ones 0.4 to 0.9, trained networks 0.8 to 0.98; the same picture for all sources 0.
COLLAPSED_BELOW = 0.25


@dataclass(frozen=True)
class FailureCheck:
    """A detector's title, threshold and advice.

    Attributes:
        title: Name in messages and reports.
        threshold: Limit of good values; of the spatial shift in pixels.
        below: Whether values below the threshold are bad, instead of those above.
        meaning: What a bad value says of the translation, as a predicate.
        advice: What to do.
        unit: Unit of values and threshold, with a space before it; "" for none.
    """

    title: str
    threshold: float
    below: bool
    meaning: str
    advice: str
    unit: str = ""


SHIFT_ADVICE = (
    "measure no positions in these translations: a cycle forgives a shift that its way back undoes; begin again in a "
    "new output, with a higher identity loss or another seed"
)
FAILURE_CHECKS = {  # by name of a metric, or of a value derived from several validations or from both directions
    "contrast_inversion": FailureCheck(
        "contrast inversion",
        INVERTED_BELOW,
        True,
        "brightens from surface to centre where the target contrast darkens",
        "look at the sample pictures; if bright and dark are exchanged, begin again in a new output, with a lower "
        "identity loss, a larger field of view of the discriminators, or another seed",
    ),
    "spatial_shift_mm": FailureCheck(
        "spatial shift",
        SHIFTED_ABOVE_PX,
        False,
        "has its edges half a pixel or more beside those of the source",
        SHIFT_ADVICE,
        " mm",
    ),
    "opposed_shifts": FailureCheck(
        "opposed shifts",
        OPPOSED_ABOVE_PX,
        False,
        "is shifted one way, and the way back shifts it back, which the cycle's loss does not see",
        SHIFT_ADVICE,
        " pixels",
    ),
    "growing_shift": FailureCheck(
        "growing shift",
        SHIFTED_ABOVE_PX,
        False,
        "has its edges further beside those of the source from validation to validation; the figure is what as many "
        "epochs again would bring",
        SHIFT_ADVICE,
        " pixels",
    ),
    "identity_collapse": FailureCheck(
        "identity collapse",
        COPIED_BELOW,
        True,
        "changes the source less than half as much as it must to look like the target contrast",
        "train longer (training.epochs); or begin again in a new output, with lower weights of the identity loss and "
        "the cycle, or a higher learning rate of the discriminators",
    ),
    "mode_collapse": FailureCheck(
        "mode collapse",
        COLLAPSED_BELOW,
        True,
        "is much the same picture whatever the source",
        "begin again in a new output, from an earlier checkpoint (training.start_from) or anew, with a lower learning "
        "rate, the discriminators' above all, or a higher weight of the cycle",
    ),
}


@dataclass(frozen=True)
class CheckResult:
    """The result of a check of one validation; `name` as in `FAILURE_CHECKS`, `direction` such as "T1_to_T2"."""

    name: str
    direction: str
    value: float
    threshold: float
    triggered: bool
    advice: str


def check_failures(metrics: Mapping[str, float], pixel_mm: float) -> list[CheckResult]:
    """Return a result for each metric "detectors/<direction>/<name>"; shifts up to half a pixel do not trigger."""
    results = []
    for metric, value in metrics.items():
        family, _, qualified_name = metric.partition("/")
        direction, _, name = qualified_name.rpartition("/")
        if family != "detectors" or name not in FAILURE_CHECKS:
            continue
        check = FAILURE_CHECKS[name]
        threshold = check.threshold * pixel_mm if name == "spatial_shift_mm" else check.threshold
        triggered = value < threshold if check.below else value > threshold
        results.append(CheckResult(name, direction, value, threshold, bool(triggered), check.advice))
    return results
