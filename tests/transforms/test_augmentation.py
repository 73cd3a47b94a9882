from dataclasses import replace

import numpy as np
import pytest
import torch

from transforms.augmentation import Augmentation, AugmentationParameters, enlarge

TINY = torch.tensor([[-0.8, -0.6, -0.4], [-0.2, 0.0, 0.2], [0.4, 0.6, 0.8]])[None, None]  # (1, 1, 3, 3), (R, A)
EVERYTHING = Augmentation(0.5, jitter=1.2, vertical_flip=0.5, rotate90=0.5, brightness=0.3, contrast=0.4)


def augmented(image, change, **settings):
    """One slice (1, 1, S, S) through `apply`, as a list of rows."""
    return Augmentation(**settings).apply(image, [change])[0, 0]


def draws(augmentation, count=4000):
    return [augmentation.draw(np.random.default_rng([7, index])) for index in range(count)]


def test_with_everything_off_nothing_changes():
    slices = torch.rand(5, 1, 8, 8) * 2 - 1
    off = Augmentation()
    assert set(draws(off, 100)) == {replace(AugmentationParameters(), crop=change.crop) for change in draws(off, 100)}
    assert torch.equal(off.apply(slices, draws(off, 5)), slices)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip_left_right": True}, [[0.4, 0.6, 0.8], [-0.2, 0.0, 0.2], [-0.8, -0.6, -0.4]]),
        ({"flip_front_back": True}, [[-0.4, -0.6, -0.8], [0.2, 0.0, -0.2], [0.8, 0.6, 0.4]]),
        ({"quarter_turns": 1}, [[-0.4, 0.2, 0.8], [-0.6, 0.0, 0.6], [-0.8, -0.2, 0.4]]),
        ({"quarter_turns": 3}, [[0.4, -0.2, -0.8], [0.6, 0.0, -0.6], [0.8, 0.2, -0.4]]),
        ({"brightness": 0.5}, [[-0.3, -0.1, 0.1], [0.3, 0.5, 0.7], [0.9, 1.0, 1.0]]),  # which stays in the range
        ({"contrast": 2.0}, [[-1.0, -1.0, -0.8], [-0.4, 0.0, 0.4], [0.8, 1.0, 1.0]]),
    ],
)
def test_each_change_is_what_it_says(change, expected):
    torch.testing.assert_close(augmented(TINY, AugmentationParameters(**change)), torch.tensor(expected))


def test_contrast_spreads_about_the_mean():
    shifted = TINY * 0.5 + 0.2  # mean 0.2
    torch.testing.assert_close(augmented(shifted, AugmentationParameters(contrast=0.5)), (TINY * 0.25 + 0.2)[0, 0])


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.24, 0), (0.26, 1), (0.5, 2), (0.999, 3)])
def test_jitter_crops_the_enlarged_slice_where_the_draw_says(start, first):
    image = torch.rand(1, 1, 20, 20) * 2 - 1
    enlarged = enlarge(image, 1.15)  # 23 × 23: crops start at 0 to 3
    assert enlarged.shape[-2:] == (23, 23)
    result = augmented(image, AugmentationParameters(crop=(start, 0.0)), jitter=1.15)
    assert torch.equal(result, enlarged[0, 0, first : first + 20, :20])
    across = augmented(image, AugmentationParameters(crop=(0.0, start)), jitter=1.15)
    assert torch.equal(across, enlarged[0, 0, :20, first : first + 20])


def test_options_come_as_often_and_as_large_as_they_say():
    augmentation = Augmentation(horizontal_flip=0.5, vertical_flip=0.2, rotate90=0.3, brightness=0.1, contrast=0.4)
    parameters = draws(augmentation)
    assert np.mean([change.flip_left_right for change in parameters]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([change.flip_front_back for change in parameters]) == pytest.approx(0.2, abs=0.03)
    turns = np.bincount([change.quarter_turns for change in parameters]) / len(parameters)
    np.testing.assert_allclose(turns, [0.7, 0.1, 0.1, 0.1], atol=0.03)
    brightness, contrast = np.transpose([(change.brightness, change.contrast) for change in parameters])
    assert (brightness.min(), brightness.max()) == pytest.approx((-0.2, 0.2), abs=0.002)  # 10 % of a range of 2
    assert (contrast.min(), contrast.max()) == pytest.approx((0.6, 1.4), abs=0.004)
    crops = np.array([change.crop for change in parameters])
    assert crops.min() >= 0
    assert crops.max() < 1
    np.testing.assert_allclose(crops.mean(axis=0), 0.5, atol=0.03)


def test_slices_flipped_beforehand_become_the_same_where_nothing_is_cropped():
    slices, augmentation = torch.rand(40, 1, 8, 8) * 2 - 1, replace(EVERYTHING, jitter=1.0, brightness=0.0)
    changes = draws(augmentation, 40)
    flipped = [image[:, :: c.flips[0], :: c.flips[1]] for image, c in zip(slices.numpy(), changes, strict=True)]
    actual = augmentation.apply_to_flipped(torch.from_numpy(np.stack(flipped)), changes)
    assert torch.equal(actual, augmentation.apply(slices, changes))


def test_a_batch_recoloured_at_once_is_the_same_but_for_rounding():
    slices, changes = torch.rand(64, 2, 8, 8) * 2 - 1, draws(EVERYTHING, 64)
    actual, expected = EVERYTHING.apply_batched(slices, changes), EVERYTHING.apply(slices, changes)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert actual.dtype == expected.dtype and actual.is_contiguous()
