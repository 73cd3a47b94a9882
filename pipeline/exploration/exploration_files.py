"""An exploration's results: explore.json, the terminal's summary, and an MLflow run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.data.case import Case
from pipeline.exploration.cohort import SUBSETS, Cohort
from pipeline.exploration.findings import Finding
from pipeline.exploration.image_statistics import PERCENTILES
from pipeline.exploration.tables import summary_rows
from pipeline.runs.folder import json_text
from pipeline.tracking.tracker import Tracker
from pipeline.utils.console import table
from pipeline.utils.files import atomic_text, temporary_folder

logger = logging.getLogger(__name__)

VERSION = 1
PRINTED_FINDINGS = 20
PLAIN = ("shape", "stored_as", "slope", "intercept", "lowest", "highest", "zeros", "nan", "inf", "warning", "low",
         "high", "head", "head_mm", "cut_off", "slices", "checksum")  # fmt: skip


def write_record(path: Path, cohort: Cohort, findings: Sequence[Finding], settings: Mapping[str, object]) -> None:
    """Write the record, atomically.

    Its keys are those of `settings`, and: `version`; `contrasts`; `counts`, contrast -> subset of the split -> images;
    `pairs`, subset -> pairs; `findings`, each with `kind`, `images`, `reason` and `z`; `images`, each with its names,
    `path`, `split` and the statistics that `pipeline.exploration.image_statistics.ImageStatistics` explains. Of an
    image that could not be read, `unreadable`, the reason, takes the place of the statistics.
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
    atomic_text(path, json_text(content))


def _image_entry(cohort: Cohort, case: Case) -> dict[str, Any]:
    names = {name: getattr(case, name) for name in ("name", "subject", "session", "contrast")}
    entry = {**names, "path": str(case.path), "split": cohort.subsets[case]}
    if case in cohort.unreadable:
        return {**entry, "unreadable": cohort.unreadable[case]}
    image = cohort.statistics[case]
    return {
        **entry,
        **({} if image.grid is None else asdict(image.grid)),
        **{name: getattr(image, name) for name in PLAIN},
        "percentiles": dict(zip(map(str, PERCENTILES), image.percentiles, strict=True)),
    }


def print_findings(cohort: Cohort, findings: Sequence[Finding]) -> None:
    """Print the summary table, and one line per finding."""
    logger.info(table(*summary_rows(cohort, findings)))
    if findings:
        logger.info(f"\nworth a look ({len(findings)}):")
    for finding in findings[:PRINTED_FINDINGS]:
        logger.info(f"  {finding.kind}: {finding.names}: {finding.text}")
    if len(findings) > PRINTED_FINDINGS:
        logger.info(f"  and {len(findings) - PRINTED_FINDINGS} more, on the page")


def log_exploration(
    page: Path, record: Path, cohort: Cohort, findings: Sequence[Finding], experiment: str, name: str, params: dict
) -> str:
    """Log page and record to MLflow, if it answers; return a line on how to open them there."""
    with temporary_folder(page.parent) as folder:  # an exploration does not keep the tracker's files
        tracker = Tracker(
            folder,
            experiment=experiment,
            run_name=f"explore {name}",
            params=params,
            tags={"kind": "exploration", "data": params["data"]["source"]},
            complete_file=record,
            machine=False,
        )
        with tracker:
            counts = {f"images {contrast}": len(cohort.cases(contrast)) for contrast in cohort.contrasts}
            counts |= {"pairs": len(cohort.pairs()), "unreadable": len(cohort.unreadable), "findings": len(findings)}
            tracker.log_metrics({f"explore/{title}": number for title, number in counts.items()}, 0)
            for path in (page, record):
                tracker.log_artifact(path)
        return tracker.open_instructions()
