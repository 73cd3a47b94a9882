"""Whether a volume is what a model was trained on: its shape, contrast, intensities, spacing and field of view.

A model translates any volume into something that looks like a scan: another contrast, thick slices, half a head, a neck
that it never saw. So a volume's fingerprint is compared with that of the training cohort
(`pipeline.data.fingerprint`). The thresholds are wide, because nobody reads a warning that comes with every volume. A
volume without a warning may still be unlike the cohort.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.data.fingerprint import quantile_distance, volume_fingerprint
from pipeline.data.statistics import CohortFingerprint, ContrastStatistics, Fingerprint
from pipeline.inference.model import TranslationModel
from pipeline.utils.errors import UserError
from transforms.head_mask import find_head, without_empty_planes
from transforms.io.nifti_checks import sizes_text
from transforms.slices import AXES

OTHER_CONTRAST_RATIO = 0.7  # below this share of the distance to its own cohort, a volume looks like the other contrast
SAME_CONTRAST_DISTANCE = 0.15  # median distance between the cores of two real heads in one contrast
MIN_DISTANCES = {"core": 0.45, "head": 0.35}  # two real heads in one contrast differ by up to 0.29 and 0.23
COHORT_DISTANCE_FACTOR = 2.0  # times the cohort's own distance, its 95th percentile
SPACING_FACTOR = 1.5  # times the trained spacing, or the trained spacing divided by it
HEAD_FACTORS = (0.65, 1.5)  # smallest and largest extent of the head, times the trained ones
COVERAGE_FACTOR = 1.15  # times the trained part of the head, where training cut the head
FIELD_FACTOR = 1.5  # times the trained field of view, within slices
DIRECTIONS = ("from left to right", "from back to front", "from bottom to top")
OUTSIDE_COVERAGE = {  # the message for a head that reaches beyond its trained part, by the slices' axis
    "axial": "the lowest {:.0f} mm of the head lie below the {:.0f} mm from the crown that were trained on",
    "coronal": "the hindmost {:.0f} mm of the head lie behind the {:.0f} mm from its front that were trained on",
    "sagittal": "the outermost {:.0f} mm of the head lie outside the {:.0f} mm about its middle that were trained on",
}


def shape_warnings(volume: np.ndarray, data: Mapping[str, Any], model: TranslationModel) -> list[str]:
    """Return warnings about a volume's shape, a phrase each.

    A volume one voxel thick or slices smaller than the network's stride; and, for models whose chain does not cut
    volumes to the head (version 1), empty planes around measured noise. `volume` is (X, Y, Z), `data` what the chain
    makes of it.
    """
    if min(volume.shape) == 1:
        return [f"is one voxel thick ({sizes_text(volume.shape)}), so look at the result with care"]
    warnings = []
    if model.settings.version == 1:
        field = without_empty_planes(volume)
        empty = sum(volume.shape) - sum(volume[field].shape)
        if empty and not find_head(volume[field]).masked:  # masked air is as empty as the planes
            warnings = [
                f"has {empty} empty planes around what was scanned, and this model's result depends on how many"
            ]
    height, width = data["image_before_fit"]
    if "image_inside" in data:  # within the field of view
        extents = (extent for axis, extent in enumerate(data["image_inside"]) if axis != AXES[model.settings.axis])
        height, width = (extent.stop - extent.start for extent in extents)
    if min(height, width) < model.stride:
        problem = f"has slices of {height}×{width} pixels, smaller than the network's stride of {model.stride}"
        warnings.append(f"{problem}, so look at the result with care")
    return warnings


def shift_warnings(
    volume: Fingerprint,
    statistics: Mapping[str, ContrastStatistics],
    source: str,
    to: str,
    *,
    axis: str,
    grid_mm: Sequence[float] | None = None,
    larger: bool = False,
) -> list[str]:
    """Return the ways in which a volume is unlike the training cohort, a phrase each; usually none.

    There are none without a fingerprint of the contrast `source`, which the model expects, in the `statistics`.

    Args:
        axis: The axis along which slices are cut.
        grid_mm: (in-plane, through-plane) spacing to which volumes are resampled, so that finer ones become alike.
        larger: Whether slices are larger than in training, so that their field of view matters.
    """
    expected, other = (_fingerprint(statistics, contrast) for contrast in (source, to))
    if expected is None:
        return []
    return [
        *_intensity_warnings(volume, expected, other, source, to),
        *_spacing_warnings(volume.spacing_mm, expected.spacing_mm, AXES[axis], grid_mm),
        *_extent_warnings(volume.head_mm, expected.head_mm, axis, expected.coverage_mm),
        *(_field_warnings(volume.field_mm, expected.field_mm, AXES[axis]) if larger else []),
    ]


def require_similarity(model: TranslationModel, to: str) -> None:
    """Refuse `--strict` for a model without a fingerprint of its cohort: of an earlier release, or of pictures."""
    if _fingerprint(model.statistics, model.source(to)) is None:
        raise UserError(
            f"{model.origin}: it does not keep what its training cohort was like (an earlier release, or pictures), so "
            "volumes cannot be compared with it; train again, or leave --strict out"
        )


def compare_with_cohort(
    name: str, data: Mapping[str, Any], model: TranslationModel, to: str, *, strict: bool = False
) -> list[str]:
    """Return `shift_warnings` of a volume after its chain, which `strict` raises as UserError."""
    if strict:
        require_similarity(model, to)
    source, settings = model.source(to), model.settings
    axis, size = settings.axis, settings.size
    if _fingerprint(model.statistics, source) is None:
        return []
    volume = volume_fingerprint(data, axis, size)
    if volume is None:
        warnings = ["shows too little of a head to be compared with the training cohort"]
    else:
        larger = max(data["image"].shape[1:]) > size
        grid_mm = settings.spacing_mm
        warnings = shift_warnings(volume, model.statistics, source, to, axis=axis, grid_mm=grid_mm, larger=larger)
    if warnings and strict:
        raise UserError(f"{name}: {'; '.join(warnings)} (--strict)")
    return warnings


def _fingerprint(statistics: Mapping[str, ContrastStatistics], contrast: str) -> CohortFingerprint | None:
    return statistics[contrast].fingerprint if contrast in statistics else None


def _intensity_warnings(
    volume: Fingerprint, expected: CohortFingerprint, other: CohortFingerprint | None, source: str, to: str
) -> list[str]:
    """Compare intensities with both contrasts' cohorts, then with how far the source's cohort lies apart itself."""
    distances = {name: quantile_distance(getattr(volume, name), getattr(expected, name)) for name in MIN_DISTANCES}
    distance = distances["core"]

    # The other contrast's cohort is clearly nearer.
    if other is not None and distance > max(SAME_CONTRAST_DISTANCE, expected.core_reach):
        other_distance = quantile_distance(volume.core, other.core)
        if other_distance < OTHER_CONTRAST_RATIO * distance:
            return [
                f"looks like {to}, the model expects {source} (distance {other_distance:.2f} to the training cohort in "
                f"{to}, {distance:.2f} to that in {source}); check the file, and --to"
            ]

    # Core or whole head are far from the source's cohort.
    for name, distance in distances.items():
        cohort_distance = getattr(expected, f"{name}_reach")
        if distance > max(MIN_DISTANCES[name], COHORT_DISTANCE_FACTOR * cohort_distance):
            region = {"core": "deep in the head", "head": "of the head"}[name]
            return [
                f"the intensities {region} are unlike those of the training cohort in {source} (distance {distance:.2f}"
                + (f", of its own members up to {cohort_distance:.2f})" if cohort_distance else ")")
            ]
    return []


def _spacing_warnings(
    spacing: Sequence[float], trained: Sequence[Sequence[float]], slice_axis: int, grid_mm: Sequence[float] | None
) -> list[str]:
    warnings = []
    for name, axes in (
        ("through plane", [slice_axis]),
        ("in plane", [axis for axis in range(3) if axis != slice_axis]),
    ):
        grid = 0.0 if grid_mm is None else grid_mm[name == "through plane"]
        for axis in axes:
            low, high = trained[axis]
            effective_mm = max(spacing[axis], grid)
            if effective_mm > SPACING_FACTOR * max(high, grid) or effective_mm * SPACING_FACTOR < max(low, grid):
                warnings.append(f"spacing {spacing[axis]:.3g} mm {name}, trained on {_range(low, high)} mm")
                break
    return warnings


def _extent_warnings(
    head: Sequence[float], trained: Sequence[Sequence[float]], axis: str, coverage_mm: float | None
) -> Iterator[str]:
    """Compare the head's extents with those of the training volumes, and along the slices' axis with the range."""
    for index, (extent, (low, high), direction) in enumerate(zip(head, trained, DIRECTIONS, strict=True)):
        if coverage_mm is not None and index == AXES[axis] and high > coverage_mm:  # training cut the head
            low, high = min(low, coverage_mm), coverage_mm
            if extent > COVERAGE_FACTOR * coverage_mm:
                yield OUTSIDE_COVERAGE[axis].format(extent - coverage_mm, coverage_mm)
                continue
        if not HEAD_FACTORS[0] * low <= extent <= HEAD_FACTORS[1] * high:
            yield f"shows {extent:.0f} mm of head {direction}, trained on {_range(low, high)} mm"


def _field_warnings(field: Sequence[float], trained: Sequence[Sequence[float]], slice_axis: int) -> list[str]:
    """Only what lies within slices, and only larger ones: a network normalises over the whole slice, air and all."""
    return [
        f"has a field of view of {field[axis]:.0f} mm {DIRECTIONS[axis]}, trained on {_range(*trained[axis])} mm"
        for axis in range(3)
        if axis != slice_axis and field[axis] > FIELD_FACTOR * trained[axis][1]
    ]


def _range(low: float, high: float) -> str:
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in (low, high)))
