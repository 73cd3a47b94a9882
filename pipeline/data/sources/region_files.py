"""Label maps and masks beside the images: which file holds a region of which scan."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.regions import RegionFiles
from pipeline.data.sources.nifti_folder import Scan, check_matches, matching_scans, volumes_below
from pipeline.utils.errors import UserError
from pipeline.utils.files import printable

logger = logging.getLogger(__name__)


def region_files(folder: Path, patterns: Mapping[str, str], cases: Sequence[Case]) -> RegionFiles:
    """Return the files that the regions' patterns match, by the scan of the given cases that they belong to.

    Patterns are those of `pipeline.data.sources.nifti_folder.nifti_cases`. A file belongs to the scans of its subject
    whose session and run its name does not contradict; of several files, to that one whose name has most of the words
    of the scan's session. A scan without a file has no entry. UserError, naming them: a pattern has no {subject} or no
    match, or two files fit one scan alike.
    """
    files = volumes_below(folder) if patterns else []
    files_by_scan: RegionFiles = {}
    for name, pattern in patterns.items():
        key = f"data.regions.{name}"
        scans = matching_scans(key, pattern, files)
        check_matches(folder, key, pattern, scans, files)
        by_scan = {case.scan_name: _scan_of(case, scans, folder, key) for case in cases}
        if not any(by_scan.values()):
            logger.warning(f"{key}: no file of it belongs to any of {len(by_scan)} test scans, so it is not measured")
        for scan_name, scan in by_scan.items():
            if scan is not None:
                files_by_scan.setdefault(scan_name, {})[name] = folder / scan.relative
    return files_by_scan


def _scan_of(case: Case, scans: Sequence[Scan], folder: Path, key: str) -> Scan | None:
    """Return the file that belongs to a case's subject and session; None for none."""
    words = set(case.session.split("_"))
    candidates = [scan for scan in scans if printable(scan.subject) == case.subject and _is_compatible(scan, words)]
    if not candidates:
        return None
    shared = [len(words & {*scan.entities.values(), *scan.tokens}) for scan in candidates]
    best = [scan for scan, count in zip(candidates, shared, strict=True) if count == max(shared)]
    if len(best) > 1:
        paths = " and ".join(str(folder / scan.relative) for scan in best[:2])
        raise UserError(f"{paths}: both fit {key} of {case.scan_name}; make its pattern narrower")
    return best[0]


def _is_compatible(scan: Scan, words: set[str]) -> bool:
    """Whether no BIDS ses- or run- entity of a file's name contradicts the words of a session."""
    return all(
        entity in words or not any(word.startswith(f"{kind}-") for word in words)
        for kind, entity in scan.entities.items()
    )
