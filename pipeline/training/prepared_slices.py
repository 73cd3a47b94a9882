"""The validation subjects' slices, read and registered once by worker processes and then kept in the slice cache.

An entry is one file of the cache, `<key>-validation.npz`, with the arrays of one scan, or of both of a pair. The key
covers the images' path, size and modification time, the preprocessing, whether pairs are registered and which slices
are chosen, so that no stale entry is used. A damaged file (its arrays have checksums) is made again.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.case import Case
from pipeline.data.pairs import VERSION as REGISTRATION_VERSION
from pipeline.data.slice_cache import VERSION as STORE_VERSION
from pipeline.utils.console import progress
from pipeline.utils.errors import DiskFull, UserError
from pipeline.utils.files import atomic_write, file_identity, make_folder
from pipeline.utils.workers import WorkerPool

VERSION = 1  # of entries; to be raised when the same scans give other slices
PRELOAD = ["transforms.monai_transforms", "pipeline.training.validation"]

Scan = Case | tuple[Case, Case]
Arrays = Mapping[str, np.ndarray]  # by name
Prepare = Callable[[Scan], Sequence[Arrays]]  # a scan or a pair -> the arrays of each of its images


def prepared_slices(
    scans: Sequence[Scan],
    prepare: Prepare,
    settings: Mapping[str, object],
    *,
    store: Path | None,
    processes: int | None,
    quiet: bool,
) -> Iterator[tuple[Scan, Sequence[Arrays] | str]]:
    """Yield every scan or pair, in order, with its arrays or with the reason why it cannot be used.

    Args:
        scans: Scans or pairs to prepare.
        prepare: Picklable function that reads a scan or pair; it raises UserError if that cannot be used.
        settings: All settings that the arrays depend on, in JSON's types.
        store: Folder of the slice cache; None prepares all in this process and keeps nothing.
        processes: Worker processes; None for one per core.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: the disk is full, or a worker died.
    """
    if store is not None:
        make_folder(store)
    files = {scan: None if store is None else _entry_path(scan, store, settings) for scan in scans}
    missing = [scan for scan, file in files.items() if file is None or not file.exists()]
    with WorkerPool(1 if store is None else processes, jobs=len(missing), preload=PRELOAD) as workers:
        prepared = workers.imap(
            _prepare_and_write, [(prepare, scan, files[scan]) for scan in missing], workers.processes
        )
        for scan in progress(scans, title="validation set", unit="scan", quiet=quiet):
            file = files[scan]
            if scan in missing or file is None:
                yield scan, next(prepared)
            else:
                yield scan, _read_entry(file) or _prepare_and_write(prepare, scan, file)


def _prepare_and_write(prepare: Prepare, scan: Scan, file: Path | None) -> Sequence[Arrays] | str:
    """Prepare a scan or pair and write its entry; return the arrays, or why it cannot be used."""
    try:
        images = prepare(scan)
    except DiskFull:
        raise
    except UserError as error:
        return str(error)
    if file is not None:
        arrays = {f"{number}/{name}": array for number, arrays in enumerate(images) for name, array in arrays.items()}
        atomic_write(file, lambda stream: np.savez(stream, allow_pickle=False, **arrays))
    return images


def _read_entry(file: Path) -> list[dict[str, np.ndarray]] | None:
    """Return the arrays of each image in an entry; None where it is damaged."""
    try:
        images: dict[str, dict[str, np.ndarray]] = {}
        with np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                number, _, name = key.partition("/")
                images.setdefault(number, {})[name] = arrays[key]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
    return [images[number] for number in sorted(images)] or None


def _entry_path(scan: Scan, store: Path, settings: Mapping[str, object]) -> Path | None:
    """Return the path of an entry; None if an image file is not accessible, which reading it will report."""
    cases = (scan,) if isinstance(scan, Case) else scan
    try:
        identity = [VERSION, STORE_VERSION, REGISTRATION_VERSION, [file_identity(case.path) for case in cases]]
    except OSError:
        return None
    key = hashlib.sha256(json.dumps([*identity, settings], sort_keys=True).encode()).hexdigest()[:24]
    return store / f"{key}-validation.npz"
