"""Disk space and memory that a run needs, and whether the disks have it."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.case import Case
from pipeline.data.slice_cache import case_key
from pipeline.runs.folder import RunFolder
from pipeline.utils.files import human_bytes, nearest_folder
from transforms.slice_chain import PreprocessSettings

if TYPE_CHECKING:
    from torch import nn

    from pipeline.engines.base import Engine

logger = logging.getLogger(__name__)

BYTES_PER_PIXEL = 2  # the slice cache holds uint16
CHECKPOINTS = 3  # latest, previous and best
COMPRESSED = 0.4  # size of a head in a .nii.gz, as a share of 16 bits per voxel


@dataclass(frozen=True)
class DiskNeed:
    """Disk space that a run needs in one folder."""

    name: str  # of the content
    folder: Path
    size: float  # bytes in total
    present: float = 0.0  # bytes of these that exist already


def disk_needs(
    folder: RunFolder, store: Path, cached: Iterable[Path], *, slice_bytes: float, checkpoint: float, voxels: int | None
) -> list[DiskNeed]:
    """Return the disk space for the slice cache, the checkpoints and the test subjects' translated volumes.

    Args:
        store: Folder of the slice cache.
        cached: The run's files in the slice cache, whether or not they exist.
        slice_bytes: Bytes of all cached slices: of the training images, and of both scans of each registered pair.
        checkpoint: Bytes of one checkpoint.
        voxels: Number of voxels of all translated volumes; None if they are not written.
    """
    checkpoints = folder.path / "checkpoints"
    has_checkpoint = (checkpoints / "latest.pt").exists()  # then the slice cache is complete
    needs = [
        DiskNeed("slice store", store, slice_bytes, slice_bytes if has_checkpoint else _present_bytes(cached)),
        DiskNeed("checkpoints", checkpoints, CHECKPOINTS * checkpoint, _present_bytes(checkpoints.glob("*.pt"))),
    ]
    if voxels is not None:
        present = _present_bytes(folder.translated.rglob("*"))
        needs.append(DiskNeed("translated volumes", folder.translated, voxels * 2 * COMPRESSED, present))
    return needs


def cache_files(
    cases: Iterable[Case], store: Path, settings: PreprocessSettings, min_foreground: float
) -> Iterator[Path]:
    """Yield the paths of cases in the slice cache, whether or not the files exist."""
    for case in cases:
        with suppress(OSError):  # phantom images may not be made yet
            yield store / f"{case_key(case.path, settings, min_foreground)}.npy"


def warn_of_full_disks(needs: Sequence[DiskNeed]) -> None:
    """Warn of each file system with less free space than the run still needs there."""
    disks: dict[int, list[DiskNeed]] = {}
    for need in needs:
        disks.setdefault(nearest_folder(need.folder).stat().st_dev, []).append(need)
    for needs_of_disk in disks.values():
        missing_bytes = {need: max(0.0, need.size - need.present) for need in needs_of_disk}
        disk = shutil.disk_usage(nearest_folder(needs_of_disk[0].folder))
        missing = sum(missing_bytes.values())
        if disk.total and missing > disk.free:  # a file system without a size, such as /proc, is no disk
            entries = [
                f"{need.name} {human_bytes(size)} in {need.folder}" for need, size in missing_bytes.items() if size
            ]
            logger.warning(
                f"the disk of {needs_of_disk[0].folder} has {human_bytes(disk.free)} free, and some "
                f"{human_bytes(missing)} are to be written there ({', '.join(entries)}); free "
                "some, or set preprocess.store or output to another disk"
            )


def disk_text(needs: Sequence[DiskNeed]) -> str:
    """Return the disk needs as text, with each folder and its free space."""
    lines = [f"disk       {human_bytes(sum(need.size for need in needs))} in all"]
    for need in needs:
        present = f", of which {human_bytes(min(need.present, need.size))} are there" if need.present else ""
        free = human_bytes(shutil.disk_usage(nearest_folder(need.folder)).free)
        lines.append(f"           {human_bytes(need.size)} {need.name}{present}, in {need.folder} ({free} free)")
    return "\n".join(lines)


def _present_bytes(paths: Iterable[Path]) -> float:
    """Return the bytes of the existing files; a file with several hard links counts once."""
    sizes = {}
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def parameter_count(*networks: "nn.Module") -> int:
    """Return the number of weights of networks; shared weights count once."""
    return sum(weight.numel() for weight in _weights(networks))


def training_bytes(engine: "Engine", batch: Sequence[int], *, pairs: bool = False) -> float:
    """Return the bytes of weights, gradients, Adam's moments and the largest activations saved for the gradients.

    Args:
        engine: The engine, on the meta device.
        batch: Shape of a batch of one contrast.
        pairs: Whether a batch of registered pairs of that shape comes beside unpaired slices in every step.
    """
    import torch

    weights = _weights(engine.networks().values())
    storages = {weight.untyped_storage()._cdata for weight in weights}
    activations = 0
    for step in range(engine.critic_steps):  # the generators are updated in one of these steps
        if step:
            engine.on_step_end(torch.tensor(True))
        activations = max(activations, _activation_bytes(engine, batch, storages, pairs=pairs))
    return 4 * 4 * sum(weight.numel() for weight in weights) + activations


def _activation_bytes(engine: "Engine", batch: Sequence[int], weight_storages: set[int], *, pairs: bool) -> int:
    """Return the bytes that the engine's next step saves for the gradients, without the storages of the weights."""
    import torch

    saved_storages: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved_storages[storage._cdata] = storage.nbytes()
        return tensor

    images = torch.zeros(*batch, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        # Both are kept alive, so that no storage address is reused.
        losses = engine.losses(images, images)
        paired_losses = engine.paired_losses(images, images) if pairs else {}
    del losses, paired_losses
    return sum(size for storage, size in saved_storages.items() if storage not in weight_storages)


def _weights(networks: "Iterable[nn.Module]") -> "set[nn.Parameter]":
    """Return the distinct weights of networks."""
    return {weight for network in networks for weight in network.parameters()}
