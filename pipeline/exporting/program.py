"""A trained network as a torch program (`torch.export`, pt2), which runs without the classes of this project."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import config

from pipeline.exporting.agreement import require_agreement
from pipeline.exporting.record import file_metadata, losses, style_of
from pipeline.inference.model import TranslationModel
from pipeline.inference.runtimes import RECORD, Inputs
from pipeline.inference.slice_translator import neighbours_of
from pipeline.utils.files import atomic_path

EXAMPLE_SIDE = 64  # pixels of an example's slice, at least: one stride can be too small for reflection padding
PATHS = ("stack_trace", "torch_fn", "from_node")  # of a graph's nodes: where the code lay on this machine


def export_program(model: TranslationModel, target: str, output: Path) -> list[str]:
    """Write the network that makes `target` as a torch program; return what the file lacks, a sentence each.

    `torch.export.load` with `extra_files={"metadata.json": ""}` reads it, with what the file says of its model.

    Raises:
        UserError: the program computes something else than the network, or the file cannot be written.
    """
    program = exported_program(model, target)
    require_agreement(model, target, partial(_outputs, program.module()), "the torch program")
    metadata = file_metadata(model, target)
    content: dict[str, Any] = metadata | {RECORD: json.loads(metadata[RECORD])}
    with atomic_path(output) as temporary:
        torch.export.save(program, temporary, extra_files={"metadata.json": json.dumps(content, indent=1)})
    return losses(model, target, returns=False)


def exported_program(model: TranslationModel, target: str) -> ExportedProgram:
    """Return a network's graph in evaluation form, on the CPU in float32, for any batch and any size that it takes.

    Its arguments are the image (N, C, H, W) and, for a network with a style (MUNIT), that style (1, style_dim). It
    names no path of this machine.
    """
    from torch.fx.experimental import _config as shapes

    network = model.translators[target]
    side = -(-EXAMPLE_SIDE // model.stride) * model.stride
    examples: list[Tensor] = [torch.zeros(2, neighbours_of(network).channels, side, side)]
    sizes: list[dict[int, Any]] = [dict.fromkeys((0, 2, 3), Dim.AUTO)]
    if (style := style_of(network)) is not None:
        examples.append(style.cpu().float())
        sizes.append({})
    # With `backed_size_oblivious`, a size of 1 in the example (a 1×1 bottleneck) is no constant of the graph.
    with silence(), torch.no_grad(), shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]  # at import
        copy = deepcopy(network).to("cpu", torch.float32).requires_grad_(False)
        program = torch.export.export(copy, tuple(examples), dynamic_shapes=tuple(sizes))
    _forget_paths(program.graph_module)
    return program


@contextmanager
def silence() -> Iterator[None]:
    """Keep an exporter's hints to programmers off the console; its errors are exceptions.

    Nor does it look up which lines of code each node came from, which takes a quarter of its time: `_forget_paths`.
    """
    before, without_lines = logging.root.manager.disable, getattr(config, "do_not_emit_stack_traces", False)
    logging.disable(logging.WARNING)
    config.do_not_emit_stack_traces = True  # older releases do not read it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        config.do_not_emit_stack_traces = without_lines


def _outputs(module: nn.Module, inputs: Inputs, _: str) -> np.ndarray:
    with torch.no_grad():
        return module(*(torch.from_numpy(value) for value in inputs.values())).numpy()


def _forget_paths(graph: torch.fx.GraphModule) -> None:
    """Remove from a graph, and those within it, where on this machine the code of each node lay."""
    for module in graph.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in PATHS:
                    node.meta.pop(key, None)
