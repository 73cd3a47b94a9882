import pytest
import torch
from monai.networks.nets import PatchDiscriminator
from network_probes import assert_same_one_by_one, parameters, random_image, sees_a_square_of
from torch import nn

from networks.blocks import initialise_normal
from networks.patchgan import PatchGAN


# Outwards from a logit, each 4×4 convolution turns r into (r - 1) · stride + 4: 1, 4, 7, 16, 34, 70, 142.
@pytest.mark.parametrize(("layers", "side", "size"), [(1, 16, 48), (2, 34, 96), (3, 70, 192), (4, 142, 320)])
def test_a_logit_depends_on_exactly_its_receptive_field(layers, side, size):
    assert sees_a_square_of(side, PatchGAN(width=1, layers=layers), size)


def test_the_parameters_are_those_counted_by_hand():
    kernel = 4 * 4
    convolutions = kernel * (1 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1)
    norms = 2 * (128 + 256 + 512)
    tutorial = convolutions + norms + 1  # a bias on the last convolution
    assert tutorial == 2_763_521
    assert parameters(PatchGAN()) == tutorial + 64  # MONAI: on the first one too


def test_negative_features_go_on_a_fifth_as_large():
    network = PatchGAN(width=2, layers=1)
    activations = [module for module in network.modules() if isinstance(module, nn.LeakyReLU)]
    assert len(activations) == 2  # after every convolution but the last
    for activation in activations:
        assert activation(torch.tensor([-10.0, 10.0])).tolist() == [-2.0, 10.0]


def test_logits_are_not_squashed():
    network = PatchGAN(width=2, layers=1)
    nn.init.constant_(network.network.final_conv.conv.bias, -7.0)
    assert network(torch.zeros(1, 1, 32, 32)).max() < -6.5


def test_a_batch_gives_what_its_images_give_one_by_one():
    torch.manual_seed(0)
    assert_same_one_by_one(PatchGAN(width=2), (3, 1, 64, 48))


# ── options, which leave the plain network as it is ─────────────────────────────────────────────────────────


def test_without_options_nothing_but_the_plain_networks_numbers_is_drawn():
    torch.manual_seed(0)
    norm = ("instance", {"affine": True})
    plain = PatchDiscriminator(spatial_dims=2, in_channels=1, channels=4, num_layers_d=2, norm=norm)
    expected = {f"network.{name}": weight for name, weight in initialise_normal(plain).state_dict().items()}
    state = torch.get_rng_state()
    torch.manual_seed(0)
    weights = PatchGAN(width=4, layers=2).state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_pair_of_images_is_judged_as_one():
    network = PatchGAN(width=2, in_channels=2)
    assert parameters(network) == parameters(PatchGAN(width=2)) + 4 * 4 * 2
    pair = random_image(1, 2, 64, 64).requires_grad_()
    network(pair).sum().backward()
    assert (pair.grad != 0).any(dim=(0, 2, 3)).all()


@pytest.mark.parametrize(("width", "groups"), [(64, 8), (2, 4), (3, 2)])
def test_group_norms_share_their_statistics_among_channels(width, groups):
    network = PatchGAN(width, 2, norm="group")
    assert {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)} == {groups}
    assert parameters(network) == parameters(PatchGAN(width, 2))


def test_without_norm_gain_is_seen_and_features_keep_their_size():
    torch.manual_seed(0)
    plain, normed = PatchGAN(16, 4, norm="none"), PatchGAN(16, 4)
    assert not any(isinstance(module, nn.GroupNorm) for module in plain.modules())
    assert all(module.bias is not None for module in plain.modules() if isinstance(module, nn.Conv2d))
    image = random_image(1, 1, 112, 112)
    assert 0.1 < plain(image).std() < 10
    (gain, same), change = (network(torch.cat([image, 2 * image])) for network in (plain, normed)), []
    for logits in (gain, same):
        change.append(((logits[1] - logits[0]).norm() / logits[0].norm()).item())
    assert change[0] > 0.5 > change[1]
