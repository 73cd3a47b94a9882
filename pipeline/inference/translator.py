"""One volume through a translation model: the preprocessing chain, the network, and the chain's inverse."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage
from torch import Tensor, nn

from pipeline.data.pairs import PreparedScan
from pipeline.inference.domain_shift import compare_with_cohort
from pipeline.inference.model import Run, TranslationModel, run_eagerly
from pipeline.inference.output_volume import image_like
from pipeline.inference.volume_cautions import margin_cautions, scanned_shape, size_cautions
from pipeline.utils.errors import OutputNotFinite, UserError, first_cause
from transforms.io.nifti import name_of, read_with_cautions
from transforms.slice_chain import slice_chain
from transforms.slices import slices_with_content

_HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class OpenedVolume:
    """A volume as a model takes it.

    Attributes:
        name: The volume's name, for messages.
        slices: (N, H, W) float32 in [-1, 1], padded to multiples of the network's stride.
        foreground: (N, H, W) bool, the head.
        inverse_state: What the chain's inverse needs besides slices; see `transforms.monai_transforms`.
    """

    name: str
    slices: np.ndarray
    foreground: np.ndarray
    inverse_state: Mapping[str, object]

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
            name=self.name,
            run=model.run,
        )


def translate_volume(
    source: str | Path | SpatialImage,
    model: TranslationModel,
    to: str,
    *,
    batch_size: int = 8,
    keep_header_text: bool = False,
    strict: bool = False,
) -> nib.Nifti1Image:
    """Translate a volume and return it on the source's grid, in the target contrast's training intensities.

    Args:
        source: A NIfTI file, or a nibabel image, of the contrast that `model` translates to `to`.
        model: The model, from `pipeline.inference.model.load_model`.
        to: The contrast to make, one of `model.translators`.
        batch_size: Slices in a batch; fewer where the memory is too small for them.
        keep_header_text: Whether the source's `descrip`, other free text and header extensions stay. They may hold a
            person's name.
        strict: Whether a volume that is unlike the model's training cohort is refused; otherwise a warning names it.

    Returns:
        A NIfTI image with the source's shape, affine, units and forms.

    Warns:
        UserWarning: one for all cautions: those of `read_nifti`; a volume one voxel thick or with slices smaller than
            the stride; a volume unlike the model's training cohort (`pipeline.inference.domain_shift`).

    Raises:
        UserError: the volume cannot be used, or the network fails on it; one line that names it.
    """
    with collected_warnings(name_of(source)) as cautions:
        opened = open_volume(source, model, to, cautions, strict=strict)
    translated = opened.run_network(model.translators[to], opened.slices, model, batch_size)
    return _as_image(translated, opened.inverse_state, model, to, keep_text=keep_header_text)


@contextmanager
def collected_warnings(name: str) -> Iterator[list[str]]:
    """Yield a list for the cautions about a volume, and warn of all in one line when the block is done.

    Where the block raises, there is no warning beside the error.
    """
    cautions: list[str] = []
    yield cautions
    if cautions:
        warnings.warn(f"{name}: {'; '.join(dict.fromkeys(cautions))}", stacklevel=4)


def open_volume(
    source: str | Path | SpatialImage,
    model: TranslationModel,
    to: str,
    cautions: list[str],
    *,
    strict: bool = False,
    compare: bool = True,
) -> OpenedVolume:
    """Read a volume and prepare it for a model; other arguments and errors as in `translate_volume`.

    Args:
        cautions: The list to which cautions about the volume are added.
        compare: Whether the volume is compared with the model's training cohort.
    """
    name = name_of(source)
    try:
        array, affine, header, reader_cautions = read_with_cautions(source)
    except ValueError as error:
        raise UserError(str(error)) from error
    cautions += reader_cautions

    # Run the preprocessing chain.
    chain = slice_chain(model.settings, stride=model.stride, load=False)
    try:
        data = chain({"image": array, "image_affine": affine})
    except (ValueError, RuntimeError) as error:
        note = f" (doubtful before: {'; '.join(reader_cautions)})" if reader_cautions else ""
        raise UserError(f"{name}: {first_cause(error)}{note}") from error

    # Collect what calls for caution.
    cautions += data.get("image_cautions", [])
    if model.settings.version == 1:
        cautions += margin_cautions(array)
    cautions += size_cautions(array.shape, scanned_shape(data, model.settings.axis), model.stride)
    if compare:
        cautions += compare_with_cohort(name, data, model, to, strict=strict)
    return OpenedVolume(name, data["image"], data["image_foreground"], {**data, "image_header": header})


def volume_of_slices(scan: PreparedScan, translated: np.ndarray, model: TranslationModel, to: str) -> nib.Nifti1Image:
    """Return the volume that `translate_volume` would, from slices that are translated already.

    Args:
        scan: The source, from `pipeline.data.pairs.prepare_scan` with the model's settings and stride.
        translated: (N, H, W) in [-1, 1], the slices from `translate_slices`, still padded.
        model: The model that translated them.
        to: The contrast of the translation.
    """
    return _as_image(translated, scan.inverse_state, model, to)


def on_source_grid(
    slices: np.ndarray, inverse_state: Mapping[str, object], model: TranslationModel, low: float, high: float
) -> np.ndarray:
    """Invert the chain: from slices (N, H, W) in [-1, 1] to (X, Y, Z) in [low, high] on the source's grid."""
    chain = slice_chain(model.settings, stride=model.stride, load=False)
    return chain.inverse({**inverse_state, "image": slices, "image_range": (low, high)})["image"]


