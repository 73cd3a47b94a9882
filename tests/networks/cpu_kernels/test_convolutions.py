"""Layers that choose among equal ways: when they do, and that nobody notices but by the clock."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from networks.blocks import reflect_conv, upsample
from networks.cpu_kernels import convolutions, gemm_conv, winograd
from networks.cpu_kernels.convolutions import (
    Convolution,
    TransposedConvolution,
    UpsampleConvolution,
    accelerate,
    torch_layers,
    twice_differentiable,
)
from networks.munit import AutoEncoder
from networks.resnet import ResNetGenerator

REPEATED = nn.Upsample(scale_factor=2, mode="nearest")
LAYERS = {  # a function that builds one, its channels, and the implementation that it takes on the CPU
    "first": (lambda: reflect_conv(1, 5, 7, bias=True), 1, "convolve_from_one_channel"),
    "last": (lambda: reflect_conv(5, 1, 7, bias=True), 5, "convolve_to_one_channel"),
    "strided": (lambda: reflect_conv(3, 4, 4, 2), 3, None),
    "residual": (lambda: reflect_conv(64, 128, 3), 64, "convolve"),
    "upsample": (lambda: nn.Sequential(upsample(3, 2, "nearest", kernel=4, bias=True)), 3, "upsample_and_convolve"),
    "munit": (lambda: AutoEncoder(2, 2, 1).decoder.up[0][:-1], 8, "upsample_and_convolve"),
    "upsample many": (lambda: nn.Sequential(REPEATED, reflect_conv(64, 32, 5)), 64, "upsample_and_convolve"),
    "halving": (lambda: nn.Conv2d(4, 64, 4, 2, 1, bias=False), 4, "conv_stride2"),
    "halving one": (lambda: nn.Conv2d(1, 5, 4, 2, 1), 1, "conv_stride2_from_one_channel"),
    "halving one, unpadded": (lambda: nn.Conv2d(1, 5, 4, 2), 1, "conv_stride2_from_one_channel"),
    "halving one, reflected": (lambda: reflect_conv(1, 5, 4, 2), 1, "conv_stride2_from_one_channel"),
    "judging": (lambda: nn.Conv2d(64, 128, 4, 1, 1), 64, "convolve"),
    "oblong": (lambda: nn.Conv2d(4, 1, (2, 3)), 4, "convolve_to_one_channel"),
    "oblong from one": (lambda: nn.Conv2d(1, 3, (3, 2)), 1, "convolve_from_one_channel"),
    "last of a judge": (lambda: nn.Conv2d(6, 1, 4, 1, 1), 6, "convolve_to_one_channel"),
    "transposed": (lambda: upsample(960, 3, "transposed", kernel=4, bias=True), 960, "transposed_conv"),
    "transposed to one": (lambda: upsample(5, 1, "transposed", kernel=4), 5, "transposed_conv_to_one_channel"),
    "transposed by three": (lambda: upsample(4, 3, "transposed", kernel=3), 4, None),
}
OURS = (Convolution, UpsampleConvolution, TransposedConvolution)


@pytest.fixture(autouse=True)
def small_layers_pay(monkeypatch):
    monkeypatch.setattr(winograd, "LEAST_TILES", dict.fromkeys(winograd.LEAST_TILES, 0))
    monkeypatch.setattr(gemm_conv, "LEAST_WEIGHTS", 0)
    monkeypatch.setattr(gemm_conv, "SHARE", 1)


def image_of(channels, dtype=torch.float64, size=(8, 12)):
    """Images of which every other channel lies between others in memory."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, 2 * channels, *size, dtype=torch.float64, generator=random)[:, ::2].to(dtype)


SIZES = (2, 2), (4, 6), (9, 13)  # the least has fewer columns than a matrix product is for
SMALL = ("munit", "transposed", "halving")
CASES = [(name, size) for name in LAYERS for size in SIZES if min(size) > 2 or name in SMALL]


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-9), (torch.float32, 5e-5)], ids=str)
@pytest.mark.parametrize("name, size", CASES, ids=str)
def test_layers_equal_the_plain_ones_with_the_same_names_and_shapes(name, size, dtype, bound):
    torch.manual_seed(0)
    plain = nn.Sequential(LAYERS[name][0]()).double()
    layer = accelerate(copy.deepcopy(plain)).to(dtype)
    assert not any(isinstance(module, OURS) for module in plain.modules())
    assert any(isinstance(module, OURS) for module in layer.modules())
    shapes = [{name: weight.shape for name, weight in network.state_dict().items()} for network in (layer, plain)]
    assert list(shapes[0].items()) == list(shapes[1].items())
    results = []
    for network, kind in ((layer, dtype), (plain, torch.float64)):
        image = image_of(LAYERS[name][1], kind, size).requires_grad_()
        value = network(image).mul_(2)  # in place, as an activation may be
        (value * torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view_as(value)).sum().backward()
        results.append([value.detach(), image.grad, *(weight.grad for weight in network.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=bound * theirs.abs().max().item())


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


class Counter(TorchDispatchMode):
    """Counts operations."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name, row in LAYERS.items() if row[2]])
def test_only_the_gradients_that_are_asked_for_are_made(name):
    build, channels = LAYERS[name][:2]
    layer, counts = accelerate(build()), {}
    for of_image, of_weights in ((True, True), (True, False), (False, True)):
        value = layer.requires_grad_(of_weights)(image_of(channels, torch.float32).requires_grad_(of_image))
        with Counter() as counter:
            value.sum().backward()
        counts[of_image, of_weights] = counter.count
    assert max(counts[True, False], counts[False, True]) < counts[True, True]


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
    [nn.Conv2d(4, 1, 3, padding=2, dilation=2)],
    [nn.Conv2d(4, 1, 3, padding=1, padding_mode="circular")],
    [nn.Conv2d(4, 1, (3, 5), padding=(1, 2))],
    [nn.Conv2d(1, 4, 4, 2, (1, 0))],
    [nn.Conv2d(4, 1, 3, padding="same")],
    [nn.Conv2d(4, 4, 3, groups=4)],
    [nn.Conv2d(4, 1, 2, 3)],
    [nn.Conv2d(4, 1, 1)],
    [nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    [nn.Upsample(scale_factor=4, mode="nearest"), nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    [REPEATED, nn.Conv2d(2, 3, 3, padding=1)],
    [REPEATED, nn.Conv2d(2, 3, 7, padding=3, padding_mode="reflect")],
    [REPEATED, nn.Conv2d(2, 3, 3, 2, padding=1, padding_mode="reflect")],
    [REPEATED, nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect", groups=2)],
    [REPEATED, nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    [REPEATED],
]


@pytest.mark.parametrize("layers", UNUSUAL, ids=str)
def test_options_that_the_ways_do_not_know_go_the_plain_way(calls, layers):
    plain, image = nn.Sequential(*layers), image_of(getattr(layers[-1], "in_channels", 2), torch.float32)
    network = accelerate(copy.deepcopy(plain))
    torch.testing.assert_close(network(image), plain(image))
    assert type(network) is nn.Sequential and calls == []


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
