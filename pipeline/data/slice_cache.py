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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from isal import isal_zlib
from nibabel.affines import voxel_sizes

from pipeline.data.case import Case
from pipeline.data.coverage import head_slices
from pipeline.data.fingerprint import volume_fingerprint
from pipeline.data.statistics import CaseStatistics
from pipeline.data.stored_slices import StoredCase, air_beyond, encode, pack_histograms, slice_histograms
from pipeline.utils.console import bar, progress, warnings_as_lines
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, atomic_write, file_identity, make_folder
from pipeline.utils.workers import run_jobs
from transforms.io.fetched import not_fetched
from transforms.slice_chain import PreprocessSettings, slice_chain
from transforms.slices import AXES, occupied_slices

logger = logging.getLogger(__name__)

VERSION = 5  # version of the entries; raise it when the chain's results change
PROGRESS_BAR_DELAY_S = 2.0  # a check of the cache that is shorter than this shows no progress bar

Item = TypeVar("Item", Case, tuple[Case, Case])  # the source of an entry
Entry = TypeVar("Entry")  # the cached slices of an item


@dataclass(frozen=True)
class CacheOptions:
    """The slice cache, and how it is filled."""

    store: Path  # its folder
    processes: int | None = None  # worker processes; None for one per core
    on_bad_volume: str = "skip"  # "skip" warns of images that cannot be used and leaves them out, "stop" refuses them
    quiet: bool = False  # without progress bars


def cache_key(identity: Sequence[object]) -> str:
    """Return the key of an entry that is made from `identity`, values of JSON's types."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def case_key(path: Path, settings: PreprocessSettings, min_foreground: float) -> str:
    """Return an image's cache key; `min_foreground` is the smallest share of foreground in a used slice."""
    return cache_key([VERSION, *file_identity(path), {**settings.to_json(), "min_foreground": min_foreground}])


def write_slices(path: Path, slices: np.ndarray) -> dict[str, int]:
    """Write slices (N, S, S) in [-1, 1] as uint16, and return `bytes` and `crc32` of the file for `is_intact`."""
    buffer = io.BytesIO()  # not straight to the file: `np.save`'s error does not name a full disk
    np.save(buffer, encode(slices))
    content = buffer.getbuffer()
    atomic_write(path, lambda stream: stream.write(content))
    return {"bytes": len(content), "crc32": isal_zlib.crc32(content)}


def look_up_entry(
    record_path: Path, files: Sequence[Path], size: int, entry: Callable[[dict[str, Any]], Entry]
) -> Entry | None:
    """Return an entry of a cache; None where it is absent or of an earlier release, or damaged (with a warning).

    The record describes the files of slices under "files", or a single one itself; `entry` makes the entry of it.
    """
    try:
        record = json.loads(record_path.read_text())
        checks = record["files"] if len(files) > 1 else [record]
        if _are_intact(files, checks, size, lambda: atomic_text(record_path, json.dumps(record))):
            return entry(record)
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, ValueError, TypeError, EOFError):
        pass
    logger.warning(f"{files[0]}: not what was written there (a failing disk, another program?); it is made again")
    return None


def _are_intact(
    files: Sequence[Path], checks: Sequence[dict[str, int]], size: int, keep_checks: Callable[[], None]
) -> bool:
    """Return whether files are as `write_slices` left them, reading those not yet verified."""
    is_new = False
    for path, check in zip(files, checks, strict=True):
        slices, stat = np.lib.format.open_memmap(path, mode="r"), path.stat()
        if slices.shape[1:] != (size, size) or slices.dtype != np.uint16 or stat.st_size != check["bytes"]:
            return False
        if check.get("verified") == stat.st_mtime_ns:
            continue
        if isal_zlib.crc32(path.read_bytes()) != check["crc32"]:
            return False
        check["verified"], is_new = stat.st_mtime_ns, True
    if is_new:
        with suppress(UserError):  # another user's folder, whose entries are read at each start
            keep_checks()
    return True


def look_up(case: Case, folder: Path, settings: PreprocessSettings, min_foreground: float) -> StoredCase | None:
    """Return the cached case; see `look_up_entry`."""
    try:
        key = case_key(case.path, settings, min_foreground)
    except OSError:  # reading the image will name what is wrong with it
        return None
    path = folder / f"{key}.npy"

    def entry(record: dict[str, Any]) -> StoredCase:
        statistics, positions = CaseStatistics.from_json(record), record["positions"]
        ends, slice_mm = tuple(record["air_beyond"]), statistics.slice_mm
        return StoredCase(case, path, positions, slice_mm=slice_mm, air_beyond=ends, statistics=statistics)

    return look_up_entry(folder / f"{key}.json", [path], settings.size, entry)


