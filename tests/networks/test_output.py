import numpy as np
import pytest
import torch
from network_probes import levels, random_image
from torch import nn

from networks.output import output_image, with_offset
from networks.unet import UNet
from pipeline.inference.compile import CompiledForms
from pipeline.inference.slice_translator import translate_slices

CPU = torch.device("cpu")


def generator():
    """A U-Net whose images fill [-1, 1], as those of a trained one do."""
    torch.manual_seed(0)
    network = UNet(3, 4).eval().requires_grad_(False)
    network.last.weight /= torch.atanh(network(random_image(1, 1, 64, 64))).std()
    return network


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_image_in_half_precision_has_the_grey_levels_of_single_precision(precision):
    network, slices = generator(), random_image(2, 64, 64).numpy()

    def translated(precision, **how):
        options = {"device": CPU, "batch_size": 2, "precision": precision, "slice_mm": 1.0, "name": "a scan", **how}
        return translate_slices(slices, network, np.ones(2, bool), **options)

    single, half = translated("float32"), translated(precision)
    compiled = translated(precision, run=CompiledForms(2, backend="aot_eager"))
    assert levels(single) > 7000
    for image in (half, compiled):
        assert levels(image) > 0.9 * levels(single)
        assert 0 < np.abs(image - single).mean() < 0.05


def test_an_exported_network_has_them_too():
    network, image = generator(), random_image(2, 1, 64, 64)
    exported = torch.export.export(network, (image,)).module()
    with torch.inference_mode():
        single = exported(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = exported(image)
    torch.testing.assert_close(single, network(image), rtol=0, atol=1e-5)
    assert half.dtype == torch.float32 and levels(half) > 0.9 * levels(single)
    assert 0 < (half - single).abs().mean() < 0.05


def test_the_last_layer_alone_leaves_autocast():
    kinds = {}
    network = UNet(3, 4)
    for name, layer in network.named_modules():
        layer.register_forward_hook(lambda module, inputs, output, name=name: kinds.update({name: output.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        network(random_image(1, 1, 8, 8))
    assert {kinds[name] for name in ("down.0.conv", "down.2.conv", "up.0.conv", "up.1.conv")} == {torch.bfloat16}
    assert kinds["last"] == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_autocast_nothing_is_converted(dtype):
    features, last = random_image(1, 3, 4, 4, dtype=dtype), nn.Conv2d(3, 1, 1).to(dtype)
    assert torch.equal(output_image(features, last), torch.tanh(last(features)))
    assert output_image(features, last).dtype == dtype


def test_a_compiled_correction_has_no_factor_that_a_compiler_would_fold_into_weights():
    """Inductor folds it into those of a transposed convolution along the wrong axis (torch 2.13)."""
    graphs = []
    output, offset = random_image(1, 1, 4, 4), random_image(1, 1, 4, 4)
    compiled = torch.compile(with_offset, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    torch.testing.assert_close(compiled(output, offset), with_offset(output, offset))
    (graph,) = graphs
    assert [node for node in graph.graph.nodes if "mul" in str(node.target)] == []
