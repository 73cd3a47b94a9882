"""The slice cache: every volume is read once, and its normalised slices are read from disk from then on.

A case is two files: `<key>.npy`, the occupied slices as uint16 (N, S, S), and `<key>.json`, their statistics. The key
covers the image's path, size and modification time and the preprocessing, so that a changed file or setting makes a new
entry and no stale entry is used.

Each entry is read back once after it was written, and compared with its checksum; `verified` in its JSON is the time of
the last change of the slices then. While that is so, a start checks presence, size and header alone: milliseconds per
entry, where reading a large cache takes a quarter of an hour. A copy, a repair or another program changes the time, and
the entry is read again, once.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from isal import isal_zlib
from nibabel.affines import voxel_sizes

from pipeline.data.case import Case
from pipeline.data.coverage import head_slices
from pipeline.data.fingerprint import volume_fingerprint
from pipeline.data.statistics import CaseStatistics
from pipeline.data.stored_slices import StoredCase, encode, pack_histograms, slice_histograms
from pipeline.utils.console import bar, progress, warnings_as_lines
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, atomic_write, file_identity, make_folder
from pipeline.utils.workers import run_jobs
from transforms.io.fetched import not_fetched
from transforms.slice_chain import PreprocessSettings, slice_chain
from transforms.slices import AXES, occupied_slices

logger = logging.getLogger(__name__)

VERSION = 4  # version of the entries; raise it when the chain's results change
PROGRESS_BAR_DELAY_S = 2.0  # a check of the cache that is shorter than this shows no progress bar

Item = TypeVar("Item", Case, tuple[Case, Case])  # the source of an entry
Entry = TypeVar("Entry")  # the cached slices of an item


def case_key(path: Path, settings: PreprocessSettings, min_foreground: float) -> str:
    """Return an image's cache key; `min_foreground` is the smallest share of foreground in a used slice."""
    identity = [VERSION, *file_identity(path), {**settings.to_json(), "min_foreground": min_foreground}]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def write_slices(path: Path, slices: np.ndarray) -> dict[str, int]:
    """Write slices (N, S, S) in [-1, 1] as uint16, and return `bytes` and `crc32` of the file for `is_intact`."""
    buffer = io.BytesIO()  # not straight to the file: `np.save`'s error does not name a full disk
    np.save(buffer, encode(slices))
    content = buffer.getbuffer()
    atomic_write(path, lambda stream: stream.write(content))
    return {"bytes": len(content), "crc32": isal_zlib.crc32(content)}


def is_intact(record_path: Path, record: object, files: Mapping[Path, dict[str, int]], size: int) -> bool:
    """Return whether an entry's files of slices are as `write_slices` left them, reading those not yet verified.

    Args:
        record_path: The entry's .json file, into which the time of intact slices is written.
        record: Its content.
        files: Path of each file of slices -> the part of the content that describes it.
        size: Side of the slices.

    Raises:
        OSError, ValueError, KeyError, TypeError, EOFError: a file is absent, or no file of slices.
    """
    is_new = False
    for path, checks in files.items():
        slices, stat = np.lib.format.open_memmap(path, mode="r"), path.stat()
        if slices.shape[1:] != (size, size) or slices.dtype != np.uint16 or stat.st_size != checks["bytes"]:
            return False
        if checks.get("verified") == stat.st_mtime_ns:
            continue
        if isal_zlib.crc32(path.read_bytes()) != checks["crc32"]:
            return False
        checks["verified"], is_new = stat.st_mtime_ns, True
    if is_new:
        with suppress(UserError):  # another user's folder, whose entries are read at each start
            atomic_text(record_path, json.dumps(record))
    return True


def look_up(case: Case, folder: Path, settings: PreprocessSettings, min_foreground: float) -> StoredCase | None:
    """Return the cached case; None where it is absent, or damaged (with a warning)."""
    try:
        key = case_key(case.path, settings, min_foreground)
        slices_path, record_path = folder / f"{key}.npy", folder / f"{key}.json"
        record = json.loads(record_path.read_text())
        if "likeness" not in record:  # an earlier release's entry, to be made again
            return None
        entry = StoredCase(case, slices_path, record["positions"], statistics=CaseStatistics.from_json(record))
        if is_intact(record_path, record, {slices_path: record}, settings.size):
            return entry
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        pass
    reason = "not what was written there (a failing disk, another program?)"
    logger.warning(f"{slices_path}: {reason}; it is made again")
    return None


