"""One volume through a translation model: the preprocessing chain, the network, and the chain's inverse."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from torch import nn

from pipeline.inference.domain_shift import compare_with_cohort, shape_warnings
from pipeline.inference.model import TranslationModel, load_model
from pipeline.inference.output_volume import image_like, require_volume_name, write_volume
from pipeline.inference.slice_translator import translate_slices
from pipeline.utils.errors import UserError, first_cause
from pipeline.utils.files import require_writable
from transforms.io.nifti import name_of, read_with_warnings
from transforms.slice_chain import slice_chain
from transforms.slices import AXES, slices_with_content

logger = logging.getLogger(__name__)

MIN_HEAD_SHARE = 0.25  # of the fullest slice's head; slices with less were not trained on and have odd styles


def translate(
    source: str | Path | SpatialImage,
    model: str | Path | TranslationModel,
    to: str | None = None,
    output: str | Path | None = None,
    *,
    batch_size: int = 8,
    device: str = "auto",
    precision: str = "model",
    style: str | Path | None = None,
    keep_header_text: bool = False,
    strict: bool = False,
) -> nib.Nifti1Image:
    """Translate one volume and return it on the source's grid, in the target contrast's training intensities.

    >>> image = translate("scan_t1.nii.gz", "runs/ixi", to="T2", output="scan_t2.nii.gz")
    >>> image.shape == nibabel.load("scan_t1.nii.gz").shape
    True

    Voxels that were replaced, a volume unlike the training cohort and other doubts are logged as one warning.

    Args:
        source: A NIfTI file or a nibabel image, (X, Y, Z).
        model: A run folder, a checkpoint, `runs:/RUN_ID/MODEL`, `models:/NAME@ALIAS`, an exported `.onnx` or `.xml`, or
            a model loaded by `pipeline.inference.model.load_model` (sooner, for many volumes).
        to: The contrast to make; may be left out where the model makes only one.
        output: A `.nii` or `.nii.gz` file to write; None to write nothing.
        batch_size: Slices in a batch; fewer where the memory is too small for them.
        device: "auto", "cpu", "cuda" or "mps"; ignored for a loaded model, which stays on its device.
        precision: "float32", "bf16", or "model" for the training precision (on the CPU float32).
        style: A volume of the contrast `to` whose style the result takes on, for MUNIT; a loaded model keeps it.
        keep_header_text: Whether the source's free text and header extensions stay; they may hold names.
        strict: Whether a volume that is unlike the model's training cohort is refused; otherwise a warning names it.

    Returns:
        A NIfTI image with the source's shape, affine, units and forms.

    Raises:
        UserError: the volume or the model cannot be used, the model does not make that contrast, or the output cannot
            be written or is the source; one line that names it.
    """
    if output is not None:  # refused now, not after the network has run
        require_volume_name(Path(output))
        path = source.get_filename() if isinstance(source, SpatialImage) else source
        if path is not None and os.path.realpath(path) == os.path.realpath(output):
            raise UserError(f"{output}: would overwrite the source; choose another output")
        require_writable(Path(output))
    loaded = model if isinstance(model, TranslationModel) else load_model(model, device)
    loaded = loaded.in_precision(precision)
    target = loaded.target(to)
    if style is not None:
        use_style_of(Path(style), loaded, target)
    opened = open_volume(source, loaded, target, strict=strict)
    if text := warning_text([opened]):
        logger.warning(text)
    translated = opened.run_network(loaded.translators[target], opened.slices, loaded, batch_size)
    image = image_of_slices(translated, opened.inverse_state, loaded, target, keep_text=keep_header_text)
    if output is not None:
        write_volume(image, Path(output))
    return image


@dataclass(frozen=True)
class OpenedVolume:
    """A volume as a model takes it."""

    name: str  # for messages
    slices: np.ndarray  # (N, H, W) float32 in [-1, 1], padded to multiples of the network's stride
    foreground: np.ndarray  # (N, H, W) bool, the head
    inverse_state: Mapping[str, Any]  # what the chain's inverse needs besides slices; see `transforms.monai_transforms`
    slice_mm: float  # distance between slices
    warnings: tuple[str, ...] = ()  # the reader's, and those of `pipeline.inference.domain_shift`

    def run_network(
        self, network: nn.Module, slices: np.ndarray, model: TranslationModel, batch_size: int
    ) -> np.ndarray:
        """Return the output of one of the model's networks for slices of this volume; see `translate_slices`."""
        return translate_slices(
            slices,
            network,
            slices_with_content(self.slices, self.foreground),
            device=model.device,
            batch_size=batch_size,
            precision=model.precision,
            slice_mm=self.slice_mm,
            name=self.name,
            run=model.run,
        )


