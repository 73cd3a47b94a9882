"""The slice cache: every volume is read once, and its normalised slices are read from disk from then on.

A case is two files: `<key>.npy`, the occupied slices as uint16 (N, S, S), and `<key>.json`, their statistics. The key
covers the image's path, size and modification time and the preprocessing, so that a changed file or setting makes a new
entry and no stale entry is used.

Each entry is read back once after it was written, and compared with its checksum. The modification time of its slices
is then set to `MARK_S` seconds before that of its JSON file, which no ordinary write does. While the times stay so,
nobody has written to either file, and a start, a resume or another process checks presence, size and header alone:
milliseconds per entry, where reading a large cache takes a quarter of an hour. Anything that changes a time (a copy
that does not keep times, a repair, another program) has the entry read again, once.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from isal import isal_zlib
from nibabel.affines import voxel_sizes

from pipeline.data.cache_filling import fill_cache
from pipeline.data.case import Case
from pipeline.data.coverage import Coverage, head_slices, pack_histograms, unpack_histograms
from pipeline.data.fingerprint import volume_fingerprint
from pipeline.data.statistics import CaseStatistics
from pipeline.utils.console import warnings_as_lines
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, atomic_write, file_identity, make_folder
from transforms.io.fetched import not_fetched
from transforms.slice_chain import PreprocessSettings, slice_chain
from transforms.slices import AXES, occupied_slices

logger = logging.getLogger(__name__)

VERSION = 4  # version of the entries; raise it when the chain's results change
BINS = 256  # bins of a histogram
MARK_S = 114 * 86_400 + 12_345  # no copying, unpacking or touching sets two files' times this far apart
TIME_RESOLUTION_S = 2  # the coarsest file systems and archives round times to this
LEVELS = 65535  # uint16: rounding -1..1 to it is 107 dB


@dataclass(frozen=True)
class StoredSlices:
    """The cached slices of an image.

    Attributes:
        case: The image.
        path: The .npy file, uint16 (N, size, size).
        positions: Indices in the volume of the slices used, ascending: all occupied ones, or those in a range.
        first: Index in the file of the first slice used; the others follow it.
        stored: Number of slices in the file; None if all are used.
    """

    case: Case
    path: Path
    positions: Sequence[int]
    first: int = 0
    stored: int | None = None

    @property
    def count(self) -> int:
        """Number of slices used."""
        return len(self.positions)

    def cut(self, coverage: Coverage, head: tuple[int, int], slice_mm: float) -> Self:
        """Return the slices in a range, without copying; there may be none.

        Args:
            coverage: The range.
            head: First and last slice of the head in the volume on whose grid the slices lie.
            slice_mm: Distance between its slices.
        """
        in_range = np.flatnonzero(coverage.select(np.asarray(self.positions), head, slice_mm))  # contiguous
        positions = [self.positions[index] for index in in_range]
        first = self.first + int(in_range[0]) if len(in_range) else self.first
        return replace(self, positions=positions, first=first, stored=self.stored or self.count)


@dataclass(frozen=True)
class StoredCase(StoredSlices):
    """A case with cached slices, and the statistics of those used."""

    statistics: CaseStatistics = field(kw_only=True)

    def within(self, coverage: Coverage) -> "StoredCase":
        """Return the case restricted to the slices in a range, without copying; `count` may become 0."""
        if coverage.mm is None:
            return self
        head, slice_mm = self.statistics.head_slices, self.statistics.slice_mm
        histograms = unpack_histograms(self.statistics.slice_histograms, BINS)
        in_range = coverage.select(np.arange(len(histograms)), head, slice_mm)
        statistics = replace(self.statistics, histogram=histograms[in_range].sum(axis=0).tolist())
        return replace(self.cut(coverage, head, slice_mm), statistics=statistics)


@dataclass(frozen=True)
class StoredPair:
    """The same cached slices of two registered images.

    Attributes:
        first, second: The slices of each image, on the first's grid.
        rigid_transform: (4, 4) from the first image to the second, in RAS millimetres.
    """

    first: StoredSlices
    second: StoredSlices
    rigid_transform: Sequence[Sequence[float]]

    @property
    def cases(self) -> tuple[Case, Case]:
        """The two images."""
        return self.first.case, self.second.case


def encode(slices: np.ndarray) -> np.ndarray:
    """Return slices in [-1, 1] as uint16."""
    stored = np.empty(slices.shape, dtype=np.uint16)
    # Slice by slice, to stay in a core's cache.
    for target, image in zip(np.atleast_2d(stored), np.atleast_2d(slices), strict=True):
        levels = image + 1
        levels *= LEVELS / 2
        target[...] = np.rint(levels, out=levels)
    return stored


def decode(stored: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return stored uint16 slices as float32 in [-1, 1], in `out` where it is given."""
    slices = np.empty(stored.shape, dtype=np.float32) if out is None else out
    slices[...] = stored
    slices *= np.float32(2 / LEVELS)
    slices -= np.float32(1)
    return slices


