"""What every generator keeps to: an image by itself, sizes that fit, and an exported graph for any of them."""

import pytest
import torch
from network_probes import assert_exports, assert_same_one_by_one, levels, random_image
from small_engine import SMALL_GENERATORS
from torch import nn

from networks.monai_networks import MonaiGenerator
from networks.multiscale import MultiScaleDiscriminator
from networks.munit import AutoEncoder, StyleTranslator
from networks.patch_features import PatchFeatureHead
from networks.patchgan import PatchGAN
from networks.residual_concat import ResidualConcatGenerator
from networks.resnet import ResNetGenerator
from networks.skip import SkipGenerator
from networks.unet import UNet
from networks.unit import LatentAutoEncoder, LatentTranslator


def munit():
    source, target = (AutoEncoder(2, 1, 1, style_dim=3, style_downs=2, mlp_width=4) for _ in range(2))
    translator = StyleTranslator(source.content_encoder, target)
    translator.set_style(torch.ones(3))
    return translator


def unit(**options):
    source, target = (LatentAutoEncoder(2, 2, 1, **options) for _ in range(2))
    return LatentTranslator(source.encoder, target.decoder)


def monai(network):
    sections = {section["network"]: section for section in SMALL_GENERATORS.values() if section["type"] == "monai"}
    return MonaiGenerator(network, sections[network]["arguments"])


RESIDUAL = "a residual-concatenation generator of stride 4"
GENERATORS = {  # a function that builds one, what messages call it, its stride, and the least size in strides
    "unet": (lambda: UNet(3, 4), "a U-Net of 3 levels", 8, 1),
    "unet gated, nearest": (lambda: UNet(3, 4, attention=True, upsampling="nearest"), "a U-Net of 3 levels", 8, 1),
    "resnet": (lambda: ResNetGenerator(1, 4), "a ResNet generator of stride 4", 4, 2),
    "resnet nearest": (lambda: ResNetGenerator(1, 4, upsampling="nearest"), "a ResNet generator of stride 4", 4, 2),
    "residual_concat": (lambda: ResidualConcatGenerator(2, 4), RESIDUAL, 4, 2),
    "residual_concat nearest": (lambda: ResidualConcatGenerator(2, 4, upsampling="nearest"), RESIDUAL, 4, 2),
    "skip": (lambda: SkipGenerator(2, 4), "a skip generator of stride 4", 4, 2),
    "skip without norms": (lambda: SkipGenerator(2, 4, norm="none"), "a skip generator of stride 4", 4, 2),
    "munit": (munit, "a content encoder of stride 2", 2, 2),
    "unit": (unit, "a UNIT encoder of stride 4", 4, 2),
    "unit nearest": (lambda: unit(upsampling="nearest"), "a UNIT encoder of stride 4", 4, 2),
    "AttentionUnet": (lambda: monai("AttentionUnet"), "MONAI's AttentionUnet of stride 2", 2, 1),
    "BasicUNet": (lambda: monai("BasicUNet"), "MONAI's BasicUNet of stride 16", 16, 1),
    "BasicUNetPlusPlus": (lambda: monai("BasicUNetPlusPlus"), "MONAI's BasicUNetPlusPlus of stride 16", 16, 1),
    "DynUNet": (lambda: monai("DynUNet"), "MONAI's DynUNet of stride 4", 4, 1),
    "FlexibleUNet": (lambda: monai("FlexibleUNet"), "MONAI's FlexibleUNet of stride 32", 32, 1),
    "SegResNet": (lambda: monai("SegResNet"), "MONAI's SegResNet of stride 2", 2, 1),
    "UNet": (lambda: monai("UNet"), "MONAI's UNet of stride 2", 2, 1),
    "VNet": (lambda: monai("VNet"), "MONAI's VNet of stride 16", 16, 1),
}
every_generator = pytest.mark.parametrize("kind", GENERATORS)


