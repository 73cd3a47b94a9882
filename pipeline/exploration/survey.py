"""Explore a configuration's data before training: find, split and read it, list findings, and write page and record."""

import logging
import platform
import time
from pathlib import Path

from pipeline import __version__
from pipeline.config.load import resolved_yaml
from pipeline.config.schema import Config
from pipeline.data.splits import CohortSplit
from pipeline.data_builders import find_cases, preprocess_settings, split_cases
from pipeline.exploration.cohort import Cohort, read_all, subsets_of_cases
from pipeline.exploration.contrasts import contrast_findings, with_coverage
from pipeline.exploration.exploration_page import write_page
from pipeline.exploration.exploration_record import write_record
from pipeline.exploration.findings import Finding, image_findings, worst_first
from pipeline.exploration.outliers import LIMIT
from pipeline.exploration.tables import summary_rows
from pipeline.reporting.report_page import PHANTOM_NOTE, Report
from pipeline.runs.contrasts import coverage_json
from pipeline.runs.folder import RunFolder
from pipeline.tracking.tracker import Tracker
from pipeline.utils.console import table
from pipeline.utils.errors import Stopped, UserError
from pipeline.utils.files import require_writable, temporary_folder
from pipeline.utils.interruption import Interruption

logger = logging.getLogger(__name__)

PAGE, RECORD = "explore.html", "explore.json"
PRINTED_FINDINGS = 20


def survey(config: Config, folder: Path, to_train: str, *, quiet: bool = False) -> None:
    """Explore a configuration's data; write `explore.html` and `explore.json` into a folder, and log them to MLflow.

    Args:
        config: Configuration of the run.
        folder: Folder of the two files.
        to_train: Command that starts the run, for the page.
        quiet: Whether to leave out progress bars.

    Raises:
        UserError: No data, no readable image, or the folder belongs to a run.
        Stopped: A signal was received.
    """
    started, written, how_to_open = time.monotonic(), False, "off"
    require_free(folder, config.folder)
    require_writable(folder / PAGE, folder / RECORD)
    try:
        with Interruption() as interruption, interruption.stop_immediately():
            cohort, complaint = _read_cohort(config, quiet)
            findings = worst_first([*image_findings(cohort), *contrast_findings(cohort, config)])
            report = _report(config, cohort, complaint, to_train, time.monotonic() - started)
            _write_files(config, folder, cohort, findings, report, complaint)
            written = True
            _print_findings(cohort, findings)
            if config.tracking.mlflow:
                how_to_open = _log_to_mlflow(config, folder, cohort, findings)
    except Stopped as stop:
        progress_text = f"{folder / PAGE} is written; MLflow may lack it" if written else "nothing is written yet"
        raise Stopped(stop.exit_code - 128, f"{progress_text}; the same command begins anew") from None
    logger.info(f"\ndone in {(time.monotonic() - started) / 60:.1f} min")
    logger.info(f"  page        {folder / PAGE}   (open it in a browser)")
    logger.info(f"  facts       {folder / RECORD}")
    logger.info(f"  MLflow      {how_to_open}")


def require_free(folder: Path, run_folder: Path) -> None:
    """Refuse a folder that is a run's folder, or that lies in the folder of a run that has not begun.

    Raises:
        UserError: The folder is such a folder, or a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another -o")
    target, run_target = folder.resolve(), run_folder.resolve()
    if RunFolder(folder).config.exists() or target == run_target:
        raise UserError(f"{folder}: is a run's folder; choose another -o")
    if run_target in target.parents and not RunFolder(run_folder).config.exists():
        raise UserError(f"{folder}: lies where the run itself is to begin ({run_folder}); choose another -o")


def _read_cohort(config: Config, quiet: bool) -> tuple[Cohort, str]:
    """Return the cohort, and the reason why the run could not split it ("" if it can)."""
    cases = [case for case in find_cases(config, quiet=quiet) if case.contrast in config.contrasts]
    split, complaint = _split_or_complaint(config, cases)
    preprocess = config.preprocess
    statistics, unreadable = read_all(
        cases,
        preprocess_settings(config),
        preprocess.min_foreground,
        processes=preprocess.processes,
        quiet=quiet,
    )
    cohort = Cohort(config.contrasts, subsets_of_cases(cases, config.contrasts, split), statistics, unreadable)
    folder = RunFolder(config.folder)
    return with_coverage(cohort, config, folder.file_in_use(folder.coverage)), complaint


def _split_or_complaint(config: Config, cases: list) -> tuple[CohortSplit | None, str]:
    """Return the run's split, new or saved, and ""; or None and the reason why there is none."""
    folder = RunFolder(config.folder)
    try:
        return split_cases(config, cases, folder.file_in_use(folder.split)), ""
    except UserError as error:  # the exploration goes on, since its page helps to mend the data
        complaint = f"the run would stop here, so nothing is split below: {error}"
        logger.warning(complaint)
        return None, complaint


