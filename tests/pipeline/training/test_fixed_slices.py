import numpy as np
import pytest

from pipeline.metrics.hidden_information import NOISE_SD, hidden_information
from pipeline.training.fixed_slices import CYCLED_SLICES, FixedSlices, cycled_with_noise, detector_input


def fixed(count, seed=0, real=None):
    """Slices of 12x14 pixels in 16x16."""
    inner = np.random.default_rng(seed).uniform(-1, 1, (count, 12, 14)).astype(np.float32)
    source = np.pad(inner, ((0, 0), (2, 2), (1, 1)), constant_values=-1)
    mask = np.ones((count, 12, 14), bool)
    return FixedSlices("s", source, (12, 14), mask, real, mask, (1.0, 1.0))


def test_a_cycle_that_closes_by_what_cannot_be_seen_is_found_alike_each_time():
    scans = [fixed(5), fixed(7, seed=1)]
    hiding = [(scan, 0.01 * scan.source) for scan in scans]
    values = [hidden_information(cycled_with_noise(hiding, lambda slices: 100 * slices)) for _ in range(2)]
    assert values[0] == values[1] and values[0]["hidden_information"] > 6
    open_cycle = cycled_with_noise([(scan, scan.source) for scan in scans], lambda slices: slices)
    assert hidden_information(open_cycle)["hidden_information"] < 1


@pytest.mark.parametrize(("counts", "expected"), [([5, 3], 8), ([30, 30], CYCLED_SLICES), ([1, 40], CYCLED_SLICES)])
def test_some_slices_of_all_scans_are_translated_back_twice_within_the_range_and_without_padding(counts, expected):
    translated = []

    def back(slices):
        translated.append(slices)
        return slices

    scans = [(scan, scan.source) for scan in (fixed(count, seed=count) for count in counts)]
    cycled = cycled_with_noise(scans, back)
    assert len(cycled) == 2 and sum(len(scan.source) for scan in cycled) == expected
    assert all(scan.source.shape == scan.clean.shape == scan.noisy.shape == scan.head.shape for scan in cycled)
    assert all(scan.source.shape[1:] == (12, 14) and np.array_equal(scan.source, scan.clean) for scan in cycled)
    clean, noisy = translated[0], translated[1]
    assert clean.shape[1:] == noisy.shape[1:] == (16, 16) and np.abs(noisy).max() <= 1
    middle = np.abs(clean) < 0.9
    assert np.std((noisy - clean)[middle]) == pytest.approx(NOISE_SD, rel=0.2)


def test_the_detectors_are_given_the_real_target_where_there_is_one():
    real = np.zeros((2, 12, 14), np.float32)
    assert detector_input(fixed(2), fixed(2).source).real is None
    assert detector_input(fixed(2, real=real), fixed(2).source).real is real
