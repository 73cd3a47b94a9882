"""A run whose generators start from a lookup that is fitted to its training slices."""

import signal

import pytest
import torch
from small_engine import differences
from small_run import QUICK, in_child, latest, signal_at, train_phantom

from pipeline.inference.model import load_model
from pipeline.inference.slice_translator import translate_slices

LOOKUP = (*QUICK, "generator.start=lookup", "method.ema_decay=0.9")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lookup") / "run"
    assert train_phantom(folder, *LOOKUP) == 0
    return folder


def test_both_directions_and_their_averages_hold_their_tables_from_the_first_step(trained):
    engine = latest(trained)["engine"]
    tables = {name: engine[name]["lookup.table"] for name in ("G", "F")}
    assert all(table.std() > 0.1 for table in tables.values()) and not torch.equal(*tables.values())
    for name, table in tables.items():
        assert torch.equal(engine["averaged"][f"{name}.lookup.table"], table)
        assert engine[name]["lookup.blur_pixels"].tolist() == [0.75, 2.0]  # of 8 mm
    assert engine["G"]["network.last.weight"].abs().max() > 0  # began at 0


def test_it_translates_by_the_lookup_in_its_checkpoint(trained):
    model, engine = load_model(trained, "cpu"), latest(trained)["engine"]
    network, image = model.translators["T2"], torch.rand(1, 1, 32, 32) * 2 - 1
    assert torch.equal(network.lookup.table, engine["G"]["lookup.table"])  # T1 to T2
    options = {"device": torch.device("cpu"), "batch_size": 1, "precision": "float32", "slice_mm": 8.0}
    slices = translate_slices(image[0].numpy(), network, [True], **options, name="a scan")
    torch.testing.assert_close(torch.from_numpy(slices), network(image)[0])
    assert (network(image) - network.lookup(image)).abs().mean() < 0.2  # eight steps from it


def test_a_run_that_is_killed_goes_on_bitwise_with_its_table(trained, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        signal_at(patch, signal.SIGKILL, 7)
        assert in_child(lambda: train_phantom(tmp_path / "run", *LOOKUP)) == -signal.SIGKILL
    assert latest(tmp_path / "run")["position"]["step"] == 4
    monkeypatch.setattr("pipeline.run_builders.fit_context_tables", None)  # not fitted again
    assert train_phantom(tmp_path / "run", *LOOKUP) == 0
    whole, resumed = latest(trained), latest(tmp_path / "run")
    assert differences(whole["engine"], resumed["engine"]) == set()
