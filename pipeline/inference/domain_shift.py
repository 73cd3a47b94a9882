"""Whether a volume is what a model was trained on: its contrast, intensities, spacing and field of view.

A model that is given another contrast, thick slices, half a head or a neck that it never saw translates it without a
word, and what comes out looks like a scan. What a volume is like is compared with the training cohort's likeness
(`pipeline.data.fingerprint`). The thresholds are wide: a warning that comes with every volume is not read. Silence
is no promise.
"""

from collections.abc import Iterator, Mapping, Sequence

from pipeline.data.fingerprint import quantile_distance, volume_fingerprint
from pipeline.inference.model import TranslationModel
from pipeline.utils.errors import UserError
from transforms.slices import AXES

OTHER_CONTRAST_RATIO = 0.7  # the other contrast's cohort is this much nearer than the source's own
SAME_CONTRAST_DISTANCE = (
    0.15  # distance of cores that is never told apart; the median of two real heads in one contrast
)
MIN_DISTANCES = {"core": 0.45, "head": 0.35}  # at least; two real heads in one contrast differ by up to 0.29 and 0.23
COHORT_DISTANCE_FACTOR = 2.0  # and at least this many times what 19 of 20 members of the cohort keep to
SPACING_FACTOR = 1.5  # times the trained spacing, or less than its 1.5th part
HEAD_FACTORS = (0.65, 1.5)  # of the trained extents
COVERAGE_FACTOR = 1.15  # times the range of the head that was trained on, where that was cut
FIELD_FACTOR = 1.5  # times the trained field of view, within slices
DIRECTIONS = ("from left to right", "from back to front", "from bottom to top")
OUTSIDE_COVERAGE = {  # what lies beyond the range, by the axis that slices are cut along
    "axial": "the lowest {:.0f} mm of the head lie below the {:.0f} mm from the crown that were trained on",
    "coronal": "the hindmost {:.0f} mm of the head lie behind the {:.0f} mm from its front that were trained on",
    "sagittal": "the outermost {:.0f} mm of the head lie outside the {:.0f} mm about its middle that were trained on",
}


def shift_cautions(
    volume: Mapping[str, Sequence[float]],
    statistics: Mapping[str, Mapping[str, object]],
    source: str,
    to: str,
    *,
    axis: str,
    grid_mm: Sequence[float] | None = None,
    larger: bool = False,
) -> list[str]:
    """Return what makes a volume doubtful to a model, each in some words without the volume's name; usually nothing.

    Args:
        volume: From `pipeline.data.fingerprint.volume_fingerprint`.
        statistics: By contrast, what the training cohort was like; only `likeness` counts, and without the source's there
            is nothing to compare with.
        source, to: The contrast that the model expects and the one it makes.
        axis: Along which slices are cut.
        grid_mm: (in-plane, through-plane) spacing to which volumes are resampled; finer ones become alike. None: not.
        larger: Whether the network is shown larger slices than in training, so that their field of view matters.
    """
    expected, other = (statistics.get(contrast, {}).get("likeness") for contrast in (source, to))
    if expected is None:
        return []
    return [
        *_intensity_cautions(volume, expected, other, source, to),
        *_spacing_cautions(volume["spacing_mm"], expected["spacing_mm"], AXES[axis], grid_mm),
        *_extent_cautions(volume["head_mm"], expected["head_mm"], axis, expected.get("coverage_mm")),
        *(_field_cautions(volume["field_mm"], expected["field_mm"], AXES[axis]) if larger else []),
    ]


def require_similarity(model: TranslationModel, to: str) -> None:
    """Refuse to judge volumes strictly where the model keeps nothing to compare them with.

    Raises:
        UserError: it was trained by an earlier release, or on pictures.
    """
    if "likeness" not in model.statistics.get(model.source(to), {}):
        raise UserError(
            f"{model.origin}: it does not keep what its training cohort was like (an earlier release, or pictures), so "
            "volumes cannot be compared with it; train again, or leave --strict out"
        )


