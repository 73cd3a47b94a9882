"""The range of the head that a run trains on: chosen once, from its training volumes, and saved with the run."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.coverage import Coverage, shared_length, typical_lengths
from pipeline.data.slice_cache import StoredCase, StoredPair
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)

ByContrast = Mapping[str, Sequence[StoredCase]]


def choose_coverage(
    setting: str | float, axis: str, lengths_mm: Mapping[str, Sequence[float]], saved: Path | None = None
) -> Coverage:
    """Return the range that the run saved, or for a new run the range of the configuration.

    Args:
        setting: `preprocess.coverage_mm`: "all", "shared" or a length in mm.
        axis: Axis along which slices are cut.
        lengths_mm: Contrast -> lengths of the heads that its training volumes show along that axis.
        saved: File with the `coverage_json` of the run; None for a new run.

    Raises:
        UserError: The saved range cannot be read.
    """
    if saved is not None and setting != "all":
        return _read_coverage(saved, axis)
    typical = typical_lengths(lengths_mm)
    if setting == "shared" and typical:
        return Coverage(axis, shared_length(typical), typical)
    return Coverage(axis, None if setting == "all" else float(setting), typical)


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
    pairs: Sequence[StoredPair], coverage: Coverage, stored: ByContrast
) -> tuple[list[StoredPair], dict[tuple[Case, Case], str]]:
    """Cut registered pairs to the slices in the first scan's range; return them, and the reasons for empty pairs.

    Args:
        pairs: Registered pairs, on the first scan's grid.
        coverage: Range of the head.
        stored: Contrast -> its training cases, which know the extents of their heads.
    """
    if coverage.mm is None:
        return list(pairs), {}
    statistics = {entry.case: entry.statistics for entries in stored.values() for entry in entries}
    cut_pairs = []
    for pair in pairs:
        grid = statistics[pair.first.case]
        first, second = (half.cut(coverage, grid.head_slices, grid.slice_mm) for half in (pair.first, pair.second))
        cut_pairs.append(StoredPair(first, second, pair.rigid_transform))
    empty = {pair.cases: _empty_range_message(coverage) for pair in cut_pairs if not pair.first.count}
    for (first_case, second_case), reason in empty.items():
        logger.warning(f"{first_case.path} and {second_case.path}: {reason}; left out")
    return [pair for pair in cut_pairs if pair.first.count], empty


def _empty_range_message(coverage: Coverage) -> str:
    return f"no slice with enough of the head lies in the range trained on, {coverage}; raise preprocess.coverage_mm"
