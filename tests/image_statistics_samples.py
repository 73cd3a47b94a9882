"""Facts of images that were never written: a cohort that is all alike, but for what a test changes."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np

from pipeline.data.case import Case
from pipeline.exploration.cohort import Cohort
from pipeline.exploration.image_statistics import BINS, ImageStatistics, grid_of

_CHECKSUMS = count()
CENTRES = (np.arange(BINS) + 0.5) * (2 / BINS) - 1


def case(number: int, contrast: str = "T1") -> Case:
    """A case of subject s<number>."""
    return Case(f"s{number}", "", contrast, Path(f"s{number}_{contrast}.nii.gz"))


def histogram(centre: float = 0.0) -> np.ndarray:
    """A normalised histogram: a hump at an intensity."""
    heights = np.exp(-(((CENTRES - centre) / 0.2) ** 2))
    return heights / heights.sum()


def statistics(**changes) -> ImageStatistics:
    """Facts of an ordinary volume, its voxels like no other's."""
    usual = ImageStatistics(
        grid=grid_of((64, 64, 40), np.diag([2.0, 2.0, 3.0, 1.0])),
        shape=(64, 64, 40),
        stored_as="int16",
        slope=1.0,
        intercept=0.0,
        lowest=0.0,
        highest=1000.0,
        percentiles=(20.0, 200.0, 400.0, 600.0, 900.0),
        zeros=0.02,
        nan=0,
        inf=0,
        warning="",
        low=10.0,
        high=950.0,
        head=0.3,
        cut_off=0.0,
        slices=30,
        checksum=str(next(_CHECKSUMS)),
        histogram=histogram(),
        cells=np.stack(np.meshgrid(*[np.arange(-5, 5)] * 3), axis=-1).reshape(-1, 3),
        planes={plane: np.full((20, 24), 90, np.uint8) for plane in ("axial", "coronal", "sagittal")},
    )
    return replace(usual, **changes)


def cohort_of(images: dict[Case, ImageStatistics], subsets=(), unreadable=None) -> Cohort:
    """A cohort of T1 and T2; cases train unless `subsets` says otherwise."""
    known = dict.fromkeys([*images, *(unreadable or {})], "train") | dict(subsets)
    return Cohort(("T1", "T2"), known, images, unreadable or {})