def histogram(slices: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return how many voxels of slices in [-1, 1] (N, S, S) lie in each of `BINS` equal bins, inside a mask."""
    return slice_histograms(slices, foreground).sum(axis=0)


def slice_histograms(slices: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return a histogram (N, BINS) of each of the slices in [-1, 1] (N, S, S), inside a mask.

    The counts equal `np.histogram`'s: the bin width, 1/128, is a power of two, so bin indices are exact.
    """
    counts = np.zeros((len(slices), BINS + 1), dtype=np.int64)
    for row, image, mask in zip(counts, slices, foreground, strict=True):
        bins = np.floor(image[mask] * (BINS // 2)).astype(np.intp) + BINS // 2
        row += np.bincount(bins, minlength=BINS + 1)
    counts[:, -2] += counts[:, -1]  # the last bin includes its upper edge
    return counts[:, :-1]


def case_key(path: Path, settings: PreprocessSettings, min_foreground: float) -> str:
    """Return an image's cache key; `min_foreground` is the smallest share of foreground in a used slice."""
    identity = [VERSION, *file_identity(path), {**settings.to_json(), "min_foreground": min_foreground}]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def write_slices(path: Path, slices: np.ndarray) -> dict[str, int]:
    """Write slices (N, S, S) in [-1, 1] as uint16, and return `bytes` and `crc32` of the file for `intact`."""
    stored, header = encode(slices), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(stored))
    content = [header.getbuffer(), stored.data.cast("B")]  # not `np.save`: its error does not name a full disk
    atomic_write(path, lambda stream: stream.writelines(content))
    crc32 = 0
    for block in content:
        crc32 = isal_zlib.crc32(block, crc32)
    return {"bytes": sum(map(len, content)), "crc32": crc32}


def intact(record_path: Path, files: Mapping[Path, dict], shape: tuple[int, int, int]) -> bool:
    """Return whether an entry's files of slices are as `write_slices` left them.

    Files without the mark (see above) are read whole and compared with their checksum; intact files then get the mark.

    Args:
        record_path: The entry's .json file.
        files: Path of each file of slices -> result of `write_slices`.
        shape: Shape of the slices in each file.

    Raises:
        OSError, ValueError, KeyError, TypeError, EOFError: a file is absent, or no file of slices.
    """
    for path, record in files.items():
        slices = np.lib.format.open_memmap(path, mode="r")
        if slices.shape != shape or slices.dtype != np.uint16 or path.stat().st_size != record["bytes"]:
            return False
    marked_time = record_path.stat().st_mtime - MARK_S
    unchecked = [path for path in files if abs(path.stat().st_mtime - marked_time) > TIME_RESOLUTION_S]
    if any(isal_zlib.crc32(path.read_bytes()) != files[path]["crc32"] for path in unchecked):
        return False
    for path in unchecked:
        with suppress(OSError):  # another user's file, which is read at each start
            os.utime(path, (path.stat().st_atime, marked_time))
    return True


def look_up(case: Case, folder: Path, settings: PreprocessSettings, min_foreground: float) -> StoredCase | None:
    """Return the cached case; None where it is absent, or damaged (with a warning). See `intact`."""
    try:
        key = case_key(case.path, settings, min_foreground)
        slices_path, record_path = folder / f"{key}.npy", folder / f"{key}.json"
        record = json.loads(record_path.read_text())
        if "likeness" not in record:  # an earlier release's entry, to be made again
            return None
        entry = StoredCase(case, slices_path, record["positions"], statistics=CaseStatistics.from_json(record))
        is_intact = intact(record_path, {slices_path: record}, (entry.count, settings.size, settings.size))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        is_intact = False
    if not is_intact:
        reason = "not what was written there (a failing disk, another program?)"
        logger.warning(f"{slices_path}: {reason}; it is made again")
    return entry if is_intact else None


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
    statistics = CaseStatistics(
        *data["image_range"],
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
        paths=lambda case: [case.path],
        title="slices",
        unit="vol",
        processes=processes,
        on_bad_volume=on_bad_volume,
        quiet=quiet,
    )
    if len(failures) == len(set(cases)):
        raise UserError(f"none of {len(cases)} images could be read; the reasons are above")
    return [entries[case] for case in cases if case not in failures], failures
