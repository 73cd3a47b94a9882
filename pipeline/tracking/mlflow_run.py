"""One run in an MLflow store: continued or created, and logged to without duplicates. Every call may raise."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.tracking.metrics_file import SUPERSEDING
from pipeline.tracking.mlflow_settings import check_schema, store_lock, use_files_beside_store

METRICS_PER_REQUEST, PARAMS_PER_REQUEST = 1000, 100  # MLflow's limits, like the lengths below
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 5000
GONE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def clean_key(name: str) -> str:
    """Return a name as MLflow takes it for a key: other letters become "_", empty and dotted parts between "/" go."""
    cleaned = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)[:KEY_LENGTH].strip("/ ")
    return "/".join(part for part in cleaned.split("/") if part not in ("", ".", "..")) or "_"


def clean_name(name: str) -> str:
    """Return a name with the letters that MLflow refuses in names of models and aliases replaced by "_"."""
    return re.sub(r"[^\w\-]", "_", name)[:KEY_LENGTH] or "_"


def flatten(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to text: {"a": {"b": 1}} -> {"a.b": "1"}, cut to MLflow's lengths."""
    flat = {}
    for name, value in params.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            text = str(value)
            flat[clean_key(key)] = text if len(text) <= PARAM_LENGTH else f"{text[: PARAM_LENGTH - 1]}…"
    return flat


