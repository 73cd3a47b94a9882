"""What a run will write, and whether the disks that it goes to have room for it."""

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
from pipeline.utils.console import warn
from pipeline.utils.files import human_bytes, is_folder

BYTES_PER_PIXEL = 2  # the store holds uint16
CHECKPOINTS = 3  # latest, previous and best
COMPRESSED = 0.4  # of the 16 bits of a head's voxel, in a .nii.gz


@dataclass(frozen=True)
class DiskNeed:
    """What will lie in a folder.

    Attributes:
        name: What it is.
        folder: Where.
        size: Bytes, all in all.
        present: Bytes of it that are there already.
    """

    name: str
    folder: Path
    size: float
    present: float = 0.0


def disk_needs(
    config: Config, training: Sequence[Case], *, slices: int, checkpoint: float, voxels: int
) -> list[DiskNeed]:
    """Return what a run writes: the slice store, its checkpoints and the test subjects' translated volumes.

    Args:
        config: Of the run.
        training: The training images.
        slices: How many are stored, of all training images and, where a method learns from pairs, of both halves.
        checkpoint: Bytes of one.
        voxels: Of all translated volumes.
    """
    folder, store = RunFolder(config.folder), config.preprocess.store
    checkpoints, stored = folder.path / "checkpoints", slices * config.preprocess.size**2 * BYTES_PER_PIXEL
    has_checkpoint = (checkpoints / "latest.pt").exists()  # then the store is whole
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
    """Warn, for each file system, if what is still to be written there is more than it has room for."""
    disks: dict[int, list[DiskNeed]] = {}
    for need in needs:
        disks.setdefault(_nearest_existing(need.folder).stat().st_dev, []).append(need)
    for needs_of_disk in disks.values():
        missing_bytes = {need: max(0.0, need.size - need.present) for need in needs_of_disk}
        disk = shutil.disk_usage(_nearest_existing(needs_of_disk[0].folder))
        if disk.total and sum(missing_bytes.values()) > disk.free:  # what has no size at all, such as /proc, is no disk
            entries = [
                f"{need.name} {human_bytes(size)} in {need.folder}" for need, size in missing_bytes.items() if size
            ]
            warn(
                f"warning: the disk of {needs_of_disk[0].folder} has {human_bytes(disk.free)} free, and some "
                f"{human_bytes(sum(missing_bytes.values()))} are to be written there ({', '.join(entries)}); free "
                "some, or set preprocess.store or output to another disk"
            )


def disk_text(needs: Sequence[DiskNeed]) -> str:
    """Return, as text, what will lie where, and how much room there is."""
    lines = [f"disk       {human_bytes(sum(need.size for need in needs))} in all"]
    for need in needs:
        present = f", of which {human_bytes(need.present)} are there" if need.present else ""
        free = human_bytes(shutil.disk_usage(_nearest_existing(need.folder)).free)
        lines.append(f"           {human_bytes(need.size)} {need.name}{present}, in {need.folder} ({free} free)")
    return "\n".join(lines)


def _cache_files(cases: Iterable[Case], config: Config) -> list[Path]:
    """Return the store's files of some cases, whether or not they are there."""
    settings = {**chain_settings(config.preprocess), "min_foreground": config.preprocess.min_foreground}
    entries = []
    for case in cases:
        with suppress(OSError):  # the phantom's are not made yet
            entries.append(config.preprocess.store / f"{case_key(case.path, settings)}.npy")
    return entries


def _present_bytes(paths: Iterable[Path]) -> float:
    """Return the bytes of those files that are there, one that has several names counted once."""
    sizes = {}
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def _nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(parent for parent in (folder, *folder.absolute().parents) if is_folder(parent))
