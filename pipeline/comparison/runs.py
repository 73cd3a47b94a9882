"""Finished runs, read from their folders as plain data, without torch and without the run's images."""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.metrics.names import BASELINES, MODEL, OWN
from pipeline.runs.folder import RunFolder
from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError
from pipeline.utils.files import printable

logger = logging.getLogger(__name__)

RANKING = "foreground/psnr"  # decides which run is the best of a direction
Contrasts = tuple[str, str]  # source and target contrast
Figures = dict[str, dict[str, float]]  # "region/metric" -> scan or subject -> value
Settings = Mapping[str, Any]  # section -> key -> value of a configuration, in JSON's types


@dataclass(frozen=True)
class FinishedRun:
    """The results of one run that a comparison needs.

    Attributes:
        label: Name of the run in tables, unique among the compared runs.
        settings: Resolved configuration of the run.
        is_bound: Whether the model trained on pairs, which makes it an upper bound for unpaired methods.
        split: {"train": {contrast: names}, "validation": names, "test": names}.
        by_scan: (source, target, system) -> figures within the head, of whole volumes in our own protocol; a subject
            with several sessions has several scans.
        protocols: Name of a protocol -> its description.
        score_notes: What its own report says to readers of its scores.
        record: Content of run.json; empty for a run without that file.
    """

    folder: Path
    label: str
    settings: Settings
    is_bound: bool
    split: dict[str, Any]
    by_scan: dict[tuple[str, str, str], Figures]
    protocols: dict[str, str]
    score_notes: list[str]
    record: dict[str, Any]
    mlflow_id: str | None

    @property
    def method(self) -> str:
        """Name of the method, such as "cyclegan"."""
        return self.settings["method"]["type"]

    @property
    def directions(self) -> list[Contrasts]:
        """Both directions as (source, target), that of the configuration first."""
        first, second = self.settings["contrasts"]
        return [(first, second), (second, first)]

    @property
    def subject_of(self) -> dict[str, str]:
        """Test scan as scores.json names it -> its subject: "subject_session" is a session of "subject"."""
        return {name.replace("/", "_"): name.partition("/")[0] for name in self.split["test"]}

    @property
    def saw_pairs(self) -> bool:
        """Whether the model trained on pairs, alone or beside unpaired scans."""
        return self.is_bound or bool(self.split["pairs"])

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


def load_runs(
    folders: Sequence[Path], read_settings: Callable[[Path], Settings], paired_methods: Collection[str]
) -> list[FinishedRun]:
    """Read finished runs; a folder that is named twice counts once.

    `read_settings` reads a config.yaml and completes it with the defaults of keys that an older run did not have;
    `paired_methods` learn from pairs. UserError: fewer than two runs; or names every folder without a finished run.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    runs, problems = [], []
    for folder in distinct:
        try:
            runs.append(load_run(folder, read_settings, paired_methods))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n  ".join(["these runs cannot be compared:", *problems] if len(problems) > 1 else problems))
    if len(runs) < 2:
        folder_text = f"{distinct[0]} alone" if distinct else "no run"
        raise UserError(f"a comparison needs two runs or more, and was given {folder_text}")

    # Runs that share a name, with each other or with a baseline, are labelled by their folders.
    labels = [MODEL, *BASELINES, *(run.label for run in runs)]
    return [run if labels.count(run.label) == 1 else replace(run, label=printable(str(run.folder))) for run in runs]


def runs_of_experiment(experiment: str, parent: Path) -> list[Path]:
    """Return the folders of finished runs below `parent` whose configuration names an MLflow experiment.

    Unfinished ones are left out with a warning. UserError: there is no such run.
    """
    finished = []
    for path in sorted(parent.rglob("config.yaml")):
        try:
            if yaml.safe_load(path.read_text(encoding="utf-8"))["tracking"]["experiment"] != experiment:
                continue
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            continue  # not a run's
        if RunFolder(path.parent).scores.exists():
            finished.append(path.parent)
        else:
            logger.warning(f"{path.parent}: not finished; left out")
    if not finished:
        problem = f"{parent}: no finished run of the experiment {experiment!r} below it"
        raise UserError(f"{problem}; name the runs' folders, or set --runs")
    return finished


def load_run(path: Path, read_settings: Callable[[Path], Settings], paired_methods: Collection[str]) -> FinishedRun:
    """Read one finished run; see `load_runs`. UserError: no run's folder, not finished, or its files are damaged."""
    # Check that the folder holds a finished run.
    folder = RunFolder(path)
    command = f"python -m pipeline.run {folder.config}"
    if not folder.config.is_file() or not folder.split.is_file():
        problem = f"{path}: not a run's folder{'' if path.is_dir() else cwd_hint(path)}"
        raise UserError(f"{problem}; give folders that pipeline.run made, such as runs/phantom")
    if not folder.scores.is_file():
        raise UserError(f"{path}: not finished, for it has no scores.json; run its command again: {command}")

    # Read its files.
    settings, scores, split = read_settings(folder.config), _json(folder.scores), _json(folder.split)
    try:
        run = FinishedRun(
            folder=path,
            label=settings["name"],
            settings=settings,
            is_bound=settings["method"]["type"] in paired_methods,
            split={subset: split[subset] for subset in ("train", "validation", "test")}
            | {"pairs": split.get("pairs", [])},
            by_scan=_figures_by_scan(scores["subjects"]),
            protocols=dict(scores["protocols"]),
            score_notes=list(scores.get("notes", [])),
            record=_json(folder.record) if folder.record.is_file() else {},
            mlflow_id=_json(run_id_file).get("run_id") if (run_id_file := path / "mlflow.json").is_file() else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its scores.json is of another version or damaged ({error!r}); run again: {command}"
        ) from error

    # Check that its scores are up to date and can be ranked.
    if run.record.get("scores_outdated"):
        raise UserError(
            f"{path}: not finished, for it trained on since it was scored; run its command again: {command}"
        )
    if run.record and "configuration" not in run.record:
        raise UserError(f"{path}: not finished, for its evaluation began anew; run its command again: {command}")
    if not any(RANKING in run.by_scan.get((*contrasts, MODEL), {}) for contrasts in run.directions):
        raise UserError(f"{path}: its test subjects have no pairs, so nothing says which translation is better")
    return run


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the run's command again") from error


def _figures_by_scan(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], Figures]:
    """Return our own protocol's figures of whole volumes within the head: foreground regions, not whole images."""
    figures_by_system: dict[tuple[str, str, str], Figures] = {}
    for row in rows:
        if row["protocol"] == OWN and row["unit"] == "volume" and row["region"] != "image":
            figures = figures_by_system.setdefault((row["source"], row["target"], row["system"]), {})
            value = float("nan") if row["value"] is None else float(row["value"])  # infinity is stored as text
            figures.setdefault(f"{row['region']}/{row['metric']}", {})[row["subject"]] = value
    return figures_by_system
