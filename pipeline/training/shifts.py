"""Shifts of translations against their sources: both ways together, and over several validations."""

from collections.abc import Mapping

import numpy as np

# Opposed and growing shifts show in no single validation of one direction; fractions of a pixel count.
TREND = 5  # number of validations from which a trend is computed
LEAST_GROWTH_PX = 0.1  # growth over these validations; less is within the measurement error
STEADY = 3  # minimal ratio of the growth to the scatter about the trend's line
OPPOSED_ERROR_PX = 0.1  # a shorter shift is within the error of measuring, and opposes nothing

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


def opposed_shift(first: np.ndarray, second: np.ndarray) -> float:
    """Return by how many pixels two shifts (2,) oppose each other: how far apart they move the two contrasts.

    That is the sum of their lengths times the cosine of the angle to the opposite direction; 0 from a right angle on,
    and where the shorter one is within the error of measuring, `OPPOSED_ERROR_PX`.
    """
    shorter, longer = sorted((float(np.hypot(*first)), float(np.hypot(*second))))
    if shorter <= OPPOSED_ERROR_PX:
        return 0.0
    return max(0.0, -float(np.dot(first, second)) / (shorter * longer)) * (shorter + longer)


def components_text(shifts: Mapping[str, np.ndarray]) -> str:
    """Return shifts (2,) with their signs: "along a slice's two axes: T1 → T2 +0.35, -0.61"."""
    texts = [f"{name.replace('_to_', ' → ')} {x:+.2f}, {y:+.2f}".strip() for name, (x, y) in shifts.items()]
    return f"along a slice's two axes: {'; '.join(texts)}"


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
    present_shift, span = start + slope * epochs[-1], epochs[-1] - epochs[0]
    growth = float(np.dot(slope, present_shift) / max(np.hypot(*present_shift), 1e-9)) * span  # along the present shift
    scatter = np.sqrt(np.mean(np.sum((shifts - (start + np.outer(epochs, slope))) ** 2, axis=1)))
    if growth < max(LEAST_GROWTH_PX, STEADY * scatter):
        return None
    return float(np.hypot(*(start + slope * min(last_epoch, epochs[-1] + span))))


def shift_sentence(metrics: Mapping[str, float]) -> str:
    """Return a sentence on how far translations are shifted against their sources; "" if no shift is known."""
    sentences = []
    for direction, shift in shifts_by_direction(metrics).items():
        components = "{:+.2f} and {:+.2f} along a slice's two axes".format(*shift)
        sentences.append(f"{direction.replace('_to_', ' → ')} by {np.hypot(*shift):.2f} pixels ({components})")
    return f"At the last validation translations lay beside their sources: {'; '.join(sentences)}." if sentences else ""
