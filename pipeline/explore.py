"""What is in the data, before anyone trains: `python -m pipeline.explore CONFIG [key=value …]`."""

import argparse
import logging
import platform
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.config.load import load_config, resolved_yaml
from pipeline.config.schema import Config
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo
from pipeline.utils.errors import EXIT_DONE, UserError
from pipeline.utils.files import atomic_text, require_writable

if TYPE_CHECKING:
    from pipeline.data.case import Case
    from pipeline.data.splits import CohortSplit
    from pipeline.exploration.cohort import Cohort
    from pipeline.reporting.report_page import Report

logger = logging.getLogger(__name__)

EPILOG = """exit codes: 0 the page is written (it names images that cannot be read), 2 bad configuration or nothing to
read, 130/143 stopped, 1 our bug"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.explore",
        description="Look at a configuration's data: counts, grids, intensities, outliers, duplicates, slices.",
        epilog=EPILOG,
    )
    command.add_argument("config", type=path_argument, help="YAML configuration, such as configs/phantom.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as data.folder=/scans")
    command.add_argument("-o", "--output", type=path_argument, metavar="FOLDER",
                         help="of explore.html and explore.json (default: explore/<name>)")  # fmt: skip
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.add_argument("--version", action="version", version=__version__)
    return command


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = parser().parse_intermixed_args(argv)
    config = load_config(arguments.config, arguments.overrides)
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    folder = arguments.output or Path("explore") / config.name
    _require_free(folder, config.folder)
    training_command = shlex.join(["python", "-m", "pipeline.run", str(arguments.config), *arguments.overrides])
    explore(config, folder / "explore.html", folder / "explore.json", training_command, quiet=arguments.quiet)
    return EXIT_DONE


def explore(config: Config, page: Path, record: Path, training_command: str, *, quiet: bool = False) -> None:
    """Explore a configuration's data: find, split and read it, list findings, and write page (HTML) and record (JSON).

    `training_command` starts the run. UserError: no data, no readable image, or files that cannot be written.
    """
    from pipeline.data_builders import find_cases, names_mean_subjects, preprocess_settings
    from pipeline.exploration.cohort import read_cohort, with_coverage
    from pipeline.exploration.exploration_files import log_exploration, print_findings, write_record
    from pipeline.exploration.exploration_page import render
    from pipeline.exploration.findings import find_all
    from pipeline.exploration.outliers import LIMIT
    from pipeline.runs.contrasts import coverage_json
    from pipeline.runs.folder import RunFolder

    # Read the cohort, and list findings.
    started, preprocess, data = time.monotonic(), config.preprocess, config.data
    require_writable(page, record)
    cases, run_folder = find_cases(config, quiet=quiet), RunFolder(config.folder)
    split, problem = _split_or_problem(config, [case for case in cases if case.contrast in config.contrasts])
    cohort = read_cohort(
        cases,
        config.contrasts,
        split,
        preprocess_settings(config),
        preprocess.min_foreground,
        processes=preprocess.processes,
        quiet=quiet,
    )
    saved_coverage = run_folder.file_in_use(run_folder.coverage)
    cohort = with_coverage(cohort, preprocess.coverage_mm, preprocess.axis, saved_coverage)

    resampled = preprocess.spacing_mm is not None
    findings = find_all(cohort, compare_names=names_mean_subjects(config), resampled=resampled)

    # Write page and record, print, and log.
    report = _report(config, cohort, problem, training_command, time.monotonic() - started)
    atomic_text(page, render(cohort, findings, report, axis=preprocess.axis, oriented=data.source != "images"))
    settings = {
        "name": config.name,
        "pipeline_version": __version__,
        "phantom": data.source == "phantom",
        "data": data.model_dump(mode="json"),
        "preprocess": preprocess.model_dump(mode="json"),
        "split_impossible": problem,
        "coverage": coverage_json(cohort.coverage),
        "outlier_limit": LIMIT,
    }
    write_record(record, cohort, findings, settings)
    print_findings(cohort, findings)
    how_to_open = "off"
    if config.tracking.mlflow:
        params = config.model_dump(mode="json", include={"name", "contrasts", "data", "split", "preprocess"})
        names = config.tracking.experiment, config.tracking.run_name or config.name
        how_to_open = log_exploration(page, record, cohort, findings, *names, params)
    echo(f"\ndone in {(time.monotonic() - started) / 60:.1f} min")
    echo(f"  page        {page}   (open it in a browser)")
    echo(f"  facts       {record}")
    echo(f"  MLflow      {how_to_open}")


def _require_free(folder: Path, run_folder: Path) -> None:
    """Refuse a folder that is a file, a run's folder, or lies in that of a run that has not begun, by a UserError."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another -o")
    target, run_target = folder.resolve(), run_folder.resolve()
    if (folder / "config.yaml").exists() or target == run_target:
        raise UserError(f"{folder}: is a run's folder; choose another -o")
    if run_target in target.parents and not (run_folder / "config.yaml").exists():
        raise UserError(f"{folder}: lies where the run itself is to begin ({run_folder}); choose another -o")


def _split_or_problem(config: Config, cases: "list[Case]") -> "tuple[CohortSplit | None, str]":
    """Return the run's split, new or saved, and ""; or None and the reason why there is none."""
    from pipeline.data_builders import split_cases
    from pipeline.runs.folder import RunFolder

    folder = RunFolder(config.folder)
    try:
        return split_cases(config, cases, folder.file_in_use(folder.split)), ""
    except UserError as error:  # the exploration goes on, since its page helps to mend the data
        problem = f"the run would stop here, so nothing is split below: {error}"
        logger.warning(problem)
        return None, problem


def _report(config: Config, cohort: "Cohort", problem: str, training_command: str, seconds: float) -> "Report":
    """Return the content of the page besides the cohort: title, warnings, configuration and provenance."""
    from pipeline.reporting.report_page import PHANTOM_NOTE, Report

    preprocess = config.preprocess
    phantom = [PHANTOM_NOTE] if config.data.source == "phantom" else []
    scaling = f"{preprocess.percentiles} of the head" if preprocess.scaling == "percentiles" else "the type's range"
    chain = f"{preprocess.axis} slices of {preprocess.size} pixels, {scaling}" + (", N4" if preprocess.n4 else "")
    shown_mm = cohort.coverage.shown_mm or {}
    lengths = ", ".join(f"{contrast} {length:.0f} mm" for contrast, length in shown_mm.items())
    heads = f" (heads along the axis of slicing, medians: {lengths})" if lengths else ""
    return Report(
        title=f"{config.name}: the data",
        result="",
        warnings=[*phantom, *([f"Warning: {problem}"] if problem else [])],
        config_yaml=resolved_yaml(config),
        next_commands={"train on it": training_command},
        provenance={
            "data": f"{config.data.source}, {config.data.folder}",
            "normalisation": f"as training's: {chain}",
            "trained on": f"{cohort.coverage}{heads}",
            "version": __version__,
            "python": platform.python_version(),
            "reading time": f"{seconds:.0f} s for {len(cohort.subsets):,} images",
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