def _report(config: Config, cohort: Cohort, complaint: str, to_train: str, seconds: float) -> Report:
    """Return the content of the page besides the cohort: title, warnings, configuration and provenance."""
    preprocess = config.preprocess
    phantom = [PHANTOM_NOTE] if config.data.source == "phantom" else []
    scaling = f"{preprocess.percentiles} of the head" if preprocess.scaling == "percentiles" else "the type's range"
    chain = f"{preprocess.axis} slices of {preprocess.size} pixels, {scaling}" + (", N4" if preprocess.n4 else "")
    return Report(
        title=f"{config.name}: the data",
        result="",
        warnings=[*phantom, *([f"Warning: {complaint}"] if complaint else [])],
        config_yaml=resolved_yaml(config),
        next_commands={"train on it": to_train},
        provenance={
            "data": f"{config.data.source}, {config.data.folder}",
            "normalisation": f"as training's: {chain}",
            "trained on": f"{cohort.coverage}{_head_lengths_text(cohort)}",
            "version": __version__,
            "python": platform.python_version(),
            "reading time": f"{seconds:.0f} s for {len(cohort.subsets):,} images",
        },
    )


def _head_lengths_text(cohort: Cohort) -> str:
    """Return the median lengths of the heads in the contrasts' training volumes as text; "" for 2D images."""
    lengths = ", ".join(f"{contrast} {length:.0f} mm" for contrast, length in (cohort.coverage.shown_mm or {}).items())
    return f" (heads along the axis of slicing, medians: {lengths})" if lengths else ""


def _write_files(
    config: Config, folder: Path, cohort: Cohort, findings: list[Finding], report: Report, complaint: str
) -> None:
    """Write page and record."""
    axis, oriented = config.preprocess.axis, config.data.source != "images"
    write_page(folder / PAGE, cohort, findings, report, axis=axis, oriented=oriented)
    settings = {
        "name": config.name,
        "pipeline_version": __version__,
        "phantom": config.data.source == "phantom",
        "data": config.data.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "split_impossible": complaint,
        "coverage": coverage_json(cohort.coverage),
        "outlier_limit": LIMIT,
    }
    write_record(folder / RECORD, cohort, findings, settings)


def _print_findings(cohort: Cohort, findings: list[Finding]) -> None:
    """Print the summary table, and one line per finding."""
    logger.info(table(*summary_rows(cohort, findings)))
    if findings:
        logger.info(f"\nworth a look ({len(findings)}):")
    for finding in findings[:PRINTED_FINDINGS]:
        logger.info(f"  {finding.kind}: {finding.names}: {finding.text}")
    if len(findings) > PRINTED_FINDINGS:
        logger.info(f"  and {len(findings) - PRINTED_FINDINGS} more, on the page")


def _log_to_mlflow(config: Config, folder: Path, cohort: Cohort, findings: list[Finding]) -> str:
    """Log page and record to MLflow, if it answers; return a line on how to open them there."""
    with temporary_folder(folder) as aside:  # an exploration does not keep the tracker's files
        tracker = Tracker(
            aside,
            experiment=config.tracking.experiment,
            run_name=f"explore {config.tracking.run_name or config.name}",
            params=config.model_dump(mode="json", include={"name", "contrasts", "data", "split", "preprocess"}),
            tags={"kind": "exploration", "data": config.data.source},
            complete_file=folder / RECORD,
        )
        with tracker:
            counts = {f"images {contrast}": len(cohort.cases(contrast)) for contrast in cohort.contrasts}
            counts |= {"pairs": len(cohort.pairs()), "unreadable": len(cohort.unreadable), "findings": len(findings)}
            tracker.log_metrics({f"explore/{name}": number for name, number in counts.items()}, 0)
            for name in (PAGE, RECORD):
                tracker.log_artifact(folder / name)
        return tracker.open_instructions()
