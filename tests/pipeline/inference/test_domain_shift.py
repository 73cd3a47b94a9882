import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from head_scans import AFFINE, scan, write_scan
from negative_model import files_in, loads, negative_model

from pipeline.data.case import Case
from pipeline.data.fingerprint import QUANTILES, cohort_fingerprint, volume_fingerprint
from pipeline.data.slice_cache import CacheOptions, build_slice_cache
from pipeline.data.statistics import CohortFingerprint, ContrastStatistics, Fingerprint
from pipeline.inference.domain_shift import shift_warnings
from pipeline.inference.translator import translate
from pipeline.runs.prepare import cohort_statistics
from pipeline.translate import main
from pipeline.utils.errors import UserError
from transforms.io.nifti import read_nifti
from transforms.slice_chain import PreprocessSettings, slice_chain

SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=48, n4=False, percentiles=(0.5, 99.5))
REAL = Path(os.environ.get("MRI_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
RISE = np.linspace(-0.5, 0.5, QUANTILES)
DARK, BRIGHT = (3 * RISE - np.abs(RISE)).tolist(), (3 * RISE + np.abs(RISE)).tolist()  # 0.5 apart


# ── what is doubtful, from numbers alone ──────────────────────────────────────────────────────────────────────


def cohort(core, **changes):
    sizes = {"spacing_mm": [[0.9, 1.0], [0.9, 1.0], [1.2, 1.25]], "field_mm": [[220, 240]] * 3}
    sizes["head_mm"] = [[140, 160], [180, 200], [150, 180]]
    values = {"core_reach": 0.1, "head": RISE.tolist(), "head_reach": 0.1, **sizes, **changes}
    return ContrastStatistics(fingerprint=CohortFingerprint(core, **values))


FACTS = {"T1": cohort(DARK), "T2": cohort(BRIGHT)}
USUAL = Fingerprint(DARK, RISE.tolist(), [0.94, 0.94, 1.2], [230.0, 230.0, 230.0], head_mm=[150.0, 190.0, 165.0])


def warnings_of(source="T1", to="T2", statistics=FACTS, *, axis="axial", grid_mm=None, larger=False, **changes):
    return shift_warnings(replace(USUAL, **changes), statistics, source, to, axis=axis, grid_mm=grid_mm, larger=larger)


def test_a_member_of_the_cohort_raises_no_doubt():
    assert warnings_of() == []
    assert warnings_of("T2", "T1", core=BRIGHT) == []


def test_the_other_contrast_is_named_with_the_remedy():
    [message] = warnings_of(core=BRIGHT)
    assert message.startswith(
        "looks like T2, the model expects T1 (distance 0.00 to the training cohort in T2, 0.51 to "
    )
    assert message.endswith("; check the file, and --to")
    [message] = warnings_of("T2", "T1")
    assert message.startswith("looks like T1, the model expects T2 (")


def mixture(share):
    """Quantiles between the two contrasts: 0 the one, 1 the other."""
    return ((1 - share) * np.array(DARK) + share * np.array(BRIGHT)).tolist()


def test_neither_a_margin_too_small_nor_a_volume_within_the_cohorts_own_scatter_is_called_the_other_contrast():
    assert warnings_of(core=mixture(0.55)) == []
    assert warnings_of("T2", "T1", core=mixture(0.45)) == []
    assert "looks like T2" in warnings_of(core=mixture(0.65))[0]
    wide = {"T1": cohort(DARK, core_reach=0.4), "T2": FACTS["T2"]}
    assert warnings_of(statistics=wide, core=mixture(0.65)) == []
    alike = {"T1": cohort(DARK), "T2": cohort(mixture(0.2))}
    assert warnings_of(statistics=alike, core=mixture(0.2)) == []


def test_what_is_like_neither_is_said_with_how_far_members_lie():
    far = (np.array(DARK) * 2.5).tolist()
    [message] = warnings_of(core=far)
    assert message.startswith(
        "the intensities deep in the head are unlike those of the training cohort in T1 (distance 1.14"
    )
    assert message.endswith(", of its own members up to 0.10)")
    [message] = warnings_of(head=(RISE + 0.5).tolist())
    assert message.startswith(
        "the intensities of the head are unlike those of the training cohort in T1 (distance 0.50, "
    )
    assert warnings_of(head=(RISE + 0.3).tolist()) == []
    wide = {"T1": cohort(DARK, head_reach=0.3)}
    assert warnings_of(statistics=wide, head=(RISE + 0.5).tolist()) == []


THICK = {"T1": cohort(DARK, spacing_mm=[[1, 1], [1, 1], [6, 6]])}
CUT, NARROW, WIDE = (  # heads of 215 to 235 mm of which training saw a range, and a range beyond every head
    {"T1": cohort(DARK, head_mm=[[140, 160], [180, 200], head], coverage_mm=coverage_mm)}
    for head, coverage_mm in (([215, 235], 150.0), ([215, 235], 120.0), ([150, 180], 200.0))
)
GRID = (2.0, 2.0)
SIZES = [  # changes of the usual volume, or of its cohort, and what is said
    ({"spacing_mm": [0.65, 1.4, 1.8]}, ""),
    ({"spacing_mm": [0.94, 0.94, 5.0]}, "spacing 5 mm through plane, trained on 1.2 to 1.25 mm"),
    ({"spacing_mm": [0.94, 0.94, 0.7]}, "spacing 0.7 mm through plane, trained on 1.2 to 1.25 mm"),
    ({"spacing_mm": [2.0, 2.0, 1.2]}, "spacing 2 mm in plane, trained on 0.9 to 1 mm"),
    ({"spacing_mm": [5.0, 0.94, 1.2], "axis": "sagittal"}, "spacing 5 mm through plane, trained on 0.9 to 1 mm"),
    # where volumes are resampled, spacings finer than the grid are alike
    ({"spacing_mm": [0.3, 0.3, 2.5], "grid_mm": GRID}, ""),
    ({"spacing_mm": [0.94, 0.94, 5.0], "grid_mm": GRID}, "spacing 5 mm through plane, trained on 1.2 to 1.25 mm"),
    (
        {"spacing_mm": [1, 1, 1], "grid_mm": (1.0, 1.0), "statistics": THICK},
        "spacing 1 mm through plane, trained on 6 mm",
    ),
    # half a head, and shoulders
    ({"head_mm": [110, 280, 120]}, ""),
    ({"head_mm": [150, 190, 40]}, "shows 40 mm of head from bottom to top, trained on 150 to 180 mm"),
    ({"head_mm": [420, 190, 165]}, "shows 420 mm of head from left to right, trained on 140 to 160 mm"),
    # beyond the range that was trained on, of which some millimetres more are no matter
    ({"head_mm": [150, 190, 170], "statistics": CUT}, ""),
    ({"head_mm": [150, 190, 100], "statistics": CUT}, ""),
    ({"head_mm": [150, 190, 90], "statistics": CUT}, "shows 90 mm of head from bottom to top, trained on 150 mm"),
    (
        {"head_mm": [150, 190, 228], "statistics": CUT},
        "the lowest 78 mm of the head lie below the 150 mm from the crown that were trained on",
    ),
    (
        {"head_mm": [150, 190, 228], "statistics": CUT, "axis": "coronal"},
        "the hindmost 40 mm of the head lie behind the 150 mm from its front that were trained on",
    ),
    (
        {"head_mm": [160, 190, 228], "statistics": NARROW, "axis": "sagittal"},
        "the outermost 40 mm of the head lie outside the 120 mm about its middle that were trained on",
    ),
    ({"head_mm": [150, 190, 235], "statistics": WIDE}, ""),
    # a wider field of view counts in slices that the network was not trained on
    ({"field_mm": [480, 230, 900]}, ""),
    (
        {"field_mm": [480, 230, 900], "larger": True},
        "has a field of view of 480 mm from left to right, trained on 220 to 240 mm",
    ),
]


@pytest.mark.parametrize(("changes", "message"), SIZES)
def test_sizes_unlike_the_trained_ones_are_told_by_plane_and_direction(changes, message):
    assert warnings_of(**changes) == ([message] if message else [])


def test_a_model_that_keeps_no_likeness_finds_nothing_doubtful():
    assert warnings_of(statistics={"T2": ContrastStatistics()}, core=BRIGHT, spacing_mm=[9, 9, 9]) == []
    assert warnings_of(statistics={"T1": FACTS["T1"], "T2": ContrastStatistics()}, core=DARK) == []


# ── through the command ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def cohort_of_heads(tmp_path_factory):
    """Facts of four training subjects of each contrast, made as a run makes them."""
    folder = tmp_path_factory.mktemp("cohort")
    statistics = {}
    for contrast in ("T1", "T2"):
        paths = [write_scan(folder / f"{n}_{contrast}.nii", scan(contrast, seed=n, noise=6 + 2 * n)) for n in range(4)]
        cases = [Case(path.stem, "", contrast, path) for path in paths]
        stored, _ = build_slice_cache(cases, CacheOptions(folder / "store", 1, "stop", quiet=True), SETTINGS, 0.1)
        statistics[contrast] = cohort_statistics(stored)
    return {
        contrast: ContrastStatistics.from_json(json.loads(json.dumps(entry.to_json())))
        for contrast, entry in statistics.items()
    }


@pytest.fixture
def model(monkeypatch, cohort_of_heads):
    trained_model = replace(negative_model(), settings=SETTINGS, statistics=cohort_of_heads)
    loads(monkeypatch, lambda uri, device: trained_model)
    return trained_model


def run(*arguments):
    return main([*map(str, arguments), "--model", "any", "--to", "T2"])


def test_swapped_contrasts_are_translated_with_a_warning_by_name_and_the_right_ones_without(tmp_path, model):
    write_scan(tmp_path / "in" / "right.nii.gz", scan("T1", seed=50))
    write_scan(tmp_path / "in" / "swapped.nii.gz", scan("T2", seed=51))
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out") == 0
    right, swapped = json.loads((tmp_path / "out" / "summary.json").read_text())["volumes"]
    assert right["warnings"] == []
    [message] = swapped["warnings"]
    assert message.startswith(
        f"{tmp_path / 'in' / 'swapped.nii.gz'}: looks like T2, the model expects T1 (distance 0.0"
    )
    assert files_in(tmp_path / "out") == ["right.nii.gz", "swapped.nii.gz"]


def test_strict_refuses_them_in_one_line_and_translates_the_others(tmp_path, model, capsys):
    swapped = write_scan(tmp_path / "in" / "swapped.nii.gz", scan("T2", seed=51))
    assert run("-i", swapped, "-o", tmp_path / "out", "--strict", "--quiet") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {swapped}: looks like T2, the model expects T1 (") and line.endswith(" (--strict)")
    write_scan(tmp_path / "in" / "right.nii.gz", scan("T1", seed=50))
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out", "--strict") == 3
    assert files_in(tmp_path / "out") == ["right.nii.gz"]


def test_a_volume_with_next_to_no_head_is_said_to_be_beyond_comparison(model, caplog):
    image = nib.Nifti1Image(scan("T1"), np.diag([0.1, 0.1, 0.1, 1]))
    translate(image, model, "T2")
    assert "the image: shows too little of a head to be compared with the training" in caplog.text


def test_from_python_it_is_a_warning_or_with_strict_an_error(model, caplog):
    image = nib.Nifti1Image(scan("T2", seed=51), AFFINE)
    translate(image, model, "T2")
    assert "the image: looks like T2, the model expects T1" in caplog.text
    with pytest.raises(UserError, match=r"the image: looks like T2, .*\(--strict\)"):
        translate(image, model, "T2", strict=True)
    caplog.clear()
    translate(image, model, "T1", strict=True)
    assert caplog.messages == []


def test_an_older_model_translates_in_silence_and_refuses_to_be_strict_before_the_work(
    tmp_path, model, monkeypatch, capsys
):
    older = {contrast: replace(statistics, fingerprint=None) for contrast, statistics in model.statistics.items()}
    older_model = replace(model, statistics=older)
    loads(monkeypatch, lambda uri, device: older_model)
    source = write_scan(tmp_path / "swapped.nii.gz", scan("T2"))
    assert run("-i", source, "-o", tmp_path / "new", "--strict") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "it does not keep what its training cohort was like" in line and "leave --strict out" in line
    assert model.translators["T2"].calls == 0 and files_in(tmp_path / "new") == []
    assert run("-i", source, "-o", tmp_path / "new", "--quiet") == 0
    assert capsys.readouterr().err == ""


# ── real volumes ──────────────────────────────────────────────────────────────────────────────────────────────


def real_likeness(path):
    settings = replace(SETTINGS, spacing_mm=(2.0, 2.0), size=112)
    array, affine, _ = read_nifti(path)
    return volume_fingerprint(slice_chain(settings, load=False)({"image": array, "image_affine": affine}), "axial", 112)


def test_a_model_of_one_real_subject_knows_the_others_contrasts(trained="07", tried="19"):
    folder = REAL / "ms-paired"
    if not folder.is_dir():
        pytest.skip("the real volumes are not here")

    def fingerprint_of(subject, contrast):
        return real_likeness(folder / f"sub-{subject}" / f"sub-{subject}_{contrast}w.nii.gz")

    statistics = {
        contrast: ContrastStatistics(fingerprint=cohort_fingerprint([fingerprint_of(trained, contrast)]))
        for contrast in ("T1", "T2")
    }
    for contrast, other in (("T1", "T2"), ("T2", "T1")):
        volume = fingerprint_of(tried, contrast)
        options = {"axis": "axial", "grid_mm": (2.0, 2.0)}
        assert shift_warnings(volume, statistics, contrast, other, **options) == []
        assert shift_warnings(volume, statistics, other, contrast, **options)[0].startswith(f"looks like {contrast}, ")
