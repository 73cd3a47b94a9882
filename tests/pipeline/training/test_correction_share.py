"""The share of a lookup's correction in translations, chosen in validation."""

import pytest
import torch
from small_validation import case, constant, validation
from torch import nn

from networks.context_lookup import LARGEST, LookupStart
from networks.skip import SkipGenerator


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


def test_without_pairs_the_share_stays_a_half(tmp_path):
    cases = [case(tmp_path, "one", "T1", "x"), case(tmp_path, "two", "T2", "y")]
    network = starting(0.3, 0.7)
    made = validation(cases, {"one": constant(0.3), "two": constant(0.3)})
    assert made.choose_correction_shares({"T1": network, "T2": nn.Identity()}) == {}
    assert float(network.correction_share) == 0.5
    assert float(network.eval()(torch.zeros(1, 1, 16, 16)).mean()) == pytest.approx(0.5, abs=1e-5)


def test_a_state_without_a_share_is_of_a_generator_that_had_all_of_its_correction():
    network = starting(0.3, 0.7)
    state = network.state_dict()
    del state["correction_share"]
    network.load_state_dict(state)
    assert float(network.correction_share) == 1
