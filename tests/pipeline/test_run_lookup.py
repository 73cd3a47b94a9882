"""A run whose generators start from a lookup that is fitted to its training slices, and from the box."""

import json

import pytest
import torch
from small_run import (
    CONFIGS,
    QUICK,
    command,
    copied_after,
    latest,
    phantom_run,
    train_phantom,
    unlike,
    without_pictures,
)

from networks.lookup_start import start_alone
from pipeline.inference.model import load_model
from pipeline.inference.slice_translator import translate_slices

BOX = (*QUICK, "generator.start=box", "method.ema_decay=0.9")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder, and a copy as it was after the first epoch: what a kill in the second would leave."""
    folder = tmp_path_factory.mktemp("box") / "run"
    left = folder.with_name("left")
    with copied_after(4, left):
        assert train_phantom(folder, *BOX) == 0
    return folder, left


def test_both_directions_and_their_averages_hold_their_tables_from_the_first_step(trained):
    engine = latest(trained[0])["engine"]
    tables = {name: engine[name]["lookup.table"] for name in ("G", "F")}
    assert all(table.std() > 0.1 for table in tables.values()) and not torch.equal(*tables.values())
    for name, table in tables.items():
        assert torch.equal(engine["averaged"][f"{name}.lookup.table"], table)
        assert engine[name]["lookup.blur_pixels"].tolist() == [0.75, 2.0]  # of 8 mm
    assert engine["G"]["network.last.weight"].abs().max() > 0  # began at 0


def test_it_translates_by_the_lookup_in_its_checkpoint(trained):
    model, engine = load_model(trained[0], "cpu"), latest(trained[0])["engine"]
    network, image = model.translators["T2"], torch.rand(1, 1, 32, 32) * 2 - 1
    assert torch.equal(network.lookup.table, engine["G"]["lookup.table"])  # T1 to T2
    options = {"device": torch.device("cpu"), "batch_size": 1, "precision": "float32", "slice_mm": 8.0}
    slices = translate_slices(image[0].numpy(), network, [True], **options, name="a scan")
    torch.testing.assert_close(torch.from_numpy(slices), network(image)[0])
    assert 0 < (network(image) - start_alone(network, image)).abs().mean() < 0.2  # eight steps from it


def test_a_run_that_was_killed_goes_on_bitwise_with_its_tables(trained, monkeypatch):
    whole, left = trained
    assert latest(left)["position"]["step"] == 4
    monkeypatch.setattr("pipeline.run_builders.stored_stacks", None)  # not fitted again
    monkeypatch.setattr("pipeline.run_builders.load_model", None)
    assert train_phantom(left, *BOX) == 0
    assert unlike(whole, left) == set()


def test_the_box_stays_as_it_is_and_has_a_lookup_of_its_own(trained):
    engine, box = latest(trained[0])["engine"], load_model("box", "cpu")
    for name, target in (("G", "T2"), ("F", "T1")):
        weights = box.translators[target].state_dict()
        for averaged in (engine[name], {key.removeprefix(f"{name}."): v for key, v in engine["averaged"].items()}):
            assert all(torch.equal(averaged[f"box.network.{key}"], value) for key, value in weights.items())
            assert averaged["box.averaged"] == 1 and averaged["box.lookup.table"].std() > 0.1
        assert not torch.equal(engine[name]["box.lookup.table"], engine[name]["lookup.table"])


def test_what_training_began_with_is_scored_beside_the_model(trained):
    folder, _ = trained
    with without_pictures():
        assert phantom_run(folder, *BOX) == 0
    scores = json.loads((folder / "scores.json").read_text())["summary"]
    figures = {
        (row["target"], row["system"]): row["mean"]
        for row in scores
        if (row["protocol"], row["region"], row["metric"]) == ("own", "foreground", "psnr") and row["unit"] == "volume"
    }
    for target in ("T1", "T2"):
        start = figures[target, "untrained start"]
        assert abs(start - figures[target, "model"]) < 1  # after eight steps
        assert start not in (figures[target, "model"], figures[target, "context lookup"])


def test_the_box_knows_no_other_contrasts(capsys):
    overrides = ("generator.start=box", "contrasts=[T1, PD]", "data.source=ixi", "data.folder=scans")
    assert command([str(CONFIGS / "phantom.yaml"), *overrides]) == 2
    assert "generator.start = 'box': knows the contrasts T1 and T2 alone" in capsys.readouterr().err
