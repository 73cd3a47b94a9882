import os
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.data.sources.phantom import (
    PulseSequence,
    Tissue,
    magnetisation,
    make_subject,
    phantom_cases,
    phantom_tissues,
    scan,
)
from pipeline.data.sources.phantom_anatomy import TISSUES, deform, grid, head_fractions, smooth_field
from pipeline.utils.errors import UserError

COARSE_MM = 8.0


def cohort(folder: Path, contrasts=("T1", "T2"), subjects=2, seed=5, processes=1, spacing_mm=COARSE_MM):
    return phantom_cases(
        folder, contrasts, subjects=subjects, spacing_mm=spacing_mm, seed=seed, processes=processes, quiet=True
    )


@cache
def anatomy(seed: int, number: int, spacing_mm: float) -> dict[str, np.ndarray]:
    return head_fractions(np.random.default_rng([seed, number, 0]), spacing_mm)


def contents(cases) -> dict[str, bytes]:
    return {case.path.name: case.path.read_bytes() for case in cases}


def test_a_cohort_has_one_case_per_subject_and_contrast_and_its_file_exists(tmp_path):
    cases = cohort(tmp_path)
    assert [(case.subject, case.contrast) for case in cases] == [
        ("phantom-0001", "T1"),
        ("phantom-0001", "T2"),
        ("phantom-0002", "T1"),
        ("phantom-0002", "T2"),
    ]
    assert all(case.session == "" and case.split is None and case.path.is_file() for case in cases)
    assert cases[1].path.name == "phantom-0001_T2.nii.gz"
    assert sorted(path.name for path in cases[0].path.parent.iterdir()) == [case.path.name for case in cases]


def test_subjects_seeds_and_contrasts_differ(tmp_path):
    everything = [*contents(cohort(tmp_path)).values(), *contents(cohort(tmp_path, seed=6)).values()]
    assert len(set(everything)) == 8


def test_a_volume_does_not_depend_on_the_other_contrasts_asked_for():
    single_contrast = make_subject(0, 1, COARSE_MM, ["T2"])
    together = make_subject(0, 1, COARSE_MM)
    assert list(together) == ["T1", "T2", "PD", "FLAIR"]
    np.testing.assert_array_equal(single_contrast["T2"], together["T2"])


def test_volumes_are_int16_in_millimetres_scanner_space_and_right_anterior_superior(tmp_path):
    image = nibabel.load(cohort(tmp_path, subjects=1)[0].path)
    assert image.get_data_dtype() == np.int16
    assert image.shape == (26, 30, 23)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), 8.0)
    np.testing.assert_allclose(image.affine @ [12.5, 14.5, 11, 1], [0, -11, 18, 1], atol=1e-4)  # the grid's middle
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.isnan(image.header["scl_slope"])  # stored numbers are the intensities


def test_a_rerun_touches_nothing_and_remakes_only_what_is_missing_or_damaged(tmp_path):
    cases = cohort(tmp_path)
    original_contents = contents(cases)
    for case in cases:
        os.utime(case.path, ns=(10**18, 10**18))
    missing, truncated, garbled, untouched = (case.path for case in cases)
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:-100])
    garbled.write_bytes(b"not a volume")
    assert cohort(tmp_path) == cases
    assert contents(cases) == original_contents
    assert untouched.stat().st_mtime_ns == 10**18
    assert all(path.stat().st_mtime_ns != 10**18 for path in (missing, truncated, garbled))
    os.utime(missing, ns=(10**18, 10**18))
    cohort(tmp_path)
    assert missing.stat().st_mtime_ns == 10**18


def test_a_larger_cohort_keeps_the_earlier_subjects(tmp_path):
    small = cohort(tmp_path / "small", subjects=1)
    first = cohort(tmp_path / "large", subjects=2)[:2]
    assert contents(small) == contents(first)


def test_tissues_are_label_maps_beside_the_volumes_which_stay_as_they_are(tmp_path):
    cases = cohort(tmp_path)
    volumes = contents(cases)
    regions = phantom_tissues(cases[2:], COARSE_MM, 5, processes=1)
    assert list(regions) == ["phantom-0002"] and contents(cases) == volumes
    image = nibabel.load(path := regions["phantom-0002"]["tissue"])
    fractions = anatomy(5, 2, COARSE_MM)
    labels = np.asarray(image.dataobj)
    for number, name in enumerate(TISSUES, 1):
        others = [1 - sum(fractions.values()), *(fractions[other] for other in TISSUES if other != name)]
        assert (labels[fractions[name] > np.max(others, axis=0) + 1e-6] == number).all()
    assert np.unique(labels).tolist()[:5] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(image.affine, nibabel.load(cases[2].path).affine)
    os.utime(path, ns=(10**18, 10**18))
    phantom_tissues(cases, COARSE_MM, 5, processes=1)
    assert path.stat().st_mtime_ns == 10**18 and path.with_name("phantom-0001_tissue.nii.gz").is_file()


def test_tissues_that_cannot_be_written_are_a_warning(tmp_path, caplog):
    cases = cohort(tmp_path)
    cases[0].path.with_name("phantom-0001_tissue.nii.gz").mkdir()
    assert list(phantom_tissues(cases, COARSE_MM, 5, processes=1)) == []
    assert "phantom-0001: its tissues could not be written, so they are not measured" in caplog.text


def test_contrasts_that_the_phantom_cannot_make_are_one_clear_line_and_no_file(tmp_path):
    with pytest.raises(UserError, match="no contrast CT, PET; it can make T1, T2, PD, FLAIR"):
        cohort(tmp_path, contrasts=["T1", "CT", "PET"])
    assert list(tmp_path.iterdir()) == []


