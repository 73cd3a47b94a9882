"""What the tests of networks measure: sizes, shapes, the pixels an output depends on, and exported graphs."""

import math

import numpy as np
import pytest
import torch
from torch import nn


def full_size(network, *sizes, **options):
    """A network of its own size, by shapes alone."""
    with torch.device("meta"):
        return network(*sizes, **options)


def parameters(network):
    return sum(weight.numel() for weight in network.parameters())


def shapes_of(modules, run):
    """The (channels, height, width) that each module gives while `run` runs."""
    seen = []
    hooks = [module.register_forward_hook(lambda *call: seen.append(tuple(call[2].shape[1:]))) for module in modules]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def random_image(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


def levels(image):
    """The number of different grey levels of an image."""
    return len(np.unique(np.asarray(image)))


def without_norms(network):
    """A norm looks at the whole image; what is left looks at patches."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d | nn.GroupNorm):
                setattr(module, name, nn.Identity())
    return network


def seen_by_the_centre(network, size, output=None):
    """The first and last row and column of the image on which the centre of the output depends, by its gradient.

    Weights are made positive, so that no rectifier hides a pixel and nothing cancels. `output` maps an image to what
    is looked at, the network's own output where it is None.
    """
    network = without_norms(network).double()
    for weight in network.parameters():
        nn.init.constant_(weight, 1 / math.prod(weight.shape[1:]))
    image = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    seen = (output or network)(image)
    seen[0, 0, seen.shape[2] // 2, seen.shape[3] // 2].backward()
    pixels = image.grad[0, 0] != 0
    rows, columns = ((lines.min().item(), lines.max().item()) for lines in (pixels.any(d).nonzero() for d in (1, 0)))
    assert pixels[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1].all()
    return rows, columns


def sees_a_square_of(side, network, size, output=None):
    """Whether the centre of the output depends on side × side pixels, none of which lies at the border."""
    spans = seen_by_the_centre(network, size, output)
    assert all(first > 0 and last < size - 1 for first, last in spans), "the image is too small to tell"
    return [last - first + 1 for first, last in spans] == [side, side]


def assert_same_one_by_one(network, shape):
    """A batch gives what its images give one by one."""
    network = network.double().eval()
    images = random_image(*shape, dtype=torch.float64)
    singly = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), singly, rtol=0, atol=1e-12)


def assert_exports(network):
    """The graph that `torch.export` makes of it, as models are logged, takes any batch, height and width."""
    from torch.fx.experimental import _config

    from pipeline.exporting.program import silence

    network = network.eval()
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    with silence(), _config.patch(backed_size_oblivious=True), torch.no_grad():
        example = torch.zeros(2, 1, 64, 64)
        graph = torch.export.export(network, (example,), dynamic_shapes=(sizes,)).module()
        least, stride = 2 * network.stride, network.stride
        for count, *sides in [(1, least, least), (3, least, 5 * stride), (2, 96, 64), (1, 7 * stride, least)]:
            image = random_image(count, 1, *sides)
            torch.testing.assert_close(graph(image), network(image), rtol=0, atol=1e-5)  # on the CPU eager ways differ
        with pytest.raises(AssertionError):
            graph(torch.zeros(1, 1, least + stride // 2, least))
