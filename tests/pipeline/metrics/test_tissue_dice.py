import numpy as np
import pytest
from scipy import ndimage

from pipeline.metrics.tissue_dice import interior, tissue_agreement, tissue_classes

CHANCE = 0.45  # above what unrelated images of these class sizes come to


@pytest.fixture(scope="module")
def head():
    """A ball of three tissues in folds, a dark skull, a bright scalp: (real, foreground, tissue 0 to 2, depth)."""
    generator = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.linspace(-1.1, 1.1, count) for count in (36, 48, 44)), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    field = ndimage.gaussian_filter(generator.standard_normal(radius.shape), 3)
    tissue = np.digitize(field, np.quantile(field, [0.15, 0.6]))
    brain = np.choose(tissue, [-0.7, 0.1, 0.5]) + 0.04 * generator.standard_normal(radius.shape)
    real = np.select([radius < 0.75, radius < 0.85, radius < 1], [brain, -0.9, 0.9], -1).astype(np.float32)
    return real, radius < 1, tissue, 1 - radius


@pytest.fixture(scope="module")
def middle(head):
    return interior(head[1])


def dice(prediction, head, middle):
    return tissue_agreement(prediction, head[0], middle)


def test_the_interior_is_the_middle_of_the_head_without_skull_and_scalp(head, middle):
    _, foreground, _, depth = head
    assert not (middle & ~foreground).any()
    assert middle[depth > 0.4].all() and not middle[depth < 0.25].any()


def test_the_interior_is_the_same_in_millimetres_whatever_the_voxels_are(head, middle):
    thick = interior(head[1][::3], spacing_mm=(3, 1, 1))
    assert np.mean(thick != middle[::3]) < 0.02
    assert np.mean(interior(head[1][::3]) != middle[::3]) > 0.05  # taken for cubes, they make another head
    np.testing.assert_array_equal(interior(head[1], (0.5, 0.5, 0.5)), middle)


def test_the_interior_of_a_large_volume_is_found_on_a_coarser_grid(head, middle):
    large = head[1].repeat(3, 0).repeat(4, 1).repeat(3, 2)
    fine = middle.repeat(3, 0).repeat(4, 1).repeat(3, 2)
    result = interior(large, (4, 3, 4))
    assert np.mean(result != fine) < 0.02 and not (result & ~large).any()


def test_the_interior_of_a_single_slice_and_of_an_outline_that_says_nothing(head):
    assert 0.1 < interior(head[1][18:19]).mean() < 0.5
    filled, speck = np.ones((3, 8, 8), bool), np.zeros((3, 200, 200), bool)
    speck[0, 0, 0] = True
    for outline in (filled, speck, np.zeros((3, 8, 8), bool)):
        np.testing.assert_array_equal(interior(outline), outline)


def test_classes_are_split_where_tissues_are_and_ordered_by_intensity(head, middle):
    real, _, tissue, _ = head
    np.testing.assert_array_equal(tissue_classes(real[middle]), tissue[middle])
    np.testing.assert_array_equal(tissue_classes(-real[middle]), 2 - tissue[middle])


def test_a_few_very_bright_voxels_draw_no_class_to_themselves(head, middle):
    real, _, tissue, _ = head
    values = real[middle].copy()
    values[:: len(values) // 50] = 40
    ordinary = values < 40
    np.testing.assert_array_equal(tissue_classes(values)[ordinary], tissue[middle][ordinary])


def test_of_two_ways_to_split_the_one_like_the_other_image_is_found():
    levels, counts = np.array([-1, -0.45, -0.3, -0.1]), [150, 400, 370, 80]
    real, washed_out = np.repeat([-1, -0.5, -0.2, 0.7], counts), np.repeat(levels, counts)  # fluid is hardly bright
    expected = np.repeat([0, 0, 1, 2], counts)
    np.testing.assert_array_equal(tissue_classes(washed_out, reference_classes=expected), expected)
    by_itself = tissue_classes(washed_out)
    assert (by_itself[:150] != by_itself[150]).all()  # by itself the darkest level would be a class
    assert tissue_agreement(washed_out, np.where(real == -1, -0.5, real), np.ones(1000, bool))["dice"] == 1


def test_three_levels_are_three_classes_and_fewer_are_none():
    assert tissue_classes(np.repeat([5.0, -1.0, 0.2], 10)).tolist() == [2] * 10 + [0] * 10 + [1] * 10
    for values in (np.repeat([0.0, 1.0], 9), np.zeros(9), np.empty(0), np.array([0.0, 1, 2, np.nan])):
        assert tissue_classes(values) is None


def test_dice_is_twice_the_overlap_over_both_sizes():
    real, prediction = np.repeat([0.0, 1, 2], [4, 4, 4]), np.repeat([0.0, 1, 2], [2, 6, 4])
    result = tissue_agreement(prediction, real, np.ones(12, bool))
    expected = {"dice_dark": 2 * 2 / 6, "dice_middle": 2 * 4 / 10, "dice_bright": 1}
    assert result == pytest.approx(expected | {"dice": np.mean(list(expected.values()))})


def test_a_perfect_prediction_has_dice_one_whatever_its_gain_and_what_lies_outside(head, middle):
    for prediction in (head[0], 0.3 * head[0] - 0.5, np.where(middle, head[0], 0)):
        assert dice(prediction, head, middle) == dict.fromkeys(["dice", "dice_dark", "dice_middle", "dice_bright"], 1)


def test_an_inverted_contrast_scores_below_chance_and_so_would_random_numbers(head, middle):
    inverted = dice(-head[0], head, middle)
    assert inverted["dice_dark"] < 0.05 and inverted["dice_bright"] < 0.05 and inverted["dice"] < CHANCE
    assert dice(np.random.default_rng(0).random(head[0].shape), head, middle)["dice"] < CHANCE


@pytest.mark.parametrize("collapsed", [np.zeros_like, np.sign, lambda real: np.where(real == real.max(), 1, 0)])
def test_a_collapsed_prediction_tells_no_tissues_apart(collapsed, head, middle):
    assert set(dice(collapsed(head[0]), head, middle).values()) == {0.0}


def test_what_has_no_tissues_or_is_not_finite_is_not_measured(head, middle):
    broken = np.where(head[0] > 0.4, np.nan, head[0])
    for prediction, real in ((head[0], np.zeros_like(head[0])), (broken, head[0]), (head[0], broken)):
        assert np.isnan(list(tissue_agreement(prediction, real, middle).values())).all()
