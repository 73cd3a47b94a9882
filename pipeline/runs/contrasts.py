"""Where the two contrasts' scans differ besides their contrast: the range of the head to train on, and warnings.

The range is chosen once, from a run's training volumes, and saved with the run.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.contrast_differences import coverage_text, header_grids, similar_ids_text, voxel_text
from pipeline.data.coverage import Coverage, shared_length, typical_lengths
from pipeline.data.splits import CohortSplit
from pipeline.data.stored_slices import StoredCase, StoredPair
from pipeline.utils.console import shortlist
from pipeline.utils.errors import UserError
from transforms.slices import AXES

logger = logging.getLogger(__name__)
ByContrast = Mapping[str, Sequence[StoredCase]]


def choose_coverage(
    setting: str | float, axis: str, lengths_mm: Mapping[str, Sequence[float]], saved: Path | None = None
) -> Coverage:
    """Return the range that the run saved, or for a new run the range of the configuration.

    Args:
        setting: `preprocess.coverage_mm`: "all", "shared" or a length in mm.
        lengths_mm: Contrast -> lengths of the heads that its training volumes show along that axis.
        saved: File with the `coverage_json` of the run; None for a new run.

    Raises:
        UserError: The saved range cannot be read.
    """
    if saved is not None and setting != "all":
        return _read_coverage(saved, axis)
    typical_mm = typical_lengths(lengths_mm)
    if setting == "shared" and typical_mm:
        return Coverage(axis, shared_length(typical_mm), typical_mm)
    return Coverage(axis, None if setting == "all" else float(setting), typical_mm)


def shown_mm(entry: StoredCase) -> float:
    """Return the length in mm of the head that a stored volume shows along the slicing axis."""
    first, last = entry.statistics.head_slices
    return (last - first + 1) * entry.statistics.slice_mm


def coverage_json(coverage: Coverage) -> dict[str, object]:
    """Return a range of the head in JSON's types."""
    return {"axis": coverage.axis, "coverage_mm": coverage.mm, "shown_mm": dict(coverage.shown_mm or {})}


