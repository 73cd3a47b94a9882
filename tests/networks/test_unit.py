import pytest
import torch
from network_probes import parameters, random_image, sees_a_square_of
from torch import nn

from networks.resnet import ResNetGenerator
from networks.unit import LatentAutoEncoder, LatentEncoder, LatentTranslator, share_blocks


def small(seed=0, blocks=2, **options):
    torch.manual_seed(seed)
    return LatentAutoEncoder(width=2, downs=1, blocks=blocks, **options)


def pair(count, blocks=2):
    first, second = small(1, blocks), small(2, blocks)
    share_blocks(first, second, count)
    return first, second


@pytest.mark.parametrize("upsampling", ["transposed", "nearest"])
def test_it_is_cyclegans_generator_with_the_latent_amid_its_blocks(upsampling):
    torch.manual_seed(0)
    autoencoder = LatentAutoEncoder(width=3, blocks=2, upsampling=upsampling)
    other = ResNetGenerator(width=3, blocks=4, upsampling=upsampling)
    layers = [*autoencoder.encoder, *autoencoder.decoder]
    for mine, its in zip(layers, [*other.encoder, *other.decoder], strict=True):
        its.load_state_dict(mine.state_dict())
    image = random_image(2, 1, 16, 24)
    assert torch.equal(autoencoder(image), other(image))


# See tests/networks/test_features.py: 5 → 11 → 23 → 29 with one block.
def test_a_latent_depends_on_exactly_its_receptive_field():
    assert sees_a_square_of(29, LatentEncoder(width=2, blocks=1), 128)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_blocks_next_to_the_latent_are_shared_and_no_others(count):
    first, second = pair(count, blocks=3)
    same = [layer is other for layer, other in zip(first.encoder, second.encoder, strict=True)]
    assert same == [False] * (2 + 3 - count) + [True] * count
    same = [layer is other for layer, other in zip(first.decoder, second.decoder, strict=True)]
    assert same == [True] * count + [False] * (3 - count + 2)
    block = parameters(first.decoder[0])
    assert parameters(nn.ModuleList([first, second])) == 2 * parameters(first) - 2 * count * block


def test_a_translator_encodes_one_contrast_and_decodes_the_other():
    first, second = pair(1)
    translator, image = LatentTranslator(first.encoder, second.decoder), random_image(2, 1, 16, 12)
    assert torch.equal(translator(image), second.decoder(first.encoder(image)))
    assert not torch.equal(translator(image), first(image))
    assert {id(weight) for weight in translator.parameters()} <= {
        id(weight) for network in (first, second) for weight in network.parameters()
    }
