"""The slice store: every volume read once, its normalised slices on disk, memory-mapped from then on.

A case is two files: `<key>.npy`, the occupied slices as uint16 (N, S, S), and `<key>.json`, what is known of them.
The key covers the image's path, size and modification time and the preprocessing, so that a changed file or setting
makes a new entry and nothing stale is ever served.
"""

import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from pipeline.console import progress, warn
from pipeline.data.case import Case
from pipeline.errors import UserError
from pipeline.files import atomic_text, atomic_write
from pipeline.workers import work_off

VERSION = 1  # of what is stored; raise it when the chain's results change
LEVELS = 65535  # uint16: rounding -1..1 to it is 107 dB


@dataclass(frozen=True)
class StoredCase:
    """A case whose slices are in the store.

    Attributes:
        case: What it is.
        path: The .npy file, uint16 (count, size, size).
        count: How many slices are occupied.
        facts: `low`, `high` (intensities that became -1 and 1), `integer` (the file's type), `spacing_mm` (of the
            file, R, A, S), `histogram` (of the foreground in [-1, 1]), `positions` (of the slices kept).
    """

    case: Case
    path: Path
    count: int
    facts: dict


def encode(slices: np.ndarray) -> np.ndarray:
    """Return slices in [-1, 1] as uint16."""
    return np.round((slices + 1) * (LEVELS / 2)).astype(np.uint16)


def decode(stored: np.ndarray) -> np.ndarray:
    """Return stored uint16 slices as float32 in [-1, 1]."""
    return stored.astype(np.float32) * np.float32(2 / LEVELS) - np.float32(1)


def case_key(path: Path, settings: dict) -> str:
    """Return the store's key of an image under the given settings (of the chain, and `min_foreground`)."""
    status = path.stat()
    identity = [VERSION, str(path.resolve()), status.st_size, status.st_mtime_ns, settings]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def look_up(case: Case, folder: Path, settings: dict, *, thorough: bool = True) -> StoredCase | None:
    """Return the stored case, or None where it is absent or damaged; `thorough` reads it to check every byte."""
    try:
        key = case_key(case.path, settings)
        data, note = folder / f"{key}.npy", folder / f"{key}.json"
        facts = json.loads(note.read_text())
        slices = np.lib.format.open_memmap(data, mode="r")
        shape = (facts["count"], settings["size"], settings["size"])
        intact = slices.shape == shape and slices.dtype == np.uint16 and data.stat().st_size == facts["bytes"]
        if intact and thorough:
            intact = zlib.crc32(data.read_bytes()) == facts["crc32"]
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return StoredCase(case, data, facts["count"], facts) if intact else None


def extract(path: Path, folder: Path, settings: dict) -> None:
    """Read one image, run the chain, and store its occupied slices and facts.

    Raises:
        ValueError: the image cannot be used; the message says why.
    """
    from transforms.presets import slice_chain
    from transforms.slices import occupied_slices

    key = case_key(path, settings)  # before reading: a file replaced meanwhile then counts as not stored
    min_foreground = settings["min_foreground"]
    chain_settings = {name: value for name, value in settings.items() if name != "min_foreground"}
    data = slice_chain(**chain_settings)({"image": path})
    slices, foreground = data["image"], data["image_foreground"]
    positions = occupied_slices(foreground, min_foreground)
    if len(positions) == 0:
        raise ValueError(f"no slice has {min_foreground:.0%} of foreground; lower preprocess.min_foreground")
    content = io.BytesIO()  # numpy writing to a file itself says of a full disk only that it wrote too little
    np.save(content, encode(slices[positions]), allow_pickle=False)
    atomic_write(folder / f"{key}.npy", lambda stream: stream.write(content.getbuffer()))
    histogram, _ = np.histogram(slices[foreground], bins=256, range=(-1, 1))
    low, high = data["image_range"]
    of_file = data["image_before_spacing"][1] if "image_before_spacing" in data else data["image_affine"]
    facts = {
        "count": len(positions),
        "bytes": len(content.getbuffer()),
        "crc32": zlib.crc32(content.getbuffer()),
        "low": low,
        "high": high,
        "integer": bool(data["image_integer"]),
        "spacing_mm": voxel_sizes(of_file).tolist(),
        "histogram": histogram.tolist(),
        "positions": positions.tolist(),
    }
    atomic_text(folder / f"{key}.json", json.dumps(facts))


def build_store(
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
        settings: Arguments of `transforms.presets.slice_chain`, and `min_foreground`, the share of a slice that must
            be foreground for it to be kept.
        processes: Worker processes; None for one per core.
        on_bad_volume: "skip" reports and leaves out what cannot be read, "stop" raises.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: nothing could be stored, or something could not and `on_bad_volume` is "stop".
    """
    missing = [case for case in cases if look_up(case, folder, settings) is None]
    folder.mkdir(parents=True, exist_ok=True)
    jobs = {case: (case.path, folder, settings) for case in missing}
    failures: dict[Case, str] = {}
    ended = progress(_run(jobs, processes), total=len(jobs), title="slices", unit="vol", quiet=quiet or not jobs)
    for case, reason in ended:
        if reason is None and look_up(case, folder, settings) is None:
            reason = "changed while it was being read; run again"
        if reason is not None:
            failures[case] = reason
            line = reason if reason.startswith(str(case.path)) else f"{case.path}: {reason}"
            if on_bad_volume == "stop":
                raise UserError(f"{line} (preprocess.on_bad_volume: skip would go on without it)")
            warn(f"warning: {line}; left out")
    if len(failures) == len(set(cases)):
        raise UserError(f"none of {len(cases)} images could be read; the reasons are above")
    kept = [case for case in cases if case not in failures]
    return [look_up(case, folder, settings, thorough=False) for case in kept], failures


def _run(jobs: dict[Case, tuple], processes: int | None) -> Iterator[tuple[Case, str | None]]:
    """Extract each job, in worker processes where it pays, and yield (case, reason it failed or None) as they end."""
    ended = work_off(extract, jobs, processes, preload=["transforms.presets"])
    return ((case, reason) for case, _, reason in ended)