def extract(path: Path, folder: Path, settings: PreprocessSettings, min_foreground: float) -> None:
    """Read one image, run the chain, and store its occupied slices and statistics; print the reader's warnings.

    Raises:
        ValueError: the image cannot be used; the message gives the reason.
    """
    if problem := not_fetched(path):
        raise ValueError(problem)
    key = case_key(path, settings, min_foreground)  # before reading: a file replaced meanwhile counts as not stored

    # Prepare the slices, and choose the occupied ones.
    with warnings_as_lines():
        data = slice_chain(settings)({"image": path})
    slices, foreground = data["image"], data["image_foreground"]
    positions = occupied_slices(foreground, min_foreground)
    if len(positions) == 0:
        raise ValueError(f"no slice has {min_foreground:.0%} of foreground; lower preprocess.min_foreground")

    # Write the slices, then the record that makes them an entry.
    checksums = write_slices(folder / f"{key}.npy", slices[positions])
    histograms = slice_histograms(slices, foreground)
    file_affine = data["image_before_spacing"][1] if "image_before_spacing" in data else data["image_affine"]
    low, high = data["image_range"]
    statistics = CaseStatistics(
        low=low,
        high=high,
        integer=bool(data["image_integer"]),
        spacing_mm=voxel_sizes(file_affine).tolist(),
        histogram=histograms.sum(axis=0).tolist(),
        slice_histograms=pack_histograms(histograms),
        head_slices=head_slices(data["image_whole_foreground"]),
        slice_mm=float(voxel_sizes(data["image_affine"])[AXES[settings.axis]]),
        fingerprint=volume_fingerprint(data, settings.axis, settings.size),
    )
    record = {"count": len(positions), **checksums, "positions": positions.tolist(), **statistics.to_json()}
    atomic_text(folder / f"{key}.json", json.dumps(record))


def build_slice_cache(
    cases: Sequence[Case],
    folder: Path,
    settings: PreprocessSettings,
    min_foreground: float,
    *,
    processes: int | None,
    on_bad_volume: str,
    quiet: bool = False,
) -> tuple[list[StoredCase], dict[Case, str]]:
    """Cache every case and return the entries in order, and the reason for each case that cannot be used.

    Args:
        cases: Images to cache.
        folder: Folder of the slice cache.
        settings: How volumes become slices.
        min_foreground: Smallest share of a used slice that is foreground.
        processes: Number of worker processes; None for one per core.
        on_bad_volume: "skip" warns of unusable images and leaves them out, "stop" raises.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: no image could be used, or one could not and `on_bad_volume` is "stop".
    """
    make_folder(folder)
    entries, failures = fill_cache(
        extract,
        {case: (case.path, folder, settings, min_foreground) for case in cases},
        look_up=lambda case: look_up(case, folder, settings, min_foreground),
        title="slices",
        unit="vol",
        processes=processes,
        on_bad_volume=on_bad_volume,
        quiet=quiet,
    )
    if len(failures) == len(set(cases)):
        raise UserError(f"none of {len(cases)} images could be read; the reasons are above")
    return [entries[case] for case in cases if case not in failures], failures


def fill_cache(
    extract: Callable[..., None],
    jobs: Mapping[Item, tuple[Any, ...]],
    *,
    look_up: Callable[[Item], Entry | None],
    title: str,
    unit: str,
    processes: int | None,
    on_bad_volume: str,
    quiet: bool,
) -> tuple[dict[Item, Entry], dict[Item, str]]:
    """Look every item up in the cache, and call `extract(*arguments)` for those that are missing.

    Args:
        extract: Function that makes one entry; raises ValueError, OSError, RuntimeError or MemoryError for bad input.
        jobs: Item -> arguments of `extract`.
        look_up: Function that returns an item's entry, or None where it is absent or damaged.
        title, unit: Texts of the progress bar.
        processes, on_bad_volume, quiet: As in `build_slice_cache`.

    Returns:
        The entries, and for each item without one the reason.

    Raises:
        UserError: an item could not be used and `on_bad_volume` is "stop"; the disk is full; a worker died.
    """
    # Look up what the cache holds already.
    items = bar(jobs, desc="checking the store", unit=unit, delay=PROGRESS_BAR_DELAY_S, disable=quiet)
    entries = {item: entry for item in items if (entry := look_up(item)) is not None}
    missing = {item: arguments for item, arguments in jobs.items() if item not in entries}

    # Extract the rest, and report each item that fails.
    failures: dict[Item, str] = {}
    results = run_jobs(extract, missing, processes, preload=["transforms.monai_transforms"])
    for item, _, reason in progress(results, total=len(missing), title=title, unit=unit, quiet=quiet or not missing):
        if reason is None and (entry := look_up(item)) is not None:
            entries[item] = entry
            continue
        failures[item] = reason = reason or "changed while it was being read; run again"
        names = [str(case.path) for case in (item if isinstance(item, tuple) else (item,))]
        message = reason if reason.startswith(tuple(names)) else f"{' and '.join(names)}: {reason}"
        if on_bad_volume == "stop":
            raise UserError(f"{message} (preprocess.on_bad_volume: skip would go on without it)")
        logger.warning(f"{message}; left out")
    return entries, failures
