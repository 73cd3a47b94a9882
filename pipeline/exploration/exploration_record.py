"""explore.json: an exploration for programs to read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.data.case import Case
from pipeline.exploration.cohort import PARTS, Cohort
from pipeline.exploration.findings import Finding
from pipeline.exploration.image_statistics import PERCENTILES, ImageFacts
from pipeline.utils.files import atomic_text

VERSION = 1
PLAIN = ("shape", "stored_as", "slope", "intercept", "lowest", "highest", "zeros", "nan", "inf", "warning", "low",
         "high", "head", "head_mm", "cut_off", "slices", "checksum")  # fmt: skip


def write_record(path: Path, cohort: Cohort, findings: Sequence[Finding], about: Mapping[str, object]) -> None:
    """Write the record, atomically.

    Its keys are those of `about`, and: `version`; `contrasts`; `counts`, contrast -> part of the split -> images;
    `pairs`, part -> pairs; `findings`, each with `kind`, `images`, `reason` and `z`; `images`, each with its names,
    `path`, `split` and facts as `pipeline.exploration.image_statistics.ImageFacts` explains them, and `unreadable`, the
    reason, in place of the facts where there are none.

    Raises:
        UserError: the file cannot be written.
    """
    counts = {contrast: {part: len(cohort.cases(contrast, part)) for part in PARTS} for contrast in cohort.contrasts}
    content = {
        "version": VERSION,
        **about,
        "contrasts": list(cohort.contrasts),
        "counts": counts,
        "pairs": {part: len(cohort.pairs(part)) for part in PARTS},
        "findings": [
            {
                "kind": finding.kind,
                "images": [case.name for case in finding.cases],
                "reason": finding.text,
                "z": finding.z,
            }
            for finding in findings
        ],
        "images": [_image(cohort, case) for case in cohort.parts],
    }
    atomic_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _image(cohort: Cohort, case: Case) -> dict[str, object]:
    known = {
        "name": case.name,
        "subject": case.subject,
        "session": case.session,
        "contrast": case.contrast,
        "path": str(case.path),
        "split": cohort.parts[case],
    }
    if case in cohort.unreadable:
        return {**known, "unreadable": cohort.unreadable[case]}
    return {**known, **_facts(cohort.facts[case])}


def _facts(facts: ImageFacts) -> dict[str, object]:
    percentiles = {str(percentile): value for percentile, value in zip(PERCENTILES, facts.percentiles, strict=True)}
    return {
        **({} if facts.grid is None else asdict(facts.grid)),
        **{name: getattr(facts, name) for name in PLAIN},
        "percentiles": percentiles,
    }
