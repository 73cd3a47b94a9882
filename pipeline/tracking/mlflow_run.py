"""One run in an MLflow store: continued or created, and logged to without duplicates. Every call may raise."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

import numpy as np

from pipeline.tracking.mlflow_settings import (
    check_schema,
    request_timeout,
    short_reason,
    store_lock,
    use_files_beside_store,
)
from pipeline.utils.files import printable

if TYPE_CHECKING:
    from mlflow.entities import Run

Result = TypeVar("Result")
METRICS_PER_REQUEST, PARAMS_PER_REQUEST = 1000, 100  # MLflow's limits, like the lengths below
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 5000
CHANGED = "changed."  # prefix of the tags of parameters whose value differs from the first one
NOTE_TAG, TABLES_TAG = "mlflow.note.content", "mlflow.loggedArtifacts"  # a page's description, and its tables
THIS_RUN = "{run_id}"  # in a description: the id of the run that it is set for
PARENT_TAG, PARENT_VARIABLE = "mlflow.parentRunId", "MRI_PARENT_RUN"  # of the run below which others are shown
BASELINE = re.compile("^test/([^/]+/(?:untrained_start|copy|histogram_matching|context_lookup|lookup)/)")
GONE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def clean_key(name: str) -> str:
    """Return a name as MLflow takes it for a key: other letters become "_", empty and dotted parts between "/" go."""
    cleaned = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)[:KEY_LENGTH].strip("/ ")
    return "/".join(part for part in cleaned.split("/") if part not in ("", ".", "..")) or "_"


def metric_key(name: str) -> str:
    """Return the MLflow key of a metric of metrics.jsonl.

    "detectors/…" becomes "warnings/…", and "test/…" of a baseline "without_training/…". MLflow groups charts by what
    stands before the last "/" and sorts the groups by alphabet: so a model's test scores, training losses and
    validation scores come before the values that warnings rest on, and the baselines come last.
    """
    return clean_key(BASELINE.sub(r"without_training/\1", re.sub("^detectors/", "warnings/", name)))


def clean_name(name: str) -> str:
    """Return a name with the letters that MLflow refuses in names of models and aliases replaced by "_"."""
    return re.sub(r"[^\w\-]", "_", name)[:KEY_LENGTH] or "_"


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to text: {"a": {"b": 1}} -> {"a.b": "1"}, cut to MLflow's lengths."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            text = printable(str(value))
            flat[clean_key(key)] = text if len(text) <= PARAM_LENGTH else f"{text[: PARAM_LENGTH - 1]}…"
    return flat


def _tag_texts(tags: Mapping[str, str]) -> dict[str, str]:
    return {clean_key(key): printable(str(value))[:TAG_LENGTH] for key, value in tags.items()}


def artifact_address(path: str) -> str:
    """Return the address of a run's artifact for its description, on whatever server shows it."""
    return f"get-artifact?path={quote(path, safe='')}&run_uuid={THIS_RUN}"


def parent_tag() -> dict[str, str]:
    """Return the tag that a run has if a sweep started it."""
    parent = os.environ.get(PARENT_VARIABLE)
    return {PARENT_TAG: parent} if parent else {}


@dataclass(frozen=True)
class RunInfo:
    """What identifies a run in MLflow: its experiment, its name, its flat parameters (`flatten`) and its tags."""

    experiment: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]


