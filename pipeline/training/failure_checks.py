"""Thresholds of the failure detectors, what a value beyond them means, and what to do then.

Thresholds lie between the values of trained networks or true targets and those of failed networks. The comments give
values of the phantom, and of real T1 and T2 volumes, skull-stripped and whole heads, with one training subject.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.training.shifts import TREND, Shifts, components_text, growing_shift, opposed_shift, shifts_by_direction

# Trained networks are of the phantom only: five trainings, after 400 to 4,000 steps.
# True targets 0.66 to 0.99, trained networks 0.4 to 0.99; the inside inverted with the scalp right, below -0.59.
INVERTED_BELOW = -0.3
# In pixels. True targets and intensities mapped by a table 0 to 0.1, a real T1 and T2 of one session 0.2, trained
# networks 0 to 0.8 (0 to 1.0 against the true target, so these shifts are real).
SHIFTED_ABOVE_PX = 0.5
# Both ways' shifts in sum: what the cycle's two translations lie apart. True targets 0 to 0.2, a real T1 and T2 of one
# session 0.4, the phantom's CycleGAN 0.5 after 2,400 steps and 0.6 after 5,000, of which the shorter one has under 0.3.
OPPOSED_ABOVE_PX = 0.5
# True targets 2.3 to 5.7, trained networks 0.8 to 2.3, matched histograms 0.9 to 3.5; copies 0, noisy copies 0.2.
COPIED_BELOW = 0.5
# True targets 0.8 to 1.3, blurred ones 0.4 to 0.9, trained networks 0.8 to 0.98; the same picture for all sources 0.
COLLAPSED_BELOW = 0.25

# A discriminator's mean loss, as a share of that by chance. Trained CycleGANs of the phantom with a batch of 1: T1's
# 0.94 to 1.02 throughout, T2's 0.73 to 0.91; with R1 0.87 to 1.04 while PSNR + 10 SSIM rises by up to 8 dB.
BLIND_ABOVE = 0.95
UNERRING_BELOW = 0.05
# True targets 0, trained networks of the phantom 0.1 to 0.3, half source and half target 0.3 to 1.5; copies and matched
# histograms 0.7 (phantom) to 1.6 (adults).
UNTURNED_ABOVE = 0.5
# True targets 0.9 to 1.0 (0.7 with one training subject), trained networks 0.8 to 0.9, half source and half target 0.4
# to 0.8.
LOWEST_GAIN, HIGHEST_GAIN = 0.7, 1.4
# True targets -0.1 to 0.1 (0.2 with one training subject), trained networks -0.1 to 0.0; copies 0.3 to 0.6, either way.
OFFSET_ABOVE = 0.25
# Networks of 5,000 steps 0.0 to 0.1; a source hidden in a hundredth of the range over 6, by how well the cycle closes.
HIDDEN_ABOVE_DB = 6.0


@dataclass(frozen=True)
class FailureCheck:
    """A detector's title, threshold and advice."""

    title: str  # in messages and reports
    threshold: float  # limit of good values
    meaning: str  # what a bad value says of the translation, as a predicate
    advice: str  # what to do
    unit: str = ""  # of values and threshold, with a space before it
    below: bool = False  # whether values below the threshold are bad, instead of those above
    lower: float | None = None  # second limit, of values that may be too low as well as too high


