"""The shares of the box in a start, and of the correction in translations, chosen in validation."""

import math
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from small_engine import engine_of, saved
from small_validation import case, constant, validation
from torch import nn

from networks.blocks import saved_names
from networks.lookup_start import DEFAULT_BOX_SHARE, DEFAULT_SHARE, LARGEST, LookupStart, start_of
from networks.skip import SkipGenerator
from pipeline.inference.model import TranslationModel
from pipeline.runs.checkpoint import load_checkpoint
from pipeline.runs.folder import RunFolder
from pipeline.training.callbacks import TrainedRun, make_callbacks
from pipeline.training.schedule import TrainerState

START = {"type": "skip", "width": 4, "downs": 1, "blocks": 1, "start": "lookup"}


class Constant(nn.Module):
    """What is one value everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, image):
        return torch.full_like(image, self.value)


def starting(expected, corrected):
    """A generator whose lookup gives `expected` everywhere, and with its correction `corrected`."""
    network = LookupStart(SkipGenerator(1, 2))
    network.lookup.table.fill_(expected)
    *_, last = (module for module in network.network.last.modules() if isinstance(module, nn.Conv2d))
    target, start = (torch.tensor(value).clamp(-LARGEST, LARGEST).atanh() for value in (corrected, expected))
    last.bias.data.fill_(10 * float(target - start))
    return network


@pytest.mark.parametrize(("expected", "corrected", "share"), [(0.3, 0.7, 0.5), (0.5, -0.9, 0.25), (-0.9, 0.5, 1.0)])
def test_the_share_is_the_one_whose_mean_is_nearest_to_the_real_target(expected, corrected, share, tmp_path):
    pair = [case(tmp_path, "one", "T1"), case(tmp_path, "two", "T2")]
    made = validation(pair, {"one": constant(0.0), "two": constant(0.5)})
    network = starting(expected, corrected)
    shares = made.choose_correction_shares({"T1": nn.Identity(), "T2": network})
    assert shares == {"validation/T1_to_T2/correction_share": share} and float(network.correction_share) == share
    image = torch.zeros(1, 1, 16, 16)
    assert float(network.eval()(image).mean()) == pytest.approx((1 - share) * expected + share * corrected, abs=1e-5)
    assert float(network.train()(image).mean()) == pytest.approx(corrected, abs=1e-5)  # training knows no share


@pytest.mark.parametrize(("box", "share"), [(0.9, 0.5), (0.3, 1.0), (-0.9, 0.0), (1.9, 0.25)])
def test_the_share_of_the_box_is_the_one_whose_start_is_nearest_to_the_real_target(box, share, tmp_path):
    pair = [case(tmp_path, "one", "T1"), case(tmp_path, "two", "T2")]
    made = validation(pair, {"one": constant(0.0), "two": constant(0.5)})
    network = LookupStart(SkipGenerator(1, 2), with_box=True)
    network.lookup.table.fill_(0.1 if box > 0.5 else 0.0)
    network.box = Constant(box)
    made.choose_box_shares({"T1": nn.Identity(), "T2": network})
    assert float(network.box_share) == share


@pytest.mark.parametrize(
    ("scores", "share"),
    [((1.0, math.nan, 3.0, 2.0), 0.75), ((math.nan, 1.0, math.nan, math.nan), 0.5), ((math.nan,) * 4, 0.9)],
)
def test_a_share_without_a_score_is_never_chosen(scores, share, tmp_path, monkeypatch, capsys):
    pair = [case(tmp_path, "one", "T1"), case(tmp_path, "two", "T2")]
    made = validation(pair, {"one": constant(0.0), "two": constant(0.5)})
    monkeypatch.setattr("pipeline.training.validation.scan_score", Mock(side_effect=scores))
    network = starting(0.3, 0.7)
    network.correction_share.fill_(0.9)  # of an earlier validation
    metrics = made.choose_correction_shares({"T2": network})
    assert float(network.correction_share) == pytest.approx(share)
    assert metrics == ({} if share == 0.9 else {"validation/T1_to_T2/correction_share": share})
    assert ("is not a number" in capsys.readouterr().err) == (share == 0.9)


def test_without_pairs_the_shares_stay_the_defaults(tmp_path):
    cases = [case(tmp_path, "one", "T1", "x"), case(tmp_path, "two", "T2", "y")]
    made = validation(cases, {"one": constant(0.3), "two": constant(0.3)})
    boxed = LookupStart(SkipGenerator(1, 2), with_box=True)
    assert made.choose_box_shares({"T1": boxed, "T2": boxed}) == {} and float(boxed.box_share) == DEFAULT_BOX_SHARE
    network = starting(0.3, 0.7)
    assert made.choose_correction_shares({"T1": network, "T2": nn.Identity()}) == {}
    assert float(network.correction_share) == DEFAULT_SHARE
    assert float(network.eval()(torch.zeros(1, 1, 16, 16)).mean()) == pytest.approx(0.3 + 0.4 * DEFAULT_SHARE, abs=1e-5)


def test_a_state_without_a_share_keeps_its_identity():
    network = starting(0.3, 0.7)
    state = network.state_dict()
    del state["correction_share"]
    earlier = starting(0.3, 0.7)
    earlier.load_state_dict(state)
    assert float(earlier.correction_share) == 1  # then a generator had all of its correction
    names = {"T2": saved_names(earlier, state)}
    assert names["T2"] == {"correction_share": None}
    del network.correction_share  # as it was
    assert model(earlier, saved_names=names).identity("T2") == model(network).identity("T2")
    assert model(earlier).identity("T2") != model(network).identity("T2")


def model(network, **options):
    cpu = torch.device("cpu")
    return TranslationModel(("T1", "T2"), {"T2": network}, Mock(), {}, network.stride, cpu, **options)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_chosen_share_goes_on_in_a_resumed_run_and_in_one_that_begins_from_it(ema_decay):
    options = {"type": "cyclegan", "generator": START, "ema_decay": ema_decay}
    engine = engine_of(**options)
    start_of(engine.translators()["b"]).correction_share.fill_(0.75)
    resumed, begun, averaged = engine_of(**options), engine_of(**options), engine_of(**options | {"ema_decay": 0.9})
    resumed.load_state_dict(saved(engine))
    for other in (begun, averaged):
        other.load_pretrained(saved(engine))
    for other in (resumed, begun, averaged):
        assert [float(start_of(other.translators()[to]).correction_share) for to in "ab"] == [DEFAULT_SHARE, 0.75]


def test_what_training_begins_with_is_kept_with_the_shares_that_it_was_scored_with(tmp_path):
    made = validation(
        [case(tmp_path, "one", "T1"), case(tmp_path, "two", "T2")], {"one": constant(0.0), "two": constant(0.5)}
    )
    networks = {"a": starting(0.9, 0.0), "b": starting(0.3, 0.7)}
    engine = SimpleNamespace(translators=lambda: networks, networks=lambda: networks, state_dict=dict)
    trained = TrainedRun(RunFolder(tmp_path), engine, SimpleNamespace(steps_per_epoch=1), TrainerState(), {})
    callbacks = make_callbacks(
        trained, made, Mock(discriminators=Mock(metrics=dict)), Mock(run_id=None), {},
        sample_slices=1, oriented=False, quiet=True,
    )  # fmt: skip
    callbacks.validate()
    for network in networks.values():
        network.correction_share.fill_(0.25)  # as a later validation may choose
    (tmp_path / "checkpoints").mkdir()
    callbacks.save({"step": 1}, ())
    for name, shares in {"best": (1.0, 0.5), "latest": (0.25, 0.25)}.items():
        states = load_checkpoint(tmp_path / "checkpoints" / f"{name}.pt")["translators"]
        assert tuple(float(states[to]["correction_share"]) for to in ("T1", "T2")) == shares