class MlflowRun:
    """A run that is open in the store.

    Args:
        experiment: Name of the experiment, which is created if missing.
        name: Name of the run.
        params: Flat parameters. Those that differ from the run's logged ones become `changed.` tags.
        tags: Tags of the run.
        run_id: Run to continue, from a checkpoint; a new one is created if the store does not have it.
        unfinished_id: Run to continue only if it never ended and has the same parameters, left by a process without a
            checkpoint. Otherwise it is closed as KILLED.
        started_ms: Start time of a new run, in ms since 1970; None for now.
    """

    def __init__(
        self,
        experiment: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        run_id: str | None = None,
        unfinished_id: str | None = None,
        started_ms: int | None = None,
    ):
        import mlflow

        use_files_beside_store()
        self.uri = mlflow.get_tracking_uri()
        with store_lock(self.uri):
            check_schema(self.uri)
            self.client = mlflow.MlflowClient(self.uri)
            run = self._find(run_id) or self._find_unfinished(unfinished_id, params)
            self.continued = run is not None
            run = run or self._create(experiment, name, tags, started_ms)
        self.id, self.experiment_id = run.info.run_id, run.info.experiment_id
        if self.continued:
            self.client.update_run(self.id, status="RUNNING")
        self._log_params(params, dict(run.data.params), dict(run.data.tags))
        self._images = self._logged_images() if self.continued else set()
        self.logged_steps = self._logged_steps(run.data.metrics) if self.continued else {}

    def _find(self, run_id: str | None):
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

    def _find_unfinished(self, run_id: str | None, params: Mapping[str, str]):
        run = self._find(run_id)
        if run is None or run.info.status != "RUNNING":
            return None
        if all(params.get(key) == value for key, value in run.data.params.items()):
            return run
        self.client.set_terminated(run_id, "KILLED")
        return None

    def _create(self, experiment: str, name: str, tags: Mapping[str, str], started_ms: int | None):
        from mlflow.exceptions import MlflowException
        from mlflow.tracking.context.registry import resolve_tags

        existing = self.client.get_experiment_by_name(experiment)
        try:
            experiment_id = existing.experiment_id if existing else self.client.create_experiment(experiment)
        except MlflowException:  # another process may have created it meanwhile
            existing = self.client.get_experiment_by_name(experiment)
            if existing is None:
                raise
            experiment_id = existing.experiment_id
        if existing and existing.lifecycle_stage != "active":
            raise ValueError(f'the experiment "{experiment}" is deleted; restore it, or set tracking.experiment')
        shortened_tags = {clean_key(key): str(value)[:TAG_LENGTH] for key, value in tags.items()}
        return self.client.create_run(experiment_id, started_ms, resolve_tags(shortened_tags), name)

    def _log_params(self, params: Mapping[str, str], logged: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Log new parameters, and as tags those whose value differs from the run's latest one."""
        from mlflow.entities import Param

        new = [Param(key, value) for key, value in params.items() if key not in logged]
        for start in range(0, len(new), PARAMS_PER_REQUEST):
            self.client.log_batch(self.id, params=new[start : start + PARAMS_PER_REQUEST], synchronous=True)
        last = {key: tags.get(clean_key(f"changed.{key}"), logged.get(key, value)) for key, value in params.items()}
        self.set_tags({f"changed.{key}": value for key, value in params.items() if last[key] != value})

    def _logged_images(self) -> set[tuple[str, int]]:
        names = (Path(file.path).name for file in self.client.list_artifacts(self.id, "images"))
        matches = (re.fullmatch(r"(.+)\+step\+(\d+)\+timestamp\+.*\+compressed\.webp", name) for name in names)
        return {(match[1].replace("~", "/"), int(match[2])) for match in matches if match}

    def _logged_steps(self, keys: Iterable[str]) -> dict[str, dict[int, tuple[int, float]]]:
        """Return key -> step -> (time in ms, value) of the latest point."""
        steps: dict[str, dict[int, tuple[int, float]]] = {key: {} for key in keys}
        for key, latest in steps.items():
            for metric in self.client.get_metric_history(self.id, key):
                point = (metric.timestamp, metric.value)
                latest[metric.step] = max(latest.get(metric.step, point), point)
        return steps

    def log_points(self, records: Sequence[Mapping[str, float]]) -> int:
        """Log the records of metrics.jsonl ({"step": …, "time": seconds since 1970, name: value, …}) the store lacks.

        `logged_steps` holds the points of the store when the run was opened; these are not sent again. A later record
        with another value under "test/" is sent: of a step's points, MLflow shows the one with the latest time.

        Returns:
            The number of points sent.
        """
        from mlflow.entities import Metric

        points = [
            Metric(key, value, round(record["time"] * 1000), record["step"])
            for record in records
            for key, value in ((clean_key(name), value) for name, value in record.items())
            if key not in ("step", "time") and self._lacks(key, value, round(record["time"] * 1000), record["step"])
        ]
        for start in range(0, len(points), METRICS_PER_REQUEST):
            self.client.log_batch(self.id, metrics=points[start : start + METRICS_PER_REQUEST], synchronous=True)
        return len(points)

    def _lacks(self, key: str, value: float, time_ms: int, step: int) -> bool:
        """Whether the store lacks a point, or has one of an earlier evaluation that this one replaces."""
        if step not in self.logged_steps.get(key, ()):
            return True
        logged_ms, logged = self.logged_steps[key][step]
        return key.startswith(SUPERSEDING) and time_ms > logged_ms and value != logged

    def has_image(self, key: str, step: int) -> bool:
        """Whether the store has an image under a key and step."""
        return (clean_key(key), step) in self._images

    def log_image(self, image: np.ndarray, key: str, step: int) -> None:
        """Log an 8-bit image under the UI's step slider, once per key and step."""
        key = clean_key(key)
        if (key, step) not in self._images:
            self.client.log_image(self.id, image, key=key, step=step, synchronous=True)
            self._images.add((key, step))

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
        """Set tags of the run."""
        from mlflow.entities import RunTag

        changed = [RunTag(clean_key(key), str(value)[:TAG_LENGTH]) for key, value in tags.items()]
        for start in range(0, len(changed), PARAMS_PER_REQUEST):
            self.client.log_batch(self.id, tags=changed[start : start + PARAMS_PER_REQUEST], synchronous=True)

    def is_reachable(self) -> bool:
        """Whether the store still answers."""
        try:
            self.client.get_run(self.id)
        except Exception:
            return False
        return True

    def end(self, status: str, ended_ms: int | None = None) -> None:
        """Close the run as FINISHED, FAILED or KILLED, now or at a time in ms since 1970."""
        self.client.set_terminated(self.id, status, ended_ms)


def system_monitors() -> list:
    """Return MLflow's monitors of CPU, memory, disk, network and GPU; none without psutil."""
    try:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    except ImportError:
        return []
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

        monitors.append(GPUMonitor())
    except Exception:  # no NVIDIA GPU, no driver, or no pynvml: each fails in its own way
        return monitors
    return monitors
