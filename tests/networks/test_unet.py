import pytest
import torch
from network_probes import full_size, parameters, shapes_of
from torch import nn

from networks.unet import UNet

# ── the network of the tutorial, at full size ───────────────────────────────────────────────────────────────


def test_every_layer_has_the_tutorials_shape_at_256():
    network, image = full_size(UNet), torch.zeros(1, 1, 256, 256, device="meta")
    assert shapes_of(network.down, lambda: network(image)) == [
        (64, 128, 128), (128, 64, 64), (256, 32, 32), (512, 16, 16),
        (512, 8, 8), (512, 4, 4), (512, 2, 2), (512, 1, 1),
    ]  # fmt: skip
    assert shapes_of([*network.up, network.last], lambda: network(image)) == [
        (512, 2, 2), (512, 4, 4), (512, 8, 8), (512, 16, 16), (256, 32, 32), (128, 64, 64), (64, 128, 128),
        (1, 256, 256),
    ]  # fmt: skip


def test_the_parameters_are_those_counted_by_hand():
    kernel = 4 * 4
    down = kernel * (1 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 4 * 512 * 512)
    up = kernel * (512 * 512 + 3 * 1024 * 512 + 1024 * 256 + 512 * 128 + 256 * 64)  # but the first, all see a skip too
    last = kernel * (2 * 64) * 1 + 1
    norms_down = 2 * (128 + 256 + 512 + 512 + 512 + 512)  # scale and offset; none on the first and the innermost
    norms_up = 2 * (4 * 512 + 256 + 128 + 64)
    assert parameters(full_size(UNet)) == down + up + last + norms_down + norms_up == 54_407_809
    assert parameters(full_size(UNet)) == 54_408_833 - 2 * 512  # the tutorial's count has a norm on the 1×1 bottleneck


@pytest.mark.parametrize(
    ("depth", "dropped"),
    [
        (8, [True, True, True, False, False, False, False]),
        (7, [True, True, False, False, False, False]),
        (6, [True, False, False, False, False]),
        (5, [False, False, False, False]),
        (9, [True, True, True, False, False, False, False, False]),
    ],
)
def test_dropout_is_on_the_innermost_layers_up(depth, dropped):
    network = UNet(depth=depth, width=1, dropout=0.3)
    rates = [[module.p for module in layer.modules() if isinstance(module, nn.Dropout)] for layer in network.up]
    assert rates == [[0.3] if on else [] for on in dropped]
    assert not any(isinstance(module, nn.Dropout) for module in UNet(depth=depth, width=1, dropout=0.0).modules())


def test_negative_slopes_lead_down_and_none_up():
    network = full_size(UNet)
    assert all(layer.adn.A.negative_slope == 0.2 for layer in network.down)
    assert all(isinstance(layer.adn.A, nn.ReLU) for layer in network.up)
    assert all([*layer.adn._modules][-1] == "A" for layer in [*network.down, *network.up])


# ── its behaviour, at small size ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("depth", [2, 3, 5, 7])
def test_depth_follows_the_image_size_down_to_one_pixel(depth):
    network = UNet(depth=depth, width=2)  # in training mode, where a norm over 1×1 would raise
    bottleneck = shapes_of([network.down[-1]], lambda: network(torch.zeros(2, 1, 2**depth, 2**depth)))
    assert bottleneck == [(2 * min(8, 2 ** (depth - 1)), 1, 1)]
    assert network.stride == 2**depth


def test_the_skip_joins_the_features_of_the_same_size():
    network = UNet(depth=4, width=4).eval()
    activations = {}
    for index, layer in enumerate(network.down[:-1]):
        layer.register_forward_hook(lambda module, inputs, output, index=index: activations.update({index: output}))
    for index, layer in enumerate([*network.up[1:], network.last]):
        layer.register_forward_pre_hook(
            lambda module, inputs, index=index: activations.update({f"up {index}": inputs[0]})
        )
    network(torch.rand(1, 1, 16, 16))
    for index, level in enumerate((2, 1, 0)):
        assert torch.equal(
            activations[f"up {index}"][:, activations[f"up {index}"].shape[1] // 2 :], activations[level]
        )


def test_evaluation_is_deterministic_and_training_is_not():
    network = UNet(depth=6, width=2)
    image = torch.rand(1, 1, 64, 64)
    assert not torch.equal(network(image), network(image))
    network.eval()
    state = torch.get_rng_state()
    assert torch.equal(network(image), network(image))
    assert torch.equal(torch.get_rng_state(), state)
