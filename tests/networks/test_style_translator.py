import pytest
import torch
from network_probes import random_image

from networks.munit import AutoEncoder, StyleTranslator


def small(seed=0):
    torch.manual_seed(seed)
    return AutoEncoder(width=4, downs=1, blocks=1, style_downs=2, style_dim=3, mlp_width=8)


@pytest.fixture
def pair():
    return small(1), small(2)


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (torch.zeros(4), r"a style of shape \(4,\); it must be 3 finite numbers"),
        (torch.zeros(2, 3), r"a style of shape \(2, 3\); it must be 3 finite numbers"),
        (torch.tensor([0.0, float("nan"), 0.0]), r"a style that is not finite; it must be 3 finite numbers"),
    ],
)
def test_a_style_that_does_not_fit_is_an_error(pair, style, message):
    translator = StyleTranslator(pair[0].content_encoder, pair[1])
    with pytest.raises(ValueError, match=message):
        translator.set_style(style)
    assert not translator.style.any()


def test_its_translating_parameters_are_those_that_a_translation_passes_through(pair):
    source, target = pair
    translator = StyleTranslator(source.content_encoder, target)
    translator(random_image(1, 1, 16, 16)).sum().backward()
    used = {id(weight) for weight in translator.parameters() if weight.grad is not None}
    assert {id(weight) for weight in translator.translating_parameters()} == used
    assert len(used) < len(list(translator.parameters()))


def test_the_style_is_the_mean_over_all_slices_and_is_saved_with_the_weights(pair):
    source, target = pair
    translator, slices = StyleTranslator(source.content_encoder, target), random_image(37, 1, 16, 12)
    style = translator.encode_style(slices)
    torch.testing.assert_close(style, target.encode(slices)[1].mean(dim=0), rtol=1e-4, atol=1e-5)
    translator.set_style(style)
    assert torch.equal(translator.state_dict()["style"][0], style)
