"""The frame of heads whose true middles are known, shown whole or in part."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.data.cohort_frame import common_frame
from pipeline.data.placed_heads import find_head
from pipeline.data.slice_stacks import SliceStack

SHAPE, MM = (30, 40, 40), 3.0
CELL_MM = np.full(3, 6.0)
T1 = np.array([-1.0, 0.8, 0.3, -0.4])  # air, skull, brain, fluid
T2 = np.array([-1.0, 0.2, -0.3, 0.9])


def scan(values, seed, begin=0, end=SHAPE[0], *, upright=True):
    """A head's slices from `begin` to `end`, or as many rows of it, and where its middle lies, (3,) in mm."""
    random = np.random.default_rng(seed)
    middle = np.array(SHAPE) / 2 + random.uniform(-1.5, 1.5, 3)
    size = np.array([12.0, 15.0, 15.0]) * random.uniform(0.96, 1.04)
    offset = (np.indices(SHAPE).T - middle) / size  # (X, Y, Z, 3)
    radius = np.sqrt((offset**2).sum(axis=-1)).T + 0.1 * gaussian_filter(random.standard_normal(SHAPE), 2)
    core = np.sqrt(((offset - [0.25, 0, 0]) ** 2).sum(axis=-1)).T  # above the middle, so that the head has an upper end
    tissue = np.select([core < 0.35, radius < 0.85, radius < 1], [3, 2, 1], 0)
    image = np.clip(values[tissue] + 0.02 * random.standard_normal(SHAPE), -1, 1).astype(np.float32)[begin:end]
    first_mm, middle_mm = 100 * random.uniform(), MM * (middle - [begin, 0, 0])
    if not upright:
        image, middle_mm = np.ascontiguousarray(image.swapaxes(0, 1)), middle_mm[[1, 0, 2]]
    positions_mm = first_mm + MM * np.arange(len(image))
    return SliceStack(lambda: image, positions_mm, (MM, MM)), middle_mm + np.array([first_mm, 0, 0])


def middles_in_frame(scans):
    """Where the true middles lie in the common frame, (heads, 3) mm by contrast."""
    heads = {contrast: [find_head(stack) for stack, _ in side] for contrast, side in scans.items()}
    frame = common_frame(heads, CELL_MM)
    return {
        contrast: np.array(
            [(middle - p.middle_mm) * p.scales for (_, middle), p in zip(side, frame[contrast], strict=True)]
        )
        for contrast, side in scans.items()
    }


def test_whole_heads_are_placed_by_the_middle_and_size_of_their_masks():
    scans = {"T1": [scan(T1, seed) for seed in range(3)], "T2": [scan(T2, seed) for seed in (7, 8)]}
    heads = {contrast: [find_head(stack) for stack, _ in side] for contrast, side in scans.items()}
    frame = common_frame(heads, CELL_MM)
    voxels = [np.argwhere(head.mask) * MM for side in heads.values() for head in side]
    mean_size = np.mean([positions.std(axis=0) for positions in voxels], axis=0)
    for placement, positions in zip(frame["T1"] + frame["T2"], voxels, strict=True):
        np.testing.assert_allclose(placement.scales, mean_size / positions.std(axis=0), rtol=1e-6)
        np.testing.assert_allclose(placement.middle_mm[1:], positions.mean(axis=0)[1:], rtol=1e-6)


@pytest.mark.parametrize(("begin", "end", "upright"), [(12, 30, True), (0, 19, True), (12, 30, False)])
def test_a_contrast_that_shows_a_part_of_the_head_is_brought_to_that_part(begin, end, upright):
    scans = {
        "T1": [scan(T1, seed, upright=upright) for seed in range(4)],
        "T2": [scan(T2, seed, begin, end, upright=upright) for seed in range(10, 14)],
    }
    middles = middles_in_frame(scans)
    apart_mm = middles["T1"].mean(axis=0) - middles["T2"].mean(axis=0)
    assert np.abs(apart_mm).max() < 4.5  # by the masks: 9 mm


def test_heads_of_one_contrast_that_are_cut_at_different_heights_are_brought_together():
    cuts = (4, 7, 10, 13)
    scans = {
        "T1": [scan(T1, seed, begin) for seed, begin in enumerate(cuts)],
        "T2": [scan(T2, seed + 10, begin) for seed, begin in enumerate(cuts[::-1])],
    }
    middles = middles_in_frame(scans)
    along = np.concatenate([middles["T1"][:, 0], middles["T2"][:, 0]])
    assert np.std(along) < 2  # by the masks: 5 mm


def test_the_frame_is_the_same_each_time_and_whichever_contrast_comes_first():
    scans = {"T1": [scan(T1, seed) for seed in range(3)], "T2": [scan(T2, seed, 12) for seed in (10, 11, 12)]}
    middles, repeated = middles_in_frame(scans), middles_in_frame(scans)
    turned = middles_in_frame({contrast: scans[contrast] for contrast in ("T2", "T1")})
    for contrast in scans:
        np.testing.assert_array_equal(middles[contrast], repeated[contrast])
    apart, turned_apart = (m["T1"].mean(axis=0) - m["T2"].mean(axis=0) for m in (middles, turned))
    np.testing.assert_allclose(apart, turned_apart, atol=1.5)


def test_pictures_of_one_slice_are_placed_by_their_masks():
    scans = {"T1": [scan(T1, 0, 14, 15)], "T2": [scan(T2, 1, 14, 15)]}
    assert all(np.isfinite(side).all() for side in middles_in_frame(scans).values())
