import json

import nibabel as nib
import numpy as np
import pytest
from head_scans import AFFINE, scan

from pipeline.data.fingerprint import QUANTILES, cohort_fingerprint, quantile_distance, volume_fingerprint
from pipeline.data.statistics import CohortFingerprint, Fingerprint
from pipeline.metrics.similarity import intensity_distance
from transforms.slice_chain import PreprocessSettings, slice_chain
from transforms.spatial import from_canonical


def likeness(voxels, affine=AFFINE, *, axis="axial", size=48, spacing_mm=None, stride=None):
    settings = PreprocessSettings(axis=axis, spacing_mm=spacing_mm, size=size, n4=False, percentiles=(0.5, 99.5))
    return volume_fingerprint(
        slice_chain(settings, stride=stride)({"image": nib.Nifti1Image(voxels, affine)}), axis, size
    )


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_sizes_are_of_the_file_the_volume_and_the_head_along_right_anterior_superior(axis):
    measured = likeness(scan("T1"), axis=axis)
    assert measured.spacing_mm == pytest.approx([4.5, 4.6, 4.8])
    assert measured.field_mm == pytest.approx([36 * 4.5, 44 * 4.6, 34 * 4.8], abs=0.1)
    assert measured.head_mm == pytest.approx([140, 180, 150], abs=12)  # of an ellipsoid of these axes, with a nose
    assert Fingerprint.from_json(json.loads(json.dumps(measured.to_json()))) == measured


def test_the_same_head_stored_another_way_is_as_like():
    left_anterior_superior = AFFINE @ np.diag([-1, 1, 1, 1])
    left_anterior_superior[0, 3] = -AFFINE[0, 3]
    voxels = scan("T2")
    reoriented = from_canonical(scan("T2"), left_anterior_superior)
    assert not np.array_equal(voxels, reoriented)
    mirrored = AFFINE.copy()
    mirrored[0, 0], mirrored[0, 3] = -4.5, AFFINE[0, 3] + 4.5 * 35
    assert likeness(reoriented, mirrored) == likeness(voxels)


def test_training_and_translation_measure_alike_also_where_training_crops():
    voxels = scan("T1")
    for size in (48, 24):
        training, translation = likeness(voxels, size=size), likeness(voxels, size=size, stride=16)
        for name, values in training.to_json().items():
            np.testing.assert_allclose(
                getattr(translation, name), values, atol=5 if name == "head_mm" else 0.02, err_msg=name
            )


def test_the_core_does_not_depend_on_the_volumes_own_scaling():
    voxels = scan("T1")
    bright_spot = voxels.copy()
    bright_spot[:, :, :6] *= 3  # the neck, as near a coil
    first, second = likeness(voxels), likeness(bright_spot)
    assert quantile_distance(first.head, second.head) > 0.3
    assert quantile_distance(first.core, second.core) < 0.05


def test_fluid_lies_in_the_dark_tail_of_one_contrast_and_in_the_bright_tail_of_the_other():
    t1, t2 = (np.array(likeness(scan(contrast)).core) for contrast in ("T1", "T2"))
    assert np.mean(t1) < -0.2 and np.mean(t2) > 0.2
    second_fingerprint = likeness(scan("T1", seed=7, noise=20)).core
    assert quantile_distance(t1, second_fingerprint) < 0.15 < 0.5 < quantile_distance(t1, t2)


def test_pictures_and_heads_of_a_few_voxels_are_like_nothing():
    data = slice_chain(PreprocessSettings(axis="axial", spacing_mm=None, size=48, n4=False, percentiles=(0.5, 99.5)))(
        {"image": nib.Nifti1Image(scan("T1"), AFFINE)}
    )
    assert volume_fingerprint(data, "axial", 48) is not None
    assert volume_fingerprint({**data, "image_type_range": 255}, "axial", 48) is None
    speck = np.zeros_like(data["image_foreground"])
    speck[10, 20:29, 20:29] = True
    assert volume_fingerprint({**data, "image_foreground": speck}, "axial", 48) is None


def test_the_distance_is_the_wasserstein_distance():
    random = np.random.default_rng(0)
    first, second = random.normal(0, 1, QUANTILES), random.normal(0.5, 2, QUANTILES)
    assert quantile_distance(np.sort(first), np.sort(second)) == pytest.approx(intensity_distance(first, second))


def member(level, size=100.0):
    sizes = {"spacing_mm": [1.0, 1.0, size / 50], "field_mm": [size] * 3, "head_mm": [size] * 3}
    return Fingerprint([level] * QUANTILES, [2 * level] * QUANTILES, **sizes)


def test_a_cohort_is_the_mean_and_the_usual_range_of_its_members():
    cohort = cohort_fingerprint([member(0.0, 90.0), member(0.1, 100.0), member(0.5, 110.0)])
    assert cohort.core == [0.2] * QUANTILES and cohort.head == [0.4] * QUANTILES
    assert cohort.core_reach == pytest.approx(np.percentile([0.3, 0.15, 0.45], 95), abs=1e-4)
    assert cohort.head_reach == pytest.approx(2 * cohort.core_reach, abs=1e-4)
    assert cohort.head_mm == [[91, 109]] * 3 and cohort.spacing_mm[2] == [1.82, 2.18]
    assert CohortFingerprint.from_json(json.loads(json.dumps(cohort.to_json()))) == cohort
    assert "coverage_mm" not in cohort.to_json()


def test_one_odd_volume_among_many_does_not_widen_a_range_and_a_single_member_has_no_reach():
    large_cohort = cohort_fingerprint([member(0.0)] * 49 + [member(0.0, 500.0)])
    assert large_cohort.head_mm == [[100, 100]] * 3
    assert cohort_fingerprint([member(0.3)]).core_reach == 0