class MlflowRun:
    """A run that is open in the store (`uri`; None for MLflow's current one).

    It is the one with the id `run_id`, or if the store does not have that, a new one, begun now or at `started_ms`
    since 1970.
    """

    def __init__(
        self, info: RunInfo, run_id: str | None = None, *, started_ms: int | None = None, uri: str | None = None
    ):
        import mlflow

        use_files_beside_store()
        self.uri: str = uri or mlflow.get_tracking_uri()
        with store_lock(self.uri):
            check_schema(self.uri)
            self.client = mlflow.MlflowClient(self.uri)
            run = self._existing(run_id)
            is_new = run is None
            run = run or self._create(info, started_ms)
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        if not is_new:
            self.client.update_run(self.id, status="RUNNING")
        changed = {key[len(CHANGED) :]: value for key, value in run.data.tags.items() if key.startswith(CHANGED)}
        self._params: dict[str, str] = {**run.data.params, **changed}  # the latest values
        self.log_params(info.params)
        self._images = set() if is_new else self._logged_images()
        # Key -> step -> latest of the points that the store had when the run was opened: time in ms, and value.
        self.logged_points = {} if is_new else self._logged_points(run.data.metrics)

    def _existing(self, run_id: str | None) -> "Run | None":
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in GONE:
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self, info: RunInfo, started_ms: int | None) -> "Run":
        from mlflow.tracking.context.registry import resolve_tags

        experiment = self.client.get_experiment_by_name(info.experiment)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(info.experiment)
        return self.client.create_run(experiment_id, started_ms, resolve_tags(_tag_texts(info.tags)), info.name)

    def _log_batches(self, kind: str, items: Sequence[Any], at_once: int) -> None:
        for start in range(0, len(items), at_once):
            batch: dict[str, Any] = {kind: items[start : start + at_once]}
            self.client.log_batch(self.id, **batch, synchronous=True)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log new parameters, and those whose value differs from the run's latest one as tags `changed.<name>`."""
        from mlflow.entities import Param

        new = [Param(key, value) for key, value in params.items() if key not in self._params]
        self._log_batches("params", new, PARAMS_PER_REQUEST)
        latest = {key: self._params.get(key, value) for key, value in params.items()}
        self.set_tags({f"{CHANGED}{key}": value for key, value in params.items() if latest[key] != value})
        self._params |= params

    def _logged_images(self) -> set[tuple[str, int]]:
        """Return key and step of each image."""
        names = (Path(file.path).name for file in self.client.list_artifacts(self.id, "images"))
        matches = (re.fullmatch(r"(.+)\+step\+(\d+)\+timestamp\+.*\+compressed\.webp", name) for name in names)
        return {(match[1].replace("~", "/"), int(match[2])) for match in matches if match}

    def _logged_points(self, keys: Iterable[str]) -> dict[str, dict[int, tuple[int, float]]]:
        points: dict[str, dict[int, tuple[int, float]]] = {}
        for key in keys:
            history = sorted(self.client.get_metric_history(self.id, key), key=lambda point: point.timestamp)
            points[key] = {point.step: (point.timestamp, point.value) for point in history}
        return points

    def log_points(self, records: Sequence[Mapping[str, float]]) -> int:
        """Log the records of metrics.jsonl ({"step": …, "time": seconds since 1970, name: value, …}) the store lacks.

        A later record of another value is sent, too, of a new evaluation or of steps that a resumed run made anew: of a
        step's points, MLflow shows the one with the latest time. Returns the number of points sent.
        """
        from mlflow.entities import Metric

        points = []
        for record in records:
            step, time_ms = int(record["step"]), round(record["time"] * 1000)
            points += [
                Metric(metric_key(name), value, time_ms, step)
                for name, value in record.items()
                if name not in ("step", "time") and self._lacks(name, value, time_ms, step)
            ]
        self._log_batches("metrics", points, METRICS_PER_REQUEST)
        return len(points)

    def _lacks(self, name: str, value: float, time_ms: int, step: int) -> bool:
        """Whether the store lacks a point, or has an earlier one of another value, which this one replaces."""
        logged_ms, logged_value = self.logged_points.get(metric_key(name), {}).get(step, (-1, math.nan))
        is_same = value == logged_value or (math.isnan(value) and math.isnan(logged_value))
        return logged_ms < 0 or (time_ms > logged_ms and not is_same)

    def has_image(self, key: str, step: int) -> bool:
        """Whether the store has an image under a key and step."""
        return (clean_key(key), step) in self._images

    def log_image_file(self, path: Path, key: str, step: int) -> None:
        """Log a PNG file under the UI's step slider, once per key and step."""
        from PIL import Image

        if not self.has_image(key, step):
            with Image.open(path) as stored:
                self.client.log_image(self.id, np.asarray(stored), key=clean_key(key), step=step, synchronous=True)
            self._images.add((clean_key(key), step))

    def log_dataset(self, name: str, context: str, source: str, digest: str, profile: Mapping[str, object]) -> None:
        """Log a data set of the run: name, context ("train", "test", …), source folder, digest and profile."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="local",
            source=json.dumps({"uri": source}),
            profile=json.dumps(dict(profile)),
        )
        self.client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; in its description, `THIS_RUN` becomes its id."""
        from mlflow.entities import RunTag

        if NOTE_TAG in tags:
            tags = {**tags, NOTE_TAG: tags[NOTE_TAG].replace(THIS_RUN, self.id)}
        self._log_batches("tags", [RunTag(*item) for item in _tag_texts(tags).items()], PARAMS_PER_REQUEST)

    def log_table(self, path: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Log a table as an artifact that the UI shows and compares between runs; one at that path is replaced.

        `MlflowClient.log_table` would append to it.
        """
        self.client.log_dict(self.id, {"columns": list(columns), "data": [list(row) for row in rows]}, path)
        tables = json.loads(self.client.get_run(self.id).data.tags.get(TABLES_TAG, "[]"))
        table = {"path": path, "type": "table"}
        if table not in tables:
            self.set_tags({TABLES_TAG: json.dumps([*tables, table])})

    def adopt(self, run_ids: Iterable[str]) -> None:
        """Have other runs shown below this one; those that the store does not have are left out."""
        for run_id in run_ids:
            run = self._existing(run_id)
            if run is not None and run.data.tags.get(PARENT_TAG) != self.id:
                self.client.set_tag(run_id, PARENT_TAG, self.id)

    def end_abandoned(self, run_id: str | None) -> None:
        """Close another run as KILLED if its process left it open."""
        run = self._existing(run_id)
        if run is not None and run.info.status == "RUNNING":
            self.client.set_terminated(run.info.run_id, "KILLED")

    def attempt(self, action: "Callable[[MlflowRun], Result]", timeout_s: float) -> tuple[Result | None, str]:
        """Run an action, with so much more time for each request; return (result, "") or (None, why it failed).

        Raises:
            Exception: The store does not answer any more.
        """
        try:
            with request_timeout(timeout_s):
                return action(self), ""
        except Exception as error:
            self.client.get_run(self.id)
            return None, short_reason(error)

    def end(self, status: str, ended_ms: int | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED, now or at a time in ms since 1970."""
        self.client.set_terminated(self.id, status, ended_ms)


class RunAccess(Protocol):
    """What gives access to an MLflow run: a `Tracker` during training, an `MlflowSync` after it."""

    def call(self, title: str, action: Callable[[MlflowRun], Result], size_bytes: int = 0) -> Result | None: ...
