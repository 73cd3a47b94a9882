"""A trained model as a MONAI bundle, which translates NIfTI volumes with MONAI alone."""

import io
import shutil
import warnings
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import cast

import torch
from torch import nn

from pipeline.exporting.bundle_texts import inference, metadata, usage
from pipeline.exporting.card import is_outdated, model_card
from pipeline.exporting.program import EXAMPLE_SIDE
from pipeline.exporting.record import DIRECTION_LOST, UNCERTAINTY_LOST
from pipeline.exporting.scripted_volume import VolumeTranslator
from pipeline.inference.model import TranslationModel
from pipeline.inference.runtimes import RuntimeNetwork
from pipeline.inference.slice_translator import neighbours_of
from pipeline.runs.folder import json_text
from pipeline.utils.errors import UserError, first_line
from pipeline.utils.files import temporary_folder, writing_to
from transforms.slice_chain import CHAIN_VERSION
from transforms.slices import AXES

MAX_DIFFERENCE = 1e-4  # of a traced network from its network, in [-1, 1], for slices of another size
LICENSE = """The weights in this folder (models/) have the licence that whoever trained them gives, which the licence of
the training data may restrict: replace this file by it. The computation around them comes from contrast-translation,
Apache-2.0 (https://www.apache.org/licenses/LICENSE-2.0).
"""


def export_bundle(model: TranslationModel, target: str, output: Path) -> list[str]:
    """Write the model of one direction as a MONAI bundle into a new folder.

    The folder has `configs/` (metadata, inference), `models/` (`model.ts`, a `VolumeTranslator` that needs nothing but
    torch, and `model.pt`, the network's weights), `docs/README.md` (the model card) and `LICENSE`. Returns what it does
    not do that translation by this package does, a sentence each.

    Raises:
        UserError: the model does not make the target, cannot be a bundle, or the folder holds something or cannot be
            written.
    """
    target = model.target(target)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: is there already; choose a new folder for the bundle, or remove it")
    translator = scripted_translator(model, target)
    losses = lost_in_bundle(model, target)
    texts = {
        "configs/metadata.json": json_text(metadata(model, target)),
        "configs/inference.json": json_text(inference(model, target)),
        "docs/README.md": model_card(model, target) + usage(output.name, losses),
        "LICENSE": LICENSE,
    }
    with temporary_folder(output.absolute().parent) as folder, writing_to(output):
        for name, text in texts.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "models").mkdir()
        save_script(translator, folder / "models" / "model.ts")
        weights = {name: value.detach().cpu() for name, value in model.translators[target].state_dict().items()}
        torch.save(weights, folder / "models" / "model.pt")
        if output.exists():
            output.rmdir()
        shutil.move(folder, output)
    return losses


# ── the model ───────────────────────────────────────────────────────────────────────────────────────────────


def scripted_translator(model: TranslationModel, target: str) -> torch.jit.ScriptModule:
    """Return a `VolumeTranslator` of one direction in TorchScript, on the CPU; raises UserError as `export_bundle`."""
    settings, statistics = model.settings, model.statistics[target]
    if settings.version != CHAIN_VERSION:
        raise UserError(
            f"{model.origin}: its preprocessing is of version {settings.version}, which a bundle has not; train again"
        )
    if settings.percentiles is None:
        raise UserError(f"{model.origin}: translates pictures, and a bundle volumes; export it as onnx or pt2")
    spacing_mm = []
    if settings.spacing_mm is not None:
        spacing_mm = [settings.spacing_mm[0]] * 3
        spacing_mm[AXES[settings.axis]] = settings.spacing_mm[1]
    network = model.translators[target]
    if isinstance(network, RuntimeNetwork | torch.fx.GraphModule):
        raise UserError(
            f"{model.origin}: its network is an exported graph (of MLflow, ONNX or OpenVINO), which TorchScript cannot "
            "hold; give the run's folder or a checkpoint"
        )
    neighbours = neighbours_of(network)
    translator = VolumeTranslator(
        traced(network, model.stride, model.origin),
        axis=AXES[settings.axis],
        spacing_mm=spacing_mm,
        size=settings.size,
        stride=model.stride,
        percentiles=settings.percentiles,
        intensities=(statistics.low, statistics.high),
        integer=statistics.integer,
        neighbours=neighbours.adjacent,
        neighbour_mm=list(neighbours.distances_mm),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is what MONAI's bundles hold
        return torch.jit.script(translator.eval())


def traced(network: nn.Module, stride: int, origin: str) -> torch.jit.ScriptModule:
    """Return a network (N, C, H, W) -> (N, 1, H, W) in TorchScript, for any N, H and W that its stride divides.

    Raises:
        UserError: it cannot be traced, or the trace differs from it for slices of another size.
    """
    try:
        copy = deepcopy(network).to("cpu", torch.float32).requires_grad_(False)
        channels = neighbours_of(copy).channels
        side = -(-EXAMPLE_SIDE // stride) * stride
        generator = torch.Generator().manual_seed(0)
        images = [
            torch.rand(count, channels, side + extra_rows, side, generator=generator) * 2 - 1
            for count, extra_rows in ((2, 0), (3, stride))
        ]
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of checks that a trace leaves out, and of TorchScript's age
            graph = torch.jit.trace(copy, images[0], check_trace=False)
            difference = max(float((graph(image) - copy(image)).abs().max()) for image in images)
    except Exception as error:  # whatever tracing has against a layer
        raise UserError(
            f"{origin}: its network cannot be TorchScript, which bundles hold ({first_line(error)}); export it as "
            "onnx or pt2"
        ) from error
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"{origin}: its network in TorchScript differs from itself by {difference:.2g}; export it as onnx or pt2"
        )
    return cast(torch.jit.ScriptModule, graph)


def save_script(script: torch.jit.ScriptModule, path: Path) -> None:
    """Write a TorchScript module without its debug records, which hold paths of this machine."""
    buffer = io.BytesIO(script.save_to_buffer())
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w") as target:
        for entry in archive.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(entry.filename, archive.read(entry))


def lost_in_bundle(model: TranslationModel, target: str) -> list[str]:
    """Return what the bundle of a model does not do, a sentence each."""
    network = model.translators[target]
    losses = [
        UNCERTAINTY_LOST,
        "the comparison of volumes with the training cohort (--strict) and the warnings of doubtful ones",
        "the source's header beyond its grid; that a volume is synthetic stands in its name alone",
    ]
    if len(model.translators) > 1:
        losses.append(DIRECTION_LOST)
    if is_outdated(model):
        losses.append("the run's figures: it trained on since, or they are not finished; run its command again first")
    if model.settings.n4:
        losses.append("the correction of the bias field: correct volumes by N4 before, as in training")
    if hasattr(network, "encode_style"):
        losses.append("styles: the one that the model has now is fixed, and another (--style) needs another bundle")
    if model.precision != "float32":
        losses.append(f"{model.precision}: it computes in float32")
    return losses