def test_tissues_have_the_order_that_each_contrast_is_known_for():
    fractions = anatomy(0, 1, 4.0)
    volumes = make_subject(0, 1, 4.0)

    def mean(contrast: str, tissue: str) -> float:
        return volumes[contrast][fractions[tissue] > 0.9].mean()

    assert mean("T1", "white") > 1.15 * mean("T1", "grey") > 1.15 * 1.5 * mean("T1", "csf")
    assert mean("T2", "csf") > 1.5 * mean("T2", "grey") > 1.5 * 1.15 * mean("T2", "white")
    assert mean("PD", "grey") > mean("PD", "white")
    assert mean("FLAIR", "grey") > mean("FLAIR", "white") > 3 * mean("FLAIR", "csf")
    for contrast in ("T1", "T2", "PD", "FLAIR"):
        air = volumes[contrast][sum(fractions.values()) < 1e-3]
        assert air.size > 10_000
        assert np.percentile(air, 99) < 0.2 * min(mean(contrast, "white"), mean(contrast, "grey"))


def test_fractions_lie_in_0_to_1_and_never_sum_to_more():
    fractions = anatomy(3, 1, 4.0)
    assert tuple(fractions) == TISSUES
    for tissue in TISSUES:
        assert fractions[tissue].min() > -1e-5
        assert fractions[tissue].max() > 0.4
    assert sum(fractions.values()).max() < 1 + 1e-5


def test_from_the_brain_outwards_come_csf_bone_fat_skin_and_air():
    fractions = anatomy(0, 1, 4.0)
    _, affine = grid(4.0)
    column = np.rint(np.linalg.inv(affine) @ [25, -20, 0, 1]).astype(int)[:2]
    upwards = {name: fraction[column[0], column[1]] for name, fraction in fractions.items()}
    centre = {name: np.average(np.arange(46), weights=upwards[name] * (np.arange(46) > 25) + 1e-9) for name in upwards}
    assert centre["white"] < centre["grey"] < centre["bone"] < centre["fat"] < centre["skin"]
    assert sum(fraction[-1] for fraction in upwards.values()) < 1e-3


def test_the_head_is_the_same_at_every_spacing_and_of_human_size():
    for number in (1, 2):
        millilitres = []
        for spacing_mm in (4.0, 8.0):
            fractions = anatomy(0, number, spacing_mm)
            brain = sum(fractions[name] for name in ("grey", "deep_grey", "white", "lesion"))
            millilitres.append(brain.sum() * spacing_mm**3 / 1000)
        assert 1000 < millilitres[0] < 1900
        assert millilitres[1] == pytest.approx(millilitres[0], rel=0.03)


@pytest.mark.parametrize("seed", range(2))
def test_a_deformation_never_folds_and_moves_no_point_far(seed):
    position = np.array(deform(np.random.default_rng(seed), 4.0))  # (3, X, Y, Z)
    jacobian = np.stack([np.stack(np.gradient(axis, 4.0), -1) for axis in position], -2)
    assert np.linalg.det(jacobian).min() > 0.1
    shape, affine = grid(4.0)
    at_rest = np.stack(
        np.meshgrid(*(np.arange(n) * 4.0 + o for n, o in zip(shape, affine[:3, 3], strict=True)), indexing="ij")
    )
    displacement = np.linalg.norm(position - at_rest, axis=0)
    assert 1 < displacement.mean() < 20


def test_a_smooth_field_has_variance_one_and_is_smooth():
    rng = np.random.default_rng(0)
    fields = np.array([smooth_field(rng, COARSE_MM, 30) for _ in range(300)])
    assert fields.mean() == pytest.approx(0, abs=0.03)
    np.testing.assert_allclose(fields.std(0), 1, atol=0.2)
    neighbours = (fields[:, 1:] * fields[:, :-1]).mean()
    assert neighbours > 0.95  # a correlation: 8 mm is little against 30


def test_signal_equations_agree_with_cases_worked_out_by_hand():
    tissue = Tissue(proton_density=0.8, t1_ms=1000, t2_ms=100)
    half_t1, half_t2 = 1000 * np.log(2), 100 * np.log(2)
    assert magnetisation(tissue, PulseSequence(1e6, 0)) == pytest.approx(0.8)
    assert magnetisation(tissue, PulseSequence(half_t1, 0)) == pytest.approx(0.4)
    assert magnetisation(tissue, PulseSequence(1e6, half_t2)) == pytest.approx(0.4)
    assert magnetisation(tissue, PulseSequence(half_t1, 0, flip_degrees=60)) == pytest.approx(0.8 / np.sqrt(3))
    assert magnetisation(tissue, PulseSequence(1e6, 0, inversion_ms=half_t1)) == pytest.approx(0, abs=1e-12)
    assert magnetisation(tissue, PulseSequence(1e6, 0, inversion_ms=2 * half_t1)) == pytest.approx(0.4)


def test_air_is_rician_noise_and_tissue_keeps_its_gain():
    shape, _ = grid(4.0)
    signals = {"csf": 1.0, "grey": 0.5, "white": 0.5}
    nothing, all_csf = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    air = scan(np.random.default_rng(1), {"csf": nothing}, signals, 4.0).astype(float)
    csf = scan(np.random.default_rng(1), {"csf": all_csf}, signals, 4.0).astype(float)
    root_mean_square = np.sqrt((air**2).mean())
    assert root_mean_square / air.mean() == pytest.approx(np.sqrt(4 / np.pi), rel=0.01)  # Rayleigh
    assert 800 * 0.02 * 0.5 < root_mean_square / np.sqrt(2) < 1200 * 0.03 * 0.5
    assert 800 * 0.86 < csf.mean() < 1200 * 1.17
