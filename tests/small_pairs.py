"""Pairs of small scans of one synthetic head, and their slices in a store."""

import numpy as np
from head_scans import AFFINE, scan, write_scan

from pipeline.data.case import Case
from pipeline.data.pair_cache import PairSettings, build_pair_cache
from pipeline.data.slice_cache import CacheOptions
from pipeline.data.stored_slices import decode
from transforms.slice_chain import PreprocessSettings

CHAIN = PreprocessSettings(axis="axial", spacing_mm=None, size=40, n4=False, percentiles=(0.5, 99.5))
SETTINGS = PairSettings(CHAIN, min_foreground=0.1, register=True)


def pair(folder, second=None, affine=AFFINE, subject="s1"):
    """Write a head in both contrasts, the second with other voxels if given, and return the two cases."""
    voxels = scan("T2", seed=1) if second is None else second
    return (
        Case(subject, "", "T1", write_scan(folder / f"{subject}-T1.nii", scan("T1"))),
        Case(subject, "", "T2", write_scan(folder / f"{subject}-T2.nii", voxels, affine)),
    )


def build(pairs, folder, *, settings=SETTINGS, processes=1, on_bad_volume="skip"):
    """Store pairs in a folder's `store`."""
    options = CacheOptions(folder / "store", processes, on_bad_volume, quiet=True)
    return build_pair_cache(pairs, options, settings, folder / "store" / "registrations")


def slices_of(stored):
    """Return both halves of a stored pair, (N, 40, 40) each."""
    first, second = (decode(np.load(half.path)) for half in (stored.first, stored.second))
    assert first.shape == second.shape == (stored.first.count, 40, 40) and stored.second.count == stored.first.count
    return first, second
