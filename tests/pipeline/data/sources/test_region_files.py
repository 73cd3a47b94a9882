import pytest
from empty_files import make

from pipeline.data.case import Case
from pipeline.data.sources.region_files import region_files
from pipeline.utils.errors import UserError

PATTERN = {"lesion": "sub-{subject}/**/*_lesion.nii.gz"}


def case(subject, session="", contrast="T1"):
    return Case(subject, session, contrast, f"{subject}_{contrast}.nii.gz")


def found(folder, cases, patterns=PATTERN):
    """Return scan -> region -> the file's name."""
    regions = region_files(folder, patterns, cases)
    return {scan: {name: path.name for name, path in files.items()} for scan, files in regions.items()}


def test_each_scan_has_its_subjects_files_and_one_without_has_none(tmp_path):
    make(tmp_path, "sub-01/sub-01_lesion.nii.gz", "sub-01/sub-01_dseg.nii.gz", "sub-03/anat/sub-03_lesion.nii.gz")
    patterns = {**PATTERN, "tissue": "sub-{subject}/*_dseg.nii"}
    cases = [case("01"), case("01", contrast="T2"), case("02"), case("03")]
    assert found(tmp_path, cases, patterns) == {
        "01": {"lesion": "sub-01_lesion.nii.gz", "tissue": "sub-01_dseg.nii.gz"},
        "03": {"lesion": "sub-03_lesion.nii.gz"},
    }


def test_sessions_and_runs_keep_their_own_and_share_what_names_none(tmp_path):
    make(tmp_path, "sub-1/ses-a/sub-1_ses-a_lesion.nii.gz", "sub-1/ses-b/sub-1_ses-b_lesion.nii.gz")
    make(tmp_path, "sub-2/sub-2_lesion.nii.gz", "sub-3/sub-3_run-1_lesion.nii.gz", "sub-3/sub-3_run-2_lesion.nii.gz")
    cases = [case("1", "ses-a"), case("1", "ses-b"), case("1", "ses-c"), case("2", "ses-a"), case("3", "run-2")]
    assert found(tmp_path, cases) == {
        "1_ses-a": {"lesion": "sub-1_ses-a_lesion.nii.gz"},
        "1_ses-b": {"lesion": "sub-1_ses-b_lesion.nii.gz"},
        "2_ses-a": {"lesion": "sub-2_lesion.nii.gz"},
        "3_run-2": {"lesion": "sub-3_run-2_lesion.nii.gz"},
    }


def test_two_files_that_fit_alike_a_pattern_without_subject_or_match_are_one_clear_line(tmp_path):
    make(tmp_path, "sub-1/sub-1_x_lesion.nii.gz", "sub-1/sub-1_y_lesion.nii.gz")
    with pytest.raises(UserError, match=r"_x_lesion.*_y_lesion.*both fit data.regions.lesion of 1; make its pattern"):
        found(tmp_path, [case("1")])
    with pytest.raises(UserError, match=r"data.regions.lesion: '\*.nii' has no \{subject\}"):
        found(tmp_path, [case("1")], {"lesion": "*.nii"})
    with pytest.raises(UserError, match=r"no volume matches data.regions.lesion '\{subject\}.nii'"):
        found(tmp_path, [case("1")], {"lesion": "{subject}.nii"})


def test_a_region_of_none_of_the_scans_is_a_warning(tmp_path, caplog):
    make(tmp_path, "sub-1/sub-1_lesion.nii.gz")
    assert found(tmp_path, [case("2")]) == {}
    assert "data.regions.lesion: no file of it belongs to any of 1 test scans" in caplog.text
