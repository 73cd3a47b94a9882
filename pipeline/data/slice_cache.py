"""The slice store: every volume read once, its normalised slices on disk, read from there from then on.

A case is two files: `<key>.npy`, the occupied slices as uint16 (N, S, S), and `<key>.json`, what is known of them.
The key covers the image's path, size and modification time and the preprocessing, so that a changed file or setting
makes a new entry and nothing stale is ever served.

Each entry is read back once, after it was written, and compared with its checksum; its slices are then given a time of
modification that lies `MARK` seconds before their note's, as no other does. While it lies there nobody has written to
either, and a start, a resume or another process looks at presence, size and header alone: milliseconds an entry,
where reading a large store takes a quarter of an hour. Whatever changes a time (a copy that does not keep times, a
repair, a stray program) has the entry read again, once. What a disk garbles by itself it reports, or the file system
does; `touch` on the store's files has everything read again.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from isal import isal_zlib
from nibabel.affines import voxel_sizes

from pipeline.data.cache_filling import fill_cache
from pipeline.data.case import Case
from pipeline.data.coverage import Coverage, head_slices, pack_histograms, unpack_histograms
from pipeline.data.fingerprint import volume_fingerprint
from pipeline.utils.console import warn, warnings_as_lines
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, atomic_write, file_identity, make_folder
from transforms.io.fetched import not_fetched

VERSION = 4  # of what is stored; raise it when the chain's results change
CHAIN_VERSION = 2  # of `transforms.slice_chain.slice_chain`, that new models are trained with
BINS = 256  # of a case's histogram
MARK = 114 * 86_400 + 12_345  # seconds; no two files come to lie so far apart by being copied, unpacked or touched
TICK = 2  # seconds to which the coarsest file systems and archives round times
LEVELS = 65535  # uint16: rounding -1..1 to it is 107 dB


@dataclass(frozen=True)
class StoredCase:
    """A case whose slices are in the store.

    Attributes:
        case: What it is.
        path: The .npy file, uint16 (count, size, size).
        count: How many slices are used: all that are occupied, or those in a range.
        facts: `low`, `high` (intensities that became -1 and 1), `integer` (the file's type), `spacing_mm` (of the
            file, R, A, S), `histogram` (of the foreground in [-1, 1]), `positions` (of the slices used), `likeness`
            (see `pipeline.data.fingerprint.volume_fingerprint`), `head_slices` (first and last one of the head, of all
            that the volume has), `slice_mm` (their distance), `slice_histograms` (the histogram of each of all slices,
            see `pipeline.data.coverage.pack_histograms`).
        first: The first stored slice that is used; the others follow it.
        stored: How many slices the file holds; None for `count`.
    """

    case: Case
    path: Path
    count: int
    facts: dict
    first: int = 0
    stored: int | None = None

    def within(self, coverage: Coverage, of: Mapping[str, object] | None = None) -> "StoredCase":
        """Return the case with the slices alone that lie in a range, nothing copied; `count` may become 0.

        Args:
            coverage: The range.
            of: Whose `head_slices` and `slice_mm` count where the slices lie on another scan's grid; the case's own.
        """
        if coverage.mm is None:
            return self
        head, slice_mm = ((of or self.facts)[name] for name in ("head_slices", "slice_mm"))
        positions = np.asarray(self.facts["positions"])
        used = np.flatnonzero(coverage.select(positions, head, slice_mm))  # positions ascend, so these are neighbours
        facts = self.facts | {"positions": positions[used].tolist()}
        if "slice_histograms" in facts:
            every = unpack_histograms(facts["slice_histograms"], BINS)
            facts["histogram"] = every[coverage.select(np.arange(len(every)), head, slice_mm)].sum(axis=0).tolist()
        first = self.first + int(used[0]) if len(used) else self.first
        return replace(self, count=len(used), facts=facts, first=first, stored=self.stored or self.count)


def encode(slices: np.ndarray) -> np.ndarray:
    """Return slices in [-1, 1] as uint16."""
    stored = np.empty(slices.shape, dtype=np.uint16)
    for target, one in zip(np.atleast_2d(stored), np.atleast_2d(slices), strict=True):  # a core's cache holds one
        levels = one + 1
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
    """Return for each of the slices in [-1, 1] (N, S, S) how many voxels lie in each of `BINS` equal bins, in a mask.

    `np.histogram` counts the same. -1 to 1 in 256 bins of 1/128: a power of two, so the bins' numbers are exact.
    """
    counts = np.zeros((len(slices), BINS + 1), dtype=np.int64)
    for row, one, mask in zip(counts, slices, foreground, strict=True):
        bins = np.floor(one[mask] * (BINS // 2)).astype(np.intp) + BINS // 2
        row += np.bincount(bins, minlength=BINS + 1)
    counts[:, -2] += counts[:, -1]  # the last bin holds its upper edge, too
    return counts[:, :-1]


def case_key(path: Path, settings: dict) -> str:
    """Return the store's key of an image under the given settings (of the chain, and `min_foreground`)."""
    identity = [VERSION, *file_identity(path), settings]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def write_slices(path: Path, slices: np.ndarray) -> dict[str, int]:
    """Write slices (N, S, S) in [-1, 1] as uint16, and return what `intact` needs to know: `bytes` and `crc32`."""
    stored, header = encode(slices), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(stored))
    content = [header.getbuffer(), stored.data.cast("B")]  # numpy says of a full disk only that it wrote too little
    atomic_write(path, lambda stream: stream.writelines(content))
    crc32 = 0
    for part in content:
        crc32 = isal_zlib.crc32(part, crc32)
    return {"bytes": sum(map(len, content)), "crc32": crc32}


