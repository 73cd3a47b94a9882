import pytest
from empty_files import make

from pipeline.data.case import Case, pairs
from pipeline.data.sources.nifti_folder import nifti_cases
from pipeline.utils.errors import UserError

BIDS = {"T1": "sub-{subject}/**/*_T1w.nii.gz", "T2": "sub-{subject}/**/*_T2w.nii.gz"}


def session_of_files(folder, patterns=BIDS):
    """Return (subject, session, contrast) -> relative path."""
    cases = nifti_cases(folder, patterns)
    assert cases == sorted(cases)
    return {(case.subject, case.session, case.contrast): str(case.path.relative_to(folder)) for case in cases}


def paired(folder, patterns=BIDS):
    return [(a.path.name, b.path.name) for a, b in pairs(nifti_cases(folder, patterns), ("T1", "T2"))]


def test_bids_subjects_are_found_at_any_depth(tmp_path):
    make(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-02/sub-02_T1w.nii.gz",
        "derivatives/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/.sub-01_T1w.nii.gz",
    )
    assert nifti_cases(tmp_path, BIDS) == [
        Case("01", "", "T1", tmp_path / "sub-01/anat/sub-01_T1w.nii.gz"),
        Case("01", "", "T2", tmp_path / "sub-01/anat/sub-01_T2w.nii.gz"),
        Case("02", "", "T1", tmp_path / "sub-02/sub-02_T1w.nii.gz"),
    ]