SHIFT_ADVICE = (
    "measure no positions in these translations: a cycle forgives a shift that its way back undoes; begin again in a "
    "new output, with a higher identity loss or another seed"
)
GAIN_ADVICE = (
    "compare the histograms of pipeline.explore: other scanners or sequences among the subjects may be the reason; "
    "else train longer, or begin again in a new output, with a higher learning rate of the discriminators"
)
START_ADVICE = (
    "what training began with has it, too: compare the histograms of pipeline.explore, for other scanners or sequences "
    "among the subjects may be the reason; else begin again in a new output, with a lower method.lookup_weight, which "
    "lets training change it"
)
FAILURE_CHECKS = {  # by name of a metric, or of a value derived from several validations or from both directions
    "contrast_inversion": FailureCheck(
        "contrast inversion", INVERTED_BELOW, "brightens from surface to centre where the target contrast darkens",
        "look at the sample pictures; if bright and dark are exchanged, begin again in a new output, with a lower "
        "identity loss, a larger field of view of the discriminators, or another seed", below=True,
    ),
    "spatial_shift": FailureCheck(
        "spatial shift", SHIFTED_ABOVE_PX, "has its edges half a pixel or more beside those of the source",
        SHIFT_ADVICE, unit=" pixels",
    ),
    "opposed_shifts": FailureCheck(
        "opposed shifts", OPPOSED_ABOVE_PX,
        "is shifted one way and the way back the other, in sum over half a pixel, which the cycle's loss does not see",
        SHIFT_ADVICE, unit=" pixels",
    ),
    "growing_shift": FailureCheck(
        "growing shift", SHIFTED_ABOVE_PX,
        "has its edges further beside those of the source from validation to validation; the figure is what as many "
        "epochs again would bring", SHIFT_ADVICE, unit=" pixels",
    ),
    "unturned_contrast": FailureCheck(
        "unturned contrast", UNTURNED_ABOVE,
        "follows its source's bright and dark more than the real target does: the contrast has not turned everywhere",
        "train longer (training.epochs); or begin again in a new output, with lower weights of the identity loss and "
        "the cycle, or another seed",
    ),
    "gain": FailureCheck(
        "gain", HIGHEST_GAIN, "has another spread of intensities inside the head than the target's training scans",
        GAIN_ADVICE, lower=LOWEST_GAIN,
    ),
    "brightness_offset": FailureCheck(
        "brightness offset", OFFSET_ABOVE, "is brighter or darker inside the head than the target's training scans",
        GAIN_ADVICE, lower=-OFFSET_ABOVE,
    ),
    "hidden_information": FailureCheck(
        "hidden information", HIDDEN_ABOVE_DB,
        "carries details of the source too faint to be seen, by which the cycle closes: noise of 1 % in it breaks the "
        "way back",
        "trust neither the cycle's error nor fine structures; begin again in a new output, with a lower weight of the "
        "cycle, or fewer channels of the generators", unit=" dB",
    ),
    "identity_collapse": FailureCheck(
        "identity collapse", COPIED_BELOW,
        "changes the source less than half as much as it must to look like the target contrast",
        "train longer (training.epochs); or begin again in a new output, with lower weights of the identity loss and "
        "the cycle, or a higher learning rate of the discriminators", below=True,
    ),
    "mode_collapse": FailureCheck(
        "mode collapse", COLLAPSED_BELOW, "is much the same picture whatever the source",
        "begin again in a new output, from an earlier checkpoint (training.start_from) or anew, with a lower learning "
        "rate, the discriminators' above all, or a higher weight of the cycle", below=True,
    ),
    "blind_discriminator": FailureCheck(
        "blind discriminator", BLIND_ABOVE,
        "is told from real slices no better than by chance and gains no more in validation: it is very good, or its "
        "discriminator does not learn",
        "look at the sample pictures; if they are visibly wrong, begin again in a new output, with "
        "method.discriminator_slices 8, a higher training.discriminator_learning_rate, or, if the generators begin "
        "with a good translation, training.discriminator_warmup",
    ),
    "unerring_discriminator": FailureCheck(
        "unerring discriminator", UNERRING_BELOW,
        "is told from real slices without fail, and a discriminator so sure says little about how to improve",
        "begin again in a new output, with a lower training.discriminator_learning_rate, or method.r1_weight 1",
        below=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class CheckResult:
    """The result of a check of one validation."""

    name: str  # as in `FAILURE_CHECKS`
    direction: str  # such as "T1_to_T2"
    value: float
    threshold: float  # the limit that decided
    triggered: bool  # whether the value is bad
    details: str = ""  # what else is known of the value, such as a shift's components

    @property
    def check(self) -> FailureCheck:
        """The check."""
        return FAILURE_CHECKS[self.name]

    @property
    def limit(self) -> tuple[str, str, float]:
        """Check, direction and the limit that decided, of two."""
        return self.name, self.direction, self.threshold


def check_value(name: str, direction: str, value: float, details: str = "") -> CheckResult:
    """Return the result of the check of a value."""
    check = FAILURE_CHECKS[name]
    if check.lower is not None and value < check.lower:
        return CheckResult(name, direction, value, check.lower, True, details)
    triggered = bool(value < check.threshold if check.below else value > check.threshold)
    return CheckResult(name, direction, value, check.threshold, triggered, details)


def detector_values(metrics: Mapping[str, float]) -> Iterator[tuple[str, str, float]]:
    """Yield direction, name and value of each metric "detectors/<direction>/<name>"."""
    for metric, value in metrics.items():
        if metric.startswith("detectors/"):
            direction, _, name = metric.removeprefix("detectors/").rpartition("/")
            yield direction, name, value


def check_failures(metrics: Mapping[str, float]) -> list[CheckResult]:
    """Return a result for each metric "detectors/<direction>/<name>" that is checked, and for each shift's length."""
    values = [
        check_value(name, direction, value)
        for direction, name, value in detector_values(metrics)
        if name in FAILURE_CHECKS
    ]
    return values + [
        check_value("spatial_shift", direction, float(np.hypot(*shift)), components_text({"": shift}))
        for direction, shift in shifts_by_direction(metrics).items()
    ]


def check_shifts(history: Mapping[int, Shifts], last_epoch: int) -> list[CheckResult]:
    """Return the results of both checks for the latest validation.

    Args:
        history: The shifts of each validation so far, by epoch, in order.
        last_epoch: The training's last epoch.
    """
    shifts = history[max(history)]
    results = []
    if len(shifts) == 2:
        (direction, first), (_, second) = shifts.items()
        cycle, opposed = f"{direction}_to_{direction.partition('_to_')[0]}", opposed_shift(first, second)
        results.append(check_value("opposed_shifts", cycle, opposed, components_text(shifts)))
    for direction, shift in shifts.items():
        shifts_by_epoch = {epoch: past[direction] for epoch, past in history.items() if direction in past}
        extrapolated = growing_shift(shifts_by_epoch, last_epoch)
        if len(shifts_by_epoch) >= TREND:
            length = float(np.hypot(*shift)) if extrapolated is None else extrapolated
            result = check_value("growing_shift", direction, length, components_text({"now": shift}))
            results.append(replace(result, triggered=result.triggered and extrapolated is not None))
    return results
