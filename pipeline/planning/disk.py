"""Disk space that a run needs, and whether the disks have it."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.data.case import Case
from pipeline.data.slice_cache import case_key
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import chain_settings
from pipeline.utils.files import human_bytes, is_folder

logger = logging.getLogger(__name__)

BYTES_PER_PIXEL = 2  # the slice cache holds uint16
CHECKPOINTS = 3  # latest, previous and best
COMPRESSED = 0.4  # size of a head in a .nii.gz, as a share of 16 bits per voxel


@dataclass(frozen=True)
class DiskNeed:
    """Disk space that a run needs in one folder.

    Attributes:
        name: Name of the content.
        folder: The folder.
        size: Bytes in total.
        present: Bytes of these that exist already.
    """

    name: str
    folder: Path
    size: float
    present: float = 0.0


def disk_needs(
    config: Config, training: Sequence[Case], *, slices: int, checkpoint: float, voxels: int
) -> list[DiskNeed]:
    """Return the disk space for the slice cache, the checkpoints and the test subjects' translated volumes.

    Args:
        config: Configuration of the run.
        training: Training images.
        slices: Number of cached slices: of all training images, and of both scans of each registered pair.
        checkpoint: Bytes of one checkpoint.
        voxels: Number of voxels of all translated volumes.
    """
    folder, store = RunFolder(config.folder), config.preprocess.store
    checkpoints, stored = folder.path / "checkpoints", slices * config.preprocess.size**2 * BYTES_PER_PIXEL
    has_checkpoint = (checkpoints / "latest.pt").exists()  # then the slice cache is complete
    needs = [
        DiskNeed(
            "slice store", store, stored, stored if has_checkpoint else _present_bytes(_cache_files(training, config))
        ),
        DiskNeed("checkpoints", checkpoints, CHECKPOINTS * checkpoint, _present_bytes(checkpoints.glob("*.pt"))),
    ]
    if config.evaluation.translate:
        present = _present_bytes(folder.translated.rglob("*"))
        needs.append(DiskNeed("translated volumes", folder.translated, voxels * 2 * COMPRESSED, present))
    return needs


def warn_of_full_disks(needs: Sequence[DiskNeed]) -> None:
    """Warn of each file system with less free space than the run still needs there."""
    disks: dict[int, list[DiskNeed]] = {}
    for need in needs:
        disks.setdefault(_nearest_existing(need.folder).stat().st_dev, []).append(need)
    for needs_of_disk in disks.values():
        missing_bytes = {need: max(0.0, need.size - need.present) for need in needs_of_disk}
        disk = shutil.disk_usage(_nearest_existing(needs_of_disk[0].folder))
        if (
            disk.total and sum(missing_bytes.values()) > disk.free
        ):  # a file system without a size, such as /proc, is no disk
            entries = [
                f"{need.name} {human_bytes(size)} in {need.folder}" for need, size in missing_bytes.items() if size
            ]
            logger.warning(
                f"the disk of {needs_of_disk[0].folder} has {human_bytes(disk.free)} free, and some "
                f"{human_bytes(sum(missing_bytes.values()))} are to be written there ({', '.join(entries)}); free "
                "some, or set preprocess.store or output to another disk"
            )


def disk_text(needs: Sequence[DiskNeed]) -> str:
    """Return the disk needs as text, with each folder and its free space."""
    lines = [f"disk       {human_bytes(sum(need.size for need in needs))} in all"]
    for need in needs:
        present = f", of which {human_bytes(need.present)} are there" if need.present else ""
        free = human_bytes(shutil.disk_usage(_nearest_existing(need.folder)).free)
        lines.append(f"           {human_bytes(need.size)} {need.name}{present}, in {need.folder} ({free} free)")
    return "\n".join(lines)


def _cache_files(cases: Iterable[Case], config: Config) -> list[Path]:
    """Return the paths of cases in the slice cache, whether or not the files exist."""
    settings, min_foreground = chain_settings(config.preprocess), config.preprocess.min_foreground
    entries = []
    for case in cases:
        with suppress(OSError):  # phantom images may not be made yet
            entries.append(config.preprocess.store / f"{case_key(case.path, settings, min_foreground)}.npy")
    return entries


def _present_bytes(paths: Iterable[Path]) -> float:
    """Return the bytes of the existing files; a file with several hard links counts once."""
    sizes = {}
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def _nearest_existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    return next(parent for parent in (folder, *folder.absolute().parents) if is_folder(parent))
