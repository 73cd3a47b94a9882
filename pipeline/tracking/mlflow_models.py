"""Trained generators as MLflow models: exported graphs (pt2) that load without our classes and without pickle."""

import json
import re
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.tracking.mlflow_registry import register_version
from pipeline.tracking.mlflow_run import NOTE_TAG, TAG_LENGTH, MlflowRun, RunAccess, clean_name
from pipeline.tracking.mlflow_settings import (
    ARTIFACT_ROOT,
    check_schema,
    configure_mlflow,
    environment_variables,
    request_timeout,
    short_reason,
    sqlite_file,
    use_files_beside_store,
)
from pipeline.utils.errors import UserError, without_password
from pipeline.utils.files import printable

FORMAT = 1  # version of the metadata
DOWNLOAD_TIMEOUT_S = 26  # added to the timeout of a request in training
EXAMPLE_SIDE = 64  # pixels, at least: a slice of one stride can be too small for reflection padding
_RUN = re.compile(r"runs:/+([\w-]+)(?:/+(.*[^/]))?/*")


def log_translator(
    tracker: RunAccess,
    module: nn.Module,
    *,
    name: str,
    stride: int,
    channels: int = 1,
    metadata: Mapping[str, object],
    register_as: str | None = None,
    score: float | None = None,
    score_name: str = "",
    description: str = "",
) -> str | None:
    """Log a generator as a model of the tracker's MLflow run; does nothing if MLflow is off or does not answer.

    Args:
        module: (N, channels, H, W) -> (N, 1, H, W) in [-1, 1] for any N, and H and W that are multiples of `stride`.
            A copy in evaluation mode on the CPU is exported; the module itself stays as it is.
        name: Name of the model within the run, as in `runs:/<run id>/<name>`.
        metadata: Further data for translation, in JSON's types; `load_translator` returns it.
        register_as: Registered model of which this model becomes a version; it gets the alias `best`, unless the
            version that has the alias scored higher.
        score: Validation score, the higher the better.
        score_name: What the score measures. Only scores of one name are compared: if the version that has the alias has
            none, or one of another name, as earlier releases gave, the alias moves.
        description: Markdown for the pages of the model and its version; the registered model shows that of the version
            with the alias, unless somebody wrote another text there. Cut to MLflow's length.

    Returns:
        The model's address: `models:/<name>@best`; `models:/<name>/<version>` if another version keeps the alias;
        `runs:/<run id>/<name>` if not registered; None if it was not logged.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        export_translator(module, path, stride=stride, channels=channels, metadata=metadata)
        size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        text = printable(description)[:TAG_LENGTH]

        def upload(run: MlflowRun) -> str:
            return _upload(run, path, clean_name(name), register_as, score, score_name, text)

        return tracker.call(f"the model {name}", upload, size_bytes)


def export_translator(
    module: nn.Module, path: Path, *, stride: int, channels: int = 1, metadata: Mapping[str, object]
) -> None:
    """Write a generator into a new folder as an MLflow model with a dynamic batch, height and width."""
    configure_mlflow()
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec
    from torch.fx.experimental import _config as shapes

    side = -(-EXAMPLE_SIDE // stride) * stride
    image, plane = (TensorSpec(np.dtype(np.float32), (-1, count, -1, -1)) for count in (channels, 1))
    # With `backed_size_oblivious`, a size of 1 in the example (a 1×1 bottleneck) is no constant of the graph.
    with shapes.patch(backed_size_oblivious=True), torch.no_grad():  # type: ignore[attr-defined]  # set when imported
        mlflow.pytorch.save_model(
            deepcopy(module).to("cpu", torch.float32).eval().requires_grad_(False),
            str(path),
            serialization_format="pt2",
            signature=ModelSignature(Schema([image]), Schema([plane])),
            input_example=np.zeros((2, channels, side, side), np.float32),
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"mlflow=={mlflow.__version__}"],
            metadata={"translator": FORMAT, "about": json.dumps(dict(metadata))},
        )


def _upload(
    run: MlflowRun, path: Path, name: str, register_as: str | None, score: float | None, score_name: str, text: str
) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    _drop_half_logged(run, name)
    tags = {NOTE_TAG: text} if text else {}
    logged = run.client.create_logged_model(run.experiment_id, name=name, source_run_id=run.id, tags=tags)
    model = Model.load(str(path))
    model.model_id, model.run_id = logged.model_id, run.id
    model.artifact_path, model.model_uuid = logged.artifact_location, logged.model_id
    model.save(str(path / "MLmodel"))
    run.client.log_model_artifacts(logged.model_id, str(path))
    run.client.log_outputs(run.id, [LoggedModelOutput(logged.model_id, step=0)])
    run.client.finalize_logged_model(logged.model_id, "READY")
    if register_as is None:
        return f"runs:/{run.id}/{name}"
    return register_version(run, clean_name(register_as), logged.model_id, score, score_name, text)


def _drop_half_logged(run: MlflowRun, name: str) -> None:
    """Remove the incomplete model of an interrupted upload."""
    query = f"source_run_id = '{run.id}' AND name = '{name}'"
    for model in run.client.search_logged_models([run.experiment_id], query):
        if model.status != "READY":
            run.client.delete_logged_model(model.model_id)


def load_translator(uri: str, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, object]]:
    """Load a generator that `log_translator` logged, without unpickling anything.

    `uri` is `runs:/<run id>/<name>`, `models:/<name>@<alias>` or `models:/<name>/<version>`.

    Returns:
        The network (N, channels, H, W) -> (N, 1, H, W), fixed in evaluation mode (it has no `eval` or `train`), and the
        metadata. It refuses heights and widths that are not multiples of its stride.

    Raises:
        UserError: There is no such model, the store does not answer, or the model was not logged by this project.
    """
    configure_mlflow()
    import mlflow
    from mlflow.models import Model

    # Check the store before it is opened: connecting to a missing database would create it.
    use_files_beside_store()
    store = mlflow.get_tracking_uri()
    database = sqlite_file(store)
    if database is not None and not database.exists():
        raise UserError(
            f"{uri}: there is no MLflow store at {database}; run in the folder of mlflow.db, or set MLFLOW_TRACKING_URI"
        )

    # Download the model, then load it without pickle.
    with tempfile.TemporaryDirectory() as folder:
        try:
            check_schema(store)
            _refuse_incomplete(uri)
            with request_timeout(DOWNLOAD_TIMEOUT_S):
                path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
            if not (path / "MLmodel").exists():
                raise UserError(
                    f"{uri}: its files are gone; bring back the folder {ARTIFACT_ROOT} beside {without_password(store)}"
                )
            metadata = Model.load(str(path)).metadata or {}
        except UserError:
            raise
        except Exception as error:  # the store, its server and its artifact storage each raise their own
            reason = f"not found in {without_password(store)} ({short_reason(error)})"
            raise UserError(f"{uri}: {reason}; check the name, and MLFLOW_TRACKING_URI") from error
        if metadata.get("translator") != FORMAT:
            raise UserError(f"{uri}: not a translator that this tool logged; give one of its models")
        return _load(path, torch.device(device), uri), json.loads(metadata["about"])


def _refuse_incomplete(uri: str) -> None:
    """Refuse the address of a run that names none of its models, and list them; raises MLflow's own errors, too."""
    import mlflow

    match = _RUN.fullmatch(uri)
    if match is None:
        return
    client, (run_id, name) = mlflow.MlflowClient(), match.groups()
    experiment_id = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    names = {model.name for model in models if model.status == "READY"}
    if name not in names:
        problem = "the run has no such model" if name else "names a run, not a model"
        choice = " or ".join(f"runs:/{run_id}/{model_name}" for model_name in sorted(names))
        raise UserError(f"{uri}: {problem}; choose {choice or 'a run with models: it has none'}")


def _load(path: Path, device: torch.device, uri: str) -> nn.Module:
    import mlflow.pytorch
    from torch.export.passes import move_to_device_pass

    try:
        with environment_variables(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"):
            module = mlflow.pytorch.load_model(str(path))
    except Exception as error:  # a damaged archive fails in as many ways as there are readers
        raise UserError(f"{uri}: the model cannot be read ({short_reason(error)}); log it again") from error
    if device.type == "cpu":
        return module
    program = torch.export.load(str(path / "data" / "model.pt2"))  # just found free of pickle
    module = move_to_device_pass(program, device).module()
    _move_autocast(module, device)
    return module


def _move_autocast(module: nn.Module, device: torch.device) -> None:
    """Change the device type that a graph's regions without autocast (`networks.output`) name."""
    if not torch.amp.is_autocast_available(device.type):
        return
    for submodule in module.modules():
        if isinstance(submodule, torch.fx.GraphModule):
            target = torch.ops.higher_order.wrap_with_autocast
            for node in submodule.graph.find_nodes(op="call_function", target=target):
                node.update_arg(0, device.type)
            submodule.recompile()
