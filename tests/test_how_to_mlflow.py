"""What the page on MLflow shows, on a store without a server: runs, their models in the registry, and a request."""

import json
import runpy
from pathlib import Path

import click
import mlflow_store
import numpy as np
import torch
from negative_model import files_in, volume_at
from page_commands import fenced, run_commands, shown_commands, text_of
from small_run import CONFIGS, TINY, lookups_fitted_once, without_pictures, workshop

from pipeline.inference.model import load_model
from pipeline.sync import main as sync
from pipeline.tracking.mlflow_settings import configure_mlflow

PAGE = "mlflow.md"
SMALL = (
    *TINY, "training.steps_per_epoch=2", "training.decay_epochs=0", "evaluation.protocols=[]",
    "evaluation.translate=false", "evaluation.uncertainty=false", "generator.start=null", "method.lookup_weight=0",
)  # fmt: skip


def read_options(words: list[str]) -> list[str]:
    """Have MLflow's command line read its options, and no more; return them."""
    configure_mlflow()
    from mlflow.cli import cli

    command, rest, context = cli, words[1:], click.Context(cli)
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, rest)
        context = click.Context(command, info_name=name, parent=context)
    command.make_context(name, list(rest))
    return words


def post(words: list[str], uri: str) -> None:
    """Answer the request of a curl command as `mlflow models serve` would."""
    import mlflow.pyfunc
    from mlflow.pyfunc.scoring_server import invocations

    model = mlflow.pyfunc.load_model(uri)
    kind = words[words.index("-H") + 1].removeprefix("Content-Type: ")
    body = Path(words[words.index("-d") + 1].removeprefix("@")).read_text()
    result = invocations(body, kind, model, model.metadata.get_input_schema())
    assert result.status == 200
    Path(words[words.index("-o") + 1]).write_text(result.response)


def test_a_run_goes_to_a_registry_and_its_model_answers_a_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    volume_at(tmp_path / "my_t1s" / "a.nii.gz")
    volume_at(tmp_path / "scan_t1.nii.gz")
    options: dict[str, list[str]] = {}

    def export(words):
        host, port = (options["server"][options["server"].index(name) + 1] for name in ("--host", "--port"))
        assert words[1] == f"MLFLOW_TRACKING_URI=http://{host}:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(tmp_path))

    def send(words):
        for name in ("curves.png", "report.html"):  # which the run was to leave out
            (tmp_path / words[3] / name).touch()
        assert sync(words[3:]) == 0

    shared = (f"data.folder={workshop() / 'phantom'}", f"preprocess.store={workshop() / 'store'}")
    with without_pictures(), lookups_fitted_once():
        run_commands(
            shown_commands(text_of(PAGE, "A server and its registry")),
            appended={"pipeline.run": [*SMALL, *shared]},
            instead={
                "mlflow": lambda words: options.update(server=read_options(words)),
                "export": export,
                "pipeline.sync": send,
            },
        )
    assert files_in(tmp_path / "synthetic_t2") == ["a.nii.gz"]

    section = text_of(PAGE, "Serve a model")
    serve, request = shown_commands(section)
    words = read_options(serve.split())
    uri = words[words.index("-m") + 1]
    (program,) = fenced(section, "python")
    (tmp_path / "prepare.py").write_text(program)
    runpy.run_path("prepare.py")
    run_commands([request], instead={"curl": lambda words: post(words, uri)})
    slices = torch.tensor(json.loads(Path("slice.json").read_text())["inputs"])
    result = np.array(json.loads(Path("translated.json").read_text())["predictions"])
    with torch.inference_mode():
        expected = load_model(uri).translators["T2"](slices)
    assert result.shape == (1, 1, *slices.shape[2:]) and result.std() > 0
    np.testing.assert_allclose(result, expected, atol=1e-6)
