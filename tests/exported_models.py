"""Small networks of every kind, as models that can be exported."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from negative_model import model_of
from shared_folder import made_once

from networks.cpu_kernels import accelerate
from networks.lookup_start import LookupStart
from networks.monai_networks import MonaiGenerator
from networks.munit import AutoEncoder, StyleTranslator
from networks.neighbours import NeighbourGenerator
from networks.resnet import ResNetGenerator
from networks.skip import SkipGenerator
from networks.unet import UNet
from pipeline.exporting.onnx import onnx_model


def lookup_start(network, neighbour_mm=(), **options):
    start = LookupStart(network, neighbour_mm, **options)
    for lookup in [start.lookup] if start.box is None else [start.lookup, start.box.lookup]:
        lookup.set_table(torch.rand(lookup.table.shape) * 2 - 1, (1.3, 2.7))
    if start.box is not None:
        start.box.fit_to_slices(1.0, 208)
    start.correction_share.fill_(0.7)
    return start


def munit():
    source, target = (AutoEncoder(2, 1, 1, style_dim=3, style_downs=2, mlp_width=4) for _ in range(2))
    translator = StyleTranslator(source.content_encoder, target)
    translator.set_style(torch.tensor([0.5, -1.0, 2.0]))
    return translator


NETWORKS = {  # with every operation that generators are made of; each takes some seconds to export
    "unet": lambda: UNet(3, 4, attention=True),
    "resnet": lambda: ResNetGenerator(1, 4, upsampling="nearest"),
    "lookup, in the volume": lambda: lookup_start(UNet(2, 4), (3.0, 8.0)),
    "lookup, neighbours": lambda: NeighbourGenerator(lookup_start(SkipGenerator(1, 4, in_channels=3)), 1),
    "box": lambda: lookup_start(SkipGenerator(1, 4), (3.0, 8.0), with_box=True),
    "munit": munit,
    "monai": lambda: MonaiGenerator("UNet", {"channels": (4, 8), "strides": (2,), "num_res_units": 1}),
}


def small_model(kind):
    """A model that makes T2 by a network of a kind, whose weights are large enough to tell networks apart."""
    torch.manual_seed(0)
    network = accelerate(NETWORKS[kind]()).requires_grad_(False)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, 0.0, 0.2)
    return replace(model_of(network, 0.0, 1000.0, size=16), stride=network.stride)


@cache
def exported(kind):
    """The ONNX model of a small network, which all processes of a test run make once."""

    def make(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(onnx_model(small_model(kind), "T2"))

    return (made_once(f"exported {kind}", make) / "model.onnx").read_bytes()
