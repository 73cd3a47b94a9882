"""MLflow addresses: what they name, and helpful messages where they name nothing that can be loaded."""

import re
from pathlib import Path

from pipeline.tracking.mlflow_files import artifact_folder
from pipeline.tracking.mlflow_settings import sqlite_file
from pipeline.utils.errors import UserError

_RUN = re.compile(r"runs:/+([\w-]+)/?")
_MODEL_OF_RUN = re.compile(r"runs:/+([\w-]+)/(.+)")
_LOGGED = re.compile(r"models:/+(m-[0-9a-f]{32})/?")  # by the number that MLflow gives a logged model
_REGISTERED = re.compile(r"models:/+([^/@]+)/?")
_VERSION = re.compile(r"models:/+([^/@]+)(?:@([^/@]+)|/(\d+))")


def refuse_incomplete(uri: str) -> None:
    """Refuse an address of a run or a registered model without a model or version, and list the possible ones.

    Raises:
        UserError: The address is incomplete.
        MlflowException: The store knows no such run or model, or does not answer.
    """
    import mlflow

    client = mlflow.MlflowClient()
    if run := _RUN.fullmatch(uri):
        raise UserError(f"{uri}: names a run, not a model; {_choice(models_of_run(client, run[1]), 'the run')}")
    if not _LOGGED.fullmatch(uri) and (registered := _REGISTERED.fullmatch(uri)):
        name = registered[1]
        model = client.get_registered_model(name)
        choices = [f"models:/{name}@{alias}" for alias in sorted(model.aliases)]
        choices += [f"models:/{name}/{version.version}" for version in client.search_model_versions(f"name='{name}'")]
        raise UserError(f"{uri}: names no version of a model; {_choice(choices, 'it')}")


def models_of_run(client, run_id: str) -> list[str]:
    """Return the sorted addresses of a run's logged models."""
    experiment = client.get_run(run_id).info.experiment_id
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return sorted({f"runs:/{run_id}/{model.name}" for model in models if model.status == "READY"})


def _choice(addresses: list[str], whose: str) -> str:
    return f"choose {' or '.join(addresses)}" if addresses else f"{whose} has none; give a run's folder or a checkpoint"


def missing_model_reason(uri: str) -> str:
    """Return why a model could not be loaded although the store knows it or its run; "" otherwise."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.file_utils import local_file_uri_to_path

    client = mlflow.MlflowClient()
    store = sqlite_file(mlflow.get_tracking_uri())
    try:
        location = _location(client, uri)
        if location is None and (match := _MODEL_OF_RUN.fullmatch(uri)):
            return f"the run has no such model; {_choice(models_of_run(client, match[1]), 'it')}"
    except MlflowException:
        return ""
    if location is None or store is None or "://" in location.removeprefix("file://"):
        return ""
    recorded = Path(local_file_uri_to_path(location))
    folder = artifact_folder(store, recorded)
    if (folder / "MLmodel").exists():  # an empty folder may have been made by the attempt to load
        return ""
    also = "" if folder == recorded else f" (recorded at {recorded})"
    return f"{store} knows the model, but its files are not at {folder}{also}; bring them back there"


def _location(client, uri: str) -> str | None:
    """Return the location of a model's files as the store has recorded it; None for an unknown model."""
    if logged := _LOGGED.fullmatch(uri):
        return client.get_logged_model(logged[1]).artifact_location
    if version := _VERSION.fullmatch(uri):
        name, alias, number = version.groups()
        model_version = (
            client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        )
        model_id = model_version.model_id or model_version.source.removeprefix("models:/")
        return client.get_logged_model(model_id).artifact_location
    if match := _MODEL_OF_RUN.fullmatch(uri):
        experiment = client.get_run(match[1]).info.experiment_id
        for model in client.search_logged_models([experiment], f"source_run_id = '{match[1]}'"):
            if model.name == match[2].rstrip("/"):
                return model.artifact_location
    return None
