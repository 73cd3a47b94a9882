from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources.phantom import RANDOMISED, phantom_cases, planned_phantom
from pipeline.data.sources.phantom_variety import draw_tissues, make_varied_subject
from pipeline.utils.errors import UserError

COARSE_MM = 6.0
SUBJECTS = range(1, 13)


@cache
def subject(number: int) -> dict[str, np.ndarray]:
    return make_varied_subject(0, number, COARSE_MM)


def head_share(volume: np.ndarray) -> float:
    return float((volume > 0.2 * np.percentile(volume, 99)).mean())


def test_a_volume_does_not_depend_on_the_other_contrast_asked_for():
    np.testing.assert_array_equal(make_varied_subject(0, 1, COARSE_MM, ["T2"])["T2"], subject(1)["T2"])


def test_both_contrasts_are_int16_and_show_the_same_part_of_the_head():
    for number in SUBJECTS:
        first, second = subject(number).values()
        assert first.dtype == second.dtype == np.int16
        stripped = (first == 0).mean() > 0.85
        if stripped:  # the air of whole heads has noise
            assert ((first > 0) == (second > 0)).mean() > 0.97


def test_subjects_differ_in_anatomy_and_some_are_stripped_and_others_not():
    shares = [(subject(number)["T1"] == 0).mean() for number in SUBJECTS]
    assert np.ptp(shares) > 0.2
    fractions = [head_share(subject(number)["T2"]) for number in SUBJECTS]
    assert max(fractions) > 1.3 * min(fractions)


def test_water_is_brighter_than_grey_matter_in_t2_and_white_matter_may_be_on_either_side_of_grey():
    draws = [draw_tissues(np.random.default_rng(seed), COARSE_MM) for seed in range(60)]
    t1 = [np.mean(tissues["white"][1]) / np.mean(tissues["grey"][1]) for tissues in draws]
    t2 = [np.mean(tissues["white"][2]) / np.mean(tissues["grey"][2]) for tissues in draws]
    assert all(tissues["csf"][2] > 2 * np.mean(tissues["grey"][2]) for tissues in draws)
    assert min(t1) < 0.7 and max(t1) > 1.05 and min(t2) < 0.8 and max(t2) > 1.2
    assert np.corrcoef(np.log(t1), np.log(t2))[0, 1] > 0.7  # the two go together


def test_a_varied_cohort_lies_beside_the_standard_one_and_has_two_contrasts(tmp_path: Path):
    cases = phantom_cases(
        tmp_path, ("T1", "T2"), subjects=1, spacing_mm=8.0, seed=0, variety=RANDOMISED, processes=1, quiet=True
    )
    assert [case.path.parent.name for case in cases] == ["randomised1-8mm-seed0"] * 2
    assert all(case.path.is_file() for case in cases)
    with pytest.raises(UserError, match="no contrast FLAIR; it can make T1, T2"):
        planned_phantom(tmp_path, ("T1", "FLAIR"), subjects=1, spacing_mm=8.0, seed=0, variety=RANDOMISED)
