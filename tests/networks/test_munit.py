import pytest
import torch
from network_probes import full_size, parameters, random_image, sees_a_square_of, shapes_of
from torch import nn

from networks.munit import AdaptiveResidualBlock, AutoEncoder, ContentEncoder, Decoder, StyleEncoder


def small(**options):
    return AutoEncoder(width=4, downs=1, blocks=2, style_downs=3, style_dim=3, mlp_width=8, **options)


# ── at full size ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_parameters_are_those_counted_by_hand():
    network = full_size(AutoEncoder)
    residual = 4 * 2 * 3 * 3 * 256 * 256
    content = 7 * 7 * 64 + 4 * 4 * (64 * 128 + 128 * 256) + residual + 2 * (64 + 128 + 256 + 4 * 2 * 256)
    style = 7 * 7 * 64 + 64 + 4 * 4 * (64 * 128 + 128 * 256 + 2 * 256 * 256) + 128 + 3 * 256 + 256 * 8 + 8
    perceptron = (8 * 256 + 256) + (256 * 256 + 256) + (256 * 4096 + 4096)  # 4 blocks × 2 norms × 2 × 256 channels
    up = 5 * 5 * (256 * 128 + 128 * 64) + 3 * (128 + 64)  # a bias, and the scale and offset of layer norm
    assert parameters(network.content_encoder) == content
    assert parameters(network.style_encoder) == style
    assert parameters(network.decoder) == residual + perceptron + up + 7 * 7 * 64 + 1
    assert parameters(network) == sum(parameters(part) for part in network.children())


def test_every_layer_has_the_papers_shape_at_256():
    network, image = full_size(AutoEncoder), torch.zeros(1, 1, 256, 256, device="meta")
    assert shapes_of(network.content_encoder.layers, lambda: network(image)) == [
        (64, 256, 256), (128, 128, 128), *[(256, 64, 64)] * 5,
    ]  # fmt: skip
    convolutions = [module for module in network.style_encoder.modules() if isinstance(module, nn.Conv2d)]
    assert shapes_of(convolutions, lambda: network(image)) == [
        (64, 256, 256), (128, 128, 128), (256, 64, 64), (256, 32, 32), (256, 16, 16), (8, 1, 1),
    ]  # fmt: skip
    assert shapes_of([*network.decoder.up, network.decoder.last], lambda: network(image)) == [
        (128, 128, 128), (64, 256, 256), (1, 256, 256),
    ]  # fmt: skip


def test_every_convolution_pads_by_reflection():
    modes = {
        module.padding_mode
        for module in full_size(AutoEncoder).modules()
        if isinstance(module, nn.Conv2d) and module.padding[0]
    }
    assert modes == {"reflect"}


def test_norms_are_where_the_paper_has_them():
    network = full_size(AutoEncoder)
    groups = [
        [(module.num_groups, module.num_channels) for module in part.modules() if isinstance(module, nn.GroupNorm)]
        for part in (network.content_encoder, network.style_encoder, network.decoder)
    ]
    content = [(64, 64), (128, 128), *[(256, 256)] * 9]  # instance norm
    assert groups == [content, [], [(1, 128), (1, 64)]]  # none, and layer norm


# Outwards: a residual block adds 2 · 2 pixels of its level, each 4×4 halving turns r into 2r + 2, the 7×7 adds 6:
# 5 → 12 → 26 → 32 with one block, 17 → 36 → 74 → 80 with four.
@pytest.mark.parametrize(("blocks", "side"), [(1, 32), (4, 80)])
def test_content_depends_on_exactly_its_receptive_field(blocks, side):
    assert sees_a_square_of(side, ContentEncoder(width=1, blocks=blocks), 128)


# ── content, style and what is made of them ─────────────────────────────────────────────────────────────────


def test_style_is_a_property_of_the_image_and_content_is_not_changed_by_gain_and_offset():
    torch.manual_seed(0)
    network = small().double()
    image = random_image(1, 1, 16, 16, dtype=torch.float64)
    content, style = network.encode(image)
    dimmer_content, dimmer_style = network.encode(0.5 * image + 0.2)
    torch.testing.assert_close(dimmer_content, content, rtol=0, atol=1e-3)  # but for the norms' epsilon
    assert (dimmer_style - style).abs().max() > 1e-2


def test_adaptive_norms_give_each_channel_the_scale_and_offset_they_are_told():
    torch.manual_seed(0)
    block = AdaptiveResidualBlock(2)
    features = random_image(2, 2, 12, 12)
    affine = torch.tensor([[1, 1, 0, 0, 3, 0.5, -1, 2], [1, 1, 0, 0, 2, 4, 0, 1]], dtype=torch.float32)
    added = block(features, affine) - features
    torch.testing.assert_close(added.mean((2, 3)), affine[:, 6:], rtol=0, atol=1e-4)
    torch.testing.assert_close(added.std((2, 3), correction=0), affine[:, 4:6], rtol=1e-2, atol=0)
    closed = affine * torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    torch.testing.assert_close(block(features, closed) - features, affine[:, 6:, None, None].expand_as(features))


def test_every_block_has_parameters_of_its_own():
    torch.manual_seed(0)
    decoder = Decoder(width=2, ups=1, blocks=2, style_dim=3, mlp_width=4)
    affines = []
    for block in decoder.blocks:
        block.register_forward_pre_hook(lambda module, inputs: affines.append(inputs[1]))
    style = random_image(2, 3)
    decoder(random_image(2, 4, 4, 4), style)
    assert torch.equal(torch.cat(affines, dim=1), decoder.perceptron(style))
    assert [affine.shape for affine in affines] == [(2, 16)] * 2


def test_style_is_the_average_over_all_pixels():
    network = StyleEncoder(width=4, downs=1, style_dim=2).double()
    image = random_image(1, 1, 16, 16, dtype=torch.float64)
    maps = []
    network.layers[-2].register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0]))
    style = network(image)
    last = network.layers[-1]
    expected = maps[0].mean((2, 3)) @ last.weight[:, :, 0, 0].T + last.bias
    torch.testing.assert_close(style, expected)


def test_a_slice_too_small_for_the_style_is_an_error():
    with pytest.raises(ValueError, match=r"slices of 8×16 pixels do not fit a style encoder of 4 .* to at least 16$"):
        StyleEncoder(width=1)(torch.zeros(1, 1, 8, 16))
    assert StyleEncoder(width=1)(torch.zeros(1, 1, 16, 16)).shape == (1, 8)
    assert StyleEncoder(width=1)(torch.zeros(1, 1, 27, 33)).shape == (1, 8)  # any size from there
