"""Heads that are larger than the slices that training sees, by the extents that fingerprints record."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import ceil

from pipeline.data.case import Case
from pipeline.data.fingerprint import COARSE_MM, volume_fingerprint
from pipeline.data.statistics import Fingerprint
from transforms.slice_chain import PreprocessSettings, slice_chain
from transforms.slices import AXES

logger = logging.getLogger(__name__)
SIZE_STEP = 32  # pixels that a proposed size is a multiple of
DIRECTIONS = ("from left to right", "from back to front", "from bottom to top")


def warn_of_cropped_heads(fingerprints: Mapping[Case, Fingerprint | None], settings: PreprocessSettings) -> None:
    """Warn, in a line, of the scan that loses most of its head where slices are cropped to the square of training.

    Extents are known to `COARSE_MM`; smaller losses are not warned of. Pictures have no fingerprint, and do not count.
    """
    measured = {case: fingerprint for case, fingerprint in fingerprints.items() if fingerprint is not None}
    losses = {case: _largest_loss(fingerprint, settings) for case, fingerprint in measured.items()}
    cropped = {case: loss for case, loss in losses.items() if loss[0] > COARSE_MM}
    if not cropped:
        return
    case = max(cropped, key=lambda case: cropped[case])
    loss_mm, head_mm, pixel_mm, axis = cropped[case]
    shown_mm = settings.size * pixel_mm
    others = (
        f", as are parts of {len(cropped) - 1} of {len(losses) - 1} others that were read" if len(cropped) > 1 else ""
    )
    size = ceil(head_mm / pixel_mm / SIZE_STEP) * SIZE_STEP
    logger.warning(
        f"{case.path}: {loss_mm:.0f} of {head_mm:.0f} mm of the head {DIRECTIONS[axis]} are cut off{others}, for "
        f"slices of preprocess.size = {settings.size} pixels show {shown_mm:.0f} mm; set preprocess.size to {size} or "
        "more, or a larger preprocess.spacing_mm"
    )


def _largest_loss(fingerprint: Fingerprint, settings: PreprocessSettings) -> tuple[float, float, float, int]:
    """Return how many mm of the head lie beyond the slices, of how many, the pixels' side in mm, and along which axis.

    It is the axis within the slices along which most is lost; negative where nothing is.
    """
    losses = []
    for axis in set(range(3)) - {AXES[settings.axis]}:
        pixel_mm = settings.spacing_mm[0] if settings.spacing_mm else fingerprint.spacing_mm[axis]
        head_mm = fingerprint.head_mm[axis]
        losses.append((head_mm - settings.size * pixel_mm, head_mm, pixel_mm, axis))
    return max(losses)


def read_fingerprints(cases: Iterable[Case], settings: PreprocessSettings) -> dict[Case, Fingerprint | None]:
    """Read volumes and return their fingerprints, without correcting a bias; those that cannot be used are left out."""
    fingerprints, chain = {}, slice_chain(replace(settings, n4=False))
    for case in cases:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the run prints them
                fingerprints[case] = volume_fingerprint(chain({"image": case.path}), settings.axis, settings.size)
        except (ValueError, OSError, RuntimeError, MemoryError):  # the run reports it and leaves it out
            continue
    return fingerprints