def extract(path: Path, folder: Path, settings: PreprocessSettings, min_foreground: float) -> None:
    """Read one image, run the chain, and store its occupied slices and statistics; print the reader's warnings.

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
    slice_mm = float(voxel_sizes(data["image_affine"])[AXES[settings.axis]])
    statistics = CaseStatistics(
        low=low,
        high=high,
        integer=bool(data["image_integer"]),
        spacing_mm=voxel_sizes(file_affine).tolist(),
        histogram=histograms.sum(axis=0).tolist(),
        slice_histograms=pack_histograms(histograms),
        head_slices=head_slices(data["image_whole_foreground"]),
        slice_mm=slice_mm,
        fingerprint=volume_fingerprint(data, settings.axis, settings.size),
    )
    record = {
        "count": len(positions),
        **checksums,
        "positions": positions.tolist(),
        "air_beyond": air_beyond(slices, slice_mm, positions, positions),
        **statistics.to_json(),
    }
    atomic_text(folder / f"{key}.json", json.dumps(record))


def build_slice_cache(
    cases: Sequence[Case], cache: CacheOptions, settings: PreprocessSettings, min_foreground: float
) -> tuple[list[StoredCase], dict[Case, str]]:
    """Cache every case and return the entries in order, and the reason for each case that cannot be used.

    `settings` and `min_foreground` say how cases become slices; see `case_key`. UserError: no image could be used, or
    one could not and `on_bad_volume` is "stop"; the disk is full; a worker died.
    """
    return fill_cache(
        extract,
        {case: (case.path, cache.store, settings, min_foreground) for case in cases},
        cache,
        look_up=lambda case: look_up(case, cache.store, settings, min_foreground),
        texts=("slices", "vol", "images could be used"),
    )


def fill_cache(
    extract: Callable[..., None],
    jobs: Mapping[Item, tuple[Any, ...]],
    cache: CacheOptions,
    *,
    look_up: Callable[[Item], Entry | None],
    texts: tuple[str, str, str],
) -> tuple[list[Entry], dict[Item, str]]:
    """Look every item up in the cache, and call `extract(*arguments)` for those that are missing.

    `jobs` has the arguments by item. `extract` makes one entry, and raises ValueError, OSError, RuntimeError or
    MemoryError for bad input; `look_up` returns an item's entry, or None. `texts` are title and unit of the progress
    bar, and the end of "none of 3 ..." where no item could be used. Returns the entries in order, and for each item
    without one the reason; raises like `build_slice_cache`.
    """
    make_folder(cache.store)
    title, unit, failure = texts

    def cached(item: Item) -> Entry | None:
        with suppress(OSError):  # the image is absent
            return look_up(item)
        return None

    # Look up what the cache holds already.
    looked_up = bar(jobs, desc="checking the store", unit=unit, delay=PROGRESS_BAR_DELAY_S, disable=cache.quiet)
    entries = {item: entry for item in looked_up if (entry := cached(item)) is not None}
    missing = {item: arguments for item, arguments in jobs.items() if item not in entries}

    # Extract the rest, and report each item that fails.
    failures: dict[Item, str] = {}
    results = run_jobs(extract, missing, cache.processes, preload=["transforms.monai_transforms"])
    quiet = cache.quiet or not missing
    for item, _, reason in progress(results, total=len(missing), title=title, unit=unit, quiet=quiet):
        if reason is None and (entry := cached(item)) is not None:
            entries[item] = entry
            continue
        failures[item] = reason = reason or "changed while it was being read; run again"
        names = [str(case.path) for case in (item if isinstance(item, tuple) else (item,))]
        message = reason if reason.startswith(tuple(names)) else f"{' and '.join(names)}: {reason}"
        if cache.on_bad_volume == "stop":
            raise UserError(f"{message} (preprocess.on_bad_volume: skip would go on without it)")
        logger.warning(f"{message}; left out")
    if not entries:
        raise UserError(f"none of {len(jobs)} {failure}; the reasons are above")
    return [entries[item] for item in jobs if item in entries], failures
