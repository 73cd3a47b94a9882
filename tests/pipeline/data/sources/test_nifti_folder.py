import pytest
from empty_files import make

from pipeline.data.case import Case
from pipeline.data.sources.nifti_folder import ixi_cases, nifti_cases
from pipeline.utils.errors import UserError

BIDS = {"T1": "sub-{subject}/**/*_T1w.nii.gz", "T2": "sub-{subject}/**/*_T2w.nii.gz"}


def session_of_files(folder, patterns=BIDS):
    """Return (subject, session, contrast) -> relative path."""
    cases = nifti_cases(folder, patterns)
    assert cases == sorted(cases)
    return {(case.subject, case.session, case.contrast): str(case.path.relative_to(folder)) for case in cases}


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


def test_a_session_inside_the_subjects_name_would_leak_and_is_refused(tmp_path):
    make(tmp_path, "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz")
    with pytest.raises(UserError, match=r"matched 'sub-01_ses-1', which holds a BIDS 'ses-' entity"):
        nifti_cases(tmp_path, {"T1": "{subject}_T1w.nii.gz"})
    assert set(session_of_files(tmp_path, {"T1": "{subject}_*T1w.nii.gz"})) == {
        ("sub-01", "ses-1", "T1"),
        ("sub-01", "ses-2", "T1"),
    }


LAB = {"T1": "{subject}/*/T1*.nii.gz", "T2": "{subject}/*/T2*.nii.gz"}
SESSIONS = {  # patterns, files, and each file's subject, session and contrast
    "BIDS sessions are kept apart": (BIDS, {
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz": ("01", "ses-1", "T1"),
        "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz": ("01", "ses-1", "T2"),
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz": ("01", "ses-2", "T1"),
    }),
    "runs are named only where a contrast has several": (BIDS, {
        "sub-1/sub-1_run-1_T1w.nii.gz": ("1", "run-1", "T1"), "sub-1/sub-1_run-1_T2w.nii.gz": ("1", "run-1", "T2"),
        "sub-1/sub-1_run-2_T1w.nii.gz": ("1", "run-2", "T1"), "sub-1/sub-1_run-2_T2w.nii.gz": ("1", "run-2", "T2"),
        "sub-02/sub-02_run-1_T1w.nii.gz": ("02", "", "T1"), "sub-02/sub-02_T2w.nii.gz": ("02", "", "T2"),
    }),
    "acquisitions are named where runs do not tell apart": (BIDS, {
        "sub-01/sub-01_ses-a_acq-hi_run-1_T1w.nii.gz": ("01", "ses-a_acq-hi", "T1"),
        "sub-01/sub-01_ses-a_acq-lo_run-1_T1w.nii.gz": ("01", "ses-a_acq-lo", "T1"),
        "sub-01/sub-01_ses-a_run-1_T2w.nii.gz": ("01", "ses-a_acq-hi", "T2"),
    }),
    "runs pair across acquisitions of different names": (BIDS, {
        "sub-1/sub-1_acq-a_run-1_T1w.nii.gz": ("1", "run-1", "T1"),
        "sub-1/sub-1_acq-b_run-1_T2w.nii.gz": ("1", "run-1", "T2"),
        "sub-1/sub-1_acq-a_run-2_T1w.nii.gz": ("1", "run-2", "T1"),
        "sub-1/sub-1_acq-b_run-2_T2w.nii.gz": ("1", "run-2", "T2"),
    }),
    "a contrast scanned once joins the first run of the other": (BIDS, {
        "sub-1/sub-1_run-2_T1w.nii.gz": ("1", "run-2", "T1"), "sub-1/sub-1_run-10_T1w.nii.gz": ("1", "run-10", "T1"),
        "sub-1/sub-1_T2w.nii.gz": ("1", "run-2", "T2"),
    }),
    "a contrast scanned once joins the run that it names": (BIDS, {
        "sub-1/sub-1_run-1_T1w.nii.gz": ("1", "run-1", "T1"), "sub-1/sub-1_run-2_T1w.nii.gz": ("1", "run-2", "T1"),
        "sub-1/sub-1_run-2_T2w.nii.gz": ("1", "run-2", "T2"),
    }),
    "a lab's visits are sessions alike in both contrasts": (LAB, {
        "p1/2019-01/T1_mprage.nii.gz": ("p1", "2019-01", "T1"), "p1/2019-01/T2_tse.nii.gz": ("p1", "2019-01", "T2"),
        "p1/visit_b/T1_mprage.nii.gz": ("p1", "visit_b", "T1"), "p1/visit_b/T2_tse.nii.gz": ("p1", "visit_b", "T2"),
        "p2/visit_a/T1_mprage.nii.gz": ("p2", "", "T1"), "p2/visit_a/T2_tse.nii.gz": ("p2", "", "T2"),
    }),
    "a single scan joins its own visit and no other": (LAB, {
        "p1/v1/T1.nii.gz": ("p1", "v1", "T1"),
        "p1/v2/T1.nii.gz": ("p1", "v2", "T1"), "p1/v2/T2.nii.gz": ("p1", "v2", "T2"),
        "p2/v1/T1.nii.gz": ("p2", "v1", "T1"),
        "p2/v2/T1.nii.gz": ("p2", "v2", "T1"), "p2/v3/T2.nii.gz": ("p2", "", "T2"),
    }),
}  # fmt: skip


