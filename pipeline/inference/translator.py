"""One volume through a translation model: the preprocessing chain, the network, and the chain's way back."""

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
from pipeline.inference.model import Run, TranslationModel, eagerly
from pipeline.inference.output_volume import image_like
from pipeline.utils.errors import OutputNotFinite, UserError, first_cause
from transforms.head_mask import find_head, without_empty_planes
from transforms.io.nifti import name_of, read_with_doubts
from transforms.slice_chain import slice_chain
from transforms.slices import AXES, slices_with_content

_HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class OpenedVolume:
    """A volume as a model takes it.

    Attributes:
        name: For messages.
        slices: (N, H, W) float32 in [-1, 1], padded to what the network takes.
        foreground: (N, H, W) bool, the head.
        way_back: What the chain's inverse needs besides slices; see `transforms.monai_transforms`.
    """

    name: str
    slices: np.ndarray
    foreground: np.ndarray
    inverse_state: Mapping[str, object]

    def through(self, network: nn.Module, slices: np.ndarray, model: TranslationModel, batch_size: int) -> np.ndarray:
        """Send slices like this volume's through one of the model's networks; see `translate_slices`."""
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
        model: From `pipeline.inference.model.load_model`.
        to: The contrast to make, one of `model.translators`.
        batch_size: Slices that go through the network at once; fewer where memory is too small for them.
        keep_header_text: Whether the source's `descrip`, other free text and header extensions, which may hold a
            person's name, stay.
        strict: Whether a volume that is unlike the model's training cohort is refused, not warned of.

    Returns:
        A NIfTI image with the source's shape, affine, units and forms.

    Warns:
        UserWarning: once, with all that is doubtful: what `read_nifti` names; a volume one voxel thick or with slices
            smaller than the stride; what is unlike the model's training cohort (`pipeline.inference.domain_shift`).

    Raises:
        UserError: the volume cannot be used, or the network fails on it; one line that names it.
    """
    with collected_warnings(name_of(source)) as doubts:
        opened = open_volume(source, model, to, doubts, strict=strict)
    translated = opened.through(model.translators[to], opened.slices, model, batch_size)
    return _as_image(translated, opened.inverse_state, model, to, keep_text=keep_header_text)


@contextmanager
def collected_warnings(name: str) -> Iterator[list[str]]:
    """Yield a list for all that is doubtful about a volume, and warn of it once, by name, when the block is done.

    Where the block raises, that one line is what is said of the volume.
    """
    doubts: list[str] = []
    yield doubts
    if doubts:
        warnings.warn(f"{name}: {'; '.join(dict.fromkeys(doubts))}", stacklevel=4)


def open_volume(
    source: str | Path | SpatialImage,
    model: TranslationModel,
    to: str,
    doubts: list[str],
    *,
    strict: bool = False,
    likeness: bool = True,
) -> OpenedVolume:
    """Read a volume and prepare it for a model; arguments and errors as in `translate_volume`.

    What is doubtful is added to `doubts`. Without `likeness` it is not compared with the model's training cohort.
    """
    name = name_of(source)
    try:
        array, affine, header, found = read_with_doubts(source)
    except ValueError as error:
        raise UserError(str(error)) from error
    doubts += found
    chain = slice_chain(**model.settings, stride=model.stride, load=False)
    try:
        data = chain({"image": array, "image_affine": affine})
    except (ValueError, RuntimeError) as error:
        also = f" (doubtful before: {'; '.join(found)})" if found else ""
        raise UserError(f"{name}: {first_cause(error)}{also}") from error
    doubts += data.get("image_doubts", [])
    if model.settings.get("version", 1) == 1:
        doubts += _doubts_of_margins(array)
    doubts += _doubts_of_size(array.shape, _scanned(data, str(model.settings["axis"])), model.stride)
    if likeness:
        doubts += compare_with_cohort(name, data, model, to, strict=strict)
    return OpenedVolume(name, data["image"], data["image_foreground"], {**data, "image_header": header})


def volume_of_slices(scan: PreparedScan, translated: np.ndarray, model: TranslationModel, to: str) -> nib.Nifti1Image:
    """Return what `translate_volume` makes of a scan's file, from slices that are translated already.

    Args:
        scan: The source, from `pipeline.data.pairs.prepare_scan` with the model's settings and stride.
        translated: (N, H, W) in [-1, 1], its translated slices, still padded: `translate_slices`.
        model: What translated them.
        to: The contrast they were translated to.
    """
    return _as_image(translated, scan.inverse_state, model, to)


def on_source_grid(
    slices: np.ndarray, inverse_state: Mapping[str, object], model: TranslationModel, low: float, high: float
) -> np.ndarray:
    """Lead slices (N, H, W) in [-1, 1] back through the chain: (X, Y, Z) in [low, high] on the source's grid."""
    chain = slice_chain(**model.settings, stride=model.stride, load=False)
    return chain.inverse({**inverse_state, "image": slices, "image_range": (low, high)})["image"]