def _as_image(
    translated: np.ndarray,
    inverse_state: Mapping[str, object],
    model: TranslationModel,
    to: str,
    *,
    keep_text: bool = False,
) -> nib.Nifti1Image:
    """Return translated slices (N, H, W) as an image on the source's grid, in the target's training intensities."""
    statistics = model.statistics[to]
    voxels = on_source_grid(translated, inverse_state, model, statistics.low, statistics.high)
    affine, header = inverse_state["image_before_canonical"], inverse_state["image_header"]
    description = f"synthetic {to}, {model.origin}"
    return image_like(voxels, affine, header, integer=statistics.integer, description=description, keep_text=keep_text)


def translate_slices(
    slices: np.ndarray,
    network: nn.Module,
    occupied: np.ndarray,
    *,
    device: torch.device,
    batch_size: int,
    precision: str,
    name: str,
    run: Run = run_eagerly,
) -> np.ndarray:
    """Return a network's output for a stack of slices, computed in batches.

    Args:
        slices: (N, H, W) float32 in [-1, 1].
        network: (B, 1, H, W) -> (B, 1, H, W), on `device` and in evaluation mode.
        occupied: (N,) bool, the slices that are not empty (`slices_with_content`). Empty ones become -1: networks were
            not trained on them and would make texture in the air.
        device: The device of the network.
        batch_size: B, halved when the memory runs out; the last batch may be smaller.
        precision: "float32", or "bf16" or "fp16" for autocast.
        name: The volume's name, for messages.
        run: Function that runs the network; see `TranslationModel`.

    Returns:
        (N, H, W) float32.

    Raises:
        UserError: the device's memory is too small for one slice; `OutputNotFinite`: the network made no numbers.

    Warns:
        UserWarning: the batch was halved for want of memory.
    """
    # Allocate the output; empty slices stay -1.
    translated = np.full(slices.shape, -1, dtype=np.float32)
    positions = np.flatnonzero(occupied)
    pinned = device.type == "cuda"  # memory that the device reads and writes by itself, while both work on
    output = torch.empty((len(positions), 1, *slices.shape[1:]), pin_memory=pinned)

    # Run batch after batch, and halve the batch size where the memory runs out.
    requested_batch_size, start = batch_size, 0
    with torch.inference_mode(), _autocast(device, precision):
        while start < len(positions):
            indices = positions[start : start + batch_size]
            batch = torch.from_numpy(np.ascontiguousarray(slices[indices], dtype=np.float32))[:, None]  # (B, 1, H, W)
            if _fits_memory(network, batch, output[start : start + len(indices)], device, run):
                start += len(indices)
            elif batch_size == 1:
                raise UserError(
                    f"{name}: {device} has too little memory for a single slice at a time; "
                    "end what else is using it, or use another --device"
                )
            else:
                batch_size = min(batch_size, len(indices)) // 2 or 1

    # Wait for the device, then check the output.
    if pinned:
        torch.cuda.synchronize(device)  # once a volume: batches and copies queue up until here
    translated[positions] = output[:, 0].numpy()
    if batch_size < requested_batch_size:
        warnings.warn(
            f"{name}: {device} had too little memory for {requested_batch_size} slices at once, went on with "
            f"{batch_size}",
            stacklevel=2,
        )
    if not np.isfinite(translated).all():
        raise OutputNotFinite(name)
    return translated


def _fits_memory(network: nn.Module, batch: Tensor, output: Tensor, device: torch.device, run: Run) -> bool:
    """Write a network's output for (B, 1, H, W) into a tensor; return whether the memory was enough.

    Copies from and to pinned memory are asynchronous: the output is complete after the device is synchronised.
    """
    try:
        source = batch.pin_memory() if output.is_pinned() else batch
        output.copy_(run(network, source.to(device, non_blocking=True)).float(), non_blocking=output.is_pinned())
        return True
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is the former
        if not out_of_memory(error):
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()  # here, for the error held on to the tensors
    return False


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; the CPU's and MPS's allocators raise a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _autocast(device: torch.device, precision: str) -> AbstractContextManager:
    half = _HALF_PRECISION.get(precision)
    return nullcontext() if half is None else torch.autocast(device.type, half)