def warning_text(views: Sequence[OpenedVolume]) -> str:
    """Return the warnings of a volume opened for one view or several in one line that names it; "" without any."""
    warnings = dict.fromkeys(text for opened in views for text in opened.warnings)
    return f"{views[0].name}: {'; '.join(warnings)}" if warnings else ""


def open_volume(
    source: str | Path | SpatialImage, model: TranslationModel, to: str, *, strict: bool = False, compare: bool = True
) -> OpenedVolume:
    """Read a volume and prepare it for a model, without using the device; see `translate`.

    `compare` is whether the volume is compared with the model's training cohort.
    """
    name = name_of(source)
    try:
        array, affine, header, warnings = read_with_warnings(source)
    except ValueError as error:
        raise UserError(str(error)) from error

    # Run the preprocessing chain.
    chain = slice_chain(model.settings, stride=model.stride, load=False)
    try:
        data = chain({"image": array, "image_affine": affine})
    except (ValueError, RuntimeError) as error:
        note = f" (doubtful before: {'; '.join(warnings)})" if warnings else ""
        raise UserError(f"{name}: {first_cause(error)}{note}") from error

    # Collect the warnings.
    warnings = [*warnings, *data.get("image_warnings", []), *shape_warnings(array, data, model)]
    if compare:
        warnings += compare_with_cohort(name, data, model, to, strict=strict)
    state = {**data, "image_header": header}
    slice_mm = float(voxel_sizes(data["image_affine"])[AXES[model.settings.axis]])
    return OpenedVolume(name, data["image"], data["image_foreground"], state, slice_mm, tuple(warnings))


def use_style_of(reference: Path, model: TranslationModel, to: str) -> None:
    """Set a model's style (MUNIT) to that of a volume of `to`: the mean of its slices' styles, the same for all slices.

    The model is changed in place; the style of its other direction stays.

    Raises:
        UserError: the volume cannot be used, or the model has no styles.
    """
    network: Any = model.translators[to]
    if not hasattr(network, "encode_style"):
        raise UserError(
            f"{model.origin}: it has no styles to set; --style is for method munit, from a run's folder or a checkpoint"
        )
    opened = open_volume(reference, model, to, compare=False)
    if text := warning_text([opened]):
        logger.warning(text)
    head = opened.foreground.mean(axis=(1, 2))
    slices = np.ascontiguousarray(opened.slices[head >= MIN_HEAD_SHARE * head.max()], dtype=np.float32)
    try:
        network.set_style(network.encode_style(torch.from_numpy(slices)[:, None].to(model.device)))
    except (ValueError, RuntimeError) as error:  # what the model's weights make of it, or the device's memory
        raise UserError(f"{reference}: no style can be taken from it: {first_cause(error)}") from error


# ── slices back to a volume ─────────────────────────────────────────────────────────────────────────────────


def image_of_slices(
    translated: np.ndarray,
    inverse_state: Mapping[str, Any],
    model: TranslationModel,
    to: str,
    *,
    keep_text: bool = False,
) -> nib.Nifti1Image:
    """Return translated slices (N, H, W), still padded, on the source's grid, in the target's training intensities.

    `inverse_state` is that of the opened volume, or of `pipeline.data.pairs.PreparedScan`.
    """
    statistics = model.statistics[to]
    voxels = on_source_grid(translated, inverse_state, model, statistics.low, statistics.high)
    return image_of_voxels(voxels, inverse_state, [model], to, keep_text=keep_text)


def image_of_voxels(
    voxels: np.ndarray,
    inverse_state: Mapping[str, Any],
    models: Sequence[TranslationModel],
    to: str,
    *,
    keep_text: bool = False,
) -> nib.Nifti1Image:
    """Return (X, Y, Z) voxels that models made as an image with the source's geometry and a description of both."""
    return image_like(
        voxels,
        inverse_state["image_before_canonical"],
        inverse_state["image_header"],
        integer=all(model.statistics[to].integer for model in models),
        description=f"synthetic {to}, {' + '.join(model.origin for model in models)}",
        keep_text=keep_text,
    )


def on_source_grid(
    slices: np.ndarray, inverse_state: Mapping[str, Any], model: TranslationModel, low: float, high: float
) -> np.ndarray:
    """Invert the chain: from slices (N, H, W) in [-1, 1] to (X, Y, Z) in [low, high] on the source's grid."""
    chain = slice_chain(model.settings, stride=model.stride, load=False)
    return chain.inverse({**inverse_state, "image": slices, "image_range": (low, high)})["image"]