def generator(kind):
    torch.manual_seed(0)
    return GENERATORS[kind][0]()


@every_generator
def test_a_batch_gives_what_its_images_give_one_by_one(kind):
    network = generator(kind)
    assert_same_one_by_one(network, (3, 1, 2 * network.stride, 3 * network.stride))


@pytest.mark.parametrize("kind", sorted(GENERATORS.keys() - {"skip without norms"}))  # there every pixel would saturate
def test_images_stay_within_the_range_whatever_the_weights(kind):
    network = generator(kind).eval()
    for weight in network.parameters():
        weight.data.mul_(3)
    with torch.no_grad():
        image = network(random_image(2, 1, 2 * network.stride, 3 * network.stride))
    assert image.shape == (2, 1, 2 * network.stride, 3 * network.stride)
    assert -1 <= image.min() < image.max() <= 1


@every_generator
def test_under_autocast_an_image_keeps_its_grey_levels_and_gradients(kind):
    network, image = generator(kind), random_image(2, 1, 64, 64)
    single = network(image).detach()
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
        half.square().mean().backward()
    assert half.dtype == torch.float32 and levels(half.detach()) > 0.9 * levels(single)
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.grad is not None)


@pytest.mark.parametrize(
    "build",
    [
        lambda: UNet(5, 32),
        lambda: ResNetGenerator(1, 32),
        lambda: ResidualConcatGenerator(2, 32),
        lambda: SkipGenerator(1, 32),
        lambda: LatentAutoEncoder(32, blocks=1),
        lambda: PatchGAN(),
        lambda: MultiScaleDiscriminator(2),
        lambda: PatchFeatureHead([256]),
        lambda: AutoEncoder(32, blocks=1, mlp_width=128),
    ],
)
def test_weights_are_drawn_as_the_papers_do(build):
    torch.manual_seed(0)
    network = build()
    is_kaiming = isinstance(network, AutoEncoder)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            deviation = (2 / layer.weight[0].numel()) ** 0.5 if is_kaiming else 0.02
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.15), name
            assert layer.bias is None or not layer.bias.any(), name
        elif isinstance(layer, nn.GroupNorm):
            assert abs(layer.weight - 1).max() < (0.001 if is_kaiming else 0.1) and not layer.bias.any(), name
            assert is_kaiming or layer.weight.std().item() == pytest.approx(0.02, rel=0.5), name


@every_generator
def test_sizes_that_fit_go_through_and_others_are_an_error_that_says_which_do(kind):
    network, (_, name, stride, strides) = generator(kind).eval(), GENERATORS[kind]
    least = stride * strides
    assert network.stride == stride
    with torch.no_grad():
        assert network(torch.zeros(1, 1, least, least + stride)).shape == (1, 1, least, least + stride)
    for height, width in ((least + stride // 2, least), (least, least + 1), *[(least - stride, least)] * (strides - 1)):
        message = rf"slices of {height}×{width} pixels do not fit {name}.*; pad both sides to multiples of {stride}"
        for use in (network, getattr(network, "features", network)):
            with pytest.raises(ValueError, match=message + (f", at least {least}$" if strides > 1 else "$")):
                use(torch.zeros(1, 1, height, width))


SLOW_EXPORTS = {"FlexibleUNet", "VNet", "BasicUNetPlusPlus"}  # of seconds
# Their graphs are held against two other runtimes, in tests/pipeline/exporting/test_onnx.py.
EXPORTED_THERE = {"unet gated, nearest", "resnet nearest", "skip", "munit", "UNet"}
OTHER_OPTIONS = {"resnet", "skip without norms", "residual_concat nearest", "unit nearest"}  # of networks beside them


@pytest.mark.parametrize("kind", sorted(GENERATORS.keys() - SLOW_EXPORTS - EXPORTED_THERE - OTHER_OPTIONS))
def test_it_exports_for_any_size(kind):
    assert_exports(generator(kind))
