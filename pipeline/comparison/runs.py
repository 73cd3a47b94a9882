"""Finished runs, read from their folders as plain data: nothing here needs torch or the run's own data."""

import json
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
from pipeline.utils.console import warn
from pipeline.utils.errors import UserError
from pipeline.utils.paths import cwd_hint
from pipeline.utils.texts import printable

Contrasts = tuple[str, str]  # source and target contrast
Figures = dict[str, dict[str, float]]  # "region/metric" -> scan or subject -> value


@dataclass(frozen=True)
class FinishedRun:
    """What one run left, as far as a comparison needs it.

    Attributes:
        folder: Where it lies.
        label: What tables call it: its name, unique among the runs compared.
        config: Its resolved configuration.
        split: {"train": {contrast: names}, "validation": names, "test": names}.
        by_scan: Of our own protocol and whole volumes, by source, target and system, figures within the head; a
            subject with several sessions has several scans.
        protocols: Name -> how it measures, in words.
        record: The content of run.json; empty where a run is older than that file.
        mlflow_id: Its MLflow run, where it has one.
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
        """The method's name, such as "cyclegan"."""
        return self.config.method.type

    @property
    def is_bound(self) -> bool:
        """Whether the model trained on pairs, so that it bounds what unpaired methods can hope for."""
        return self.method in PAIRED

    @property
    def directions(self) -> list[Contrasts]:
        """Both directions, that of the configuration first."""
        first, second = self.config.contrasts
        return [(first, second), (second, first)]

    @property
    def seconds_per_step(self) -> float | None:
        """Mean duration of a training step."""
        return self.record.get("seconds_per_step")

    @property
    def translator_parameters(self) -> int | None:
        """Weights of the networks that translate, both directions together."""
        return self.record.get("translator_parameters")

    @property
    def all_parameters(self) -> int | None:
        """Weights of all trained networks."""
        counts = self.record.get("parameters")
        return sum(counts.values()) if counts else None

    @property
    def hardware(self) -> str:
        """The device it trained on, in words; "" where that is not known."""
        if not self.record:
            return ""
        threads = f", {self.record.get('threads')} threads" if self.record.get("device") == "cpu" else ""
        processes = self.record.get("processes", 1)
        several = f", {processes} processes" if processes > 1 else ""
        return f"{self.record.get('device')}{threads}{several}, {self.record.get('precision')}"


def load_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read finished runs; a folder that is given twice counts once.

    Raises:
        UserError: fewer than two, or naming every folder that holds no finished run, and why.
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
    """Return the folders of the finished runs below `place` whose configuration names an MLflow experiment.

    The configuration that lies in each run's folder decides: it is there whatever became of the MLflow store, which
    knows no folders. Runs of the experiment that are not finished are named in a warning and left out.

    Raises:
        UserError: there is none.
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
            warn(f"warning: {path.parent}: not finished; left out")
    if not finished:
        raise UserError(
            f"{parent}: no finished run of the experiment {experiment!r} below it; name the runs' folders, or set "
            "--runs"
        )
    return finished


def load_run(path: Path) -> FinishedRun:
    """Read one finished run.

    Raises:
        UserError: it is no run's folder, or the run is not finished, or its files are damaged; names the folder.
    """
    folder = RunFolder(path)
    if not folder.config.is_file() or not folder.split.is_file():
        problem = f"{path}: not a run's folder{'' if path.is_dir() else cwd_hint(path)}"
        raise UserError(f"{problem}; give folders that pipeline.run made, such as runs/phantom")
    if not folder.scores.is_file():
        raise UserError(f"{path}: not finished, for it has no scores.json; run its command again: {_command(folder)}")
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
    """Return a number as scores.json keeps it: NaN as null, infinity as text."""
    return float("nan") if stored is None else float(stored)


def _figures_by_scan(rows: Sequence[dict]) -> dict[tuple[str, str, str], Figures]:
    """Return our own protocol's figures of whole volumes within the head (the foreground, or deeper inside)."""
    figures_by_system: dict[tuple[str, str, str], Figures] = {}
    for row in rows:
        if row["protocol"] == OWN and row["unit"] == "volume" and row["region"] != "image":
            figures = figures_by_system.setdefault((row["source"], row["target"], row["system"]), {})
            column = f"{row['region']}/{row['metric']}"
            figures.setdefault(column, {})[row["subject"]] = _number(row["value"])
    return figures_by_system


_SYSTEMS = (MODEL, COPY, HISTOGRAM, LOOKUP)


def _labelled(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Give runs that share a name a label that none shares: their folder."""
    names = [run.label for run in runs]
    return [
        run
        if names.count(run.label) == 1 and run.label not in _SYSTEMS
        else replace(run, label=printable(str(run.folder)))
        for run in runs
    ]


def subjects_by_scan(run: FinishedRun) -> Iterator[tuple[str, str]]:
    """Yield (the name that scores have, subject) of every test scan: "subject_session" is a session of "subject"."""
    for name in run.split["test"]:
        yield name.replace("/", "_"), name.partition("/")[0]