@pytest.mark.parametrize(
    ("pattern", "name", "subject"),
    [
        ("{subject}/T1.nii.gz", "p1/T1.nii.gz", "p1"),
        ("{subject}-T1.nii.gz", "p01_study1-T1.nii.gz", "p01_study1"),
        ("{subject}_*-T1.nii.gz", "p01_study1-T1.nii.gz", "p01"),
        ("./site?/{subject}.nii", "siteA/p1.nii", "p1"),
        ("**/{subject}/**", "a/b/p1/mri.nii", "p1"),
        ("{subject}/{subject}_T1.nii.gz", "p1/p1_T1.nii.gz", "p1"),
        ("[x]/{subject}+(1).nii.gz", "[x]/p1+(1).nii.gz", "p1"),
        ("*/{subject}_T1.*", "T1/a b_T1.nii.gz", "a b"),
    ],
)
def test_a_pattern_finds_the_subject(pattern, name, subject, tmp_path):
    make(tmp_path, name)
    assert [case.subject for case in nifti_cases(tmp_path, {"T1": pattern})] == [subject]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{subject}/T1.nii.gz", "a/p1/T1.nii.gz"),  # {subject} and * match no "/"
        ("{subject}_*.nii.gz", "p1_a/T1.nii.gz"),
        ("{subject}/{subject}_T1.nii.gz", "p1/p2_T1.nii.gz"),  # both must agree
        ("{subject}/T?.nii.gz", "p1/T12.nii.gz"),
        ("{subject}.T1.nii.gz", "p1xT1.nii.gz"),  # a dot is a dot
        ("{subject}/T1.*", "p1/T1.json"),  # no volume
        ("{subject}/**/T1.nii.gz", "p1/xT1.nii.gz"),
    ],
)
def test_a_pattern_without_a_match_is_named_with_the_folder_and_the_remedy(pattern, name, tmp_path):
    make(tmp_path, name)
    with pytest.raises(UserError) as caught:
        nifti_cases(tmp_path, {"T1": pattern})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: no volume matches data.patterns.T1 '{pattern}' (")
    assert message.endswith("; correct data.patterns.T1 or data.folder")
    assert (f"named like {name}" in message) == name.endswith(".nii.gz")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("*/T1.nii.gz", r"'\*/T1.nii.gz' has no \{subject\}"),
        ("{subject}/{session}/T1.nii.gz", r"a brace that is not \{subject\}"),
        ("{subject}*/T1.nii.gz", "leaves open where the subject's name ends"),
        ("*{subject}/T1.nii.gz", "leaves open where the subject's name ends"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused(pattern, reason, tmp_path):
    with pytest.raises(UserError, match=f"data.patterns.T1: .*{reason}"):
        nifti_cases(tmp_path, {"T1": pattern})


def test_bids_sessions_are_kept_apart(tmp_path):
    for session in ("ses-1", "ses-2"):
        make(tmp_path, *(f"sub-01/{session}/anat/sub-01_{session}_T{number}w.nii.gz" for number in (1, 2)))
    assert set(session_of_files(tmp_path)) == {
        ("01", ses, contrast) for ses in ("ses-1", "ses-2") for contrast in ("T1", "T2")
    }


def test_runs_are_named_only_where_a_contrast_has_several(tmp_path):
    make(tmp_path, *(f"sub-01/anat/sub-01_run-{run}_T{number}w.nii.gz" for run in (1, 2) for number in (1, 2)))
    make(tmp_path, "sub-02/anat/sub-02_run-1_T1w.nii.gz", "sub-02/anat/sub-02_T2w.nii.gz")
    assert set(session_of_files(tmp_path)) == {
        *(("01", run, contrast) for run in ("run-1", "run-2") for contrast in ("T1", "T2")),
        ("02", "", "T1"),
        ("02", "", "T2"),
    }


def test_an_acquisition_is_named_where_runs_do_not_tell_apart(tmp_path):
    make(tmp_path, *(f"sub-01/ses-a/sub-01_ses-a_acq-{acq}_run-1_T1w.nii.gz" for acq in ("hi", "lo")))
    make(tmp_path, "sub-01/ses-a/sub-01_ses-a_run-1_T2w.nii.gz")
    cases = session_of_files(tmp_path, BIDS)
    assert ("01", "ses-a_acq-hi", "T1") in cases
    assert ("01", "ses-a_acq-lo", "T1") in cases
    assert ("01", "ses-a_acq-hi", "T2") in cases


def test_runs_pair_across_acquisitions_of_different_names(tmp_path):
    make(tmp_path, *(f"sub-01/sub-01_acq-hi_run-{run}_T1w.nii.gz" for run in (1, 2)))
    make(tmp_path, *(f"sub-01/sub-01_acq-tse_run-{run}_T2w.nii.gz" for run in (1, 2)))
    assert {key[1] for key in session_of_files(tmp_path)} == {"run-1", "run-2"}
    assert len(paired(tmp_path)) == 2


def test_a_contrast_scanned_once_joins_the_first_run_of_the_other(tmp_path):
    make(tmp_path, *(f"sub-01/sub-01_run-{run}_T1w.nii.gz" for run in (2, 10)), "sub-01/sub-01_T2w.nii.gz")
    assert paired(tmp_path) == [("sub-01_run-2_T1w.nii.gz", "sub-01_T2w.nii.gz")]


def test_a_contrast_scanned_once_joins_the_run_that_it_names(tmp_path):
    make(tmp_path, *(f"sub-01/sub-01_run-{run}_T1w.nii.gz" for run in (1, 2)), "sub-01/sub-01_run-2_T2w.nii.gz")
    assert paired(tmp_path) == [("sub-01_run-2_T1w.nii.gz", "sub-01_run-2_T2w.nii.gz")]


LAB = {"T1": "{subject}/*/T1*.nii.gz", "T2": "{subject}/*/T2*.nii.gz"}


def test_a_labs_visits_are_sessions_alike_in_both_contrasts(tmp_path):
    visits = ("2019-01-02", "visit_b")
    make(tmp_path, *(f"p1/{visit}/{name}.nii.gz" for visit in visits for name in ("T1_mprage", "T2_tse")))
    make(tmp_path, "p2/visit_a/T1_mprage.nii.gz", "p2/visit_a/T2_tse.nii.gz")
    assert set(session_of_files(tmp_path, LAB)) == {
        *(("p1", visit, contrast) for visit in visits for contrast in ("T1", "T2")),
        ("p2", "", "T1"),
        ("p2", "", "T2"),
    }


def test_a_single_scan_joins_its_own_visit_and_no_other(tmp_path):
    make(tmp_path, "p1/v1/T1.nii.gz", "p1/v2/T1.nii.gz", "p1/v2/T2.nii.gz")
    make(tmp_path, "p2/v1/T1.nii.gz", "p2/v2/T1.nii.gz", "p2/v3/T2.nii.gz")
    cases = session_of_files(tmp_path, LAB)
    assert cases["p1", "v2", "T2"] == "p1/v2/T2.nii.gz"
    assert [pair[0].path.parent.name for pair in pairs(nifti_cases(tmp_path, LAB), ("T1", "T2"))] == ["v2"]
    assert len(cases) == 6


def test_two_files_with_the_same_name_in_the_end_are_both_named(tmp_path):
    make(tmp_path, "p1/a_b/T1.nii.gz", "p1/a/b/T1.nii.gz")
    with pytest.raises(UserError, match=r"p1/a(/|_)b/T1\.nii\.gz and .*/T1\.nii\.gz would both be called p1_T1"):
        nifti_cases(tmp_path, {"T1": "{subject}/**/T1.nii.gz"})


def test_a_volume_with_and_without_gz_is_refused(tmp_path):
    make(tmp_path, "p1/T1.nii", "p1/T1.nii.gz")
    with pytest.raises(UserError, match=r"T1\.nii and .*T1\.nii\.gz: the same volume twice"):
        nifti_cases(tmp_path, {"T1": "{subject}/T1.*"})


def test_a_file_that_two_contrasts_claim_is_refused(tmp_path):
    make(tmp_path, "p1/T1ce.nii.gz", "p1/T1.nii.gz")
    with pytest.raises(UserError, match=r"T1ce\.nii\.gz: matched by both data.patterns.T1 and data.patterns.T1ce"):
        nifti_cases(tmp_path, {"T1": "{subject}/T1*", "T1ce": "{subject}/T1ce*"})


def test_a_session_inside_the_subjects_name_would_leak_and_is_refused(tmp_path):
    make(tmp_path, "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz")
    with pytest.raises(UserError, match=r"matched 'sub-01_ses-1', which holds a BIDS 'ses-' entity"):
        nifti_cases(tmp_path, {"T1": "{subject}_T1w.nii.gz"})
    assert set(session_of_files(tmp_path, {"T1": "{subject}_*T1w.nii.gz"})) == {
        ("sub-01", "ses-1", "T1"),
        ("sub-01", "ses-2", "T1"),
    }


def test_links_are_followed_but_not_in_circles(tmp_path):
    make(tmp_path, "data/p1/T1.nii.gz")
    (tmp_path / "study").mkdir()
    (tmp_path / "study/p1").symlink_to(tmp_path / "data/p1")
    (tmp_path / "data/p1/back").symlink_to(tmp_path / "study")
    assert [case.subject for case in nifti_cases(tmp_path / "study", {"T1": "{subject}/T1.nii.gz"})] == ["p1"]


@pytest.mark.parametrize("name", ["p2_T1w.nii", "p2_T1w.nii.GZ", "p2_T1w.NII.gz", "p2_T1w.NII"])
@pytest.mark.parametrize("pattern", ["{subject}_T1w.nii.gz", "{subject}_T1w.nii", "{subject}_T1w.NII.GZ"])
def test_volumes_are_taken_however_their_suffix_is_spelt(name, pattern, tmp_path):
    make(tmp_path, "p1_T1w.nii.gz", name)
    assert set(session_of_files(tmp_path, {"T1": pattern})) == {("p1", "", "T1"), ("p2", "", "T1")}


def test_a_file_spelt_as_the_pattern_says_goes_before_another_of_the_same_name(tmp_path):
    make(tmp_path, "p1.nii", "p1.nii.gz", "p2.nii", "p2.NII.gz", "p3.nii.GZ")
    assert session_of_files(tmp_path, {"T1": "{subject}.nii"}) == {
        ("p1", "", "T1"): "p1.nii",
        ("p2", "", "T1"): "p2.nii",
        ("p3", "", "T1"): "p3.nii.GZ",
    }
    make(tmp_path, "p4.NII", "p4.nii.GZ")
    with pytest.raises(UserError, match=r"p4\.(NII|nii\.GZ) and .*p4\.(NII|nii\.GZ): the same volume twice"):
        session_of_files(tmp_path, {"T1": "{subject}.nii"})