def _as_image(
    translated: np.ndarray,
    inverse_state: Mapping[str, object],
    model: TranslationModel,
    to: str,
    *,
    keep_text: bool = False,
) -> nib.Nifti1Image:
    """Lead translated slices (N, H, W) back through the chain, to the target contrast's training intensities."""
    facts = model.facts[to]
    voxels = on_source_grid(translated, inverse_state, model, facts["low"], facts["high"])
    affine, header = inverse_state["image_before_canonical"], inverse_state["image_header"]
    description = f"synthetic {to}, {model.origin}"
    return image_like(voxels, affine, header, integer=facts["integer"], description=description, keep_text=keep_text)


def _doubts_of_margins(volume: np.ndarray) -> list[str]:
    """Say what changes a translation by a model whose chain does not cut volumes to the head."""
    field = without_empty_planes(volume)
    empty = sum(length - (own.stop - own.start) for own, length in zip(field, volume.shape, strict=True))
    if empty == 0 or min(volume.shape) == 1 or not _is_noisy(volume, field):
        return []
    return [f"has {empty} empty planes around what was scanned, and this model's result depends on how many"]


def _is_noisy(volume: np.ndarray, field: tuple[slice, ...]) -> bool:
    """Return whether air was measured around the head, so that empty planes beside it are no part of a background."""
    return not find_head(volume[field]).masked


def _scanned(data: Mapping[str, object], axis: str) -> tuple[int, int]:
    """Return height and width of slices, without what lies beyond the field of view."""
    height, width = data["image_before_fit"]
    if "image_inside" not in data:
        return height, width
    rows, columns = (own for number, own in enumerate(data["image_inside"]) if number != AXES[axis])
    return rows.stop - rows.start, columns.stop - columns.start


def _doubts_of_size(shape: tuple[int, ...], slice_shape: tuple[int, int], stride: int) -> list[str]:
    """Say where a network sees little of a head."""
    if min(shape) == 1:
        said = f"is one voxel thick ({'×'.join(str(length) for length in shape)})"
    elif min(slice_shape) < stride:
        height, width = slice_shape
        said = f"has slices of {height}×{width} pixels, smaller than the network's stride of {stride}"
    else:
        return []
    return [f"{said}, so look at the result with care"]


def translate_slices(
    slices: np.ndarray,
    network: nn.Module,
    occupied: np.ndarray,
    *,
    device: torch.device,
    batch_size: int,
    precision: str,
    name: str,
    run: Run = eagerly,
) -> np.ndarray:
    """Send a stack of slices through a network in batches.

    Args:
        slices: (N, H, W) float32 in [-1, 1].
        network: (B, 1, H, W) -> (B, 1, H, W), on `device` and in evaluation mode.
        occupied: (N,) bool, the slices that show anything (`slices_with_content`). The others become -1: no network was
            trained on empty slices, and what one makes of them is texture in the air.
        device: Where to compute.
        batch_size: B; the last batch may be smaller, and all are halved when the memory runs out.
        precision: "float32", or "bf16" or "fp16" for autocast.
        name: Of the volume, for messages.
        run: How the network is run; see `TranslationModel`.

    Returns:
        (N, H, W) float32.

    Raises:
        UserError: the device's memory is too small for one slice; `OutputNotFinite`: the network made no numbers.

    Warns:
        UserWarning: the batch was halved for want of memory.
    """
    translated = np.full(slices.shape, -1, dtype=np.float32)
    positions = np.flatnonzero(occupied)
    pinned = device.type == "cuda"  # memory that the device reads and writes by itself, while both work on
    made = torch.empty((len(positions), 1, *slices.shape[1:]), pin_memory=pinned)
    asked, start = batch_size, 0
    with torch.inference_mode(), _autocast(device, precision):
        while start < len(positions):
            chosen = positions[start : start + batch_size]
            batch = torch.from_numpy(np.ascontiguousarray(slices[chosen], dtype=np.float32))[:, None]  # (B, 1, H, W)
            if _within_memory(network, batch, made[start : start + len(chosen)], device, run):
                start += len(chosen)
            elif batch_size == 1:
                raise UserError(
                    f"{name}: {device} has too little memory for a single slice at a time; "
                    "end what else is using it, or use another --device"
                )
            else:
                batch_size = min(batch_size, len(chosen)) // 2 or 1
    if pinned:
        torch.cuda.synchronize(device)  # once a volume: batches and copies queue up until here
    translated[positions] = made[:, 0].numpy()
    if batch_size < asked:
        warnings.warn(
            f"{name}: {device} had too little memory for {asked} slices at once, went on with {batch_size}",
            stacklevel=2,
        )
    if not np.isfinite(translated).all():
        raise OutputNotFinite(name)
    return translated


def _within_memory(network: nn.Module, batch: Tensor, into: Tensor, device: torch.device, run: Run) -> bool:
    """Write a network's output for (B, 1, H, W) into a tensor; return whether memory was enough for that.

    From pinned memory, nothing waits: the output is there once the device is through.
    """
    try:
        given = batch.pin_memory() if into.is_pinned() else batch
        into.copy_(run(network, given.to(device, non_blocking=True)).float(), non_blocking=into.is_pinned())
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