def intact(note: Path, files: Mapping[Path, dict], shape: tuple[int, int, int]) -> bool:
    """Return whether an entry's files of slices are as `write_slices` left them.

    Every byte is read of those whose time of modification is not `MARK` seconds before their note's; if all is well it
    then is.

    Args:
        note: The entry's .json file.
        files: Path -> what `write_slices` returned.
        shape: Of the slices of each.

    Raises:
        OSError, ValueError, KeyError, TypeError, EOFError: a file is not there, or no such file at all.
    """
    for path, written in files.items():
        slices = np.lib.format.open_memmap(path, mode="r")
        if slices.shape != shape or slices.dtype != np.uint16 or path.stat().st_size != written["bytes"]:
            return False
    marked = note.stat().st_mtime - MARK
    changed = [path for path in files if abs(path.stat().st_mtime - marked) > TICK]
    if any(isal_zlib.crc32(path.read_bytes()) != files[path]["crc32"] for path in changed):
        return False
    for path in changed:
        with suppress(OSError):  # another user's file: it is read at each start
            os.utime(path, (path.stat().st_atime, marked))
    return True


def look_up(case: Case, folder: Path, settings: dict) -> StoredCase | None:
    """Return the stored case, or None where it is absent or, as is then said, damaged; see `intact`."""
    try:
        key = case_key(case.path, settings)
        data, note = folder / f"{key}.npy", folder / f"{key}.json"
        facts = json.loads(note.read_text())
        if "likeness" not in facts:  # an entry of an earlier release is made again
            return None
        whole = intact(note, {data: facts}, (facts["count"], settings["size"], settings["size"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        whole = False
    if not whole:
        warn(f"warning: {data}: not what was written there (a failing disk, another program?); it is made again")
    return StoredCase(case, data, facts["count"], facts) if whole else None


def extract(path: Path, folder: Path, settings: dict) -> None:
    """Read one image, run the chain, and store its occupied slices and facts; prints what is doubtful about it.

    Raises:
        ValueError: the image cannot be used; the message says why.
    """
    from transforms.slice_chain import slice_chain
    from transforms.slices import AXES, occupied_slices

    if elsewhere := not_fetched(path):
        raise ValueError(elsewhere)
    key = case_key(path, settings)  # before reading: a file replaced meanwhile then counts as not stored
    min_foreground = settings["min_foreground"]
    chain_settings = {name: value for name, value in settings.items() if name != "min_foreground"}
    with warnings_as_lines():
        data = slice_chain(**chain_settings)({"image": path})
    slices, foreground = data["image"], data["image_foreground"]
    positions = occupied_slices(foreground, min_foreground)
    if len(positions) == 0:
        raise ValueError(f"no slice has {min_foreground:.0%} of foreground; lower preprocess.min_foreground")
    written = write_slices(folder / f"{key}.npy", slices[positions])
    low, high = data["image_range"]
    by_slice = slice_histograms(slices, foreground)
    of_file = data["image_before_spacing"][1] if "image_before_spacing" in data else data["image_affine"]
    facts = {
        "count": len(positions),
        **written,
        "low": low,
        "high": high,
        "integer": bool(data["image_integer"]),
        "spacing_mm": voxel_sizes(of_file).tolist(),
        "histogram": by_slice.sum(axis=0).tolist(),
        "slice_histograms": pack_histograms(by_slice),
        "positions": positions.tolist(),
        "head_slices": head_slices(data["image_whole_foreground"]),
        "slice_mm": float(voxel_sizes(data["image_affine"])[AXES[settings["axis"]]]),
        "likeness": volume_fingerprint(data, settings["axis"], settings["size"]),
    }
    atomic_text(folder / f"{key}.json", json.dumps(facts))


def build_slice_cache(
    cases: Sequence[Case],
    folder: Path,
    settings: dict,
    *,
    processes: int | None,
    on_bad_volume: str,
    quiet: bool = False,
) -> tuple[list[StoredCase], dict[Case, str]]:
    """Make sure every case is in the store and return them, in order, with the reason for each that is not.

    Args:
        cases: What to store.
        folder: Of the store.
        settings: Arguments of `transforms.slice_chain.slice_chain`, and `min_foreground`, the share of a slice that
            must be foreground for it to be kept.
        processes: Worker processes; None for one per core.
        on_bad_volume: "skip" reports and leaves out what cannot be read, "stop" raises.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: nothing could be stored, or something could not and `on_bad_volume` is "stop".
    """
    make_folder(folder)
    found, failures = fill_cache(
        extract,
        {case: (case.path, folder, settings) for case in cases},
        look_up=lambda case: look_up(case, folder, settings),
        paths=lambda case: [case.path],
        title="slices",
        unit="vol",
        processes=processes,
        on_bad_volume=on_bad_volume,
        quiet=quiet,
    )
    if len(failures) == len(set(cases)):
        raise UserError(f"none of {len(cases)} images could be read; the reasons are above")
    return [found[case] for case in cases if case not in failures], failures
