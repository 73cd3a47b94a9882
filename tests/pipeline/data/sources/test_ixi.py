import pytest
from empty_files import make

from pipeline.data.case import Case
from pipeline.data.sources.nifti_folder import ixi_cases
from pipeline.utils.errors import UserError


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
