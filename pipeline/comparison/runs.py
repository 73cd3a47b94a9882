"""Finished runs, read from their folders as plain data, without torch and without the run's images."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from pipeline.comparison.columns import RANKING
from pipeline.config.load import load_config
from pipeline.config.methods import PAIRED
from pipeline.config.schema import Config
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, MODEL, OWN
from pipeline.runs.folder import RunFolder
from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError
from pipeline.utils.files import printable

logger = logging.getLogger(__name__)

Contrasts = tuple[str, str]  # source and target contrast
Figures = dict[str, dict[str, float]]  # "region/metric" -> scan or subject -> value


@dataclass(frozen=True)
class FinishedRun:
    """The results of one run that a comparison needs.

    Attributes:
        folder: Folder of the run.
        label: Name of the run in tables, unique among the compared runs.
        config: Resolved configuration of the run.
        split: {"train": {contrast: names}, "validation": names, "test": names}.
        by_scan: (source, target, system) -> figures within the head, of whole volumes in our own protocol; a subject
            with several sessions has several scans.
        protocols: Name of a protocol -> its description.
        record: Content of run.json; empty for a run without that file.
        mlflow_id: Id of the MLflow run; None for none.
    """

    folder: Path
    label: str
    config: Config
    split: dict
    by_scan: dict[tuple[str, str, str], Figures]
    protocols: dict[str, str]
    record: dict
    mlflow_id: str | None

    @property
    def method(self) -> str:
        """Name of the method, such as "cyclegan"."""
        return self.config.method.type

    @property
    def is_bound(self) -> bool:
        """Whether the model trained on pairs, which makes it an upper bound for unpaired methods."""
        return self.method in PAIRED

    @property
    def directions(self) -> list[Contrasts]:
        """Both directions as (source, target), that of the configuration first."""
        first, second = self.config.contrasts
        return [(first, second), (second, first)]

    @property
    def seconds_per_step(self) -> float | None:
        """Mean duration of a training step."""
        return self.record.get("seconds_per_step")

    @property
    def translator_parameters(self) -> int | None:
        """Number of weights of the translating networks, both directions together."""
        return self.record.get("translator_parameters")

    @property
    def all_parameters(self) -> int | None:
        """Number of weights of all trained networks."""
        counts = self.record.get("parameters")
        return sum(counts.values()) if counts else None

    @property
    def hardware(self) -> str:
        """Device, processes and precision of the training as text; "" if unknown."""
        if not self.record:
            return ""
        threads = f", {self.record.get('threads')} threads" if self.record.get("device") == "cpu" else ""
        processes = self.record.get("processes", 1)
        several = f", {processes} processes" if processes > 1 else ""
        return f"{self.record.get('device')}{threads}{several}, {self.record.get('precision')}"


def load_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read finished runs; a folder that is named twice counts once.

    Raises:
        UserError: Fewer than two runs; or names every folder without a finished run, and the reasons.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    runs, problems = [], []
    for folder in distinct:
        try:
            runs.append(load_run(folder))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n  ".join(["these runs cannot be compared:", *problems] if len(problems) > 1 else problems))
    if len(runs) < 2:
        folder_text = f"{distinct[0]} alone" if distinct else "no run"
        raise UserError(f"a comparison needs two runs or more, and was given {folder_text}")
    return _labelled(runs)


def runs_of_experiment(experiment: str, parent: Path) -> list[Path]:
    """Return the folders of finished runs below `parent` whose configuration names an MLflow experiment.

    The configuration in each run's folder decides, since the MLflow store knows no folders and may be missing.
    Unfinished runs of the experiment are left out with a warning.

    Raises:
        UserError: There is no such run.
    """
    finished = []
    for path in sorted(parent.rglob("config.yaml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            run_experiment = content["tracking"]["experiment"]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            continue  # not a run's
        if run_experiment != experiment:
            continue
        if RunFolder(path.parent).scores.exists():
            finished.append(path.parent)
        else:
            logger.warning(f"{path.parent}: not finished; left out")
    if not finished:
        raise UserError(
            f"{parent}: no finished run of the experiment {experiment!r} below it; name the runs' folders, or set "
            "--runs"
        )
    return finished


def load_run(path: Path) -> FinishedRun:
    """Read one finished run.

    Raises:
        UserError: The path is no run's folder, the run is not finished, or its files are damaged.
    """
    # Check that the folder holds a finished run.
    folder = RunFolder(path)
    if not folder.config.is_file() or not folder.split.is_file():
        problem = f"{path}: not a run's folder{'' if path.is_dir() else cwd_hint(path)}"
        raise UserError(f"{problem}; give folders that pipeline.run made, such as runs/phantom")
    if not folder.scores.is_file():
        raise UserError(f"{path}: not finished, for it has no scores.json; run its command again: {_command(folder)}")

    # Read its files.
    config = load_config(folder.config)
    scores = _json(folder.scores)
    try:
        run = FinishedRun(
            folder=path,
            label=config.name,
            config=config,
            split={subset: _json(folder.split)[subset] for subset in ("train", "validation", "test")},
            by_scan=_figures_by_scan(scores["subjects"]),
            protocols=dict(scores["protocols"]),
            record=_json(folder.record) if folder.record.is_file() else {},
            mlflow_id=_json(run_id_file).get("run_id") if (run_id_file := path / "mlflow.json").is_file() else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its scores.json is of another version or damaged ({error!r}); run again: {_command(folder)}"
        ) from error

    # Check that its scores are up to date and can be ranked.
    if run.record.get("scores_outdated"):
        raise UserError(
            f"{path}: not finished, for it trained on since it was scored; run its command again: {_command(folder)}"
        )
    if not any(RANKING in run.by_scan.get((*contrasts, MODEL), {}) for contrasts in run.directions):
        raise UserError(f"{path}: its test subjects have no pairs, so nothing says which translation is better")
    return run


def _command(folder: RunFolder) -> str:
    return f"python -m pipeline.run {folder.config}"


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the run's command again") from error


def _number(stored: float | str | None) -> float:
    """Return a number of scores.json, where NaN is null and infinity is text."""
    return float("nan") if stored is None else float(stored)


def _figures_by_scan(rows: Sequence[dict]) -> dict[tuple[str, str, str], Figures]:
    """Return our own protocol's figures of whole volumes within the head: foreground regions, not whole images."""
    figures_by_system: dict[tuple[str, str, str], Figures] = {}
    for row in rows:
        if row["protocol"] == OWN and row["unit"] == "volume" and row["region"] != "image":
            figures = figures_by_system.setdefault((row["source"], row["target"], row["system"]), {})
            column = f"{row['region']}/{row['metric']}"
            figures.setdefault(column, {})[row["subject"]] = _number(row["value"])
    return figures_by_system


_SYSTEMS = (MODEL, COPY, HISTOGRAM, LOOKUP)


def _labelled(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Relabel runs that share a name, with each other or with a baseline, by their folders."""
    names = [run.label for run in runs]
    return [
        run
        if names.count(run.label) == 1 and run.label not in _SYSTEMS
        else replace(run, label=printable(str(run.folder)))
        for run in runs
    ]


def subjects_by_scan(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """Yield (name in scores.json, subject) of every test scan: "subject_session" is a session of "subject"."""
    for name in run.split["test"]:
        yield name.replace("/", "_"), name.partition("/")[0]
