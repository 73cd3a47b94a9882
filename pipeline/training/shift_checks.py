"""Shifts that the validation of one direction does not show: opposed ones of both directions, and those that grow.

Either way a fraction of a pixel counts, so both rest on the components that
`pipeline.metrics.failure_detectors.spatial_shift` measures, in pixels.
"""

from collections.abc import Mapping

import numpy as np

from pipeline.training.failure_checks import FAILURE_CHECKS, CheckResult

TREND = 5  # validations that a trend is read from
LEAST_GROWTH_PX = 0.1  # over those; less is what measuring leaves
STEADY = 3  # times the scatter about the trend's line that the growth must be

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
    """Return the verdicts on the latest validation's shifts: of both directions together, and of how each grows.

    Args:
        history: The shifts of each validation so far, by epoch, in order.
        last_epoch: Of the training.
    """
    shifts = history[max(history)]
    check_failures = []
    if len(shifts) == 2:
        (there, first), (_, second) = shifts.items()
        cycle = f"{there}_to_{there.partition('_to_')[0]}"
        check_failures.append(_verdict("opposed_shifts", cycle, opposed_shift(first, second)))
    for direction, shift in shifts.items():
        course = {epoch: earlier[direction] for epoch, earlier in history.items() if direction in earlier}
        ahead = growing_shift(course, last_epoch)
        if len(course) >= TREND:
            length = float(np.hypot(*shift))
            check_failures.append(
                _verdict("growing_shift", direction, length if ahead is None else ahead, ahead is not None)
            )
    return check_failures


def opposed_shift(first: np.ndarray, second: np.ndarray) -> float:
    """Return by how many pixels two shifts (2,) oppose each other: the shorter one's length, if they are opposite.

    Less by the cosine of the angle where they are not quite, and 0 from a right angle on.
    """
    longer = max(np.hypot(*first), np.hypot(*second))
    return max(0.0, float(-np.dot(first, second) / longer)) if longer > 0 else 0.0


def growing_shift(course: Mapping[int, np.ndarray], last_epoch: int) -> float | None:
    """Return how many pixels a shift comes to if it goes on to grow as it has, or None where it does not grow steadily.

    A line is fitted to the last `TREND` validations and drawn out by as many epochs as they span, not beyond the last.

    Args:
        course: Epoch -> shift (2,), in order.
        last_epoch: Of the training.
    """
    epochs = np.array(list(course))[-TREND:]
    if len(epochs) < TREND:
        return None
    shifts = np.array([course[epoch] for epoch in epochs.tolist()])
    slope, start = np.polyfit(epochs, shifts, 1)  # (2,) each
    now, span = start + slope * epochs[-1], epochs[-1] - epochs[0]
    growth = float(np.dot(slope, now) / max(np.hypot(*now), 1e-9)) * span  # along the shift there is
    scatter = np.sqrt(np.mean(np.sum((shifts - (start + np.outer(epochs, slope))) ** 2, axis=1)))
    if growth < max(LEAST_GROWTH_PX, STEADY * scatter):
        return None
    return float(np.hypot(*(start + slope * min(last_epoch, epochs[-1] + span))))


def shift_sentence(metrics: Mapping[str, float]) -> str:
    """Say how far each direction's translations lay beside their sources at a validation; "" where none is known."""
    said = []
    for direction, shift in shifts_by_direction(metrics).items():
        length, (x, y) = metrics.get(f"detectors/{direction}/spatial_shift_mm", np.nan), shift
        pixels = f"{np.hypot(x, y):.2f} pixels, {x:+.2f} and {y:+.2f} along a slice's two axes"
        said.append(f"{direction.replace('_to_', ' → ')} by {length:.2f} mm ({pixels})")
    return f"At the last validation translations lay beside their sources: {'; '.join(said)}." if said else ""


def _verdict(name: str, direction: str, value: float, counts: bool = True) -> CheckResult:
    detector = FAILURE_CHECKS[name]
    return CheckResult(
        name, direction, value, detector.threshold, counts and value > detector.threshold, detector.advice
    )
