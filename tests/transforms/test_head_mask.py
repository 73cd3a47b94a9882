import numpy as np
import pytest

from transforms.head_mask import find_head, without_empty_planes


def ball(shape, radius):
    grid = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    return np.linalg.norm(grid, axis=0) <= radius


def head_in_noise(radius=12, shape=(36, 34, 32), noise=5.0, whole=True):
    """A head of two tissues in the noise of air, its mask beside it."""
    random = np.random.default_rng(0)
    head, inner = ball(shape, radius), ball(shape, radius / 2)
    clean = np.where(inner, 400.0, np.where(head, 250.0, 0.0))
    volume = np.hypot(clean + random.normal(0, noise, shape), random.normal(0, noise, shape))
    return (np.rint(volume) if whole else volume).astype(np.float32), head


def whole_mask(volume):
    head_found = find_head(volume)
    mask = np.zeros(volume.shape, bool)
    mask[head_found.field] = head_found.mask
    return mask


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("noise", [0.7, 5.0, 20.0])
def test_a_head_in_noisy_air_is_found_whatever_the_noise(noise, whole):
    volume, head = head_in_noise(noise=noise, whole=whole)
    mask = whole_mask(volume)
    assert (mask != head).sum() < 0.02 * head.sum()
    assert not find_head(volume).masked


@pytest.mark.parametrize("value", [-1024.0, -1.0, 0.0, 100.0])
def test_values_in_the_corners_of_noisy_air_are_blank_and_the_air_is_not(value):
    volume, head = head_in_noise(whole=False)
    x, y, _ = np.ogrid[-1:1:36j, -1:1:34j, :32]
    outside = np.broadcast_to(x**2 + y**2 > 1.1, volume.shape)
    head_found = find_head(np.where(outside, np.float32(value), volume))
    assert np.array_equal(head_found.blank, outside[head_found.field])
    assert not head_found.masked and (head_found.mask != head[head_found.field]).sum() < 0.02 * head.sum()


@pytest.mark.parametrize("background", [0.0, -1024.0, 250.0, 3000.0])
def test_on_a_background_of_one_value_what_differs_from_it_is_the_head(background):
    random = np.random.default_rng(0)
    head = ball((36, 34, 32), 12)
    tissue = random.normal(0, 30, head.shape) + np.where(ball(head.shape, 10), 300, 100)  # darker at its rim
    volume = np.where(head, tissue, background).astype(np.float32)
    head_found = find_head(volume)
    assert head_found.masked and np.array_equal(head_found.mask, head[head_found.field])
    assert np.array_equal(head_found.blank, (volume == np.float32(background))[head_found.field])


def test_empty_planes_are_taken_off_down_to_an_object_and_not_into_it():
    volume = np.zeros((20, 18, 16), np.float32)
    volume[4:15, 3:9, 5:16] = 7
    assert without_empty_planes(volume) == (slice(4, 15), slice(3, 9), slice(5, 16))
    volume[:, :, 0] = 3
    assert without_empty_planes(volume)[:2] == (slice(0, 20), slice(0, 18))
    assert without_empty_planes(np.random.default_rng(0).random((5, 6, 1))) == (slice(0, 5), slice(0, 6), slice(0, 1))


def test_without_darker_air_around_it_a_heads_end_is_doubtful():
    volume, head = head_in_noise()
    assert find_head(volume).warnings == ()
    assert "cannot be told" in find_head(500 - volume).warnings[0]
    assert "cannot be told" in find_head(np.ascontiguousarray(volume[14:22, 13:21, 12:20])).warnings[0]
    assert find_head(np.where(head, 500 - volume, np.float32(0))).warnings == ()
