"""Layers that choose among equal ways: when they do, and that nobody notices but by the clock."""

import copy

import pytest
import torch
from torch import nn

from networks.blocks import initialise_kaiming, initialise_normal, normalise_spectrally, reflect_conv, upsample
from networks.cpu_kernels import convolutions, gemm_conv, winograd
from networks.cpu_kernels.convolutions import (
    Convolution,
    TransposedConvolution,
    UpsampleConvolution,
    accelerate,
    kernels_apply,
    torch_layers,
    twice_differentiable,
)
from networks.munit import AutoEncoder
from networks.resnet import ResNetGenerator

LAYERS = {  # a function that builds one, its channels, and the implementation that it takes on the CPU
    "first": (lambda: reflect_conv(1, 5, 7, bias=True), 1, "convolve_from_one_channel"),
    "last": (lambda: reflect_conv(5, 1, 7, bias=True), 5, "convolve_to_one_channel"),
    "strided": (lambda: reflect_conv(3, 4, 4, 2), 3, None),
    "residual": (lambda: reflect_conv(64, 128, 3), 64, "convolve"),
    "upsample": (lambda: nn.Sequential(upsample(3, 2, "nearest", kernel=4, bias=True)), 3, "upsample_and_convolve"),
    "munit": (lambda: AutoEncoder(2, 2, 1).decoder.up, 8, "upsample_and_convolve"),
    "halving": (lambda: nn.Conv2d(4, 64, 4, 2, 1, bias=False), 4, "conv_stride2"),
    "halving one": (lambda: nn.Conv2d(1, 5, 4, 2, 1), 1, "conv_stride2_from_one_channel"),
    "halving one, reflected": (lambda: reflect_conv(1, 5, 4, 2), 1, "conv_stride2_from_one_channel"),
    "judging": (lambda: nn.Conv2d(64, 128, 4, 1, 1), 64, "convolve"),
    "last of a judge": (lambda: nn.Conv2d(6, 1, 4, 1, 1), 6, "convolve_to_one_channel"),
    "transposed": (lambda: upsample(960, 3, "transposed", kernel=4, bias=True), 960, "transposed_conv"),
    "transposed to one": (
        lambda: upsample(5, 1, "transposed", kernel=4, bias=True),
        5,
        "transposed_conv_to_one_channel",
    ),
    "transposed by three": (lambda: upsample(4, 3, "transposed", kernel=3), 4, None),
}
OURS = (Convolution, UpsampleConvolution, TransposedConvolution)