@pytest.mark.parametrize("rule", SESSIONS)
def test_sessions_are_named(rule, tmp_path):
    patterns, files = SESSIONS[rule]
    make(tmp_path, *files)
    assert session_of_files(tmp_path, patterns) == {key: name for name, key in files.items()}


@pytest.mark.parametrize(
    ("files", "patterns", "reason"),
    [
        (("p1/a_b/T1.nii.gz", "p1/a/b/T1.nii.gz"), {"T1": "{subject}/**/T1.nii.gz"},
         r"p1/a(/|_)b/T1\.nii\.gz and .*/T1\.nii\.gz would both be called p1_T1"),
        (("p1/T1.nii", "p1/T1.nii.gz"), {"T1": "{subject}/T1.*"}, r"T1\.nii and .*T1\.nii\.gz: the same volume twice"),
        (("p1/T1ce.nii.gz", "p1/T1.nii.gz"), {"T1": "{subject}/T1*", "T1ce": "{subject}/T1ce*"},
         r"T1ce\.nii\.gz: matched by both data.patterns.T1 and data.patterns.T1ce"),
    ],
)  # fmt: skip
def test_files_that_would_count_twice_are_named(files, patterns, reason, tmp_path):
    make(tmp_path, *files)
    with pytest.raises(UserError, match=reason):
        nifti_cases(tmp_path, patterns)


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


def test_freesurfers_volumes_are_cases_of_their_subjects(tmp_path):
    make(tmp_path, *(f"{subject}/mri/{contrast}.mgz" for subject in ("s1", "s2") for contrast in ("T1", "T2")))
    cases = nifti_cases(tmp_path, {"T1": "{subject}/mri/T1.mgz", "T2": "{subject}/mri/T2*"})
    assert [case.name for case in cases] == ["s1_T1", "s1_T2", "s2_T1", "s2_T2"]


# ── IXI ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_archives_as_they_unpack_are_listed_in_order(tmp_path):
    make(
        tmp_path,
        "IXI-T2/IXI002-Guys-0828-T2.nii.gz",
        "IXI-T1/IXI012-HH-1211-T1.nii.gz",
        "IXI-T1/IXI002-Guys-0828-T1.nii.gz",
        "IXI-T1/._IXI002-Guys-0828-T1.nii.gz",
        "IXI-T1/README.txt",
        "IXI-PD/IXI002-Guys-0828-PD.nii.gz",
    )
    assert ixi_cases(tmp_path, ("T1", "T2")) == [
        Case("IXI002-Guys-0828", "", "T1", tmp_path / "IXI-T1/IXI002-Guys-0828-T1.nii.gz"),
        Case("IXI002-Guys-0828", "", "T2", tmp_path / "IXI-T2/IXI002-Guys-0828-T2.nii.gz"),
        Case("IXI012-HH-1211", "", "T1", tmp_path / "IXI-T1/IXI012-HH-1211-T1.nii.gz"),
    ]


def test_without_the_data_the_message_is_the_command_that_fetches_it(tmp_path):
    folder = tmp_path / "data/ixi"
    command = f"python -m pipeline.download ixi -o {folder} --contrasts T1 T2"
    with pytest.raises(UserError) as caught:
        ixi_cases(folder, ("T1", "T2"))
    assert str(caught.value) == f"{folder}: no IXI T1 or T2 volumes there; download them with: {command}"


def test_a_missing_contrast_is_named_and_odd_folder_names_are_quoted(tmp_path):
    folder = tmp_path / "my data"
    make(folder, "IXI-T1/IXI002-Guys-0828-T1.nii.gz")
    with pytest.raises(UserError, match=r"no IXI PD volumes there; .* -o '.*/my data' --contrasts T1 PD$"):
        ixi_cases(folder, ("T1", "PD"))


def test_a_volume_that_lies_in_both_layouts_is_refused(tmp_path):
    make(tmp_path, "IXI-T1/IXI002-Guys-0828-T1.nii.gz", "IXI002-Guys-0828-T1.nii.gz")
    with pytest.raises(
        UserError, match=r"IXI002-Guys-0828-T1\.nii\.gz and .*T1\.nii\.gz would both be called IXI002-Guys-0828_T1"
    ):
        ixi_cases(tmp_path, ("T1",))
