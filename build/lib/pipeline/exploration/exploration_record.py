"""explore.json: an exploration in machine-readable form."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.data.case import Case
from pipeline.exploration.cohort import SUBSETS, Cohort
from pipeline.exploration.findings import Finding
from pipeline.exploration.image_statistics import PERCENTILES, ImageStatistics
from pipeline.utils.files import atomic_text

VERSION = 1
PLAIN = ("shape", "stored_as", "slope", "intercept", "lowest", "highest", "zeros", "nan", "inf", "warning", "low",
         "high", "head", "head_mm", "cut_off", "slices", "checksum")  # fmt: skip


def write_record(path: Path, cohort: Cohort, findings: Sequence[Finding], settings: Mapping[str, object]) -> None:
    """Write the record, atomically.

    Its keys are those of `settings`, and: `version`; `contrasts`; `counts`, contrast -> subset of the split -> images;
    `pairs`, subset -> pairs; `findings`, each with `kind`, `images`, `reason` and `z`; `images`, each with its names,
    `path`, `split` and the statistics that `pipeline.exploration.image_statistics.ImageStatistics` explains. Of an
    image that could not be read, `unreadable`, the reason, takes the place of the statistics.

    Raises:
        UserError: The file cannot be written.
    """
    counts = {
        contrast: {subset: len(cohort.cases(contrast, subset)) for subset in SUBSETS} for contrast in cohort.contrasts
    }
    content = {
        "version": VERSION,
        **settings,
        "contrasts": list(cohort.contrasts),
        "counts": counts,
        "pairs": {subset: len(cohort.pairs(subset)) for subset in SUBSETS},
        "findings": [
            {
                "kind": finding.kind,
                "images": [case.name for case in finding.cases],
                "reason": finding.text,
                "z": finding.z,
            }
            for finding in findings
        ],
        "images": [_image_entry(cohort, case) for case in cohort.subsets],
    }
    atomic_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _image_entry(cohort: Cohort, case: Case) -> dict[str, object]:
    entry = {
        "name": case.name,
        "subject": case.subject,
        "session": case.session,
        "contrast": case.contrast,
        "path": str(case.path),
        "split": cohort.subsets[case],
    }
    if case in cohort.unreadable:
        return {**entry, "unreadable": cohort.unreadable[case]}
    return {**entry, **_statistics_entry(cohort.statistics[case])}


def _statistics_entry(image: ImageStatistics) -> dict[str, object]:
    percentiles = {str(percentile): value for percentile, value in zip(PERCENTILES, image.percentiles, strict=True)}
    return {
        **({} if image.grid is None else asdict(image.grid)),
        **{name: getattr(image, name) for name in PLAIN},
        "percentiles": percentiles,
    }
