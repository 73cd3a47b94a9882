import pytest
import torch
from network_probes import random_image
from small_engine import SMALL_GENERATORS, config_of

from networks.neighbours import NeighbourGenerator, middle_slice, with_channels
from pipeline.engines.builders import build_generator

KINDS = sorted(SMALL_GENERATORS.keys() - {"munit", "unit", "monai-VNet"})  # a VNet takes 1, 2, 4, … channels


def generator(kind, neighbours=1, **options):
    torch.manual_seed(0)
    config = config_of(generator=SMALL_GENERATORS[kind], preprocess={"neighbours": neighbours}, **options)
    return build_generator(config).eval()


def test_the_middle_of_a_slice_and_its_neighbours_is_the_slice():
    image = random_image(2, 5, 3, 4)
    assert torch.equal(middle_slice(image), image[:, 2:3])
    assert torch.equal(middle_slice(image[:, :1]), image[:, :1])
    assert torch.equal(with_channels(image[:, :1], 3), image[:, [0, 0, 0]])
    assert torch.equal(with_channels(image, 5), image)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_generator_sees_the_neighbours_and_translates_a_single_slice_repeated(kind):
    network = generator(kind)
    assert isinstance(network, NeighbourGenerator) and network.stride == network.network.stride
    side = 2 * network.stride
    image = random_image(2, 3, side, side)
    translated = network(image)
    assert translated.shape == (2, 1, side, side)
    for channel in range(3):
        other = image.clone()
        other[:, channel] *= -0.5
        assert not torch.equal(network(other), translated)
    single = image[:, :1]
    torch.testing.assert_close(network(single), network(single.repeat(1, 3, 1, 1)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["unet", "resnet", "residual_concat", "skip"])
def test_the_features_are_of_the_slice_with_its_neighbours(kind):
    network, image = generator(kind, neighbours=2), random_image(1, 5, 16, 16)
    features = network.features(image)
    assert [layer.shape[1] for layer in features] == network.feature_channels
    assert torch.equal(features[0], image)
    assert torch.equal(network.features(image[:, :1])[0], image[:, [0] * 5])
