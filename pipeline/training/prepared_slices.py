"""The validation subjects' slices, read and registered once by worker processes and then kept in the slice cache.

An entry is one file of the cache, `<key>-validation.npz`, with the arrays of one scan, or of both of a pair. The key
covers the images' path, size and modification time, the preprocessing, whether pairs are registered and which slices
are chosen, so that no stale entry is used. A damaged file (its arrays have checksums) is made again.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from pipeline.data.case import Case
from pipeline.data.coverage import Coverage, head_slices
from pipeline.data.pairs import VERSION as REGISTRATION_VERSION
from pipeline.data.pairs import PairReader, PreparedScan
from pipeline.data.slice_cache import VERSION as STORE_VERSION
from pipeline.data.slice_cache import CacheOptions, cache_key
from pipeline.utils.console import progress
from pipeline.utils.errors import DiskFull, UserError
from pipeline.utils.files import atomic_write, file_identity, make_folder
from pipeline.utils.workers import WorkerPool
from transforms.neighbours import Neighbours, neighbour_ends
from transforms.slices import AXES, evenly_spread, well_filled_slices

VERSION = 2  # of entries; to be raised when the same scans give other slices
PRELOAD = ["transforms.monai_transforms", "pipeline.training.validation"]

Scan = Case | tuple[Case, Case]
Arrays = Mapping[str, np.ndarray]  # by name
Prepare = Callable[[Scan], Sequence[Arrays]]  # a scan or a pair -> the arrays of each of its images


def prepared_slices(
    scans: Sequence[Scan],
    prepare: Prepare,
    settings: Mapping[str, object],
    cache: CacheOptions,
) -> Iterator[tuple[Scan, Sequence[Arrays] | str]]:
    """Yield every scan or pair, in order, with its arrays or with the reason why it cannot be used.

    Args:
        prepare: Picklable function that reads a scan or pair; it raises UserError if that cannot be used.
        settings: All settings that the arrays depend on, in JSON's types.
        cache: Where and how the slices are kept.

    Raises:
        UserError: the disk is full, or a worker died.
    """
    make_folder(cache.store)
    files = {scan: _entry_path(scan, cache.store, settings) for scan in scans}
    missing = [scan for scan, file in files.items() if file is None or not file.exists()]
    with WorkerPool(cache.processes, jobs=len(missing), preload=PRELOAD) as workers:
        prepared = workers.imap(
            _prepare_and_write, [(prepare, scan, files[scan]) for scan in missing], workers.processes
        )
        for scan in progress(scans, title="validation set", unit="scan", quiet=cache.quiet):
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
    return store / f"{cache_key([*identity, settings])}-validation.npz"


def prepare_scan_slices(
    reader: PairReader, count: int, neighbours: Neighbours, coverage: Coverage, scan: Scan
) -> list[dict[str, np.ndarray]]:
    """Return the arrays of `fixed_slices.FixedSlices` of a scan, or of both scans of a pair, the first scan first.

    Raises:
        UserError: the scan or pair cannot be used.
    """
    if isinstance(scan, Case):
        prepared = reader.scan(scan.path)
        return [_choose_slices(prepared, prepared.foreground, None, count, neighbours, coverage)]
    views = reader.read(scan)[:2]
    return [_choose_slices(view.source, view.foreground, view.real, count, neighbours, coverage) for view in views]


def _choose_slices(
    scan: PreparedScan,
    foreground: np.ndarray,
    real: np.ndarray | None,
    count: int,
    neighbours: Neighbours,
    coverage: Coverage,
) -> dict[str, np.ndarray]:
    """Return the arrays of `validation.FixedSlices` of `count` evenly spread slices.

    They are chosen among slices with a fair share of head in the range that is trained on.

    Raises:
        UserError: there is no such slice.
    """
    occupied = well_filled_slices(foreground)
    occupied = occupied[coverage.select(occupied, head_slices(scan.foreground), scan.spacing_mm[0])]
    if len(occupied) == 0:
        raise UserError(f"{scan.path}: shows nothing of the range trained on, {coverage}")
    index = occupied[evenly_spread(len(occupied), count)]
    arrays = {
        "source": scan.slices[index],
        "field_of_view": np.array(scan.field_of_view),
        "foreground": foreground[index],
        "head": scan.foreground[index],
        "pixel_mm": np.delete(voxel_sizes(scan.affine), AXES[scan.axis]),
    }
    if neighbours.channels > 1:
        ends = neighbour_ends(scan.slices, scan.spacing_mm[0])
        arrays["stacks"] = scan.slices[neighbours.indices(index, ends, scan.spacing_mm[0])]  # (K, C, H, W)
    return arrays if real is None else {**arrays, "real": real[index]}
