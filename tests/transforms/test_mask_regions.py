"""Regions by run lengths against the plain way: scipy's labels and morphology, voxel by voxel."""

import numpy as np
import pytest
from scipy import ndimage

from transforms.intensity import foreground_mask
from transforms.mask_regions import close_gaps, fill_cavities, with_margin, without_margin, without_specks
from transforms.slices import contiguous

SHAPES = [(1, 1, 1), (2, 2, 2), (5, 1, 6), (1, 12, 14), (13, 11, 1), (2, 9, 10), (17, 2, 12), (14, 15, 2), (16, 18, 20)]


def plainly_without_specks(mask):
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= sizes.max() / 100)[labels] & mask


def plainly_closed(mask, iterations):
    thick_axes = [iterations if length > 2 else 0 for length in mask.shape]
    inside = tuple(slice(margin, margin + length) for margin, length in zip(thick_axes, mask.shape, strict=True))
    cross = ndimage.generate_binary_structure(3, 1)
    for axis in (axis for axis, margin in enumerate(thick_axes) if margin == 0):
        cross = np.take(cross, [1], axis)
    return ndimage.binary_closing(np.pad(mask, [(margin, margin) for margin in thick_axes]), cross, iterations)[inside]


def plainly_filled(body):
    filled = body.copy()
    for axis in range(3):
        for position in range(body.shape[axis]):
            plane = filled[(slice(None),) * axis + (position,)]
            plane[:] = ndimage.binary_fill_holes(plane)
    return filled


def plain_foreground(volume):
    bright = volume > volume.mean(dtype=np.float64)
    air, tissue = float(np.median(volume[~bright])), float(np.median(volume[bright]))
    return plainly_filled(plainly_closed(plainly_without_specks(volume > air + 0.15 * (tissue - air)), 2))


def masks(shape):
    """Masks of every density: scattered voxels, and blobs with cavities that touch the border and each other."""
    random = np.random.default_rng(sum(shape))
    for share in (0.02, 0.2, 0.5, 0.8):
        yield random.random(shape) < share
        smooth = ndimage.gaussian_filter(random.standard_normal(shape), 1.2)
        yield smooth > np.quantile(smooth, 1 - share)


@pytest.mark.parametrize("shape", SHAPES)
def test_regions_gaps_and_cavities_are_those_of_the_plain_way(shape):
    thick_axes = [axis for axis, length in enumerate(shape) if length > 2]
    for mask in masks(shape):
        wide = with_margin(mask)
        np.testing.assert_array_equal(without_margin(without_specks(wide)), plainly_without_specks(mask))
        np.testing.assert_array_equal(without_margin(close_gaps(wide, 2, thick_axes)), plainly_closed(mask, 2))
        np.testing.assert_array_equal(without_margin(fill_cavities(wide)), plainly_filled(mask))
        np.testing.assert_array_equal(wide, with_margin(mask))  # nothing was changed in place


def test_a_speck_is_smaller_than_a_hundredth_of_the_largest_region():
    mask = np.zeros((10, 12, 30), bool)
    mask[:5, :8, :10] = True  # 400 voxels
    mask[8, 2, 3:7] = mask[8, 6, 3:6] = True  # 4 and 3
    mask[5, 8, 10] = True  # 1, which touches the first with its corner only
    large_regions = without_margin(without_specks(with_margin(mask)))
    assert large_regions[8, 2, 3] and large_regions.sum() == 404
    assert not large_regions[8, 6, 3] and not large_regions[5, 8, 10]


@pytest.mark.parametrize("shape", [(40, 44, 36), (48, 40, 1), (2, 40, 44)])
def test_the_foreground_is_that_of_the_plain_way(shape):
    random = np.random.default_rng(0)
    centre = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) if n > 2 else [0.0] * n for n in shape), indexing="ij"))
    depth = 1 - np.linalg.norm(centre, axis=0) / 0.8  # a ball with a dark shell, dark holes, and noise about it
    holes = ndimage.gaussian_filter(random.random(shape), 2) > 0.5
    head = (depth > 0) * (depth < 0.1) * 600 + (depth > 0.2) * 900 * holes
    volume = np.abs(head + random.normal(0, 40, shape)).astype(np.float32)
    for image in (volume, contiguous(volume[::-1].swapaxes(0, 1)), np.rint(volume)):
        np.testing.assert_array_equal(foreground_mask(image), plain_foreground(image))
