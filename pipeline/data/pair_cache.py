"""The store of registered pairs: slices of two contrasts that show the same places, for methods that learn from pairs.

A pair is three files beside those of `pipeline.data.slice_cache`: `<key>-first.npy` and `<key>-second.npy`, of which
slice i shows the same place, on the first scan's grid, and `<key>.json`, what is known of them. The key covers both
images' path, size and modification time, the preprocessing and whether pairs are registered.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.cache_filling import fill_cache
from pipeline.data.case import Case
from pipeline.data.pairs import VERSION as REGISTRATION_VERSION
from pipeline.data.pairs import BadScan, field_of_view_mask, prepare_scan, resampled_onto, rigid_transform_between
from pipeline.data.slice_cache import StoredCase, intact, write_slices
from pipeline.utils.console import warnings_as_lines
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, file_identity, make_folder
from transforms.io.fetched import not_fetched
from transforms.slices import centre_fit, occupied_slices

VERSION = 3  # of what is stored; raise it when the same scans and movement give other slices
SEEN_SHARE = 0.95  # of the first scan's head in a slice, the least that the second's field of view must cover

CasePair = tuple[Case, Case]
StoredPair = tuple[StoredCase, StoredCase]


def pair_key(cases: CasePair, settings: dict) -> str:
    """Return the store's key of a pair under the given settings, those of `build_pair_cache`."""
    files = [file_identity(case.path) for case in cases]
    identity = json.dumps(["pair", VERSION, REGISTRATION_VERSION, files, settings], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def look_up_pair(cases: CasePair, folder: Path, settings: dict) -> StoredPair | None:
    """Return the stored pair, or None where it is absent or damaged; see `pipeline.data.slice_cache.intact`."""
    try:
        key = pair_key(cases, settings)
        note, files = folder / f"{key}.json", _files(folder, key)
        facts = json.loads(note.read_text())
        written = dict(zip(files, facts["files"], strict=True))
        if not intact(note, written, (facts["count"], settings["size"], settings["size"])):
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    first, second = (StoredCase(case, path, facts["count"], facts) for case, path in zip(cases, files, strict=True))
    return first, second


def extract_pair(cases: CasePair, folder: Path, settings: dict, cache: Path) -> None:
    """Read two scans, bring the second onto the first's grid, and store the slices that show the head in both.

    Each is prepared as on its own, whole and scaled by its own percentiles; where the grids differ the second is
    resampled once, linearly. See `common_slices` for which are kept.

    Raises:
        ValueError: the pair cannot be used; the message says why.
        UserError: the disk is full, or the folder cannot be written.
    """
    if elsewhere := next(filter(None, (not_fetched(case.path) for case in cases)), None):
        raise ValueError(elsewhere)
    key = pair_key(cases, settings)  # before reading: a file replaced meanwhile then counts as not stored
    chain = {name: value for name, value in settings.items() if name not in ("min_foreground", "register_pairs")}
    try:
        with warnings_as_lines():
            first, second = (prepare_scan(case.path, chain, stride=1) for case in cases)
        movement = rigid_transform_between(
            first, second, cases, chain, register=settings["register_pairs"], cache=cache
        )
    except BadScan as error:
        raise ValueError(str(error)) from None
    real, foreground = resampled_onto(first, second, movement)
    side, least = settings["size"], settings["min_foreground"]
    of_first, of_second, seen = (
        centre_fit(mask, side, side, fill=False)
        for mask in (first.foreground, foreground, first.foreground & field_of_view_mask(first, second, movement))
    )
    if not of_second.any():
        raise ValueError("the heads do not overlap; check their affines")
    positions = common_slices(of_first, of_second, seen, least)
    if len(positions) == 0:
        raise ValueError(
            f"no slice shows the head whole in both scans, with {least:.0%} of foreground; lower "
            "preprocess.min_foreground, or check that both cover the head"
        )
    written = [
        write_slices(path, centre_fit(slices, side, side, fill=-1)[positions])
        for path, slices in zip(_files(folder, key), (first.stack, real), strict=True)
    ]
    facts = {
        "count": len(positions),
        "files": written,
        "positions": positions.tolist(),
        "movement": movement.tolist(),
    }
    atomic_text(folder / f"{key}.json", json.dumps(facts))


def common_slices(first: np.ndarray, second: np.ndarray, seen: np.ndarray, min_foreground: float) -> np.ndarray:
    """Return the indices of the slices that show enough of the head in both scans.

    Those of which at least `min_foreground` is foreground in each, and where the second's field of view covers
    `SEEN_SHARE` of the first's foreground: beyond it the second is dark because nothing was measured there, and a
    network would learn to cut heads off.

    Args:
        first, second: (N, H, W) bool, each scan's foreground.
        seen: (N, H, W) bool, of the first's foreground what lies in the second's field of view.
        min_foreground: Share of a slice.
    """
    both = np.intersect1d(occupied_slices(first, min_foreground), occupied_slices(second, min_foreground))
    covered = seen[both].sum(axis=(1, 2)) >= SEEN_SHARE * first[both].sum(axis=(1, 2))
    return both[covered]


def build_pair_cache(
    pairs: Sequence[CasePair],
    folder: Path,
    settings: dict,
    *,
    cache: Path,
    processes: int | None,
    on_bad_volume: str,
    quiet: bool = False,
) -> tuple[list[StoredPair], dict[CasePair, str]]:
    """Make sure every pair is in the store and return them, in order, with the reason for each that is not.

    Args:
        pairs: What to store.
        folder: Of the store.
        settings: Arguments of `transforms.slice_chain.slice_chain`, `min_foreground`, the share of a slice that must be
            foreground for it to be kept, and `register_pairs`, whether pairs on different grids are registered.
        cache: Folder that keeps registrations.
        processes: Worker processes; None for one per core. Registration uses one thread, so that its result is the same
            in each of them and here.
        on_bad_volume: "skip" reports and leaves out what cannot be used, "stop" raises.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: nothing could be stored, or something could not and `on_bad_volume` is "stop".
    """
    make_folder(folder)
    found, failures = fill_cache(
        extract_pair,
        {cases: (cases, folder, settings, cache) for cases in pairs},
        look_up=lambda cases: look_up_pair(cases, folder, settings),
        paths=lambda cases: [case.path for case in cases],
        title="pairs",
        unit="pair",
        processes=processes,
        on_bad_volume=on_bad_volume,
        quiet=quiet,
    )
    if len(failures) == len(set(pairs)):
        raise UserError(f"none of {len(pairs)} pairs could be used; the reasons are above")
    return [found[cases] for cases in pairs if cases not in failures], failures


def _files(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"{key}-first.npy", folder / f"{key}-second.npy"
