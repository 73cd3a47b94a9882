"""Lookups fitted without pairs on heads whose map from contrast to contrast is known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.data.lookup_fit import fit_context_tables
from pipeline.data.slice_stacks import SliceStack

SHAPE, MM = (20, 40, 40), 5.0
AIR, SKULL, BRAIN, FLUID = range(4)
FIRST = np.array([-1.0, -0.5, 0.4, -0.5])  # skull and fluid look alike
SECOND = np.array([-1.0, -0.5, -0.3, 0.9])


def head(seed):
    """Tissues of a head: nested ellipsoids of its own size and place, with noise between them."""
    random = np.random.default_rng(seed)
    middle = np.array(SHAPE) / 2 + random.uniform(-1.5, 1.5, 3)
    axes = np.array([8.0, 15.0, 15.0]) * random.uniform(0.93, 1.07, 3)
    radius = np.sqrt(sum(((index - m) / a) ** 2 for index, m, a in zip(np.indices(SHAPE), middle, axes, strict=True)))
    radius += 0.4 * gaussian_filter(random.standard_normal(SHAPE), 2)
    return np.select([radius < 0.45, radius < 0.85, radius < 1], [FLUID, BRAIN, SKULL], AIR)


def stack(tissues, values, seed):
    noise = 0.02 * np.random.default_rng(seed).standard_normal(SHAPE)
    image = np.clip(values[tissues] + noise, -1, 1).astype(np.float32)
    return SliceStack(lambda: image, np.arange(SHAPE[0]) * MM, (MM, MM))


@pytest.fixture(scope="module")
def tables():
    stacks = {
        "a": [stack(head(seed), FIRST, seed) for seed in range(6)],
        "b": [stack(head(seed), SECOND, seed) for seed in range(100, 106)],
    }
    return fit_context_tables(stacks)


def errors(tables, seed=50):
    """Root mean square error by tissue, of a head that was not fitted to, from "a" to "b"."""
    tissues = head(seed)
    found = tables["b"].look_up(stack(tissues, FIRST, seed).read(), MM)
    return [float(np.sqrt(np.mean((found - SECOND[tissues])[tissues == tissue] ** 2))) for tissue in range(4)]


def test_one_intensity_becomes_two_by_what_surrounds_it(tables):
    air, skull, brain, fluid = errors(tables)
    assert max(air, brain) < 0.2 and skull < 0.45 and fluid < 0.45  # one value for both would err by 0.7


def test_both_directions_are_fitted_and_air_stays_air(tables):
    assert set(tables) == {"a", "b"}
    for table in tables.values():
        assert table.blur_pixels == (6 / MM, 16 / MM) and table.values.dtype == np.float32
        assert table.look_up(np.full((1, 40, 40), -1, np.float32), MM).max() < -0.9


def test_the_fit_is_the_same_each_time(tables):
    stacks = {
        name: [stack(head(seed), values, seed) for seed in seeds]
        for name, values, seeds in (("a", FIRST, range(6)), ("b", SECOND, range(100, 106)))
    }
    repeated = fit_context_tables(stacks)
    for contrast, table in tables.items():
        np.testing.assert_array_equal(repeated[contrast].values, table.values)


def test_pictures_of_one_slice_and_thick_slices_are_fitted_too():
    for part, slice_mm in ((slice(9, 10), 0.0), (slice(None, None, 4), 12.0)):
        stacks = {}
        for name, values in (("a", FIRST), ("b", SECOND)):
            images = [stack(head(seed), values, seed).read()[part] for seed in range(8)]
            stacks[name] = [
                SliceStack(lambda image=image: image, np.arange(len(image)) * slice_mm, (MM, MM)) for image in images
            ]
        tables = fit_context_tables(stacks)
        found = tables["b"].look_up(stacks["a"][0].read(), slice_mm or 1.0)
        assert np.sqrt(np.mean((found - stacks["b"][0].read()) ** 2)) < 0.3


def test_a_contrast_that_shows_a_part_of_the_head_is_fitted_as_well():
    begin = 8  # of a head from slice 2 to 18
    stacks = {"a": [stack(head(seed), FIRST, seed) for seed in range(6)], "b": []}
    for seed in range(100, 106):
        image = stack(head(seed), SECOND, seed).read()[begin:]
        stacks["b"].append(SliceStack(lambda image=image: image, 40 + np.arange(len(image)) * MM, (MM, MM)))
    air, skull, brain, fluid = errors(fit_context_tables(stacks))
    assert air < 0.2 and brain < 0.28 and max(skull, fluid) < 0.35  # by their masks .36 in the brain and .48 in fluid


def test_contrasts_that_show_nothing_of_one_place_are_refused():
    empty = SliceStack(lambda: np.full(SHAPE, -1, np.float32), np.arange(SHAPE[0]) * MM, (MM, MM))
    with pytest.raises(ValueError, match="nowhere seen in the same place"):
        fit_context_tables({"a": [empty], "b": [empty]})


def test_a_stack_of_single_slices_says_nothing_of_those_on_either_side():
    image = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)
    single = SliceStack(lambda: image, np.arange(SHAPE[0]) * MM, (MM, MM), in_volume=False)
    for blurred in single.blurred_across():
        np.testing.assert_array_equal(blurred, image)
    for blurred in replace(single, in_volume=True).blurred_across():
        assert np.abs(blurred - image).max() > 0.1