def compare_with_cohort(
    name: str, data: Mapping[str, object], model: TranslationModel, to: str, *, strict: bool = False
) -> list[str]:
    """Return what makes a volume doubtful to a model, as `shift_cautions` does; nothing where the model keeps no likeness.

    Args:
        name: Of the volume, for the message.
        data: What the model's chain made of it.
        model: What is to translate it.
        to: The contrast it makes.
        strict: Whether to refuse instead.

    Raises:
        UserError: `strict`, and there is a doubt, or nothing to compare with.
    """
    if strict:
        require_similarity(model, to)
    source, settings = model.source(to), model.settings
    axis, size = settings["axis"], settings["size"]
    if "likeness" not in model.statistics.get(source, {}):
        return []
    volume = volume_fingerprint(data, axis, size)
    if volume is None:
        cautions = ["shows too little of a head to be compared with the training cohort"]
    else:
        larger = max(data["image"].shape[1:]) > size
        grid_mm = settings["spacing_mm"]
        cautions = shift_cautions(volume, model.statistics, source, to, axis=axis, grid_mm=grid_mm, larger=larger)
    if cautions and strict:
        raise UserError(f"{name}: {'; '.join(cautions)} (--strict)")
    return cautions


def _intensity_cautions(volume: Mapping, expected: Mapping, other: Mapping | None, source: str, to: str) -> list[str]:
    distances = {name: quantile_distance(volume[name], expected[name]) for name in MIN_DISTANCES}
    if other is not None:
        other_distance = quantile_distance(volume["core"], other["core"])
        if (
            distances["core"] > max(SAME_CONTRAST_DISTANCE, expected["core_reach"])
            and other_distance < OTHER_CONTRAST_RATIO * distances["core"]
        ):
            return [
                f"looks like {to}, the model expects {source} (distance {other_distance:.2f} to the training cohort in {to}, "
                f"{distances['core']:.2f} to that in {source}); check the file, and --to"
            ]
    for name, distance in distances.items():
        cohort_distance = expected[f"{name}_reach"]
        if distance > max(MIN_DISTANCES[name], COHORT_DISTANCE_FACTOR * cohort_distance):
            region = {"core": "deep in the head", "head": "of the head"}[name]
            return [
                f"the intensities {region} are unlike those of the training cohort in {source} (distance {distance:.2f}"
                + (f", of its own members up to {cohort_distance:.2f})" if cohort_distance else ")")
            ]
    return []


def _spacing_cautions(
    spacing: Sequence[float], trained: Sequence[Sequence[float]], slice_axis: int, grid_mm: Sequence[float] | None
) -> list[str]:
    cautions = []
    for name, axes in (
        ("through plane", [slice_axis]),
        ("in plane", [axis for axis in range(3) if axis != slice_axis]),
    ):
        grid = 0.0 if grid_mm is None else grid_mm[name == "through plane"]
        for axis in axes:
            low, high = trained[axis]
            spacing_seen = max(spacing[axis], grid)
            if spacing_seen > SPACING_FACTOR * max(high, grid) or spacing_seen * SPACING_FACTOR < max(low, grid):
                cautions.append(f"spacing {spacing[axis]:.3g} mm {name}, trained on {_range(low, high)} mm")
                break
    return cautions


def _extent_cautions(
    head: Sequence[float], trained: Sequence[Sequence[float]], axis: str, coverage_mm: float | None
) -> Iterator[str]:
    """Compare the head's extents with those of the training volumes, and along the slices' axis with the range."""
    for index, (extent, (low, high), direction) in enumerate(zip(head, trained, DIRECTIONS, strict=True)):
        is_cut = coverage_mm is not None and index == AXES[axis] and high > coverage_mm
        if is_cut:
            low, high = min(low, coverage_mm), coverage_mm
        if is_cut and extent > COVERAGE_FACTOR * coverage_mm:
            yield OUTSIDE_COVERAGE[axis].format(extent - coverage_mm, coverage_mm)
        elif not HEAD_FACTORS[0] * low <= extent <= HEAD_FACTORS[1] * high:
            yield f"shows {extent:.0f} mm of head {direction}, trained on {_range(low, high)} mm"


def _field_cautions(field: Sequence[float], trained: Sequence[Sequence[float]], slice_axis: int) -> list[str]:
    """Only what lies within slices, and only larger ones: a network normalises over the whole slice, air and all."""
    return [
        f"has a field of view of {field[axis]:.0f} mm {DIRECTIONS[axis]}, trained on {_range(*trained[axis])} mm"
        for axis in range(3)
        if axis != slice_axis and field[axis] > FIELD_FACTOR * trained[axis][1]
    ]


def _range(low: float, high: float) -> str:
    ends = dict.fromkeys(f"{end:.3g}" for end in (low, high))
    return " to ".join(ends)