def _read_coverage(path: Path, axis: str) -> Coverage:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        length_mm, lengths_mm = content["coverage_mm"], content["shown_mm"]
        return Coverage(
            axis,
            None if length_mm is None else float(length_mm),
            {contrast: float(length) for contrast, length in lengths_mm.items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read; remove it, and the range is chosen again (training goes on only where it is "
            "the same)"
        ) from error


def within_coverage(
    stored: ByContrast, coverage: Coverage, *, on_bad_volume: str
) -> tuple[dict[str, list[StoredCase]], dict[Case, str]]:
    """Cut training cases to the slices in a range; return them, and the reasons for cases without such slices.

    Raises:
        UserError: There is a case without slices in the range, and `on_bad_volume` is "stop".
    """
    kept_entries, left_out = {}, {}
    for contrast, entries in stored.items():
        cut_entries = [entry.within(coverage) for entry in entries]
        for entry in cut_entries:
            if entry.count == 0:
                left_out[entry.case] = _empty_range_message(coverage)
        kept_entries[contrast] = [entry for entry in cut_entries if entry.count]
    for case, reason in left_out.items():
        if on_bad_volume == "stop":
            raise UserError(f"{case.path}: {reason} (preprocess.on_bad_volume: skip would go on without it)")
        logger.warning(f"{case.path}: {reason}; left out")
    return kept_entries, left_out


def pairs_within_coverage(
    stored_pairs: Sequence[StoredPair], coverage: Coverage, stored: ByContrast
) -> tuple[list[StoredPair], dict[tuple[Case, Case], str]]:
    """Cut registered pairs to the slices in the first scan's range; return them, and the reasons for empty pairs.

    Pairs are on the first scan's grid; `stored` cases know the extents of their heads.
    """
    if coverage.mm is None:
        return list(stored_pairs), {}
    statistics = {entry.case: entry.statistics for entries in stored.values() for entry in entries}
    cut_pairs = []
    for pair in stored_pairs:
        grid = statistics[pair.first.case]
        first, second = (slices.cut(coverage, grid.head_slices, grid.slice_mm) for slices in (pair.first, pair.second))
        cut_pairs.append(StoredPair(first, second, pair.rigid_transform))
    failures = {pair.cases: _empty_range_message(coverage) for pair in cut_pairs if not pair.first.count}
    for (first_case, second_case), reason in failures.items():
        logger.warning(f"{first_case.path} and {second_case.path}: {reason}; left out")
    return [pair for pair in cut_pairs if pair.first.count], failures


def _empty_range_message(coverage: Coverage) -> str:
    return f"no slice with enough of the head lies in the range trained on, {coverage}; raise preprocess.coverage_mm"


def warn_of_ids(cases: Sequence[Case], contrasts: tuple[str, str], split: CohortSplit) -> None:
    """Warn if names of subjects in the two contrasts nearly agree: perhaps one person under two names."""
    training = {case.subject: "train" for side in split.train.values() for case in side}
    held_out = {case.subject: subset for subset in ("validation", "test") for case in getattr(split, subset)}
    if text := similar_ids_text(cases, contrasts, training | held_out):
        logger.warning(text)


def warn_unpaired(cases: Sequence[Case], contrasts: tuple[str, str], split: CohortSplit) -> None:
    """Warn of images that paired training leaves out: those without a partner of the same subject and session."""
    paired = {case for pair in pairs(cases, contrasts) for case in pair}
    held_out = {case.subject for case in (*split.validation, *split.test)}
    candidates = [case for case in cases if case.contrast in contrasts and case.subject not in held_out]
    if names := [case.name for case in candidates if case not in paired]:
        logger.warning(f"left out of paired training for want of a partner in the other contrast: {shortlist(names)}")


def warn_of_coverage(coverage: Coverage, *, paired: bool, lookup: bool) -> None:
    """Warn if the contrasts' training volumes differ in the range of the head they show, or say what they share.

    `paired` and `lookup` are those of `coverage_text`.
    """
    shown_mm = coverage.shown_mm or {}
    if text := coverage_text(shown_mm, coverage, paired=paired, lookup=lookup):
        logger.warning(text)
    elif not paired and coverage.mm is not None and len(shown_mm) > 1:
        lengths = ", ".join(f"{contrast} {length:.0f} mm" for contrast, length in shown_mm.items())
        logger.info(f"trained on: {coverage} (scans show, by their medians, {lengths})")


def warn_of_headers(
    split: CohortSplit, axis: str, coverage_mm: str | float, *, paired: bool, native_spacing: bool
) -> None:
    """Warn of differences in fields of view and voxel sizes, from headers only, before any volume is read.

    Args:
        coverage_mm: "all", "shared" or a length in mm.
        paired: Whether training sees the same places in both contrasts, so that their ranges do not matter.
        native_spacing: Whether volumes keep their own spacing, so that their voxel sizes matter.
    """
    grids = {contrast: header_grids(cases) for contrast, cases in split.train.items()}
    extents_mm = {contrast: [grid.field_mm[AXES[axis]] for grid in side] for contrast, side in grids.items()}
    fields = typical_lengths(extents_mm)
    coverage = Coverage(axis, coverage_mm if isinstance(coverage_mm, float) else None, fields)
    if not paired and (text := coverage_text(fields, coverage, region="field of view")):
        if coverage_mm == "shared":
            lengths = ", ".join(f"{contrast} {length:.0f} mm" for contrast, length in fields.items())
            logger.info(f"coverage   fields of view differ ({lengths}): training takes what both contrasts' heads show")
        else:
            logger.warning(f"{text} (by headers alone: of the head they tell nothing, pipeline.explore does)")
    if native_spacing:
        warn_of_voxels({contrast: [grid.voxel_mm for grid in side] for contrast, side in grids.items()})


def warn_of_voxels(voxels_mm: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Warn if the typical voxel sizes of the contrasts differ."""
    typical_mm = {contrast: np.median(sizes, axis=0).tolist() for contrast, sizes in voxels_mm.items() if len(sizes)}
    if text := voxel_text(typical_mm):
        logger.warning(text)
