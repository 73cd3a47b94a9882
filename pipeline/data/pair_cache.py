"""The cache of registered pairs: aligned slices of two contrasts, for methods that learn from pairs.

A pair is three files beside those of `pipeline.data.slice_cache`: `<key>-first.npy` and `<key>-second.npy`, of which
slice i shows the same position on the first scan's grid, and `<key>.json` with their statistics. The key covers both
images' path, size and modification time, the preprocessing and whether pairs are registered.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.case import Case
from pipeline.data.pairs import VERSION as REGISTRATION_VERSION
from pipeline.data.pairs import BadScan, field_of_view_mask, prepare_scan, resampled_onto, rigid_transform_between
from pipeline.data.slice_cache import CacheOptions, cache_key, fill_cache, look_up_entry, write_slices
from pipeline.data.stored_slices import StoredPair, StoredSlices, air_beyond
from pipeline.utils.console import warnings_as_lines
from pipeline.utils.files import atomic_text, file_identity
from transforms.io.fetched import not_fetched
from transforms.slice_chain import PreprocessSettings
from transforms.slices import centre_fit, occupied_slices

VERSION = 4  # version of the entries; raise it when the same scans and transform give other slices
MIN_COVERED_SHARE = 0.95  # share of the first scan's head that the second's field of view must cover, per slice

CasePair = tuple[Case, Case]


@dataclass(frozen=True)
class PairSettings:
    """How pairs become slices."""

    preprocess: PreprocessSettings
    min_foreground: float  # smallest share of a used slice that is foreground, in both scans
    register: bool  # whether pairs on different grids are registered


def pair_key(cases: CasePair, options: PairSettings) -> str:
    """Return a pair's cache key."""
    files = [file_identity(case.path) for case in cases]
    settings = {
        **options.preprocess.to_json(),
        "min_foreground": options.min_foreground,
        "register_pairs": options.register,
    }
    return cache_key(["pair", VERSION, REGISTRATION_VERSION, files, settings])


def look_up_pair(cases: CasePair, folder: Path, options: PairSettings) -> StoredPair | None:
    """Return the cached pair; see `pipeline.data.slice_cache.look_up_entry`."""
    key = pair_key(cases, options)
    paths = _files(folder, key)

    def entry(record: dict[str, Any]) -> StoredPair:
        positions = record["positions"]
        first, second = (
            StoredSlices(case, path, positions, slice_mm=record["slice_mm"], air_beyond=tuple(ends))
            for case, path, ends in zip(cases, paths, record["air_beyond"], strict=True)
        )
        return StoredPair(first, second, record["movement"])

    return look_up_entry(folder / f"{key}.json", paths, options.preprocess.size, entry)


def extract_pair(cases: CasePair, folder: Path, options: PairSettings, registrations: Path) -> None:
    """Read two scans, resample the second onto the first's grid, and store the slices that show the head in both.

    Each scan is prepared on its own and scaled by its own percentiles; where the grids differ the second is resampled
    once, linearly. `common_slices` chooses the slices. The folder `registrations` keeps the rigid transforms.
    ValueError with the reason: the pair cannot be used. UserError: the disk is full, or the folder cannot be written.
    """
    if problem := next(filter(None, (not_fetched(case.path) for case in cases)), None):
        raise ValueError(problem)
    key = pair_key(cases, options)  # before reading, so that a file replaced meanwhile counts as not stored
    settings = options.preprocess

    # Register the pair, then resample the second scan.
    try:
        with warnings_as_lines():
            first, second = (prepare_scan(case.path, settings, stride=1) for case in cases)
        rigid_transform = rigid_transform_between(first, second, register=options.register, folder=registrations)
    except BadScan as error:
        raise ValueError(str(error)) from None
    target, target_foreground = resampled_onto(first, second, rigid_transform)

    # Choose the slices that show the head in both scans, at the training size.
    side = settings.size
    covered = first.foreground & field_of_view_mask(first, second, rigid_transform)
    masks = [centre_fit(mask, side, side, fill=False) for mask in (first.foreground, target_foreground, covered)]
    positions = common_slices(masks[0], masks[1], masks[2], options.min_foreground)

    # Write the slices, then the record that makes them an entry.
    sides = [centre_fit(slices, side, side, fill=-1) for slices in (first.stack, target)]
    checksums = [write_slices(path, slices[positions]) for path, slices in zip(_files(folder, key), sides, strict=True)]
    statistics = {
        "count": len(positions),
        "files": checksums,
        "positions": positions.tolist(),
        "air_beyond": [
            air_beyond(slices, first.spacing_mm[0], positions, occupied_slices(mask, options.min_foreground))
            for slices, mask in zip(sides, masks[:2], strict=True)
        ],
        "slice_mm": first.spacing_mm[0],
        "movement": rigid_transform.tolist(),
    }
    atomic_text(folder / f"{key}.json", json.dumps(statistics))


def common_slices(first: np.ndarray, second: np.ndarray, covered_mask: np.ndarray, min_foreground: float) -> np.ndarray:
    """Return the indices of the slices that show enough of the head in both scans.

    At least `min_foreground` of the slice is foreground in each scan, and the second's field of view covers
    `MIN_COVERED_SHARE` of the first's foreground: outside it the second is dark because nothing was measured, and a
    network would learn to cut heads off. All masks are (N, H, W) bool: each scan's foreground, and the first's
    within the second's field of view. ValueError: there is no such slice.
    """
    if not second.any():
        raise ValueError("the heads do not overlap; check their affines")
    common = np.intersect1d(occupied_slices(first, min_foreground), occupied_slices(second, min_foreground))
    is_covered = covered_mask[common].sum(axis=(1, 2)) >= MIN_COVERED_SHARE * first[common].sum(axis=(1, 2))
    if not is_covered.any():
        raise ValueError(
            f"no slice shows the head whole in both scans, with {min_foreground:.0%} of foreground; lower "
            "preprocess.min_foreground, or check that both cover the head"
        )
    return common[is_covered]


def build_pair_cache(
    pairs: Sequence[CasePair], cache: CacheOptions, options: PairSettings, registrations: Path
) -> tuple[list[StoredPair], dict[CasePair, str]]:
    """Cache every pair and return the entries in order, and the reason for each pair that cannot be used.

    Registration uses one thread, so that its result is the same in every process; the folder `registrations` keeps it.
    Raises like `pipeline.data.slice_cache.build_slice_cache`.
    """
    return fill_cache(
        extract_pair,
        {cases: (cases, cache.store, options, registrations) for cases in pairs},
        cache,
        look_up=lambda cases: look_up_pair(cases, cache.store, options),
        texts=("pairs", "pair", "pairs could be used"),
    )


def _files(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"{key}-first.npy", folder / f"{key}-second.npy"
