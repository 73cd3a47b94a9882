"""Checks of shifts that a single validation of one direction does not show: opposed shifts, and growing ones.

For both a fraction of a pixel counts, so they use the components that
`pipeline.metrics.failure_detectors.spatial_shift` measures, in pixels.
"""

from collections.abc import Mapping

import numpy as np

from pipeline.training.failure_checks import FAILURE_CHECKS, CheckResult

TREND = 5  # number of validations from which a trend is computed
LEAST_GROWTH_PX = 0.1  # growth over these validations; less is within the measurement error
STEADY = 3  # minimal ratio of the growth to the scatter about the trend's line

Shifts = dict[str, np.ndarray]  # direction -> (2,) in pixels


def shifts_by_direction(metrics: Mapping[str, float]) -> Shifts:
    """Return the shifts among a validation's metrics, by direction."""
    suffix = "/shift_x_px"
    directions = [name.removeprefix("detectors/").removesuffix(suffix) for name in metrics if name.endswith(suffix)]
    shifts = {
        direction: np.array([metrics.get(f"detectors/{direction}/shift_{axis}_px", np.nan) for axis in "xy"])
        for direction in directions
    }
    return {direction: shift for direction, shift in shifts.items() if np.isfinite(shift).all()}


def check_shifts(history: Mapping[int, Shifts], last_epoch: int) -> list[CheckResult]:
    """Return the results of both checks for the latest validation.

    Args:
        history: The shifts of each validation so far, by epoch, in order.
        last_epoch: The training's last epoch.
    """
    shifts = history[max(history)]
    results = []
    if len(shifts) == 2:
        (outward, first), (_, second) = shifts.items()
        cycle = f"{outward}_to_{outward.partition('_to_')[0]}"
        results.append(_result("opposed_shifts", cycle, opposed_shift(first, second)))
    for direction, shift in shifts.items():
        shifts_by_epoch = {epoch: past[direction] for epoch, past in history.items() if direction in past}
        extrapolated = growing_shift(shifts_by_epoch, last_epoch)
        if len(shifts_by_epoch) >= TREND:
            length = float(np.hypot(*shift))
            results.append(
                _result(
                    "growing_shift",
                    direction,
                    length if extrapolated is None else extrapolated,
                    extrapolated is not None,
                )
            )
    return results


def opposed_shift(first: np.ndarray, second: np.ndarray) -> float:
    """Return by how many pixels two shifts (2,) oppose each other.

    That is the shorter one's length times the cosine of the angle to the opposite direction, or 0 from a right angle
    on.
    """
    longer = max(np.hypot(*first), np.hypot(*second))
    return max(0.0, float(-np.dot(first, second) / longer)) if longer > 0 else 0.0


def growing_shift(shifts_by_epoch: Mapping[int, np.ndarray], last_epoch: int) -> float | None:
    """Return the extrapolated length of a shift in pixels, or None if it does not grow steadily.

    A line is fitted to the last `TREND` validations and extended by as many epochs as they span, up to the last epoch.

    Args:
        shifts_by_epoch: The shift (2,) after each validated epoch, in order.
        last_epoch: The training's last epoch.
    """
    epochs = np.array(list(shifts_by_epoch))[-TREND:]
    if len(epochs) < TREND:
        return None
    shifts = np.array([shifts_by_epoch[epoch] for epoch in epochs.tolist()])
    slope, start = np.polyfit(epochs, shifts, 1)  # (2,) each
    now, span = start + slope * epochs[-1], epochs[-1] - epochs[0]
    growth = float(np.dot(slope, now) / max(np.hypot(*now), 1e-9)) * span  # along the present shift
    scatter = np.sqrt(np.mean(np.sum((shifts - (start + np.outer(epochs, slope))) ** 2, axis=1)))
    if growth < max(LEAST_GROWTH_PX, STEADY * scatter):
        return None
    return float(np.hypot(*(start + slope * min(last_epoch, epochs[-1] + span))))


def shift_sentence(metrics: Mapping[str, float]) -> str:
    """Return a sentence on how far translations are shifted against their sources; "" if no shift is known."""
    sentences = []
    for direction, shift in shifts_by_direction(metrics).items():
        length, (x, y) = metrics.get(f"detectors/{direction}/spatial_shift_mm", np.nan), shift
        pixels = f"{np.hypot(x, y):.2f} pixels, {x:+.2f} and {y:+.2f} along a slice's two axes"
        sentences.append(f"{direction.replace('_to_', ' → ')} by {length:.2f} mm ({pixels})")
    return f"At the last validation translations lay beside their sources: {'; '.join(sentences)}." if sentences else ""


def _result(name: str, direction: str, value: float, counts: bool = True) -> CheckResult:
    detector = FAILURE_CHECKS[name]
    return CheckResult(
        name, direction, value, detector.threshold, counts and value > detector.threshold, detector.advice
    )