@pytest.fixture(autouse=True)
def small_layers_pay(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_TILES", dict.fromkeys(winograd.LEAST_TILES, 0))
    monkeypatch.setattr(gemm_conv, "LEAST_WEIGHTS", 0)
    monkeypatch.setattr(gemm_conv, "SHARE", 1)


def image_of(channels, dtype=torch.float64):
    return torch.randn(2, channels, 8, 12, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("build, channels, _", LAYERS.values(), ids=LAYERS)
def test_layers_equal_the_plain_ones_with_the_same_names_and_shapes(build, channels, _):
    plain = nn.Sequential(build()).double()
    layer = accelerate(copy.deepcopy(plain))
    assert not any(isinstance(module, OURS) for module in plain.modules())
    assert any(isinstance(module, OURS) for module in layer.modules())
    shapes = [{name: weight.shape for name, weight in network.state_dict().items()} for network in (layer, plain)]
    assert list(shapes[0].items()) == list(shapes[1].items())
    results = []
    for network in (layer, plain):
        image = image_of(channels).requires_grad_()
        value = network(image)
        (value * torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)).sum().backward()
        results.append([value.detach(), image.grad, *(weight.grad for weight in network.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.fixture
def calls(monkeypatch):
    """The names of the cheaper ways as they are taken."""
    names = []

    def watch(owner, name):
        kernel = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *arguments, **options: names.append(name) or kernel(*arguments, **options)
        )

    for name in (
        *("convolve", "convolve_to_one_channel", "convolve_from_one_channel", "upsample_and_convolve"),
        *("conv_stride2_from_one_channel", "transposed_conv_to_one_channel"),
    ):
        watch(convolutions, name)
    for name in ("conv_stride2", "transposed_conv"):
        watch(gemm_conv, name)
    return names


@pytest.mark.parametrize("build, channels, kernel", [row for row in LAYERS.values() if row[2]])
def test_each_takes_its_way_on_the_cpu_and_the_plain_one_under_autocast(calls, build, channels, kernel):
    network, image = accelerate(build()), image_of(channels, torch.float32)
    network(image)
    assert set(calls) == {kernel}
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        network(image)
    network.bfloat16()(image.bfloat16())
    with torch.device("meta"):
        accelerate(build())(torch.empty(1, channels, 8, 8))
    assert calls == []


def test_a_single_image_without_a_batch_and_a_map_of_one_pixel_go_the_plain_way(calls):
    assert accelerate(reflect_conv(5, 1, 7))(torch.zeros(5, 8, 8)).shape == (1, 8, 8)
    assert accelerate(upsample(2, 3, "nearest", kernel=3))(torch.zeros(1, 2, 1, 1)).shape == (1, 3, 2, 2)
    assert calls == []


def test_the_plain_ways_can_be_asked_for_and_are_differentiable_twice(calls):
    discriminator, image = accelerate(nn.Sequential(nn.Conv2d(1, 3, 4, 2, 1), nn.Conv2d(3, 1, 4, 1, 1))), image_of(1)

    def steepness():
        point = image.clone().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator.double()(point).square().sum(), point, create_graph=True)
        slope.square().sum().backward()

    with twice_differentiable():
        steepness()
    assert calls == [] and discriminator[0].weight.grad.any()
    discriminator.requires_grad_(False)  # not even where the gradients that come in are constant
    with pytest.raises(
        RuntimeError, match=r"differentiable once; .* within networks.cpu_kernels.twice_differentiable\(\)"
    ):
        steepness()
    assert calls == ["conv_stride2_from_one_channel", "convolve_to_one_channel"]


UNUSUAL = [
    nn.Conv2d(4, 1, 3, padding=2, dilation=2),
    nn.Conv2d(4, 1, 3, padding=1, padding_mode="circular"),
    nn.Conv2d(4, 1, (3, 5), padding=(1, 2)),
    nn.Conv2d(1, 4, 4, 2, (1, 0)),
    nn.Conv2d(4, 1, 3, padding="same"),
    nn.Conv2d(4, 4, 3, groups=4),
    nn.Conv2d(4, 1, 2, 3),
    nn.Conv2d(4, 1, 1),
]


@pytest.mark.parametrize("plain", UNUSUAL, ids=str)
def test_options_that_the_ways_do_not_know_go_the_plain_way(calls, plain):
    image = image_of(plain.in_channels, torch.float32)
    expected = plain(image)
    assert torch.equal(accelerate(nn.Sequential(plain))(image), expected) and calls == []


def test_a_transposed_layer_gives_the_size_that_is_asked_for(calls):
    layer, image = TransposedConvolution(5, 1, 4, 2, 1), image_of(5, torch.float32)
    assert layer(image, output_size=[17, 25]).shape[2:] == (17, 25)
    assert TransposedConvolution(5, 1, 4, 2, 1, output_padding=1)(image).shape[2:] == (17, 25)
    assert calls == []


@pytest.mark.parametrize("size", [(1, 8), (8, 1)])
@pytest.mark.parametrize("before, after", [(5, 1), (1, 5), (64, 128)])
def test_an_image_smaller_than_the_kernel_is_refused_as_the_library_does(before, after, size):
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        Convolution(before, after, 4, 1, 1)(torch.zeros(1, before, *size))


def test_layers_of_a_library_take_to_choosing_and_back():
    plain = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Sequential(nn.Conv2d(2, 1, 1)))
    image = image_of(1, torch.float32)
    expected, weights = plain(image), list(plain.parameters())
    ours = accelerate(plain)
    assert [type(module) for module in ours.modules() if isinstance(module, nn.Conv2d)] == [Convolution] * 2
    torch.testing.assert_close(ours(image), expected)
    assert accelerate(ours) is torch_layers(ours) is ours
    assert [type(module) for module in ours.modules() if isinstance(module, nn.Conv2d)] == [nn.Conv2d] * 2
    assert all(weight is other for weight, other in zip(ours.parameters(), weights, strict=True))


REPEATED = nn.Upsample(scale_factor=2, mode="nearest")
OTHER_DOUBLINGS = [
    [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    [nn.Upsample(scale_factor=4, mode="nearest"), nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    [REPEATED, nn.Conv2d(2, 3, 3, padding=1)],
    [REPEATED, nn.Conv2d(2, 3, 7, padding=3, padding_mode="reflect")],
    [REPEATED, nn.Conv2d(2, 3, 3, 2, padding=1, padding_mode="reflect")],
    [REPEATED, nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect", groups=2)],
    [REPEATED, nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    [REPEATED],
]


@pytest.mark.parametrize("layers", OTHER_DOUBLINGS, ids=str)
def test_other_doublings_stay_as_they_are(calls, layers):
    plain, image = nn.Sequential(*layers), image_of(2, torch.float32)
    network = accelerate(copy.deepcopy(plain))
    torch.testing.assert_close(network(image), plain(image))
    assert type(network) is nn.Sequential and "upsample_and_convolve" not in calls


def test_hooks_and_the_mode_stay():
    layer, outputs = reflect_conv(3, 1, 3).eval(), []
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    accelerate(layer)(image_of(3, torch.float32))
    assert len(outputs) == 1 and not layer.training


def test_traced_compiled_and_exported_networks_are_plain_and_agree(calls):
    network = accelerate(ResNetGenerator(blocks=1, width=2, upsampling="nearest").eval())
    image = image_of(1, torch.float32)
    with torch.no_grad():
        expected = torch_layers(copy.deepcopy(network))(image)
        assert calls == []
        networks = [
            torch.jit.trace(network, image, check_trace=False),
            torch.compile(network, backend="eager"),
            torch.export.export(network, (image,)).module(),
        ]
        outputs = [other(image) for other in networks]
        assert calls == []
        for output in [*outputs, network(image)]:
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
    assert calls != []


def test_initialisation_and_spectral_normalisation_find_them():
    layer = accelerate(nn.Sequential(reflect_conv(3, 1, 7, bias=True)).double())
    for initialise in (initialise_normal, initialise_kaiming):
        before = layer[0].weight.clone()
        initialise(layer)
        assert not torch.equal(layer[0].weight, before) and not layer[0].bias.any()
    normalise_spectrally(layer).train()
    image = image_of(3)
    for _ in range(30):
        layer(image)
    assert torch.linalg.matrix_norm(layer.eval()[0].weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-6)
    plain = nn.functional.pad(image, (3,) * 4, mode="reflect")
    torch.testing.assert_close(layer(image), nn.functional.conv2d(plain, layer[0].weight, layer[0].bias))


def test_it_may_choose_for_batches_in_single_and_double_precision():
    for dtype, may in ((torch.float32, True), (torch.float64, True), (torch.float16, False), (torch.bfloat16, False)):
        assert kernels_apply(torch.zeros(1, 1, 2, 2, dtype=dtype), torch.zeros(1, dtype=dtype)) is may
    assert not kernels_apply(torch.zeros(1, 2, 2), torch.zeros(1))
    assert not kernels_apply(torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.float64))
