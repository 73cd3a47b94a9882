"""Which range of the head a run trains on: chosen once, from its training volumes, and kept with the run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.coverage import Coverage, shared_length, typical_lengths
from pipeline.data.slice_cache import StoredCase
from pipeline.utils.console import warn
from pipeline.utils.errors import UserError

ByContrast = Mapping[str, Sequence[StoredCase]]


def choose_coverage(
    setting: str | float, axis: str, lengths_mm: Mapping[str, Sequence[float]], saved: Path | None = None
) -> Coverage:
    """Return the range that a configuration asks for; where a run has chosen one already, that.

    Args:
        setting: `preprocess.coverage_mm`: "all", "shared" or a length in mm.
        axis: Along which slices are cut.
        lengths_mm: Contrast -> how long the heads are that its training volumes show along that axis.
        saved: The file with the `coverage_json` that the run began with; None for a new run.

    Raises:
        UserError: the saved choice cannot be read.
    """
    if saved is not None and setting != "all":
        return _read(saved, axis)
    typical = typical_lengths(lengths_mm)
    if setting == "shared" and typical:
        return Coverage(axis, shared_length(typical), typical)
    return Coverage(axis, None if setting == "all" else float(setting), typical)


def shown_mm(entry: StoredCase) -> float:
    """Return how long the head is that a stored volume shows along the sliced axis."""
    first, last = entry.statistics["head_slices"]
    return (last - first + 1) * entry.statistics["slice_mm"]


def coverage_json(coverage: Coverage) -> dict[str, object]:
    """Return a choice in JSON's types."""
    return {"axis": coverage.axis, "coverage_mm": coverage.mm, "shown_mm": dict(coverage.shown_mm or {})}


def _read(path: Path, axis: str) -> Coverage:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        mm, shown = content["coverage_mm"], content["shown_mm"]
        return Coverage(
            axis, None if mm is None else float(mm), {contrast: float(length) for contrast, length in shown.items()}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: cannot be read; remove it, and the range is chosen again (training goes on only where it is "
            "the same)"
        ) from error


def within_coverage(
    stored: ByContrast, coverage: Coverage, *, on_bad_volume: str
) -> tuple[dict[str, list[StoredCase]], dict[Case, str]]:
    """Return the training cases with the slices in the range alone, and why each case without any is left out.

    Raises:
        UserError: there is such a case and `on_bad_volume` is "stop".
    """
    used, left_out = {}, {}
    for contrast, entries in stored.items():
        cut = [entry.within(coverage) for entry in entries]
        for entry in cut:
            if entry.count == 0:
                left_out[entry.case] = _nothing_within(coverage)
        used[contrast] = [entry for entry in cut if entry.count]
    for case, reason in left_out.items():
        if on_bad_volume == "stop":
            raise UserError(f"{case.path}: {reason} (preprocess.on_bad_volume: skip would go on without it)")
        warn(f"warning: {case.path}: {reason}; left out")
    return used, left_out


def pairs_within_coverage(
    pairs: Sequence[tuple[StoredCase, StoredCase]], coverage: Coverage, stored: ByContrast
) -> tuple[list[tuple[StoredCase, StoredCase]], dict[tuple[Case, Case], str]]:
    """Return registered pairs with the slices in the range of the first scan, and why those without any are left out.

    Args:
        pairs: On the first scan's grid.
        coverage: The range.
        stored: The two contrasts' scans by themselves, whose heads are known.
    """
    heads = {entry.case: entry.statistics for entries in stored.values() for entry in entries}
    cut = [tuple(half.within(coverage, grid_statistics=heads[pair[0].case]) for half in pair) for pair in pairs]
    empty = {(first.case, second.case): _nothing_within(coverage) for first, second in cut if not first.count}
    for (first, second), reason in empty.items():
        warn(f"warning: {first.path} and {second.path}: {reason}; left out")
    return [pair for pair in cut if pair[0].count], empty


def _nothing_within(coverage: Coverage) -> str:
    return f"no slice with enough of the head lies in the range trained on, {coverage}; raise preprocess.coverage_mm"
