import json
import random
from types import SimpleNamespace

import mlflow_store
import numpy as np
import pytest
import torch
from torch import nn

from networks.cpu_kernels import twice_differentiable
from networks.unet import UNet
from pipeline.tracking.mlflow_models import _move_autocast, export_translator, load_translator, log_translator
from pipeline.tracking.mlflow_registry import register_version
from pipeline.tracking.tracker import Tracker
from pipeline.utils.errors import UserError

ABOUT = {"to": "T2", "contrasts": ["T1", "T2"], "facts": {"T1": {"low": 0.5, "integer": True}}, "origin": "test"}


class Pooled(nn.Module):
    """Shrinks by 4 with instance normalisation, and grows back beside a skip."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 4, 2, 1), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 4, 2, 1))
        self.up = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(4, 3, 3, 1, 1), nn.Dropout(0.5))
        self.last = nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, image):
        return torch.tanh(self.last(torch.cat([self.up(self.down(image)), image], 1)))


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet(depth=4, width=4).train()


@pytest.fixture(scope="module")
def logged(tmp_path_factory, unet):
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(folder))
        patch.chdir(folder)
        with Tracker(folder / "run", experiment="models", run_name="r", params={}) as tracker:
            tracker.call("nothing", lambda run: None)
            states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
            addresses = [
                log_translator(
                    tracker, unet, name="T1-to-T2", stride=16, metadata=ABOUT, register_as=registered, description=text
                )
                for registered, text in ((None, ""), ("lab/T1-to-T2*", "# A card\n" + "x" * 9000))
            ]
            after = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
        yield {"addresses": addresses, "run_id": tracker.run_id, "untouched": states == after}


@pytest.fixture
def registry(logged):
    """A client of the store, its run as far as registering needs it, and the id of a model of that run."""
    from mlflow import MlflowClient  # after the project's settings

    client, run_id = MlflowClient(), logged["addresses"][0].split("/")[1]
    model = client.search_logged_models([client.get_run(run_id).info.experiment_id])[0]
    return client, SimpleNamespace(client=client, id=run_id), model.model_id


def same(module, network, shape):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        with twice_differentiable():  # which the exported graph has; an eager network on the CPU differs by rounding
            expected = network.eval()(image)
        assert torch.allclose(expected, network(image), rtol=0, atol=1e-5)
        return torch.equal(module(image), expected)


def test_a_logged_model_translates_as_the_network_does_for_any_batch_and_size(logged, unet):
    module, metadata = load_translator(logged["addresses"][0])
    assert metadata == ABOUT
    assert logged["addresses"][0] == f"runs:/{logged['run_id']}/T1-to-T2"
    assert all(same(module, unet, shape) for shape in [(1, 1, 16, 16), (2, 1, 64, 64), (5, 1, 16, 48), (1, 1, 160, 32)])


def test_exporting_leaves_the_network_as_it_was_and_its_example_is_large_enough_for_reflected_borders(tmp_path):
    reflecting = nn.Sequential(nn.AvgPool2d(24), nn.ReflectionPad2d(1), nn.Conv2d(1, 1, 3), nn.Upsample(None, 24))
    export_translator(reflecting.train(), tmp_path / "model", stride=24, metadata={})
    assert reflecting.training and all(parameter.requires_grad for parameter in reflecting.parameters())


def test_no_random_number_is_drawn(logged):
    assert logged["untouched"]


def test_registered_models_load_by_alias_and_version(logged, unet):
    assert logged["addresses"][1] == "models:/lab_T1-to-T2_@best"
    for address in ("models:/lab_T1-to-T2_@best", "models:/lab_T1-to-T2_/1"):
        module, metadata = load_translator(address)
        assert metadata == ABOUT
        assert same(module, unet, (1, 1, 32, 16))


def test_a_model_its_version_and_the_registered_one_have_the_card_cut_to_what_mlflow_takes(registry):
    client = registry[0]
    version = client.get_model_version("lab_T1-to-T2_", "1")
    card = version.description
    assert card.startswith("# A card\nxxx") and len(card) == 5000
    assert client.get_registered_model("lab_T1-to-T2_").description == card
    model_id = version.source.rpartition("/")[2]
    assert client.get_logged_model(model_id).tags["mlflow.note.content"] == card


def test_a_registered_model_has_the_card_of_its_best_version_unless_somebody_wrote_another(registry):
    (client, run, model_id), shown = registry, []
    for score in (1.0, 0.5, 2.0):
        register_version(run, "described", model_id, score, "p", f"card of {score}")
        shown.append(client.get_registered_model("described").description)
    client.update_registered_model("described", "ours")
    register_version(run, "described", model_id, 3.0, "p", "card of 3.0")
    assert shown == ["card of 1.0", "card of 1.0", "card of 2.0"]
    assert client.get_registered_model("described").description == "ours"
    assert client.get_model_version_by_alias("described", "best").description == "card of 3.0"


def test_the_alias_stays_with_the_higher_score_of_those_of_one_name_and_else_moves_with_a_word(registry, capsys):
    client, run, model_id = registry
    client.create_registered_model("ranked")
    client.create_model_version("ranked", f"models:/{model_id}", tags={"validation_score": "30"})
    client.set_registered_model_alias("ranked", "best", "1")  # as an earlier release left it, by PSNR alone
    capsys.readouterr()
    scores = [(14.5, "p"), (11.0, "p"), (None, "p"), (14.0, "p"), (14.5, "p"), (-0.2, "e"), (-0.3, "e"), (9.0, "p")]
    addresses, moves = [], []
    for score, score_name in scores:
        addresses.append(register_version(run, "ranked", model_id, score, score_name))
        moves.append(" moves from version " in capsys.readouterr().out)
    held = [address.rpartition("@")[2] == "best" for address in addresses]
    assert held == [True, False, True, True, True, True, False, True]
    assert moves == [True, False, False, False, False, True, False, True]
    assert addresses[1] == "models:/ranked/3"
    assert int(client.get_model_version_by_alias("ranked", "best").version) == 9


def test_the_model_is_a_dynamic_pt2_that_mlflow_itself_loads(logged, unet, monkeypatch):
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = mlflow.pyfunc.load_model(logged["addresses"][0])
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 1, -1, -1)
    image = np.zeros((3, 1, 32, 16), np.float32)
    with torch.inference_mode():
        expected = unet.eval()(torch.from_numpy(image)).numpy()
    np.testing.assert_array_equal(model.predict(image), expected)


def test_a_model_moves_to_another_device(logged):
    module, _ = load_translator(logged["addresses"][0], "meta")
    assert module(torch.zeros(1, 1, 16, 16, device="meta")).device.type == "meta"


def test_the_last_layer_of_a_model_that_moved_leaves_autocast_there(logged):
    module, _ = load_translator(logged["addresses"][0])
    assert autocast_kinds(module) == ["cpu"]
    _move_autocast(module, torch.device("cuda"))
    assert autocast_kinds(module) == ["cuda"]


def autocast_kinds(module):
    region = torch.ops.higher_order.wrap_with_autocast
    return [node.args[0] for node in module.graph.find_nodes(op="call_function", target=region)]


@pytest.mark.parametrize("uri", ["models:/lab_T1-to-T2_@worst", "runs:/abc/T1", "models:/lab_T1-to-T2_/9"])
def test_what_is_not_there_is_named(logged, uri):
    with pytest.raises(UserError, match=f"^{uri}: not found in sqlite:///.*; check the name, and MLFLOW_TRACKING_URI"):
        load_translator(uri)


@pytest.mark.parametrize("shape", [(1, 1, 32, 17), (32, 16)])
def test_a_request_of_another_shape_is_refused_as_the_senders_error(logged, shape):
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    model = mlflow.pyfunc.load_model("models:/lab_T1-to-T2_@best")
    content = json.dumps({"inputs": np.zeros(shape).tolist()})
    with pytest.raises(MlflowException) as refused:
        invocations(content, "application/json", model, model.metadata.get_input_schema())
    assert refused.value.get_http_status_code() == 400


def test_a_missing_database_is_named_and_not_made(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(UserError, match=f"there is no MLflow store at {tmp_path}/mlflow.db; run in the folder of"):
        load_translator("models:/a/1")
    assert not (tmp_path / "mlflow.db").exists()


def test_other_peoples_models_and_pickles_are_refused(logged, tmp_path):
    import mlflow.pytorch
    from mlflow.models import Model

    path = tmp_path / "model"
    mlflow.pytorch.save_model(nn.Identity(), str(path), serialization_format="pickle", pip_requirements=["torch"])
    with pytest.raises(UserError, match="not a translator that this tool logged"):
        load_translator(str(path))
    model = Model.load(str(path))
    model.metadata = {"translator": 1, "about": "{}"}
    model.save(str(path / "MLmodel"))
    with pytest.raises(UserError, match=r"cannot be read .*pickle"):
        load_translator(str(path))


def test_a_server_keeps_models_too(tmp_path, monkeypatch):
    server = mlflow_store.Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    network = Pooled()
    with Tracker(tmp_path / "run", experiment="models", run_name="r", params={}) as tracker:
        address = log_translator(tracker, network, name="T1-to-T2", stride=4, metadata=ABOUT, register_as="ct")
    module, metadata = load_translator(address)
    assert (address, metadata) == ("models:/ct@best", ABOUT)
    assert same(module, network, (3, 1, 8, 12))
    server.mode = "error"
    with pytest.raises(UserError, match=f"{address}: not found in {server.uri}"):
        load_translator(address)
    server.stop()


def test_an_upload_that_broke_off_leaves_no_second_model(tmp_path, monkeypatch, capsys):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store.fresh_store(tmp_path))
    monkeypatch.chdir(tmp_path)

    def fail(*_):
        raise ConnectionError("cut")

    with Tracker(tmp_path / "run", experiment="models", run_name="r", params={}) as tracker:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_model_artifacts", fail)
            assert log_translator(tracker, nn.Identity(), name="T1-to-T2", stride=1, metadata=ABOUT) is None
        address = log_translator(tracker, nn.Identity(), name="T1-to-T2", stride=1, metadata=ABOUT)
        models = tracker.call("models", lambda run: run.client.search_logged_models([run.experiment_id]))
    assert [(model.name, model.status) for model in models] == [("T1-to-T2", "READY")]
    assert load_translator(address)[1] == ABOUT
    assert "MLflow has not got all of this run" in capsys.readouterr().err
