"""Cycles that carry a source openly, and one that hides it in the last digits of its translation."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.metrics.hidden_information import NOISE_SD, Cycled, hidden_information

SOURCE = np.clip(gaussian_filter(np.random.default_rng(0).normal(0, 4, (3, 32, 32)), (0, 1.5, 1.5)), -1, 1)
HEAD = np.ones(SOURCE.shape, bool)
HEAD[:, :4] = False
COVER = np.zeros_like(SOURCE)  # a translation that shows nothing
STRENGTH = 0.01  # of the source hidden in it


def cycled(translation, back, head=HEAD):
    noise = np.random.default_rng(1).normal(0, NOISE_SD, SOURCE.shape)
    return Cycled(SOURCE, back(translation), back(translation + noise), head)


def test_what_is_hidden_in_a_hundredth_is_lost_in_noise_of_two():
    hiding = cycled(COVER + STRENGTH * SOURCE, lambda image: image / STRENGTH)
    assert hidden_information([hiding])["hidden_information"] > 20
    less = cycled(COVER + STRENGTH * SOURCE, lambda image: image / STRENGTH + 0.3)  # a cycle that closes but so-so
    assert 6 < hidden_information([less])["hidden_information"] < 20


@pytest.mark.parametrize("back", [lambda image: image, lambda image: gaussian_filter(image, (0, 1, 1))])
def test_an_open_cycle_loses_nothing_be_it_perfect_or_blurred(back):
    assert hidden_information([cycled(SOURCE, back)])["hidden_information"] < 1


def test_the_figure_is_that_of_all_heads_together_and_of_nothing_beside_them():
    clean, noisy = np.where(HEAD, SOURCE + 0.1, 9), np.where(HEAD, SOURCE + 0.3, -9)
    item, other = Cycled(SOURCE, clean, noisy, HEAD), Cycled(SOURCE, clean, clean, HEAD)
    assert hidden_information([item])["hidden_information"] == pytest.approx(20 * np.log10(3))
    assert hidden_information([item, other])["hidden_information"] == pytest.approx(10 * np.log10(5))
    assert hidden_information([Cycled(SOURCE, clean, noisy, np.zeros_like(HEAD))]) == {}
