"""What of DICOM is taken for a scan, what is refused by its own words, and what makes a series another one."""

import locale

import pytest
from dicom_series import head, write_dicom
from negative_model import files_in, run, volume_at

from pipeline.inference.batch.dicom_folders import _require_scan_type, files_of_series, read_series
from pipeline.inference.batch.provenance import source_files
from pipeline.utils.errors import UserError


@pytest.fixture(autouse=True, scope="module")
def same_locale():
    """GDCM sets the process's locale to "C" when it writes (and not when it reads): other tests would read ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


def test_a_series_with_another_slice_is_stale(tmp_path, model):
    slices = write_dicom(tmp_path / "series", head())
    assert source_files(tmp_path / "series") == sorted(slices) == files_of_series(tmp_path / "series")
    assert run("-i", tmp_path / "series", "-o", tmp_path / "a.nii") == 0
    assert run("-i", tmp_path / "series", "-o", tmp_path / "a.nii") == 0
    content = bytearray(slices[0].read_bytes())
    content[-1] ^= 1
    slices[0].write_bytes(content)
    assert run("-i", tmp_path / "series", "-o", tmp_path / "a.nii") == 2


KINDS = {
    "a mosaic": ({"0008|0008": "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"}, "a Siemens mosaic"),
    "a localizer": ({"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "a localizer, not a scan"),
    "a screenshot": ({"0008|0008": "DERIVED\\SECONDARY\\SCREEN SAVE"}, "a picture of a screen"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_slice_of_a_scan_is_refused_by_its_own_words(tmp_path, model, capsys, kind):
    tags, message = KINDS[kind]
    write_dicom(tmp_path / "in" / "series", head(), **tags)
    volume_at(tmp_path / "in" / "a.nii.gz")
    assert run("-i", tmp_path / "in", "-o", tmp_path / "out") == 3
    assert files_in(tmp_path / "out") == ["a.nii.gz"]
    printed = capsys.readouterr().out
    assert message in printed and f"(ImageType {tags['0008|0008']})" in printed


@pytest.mark.parametrize("photometric", ["RGB", "PALETTE COLOR", "YBR_FULL"])
def test_colours_are_refused_by_their_name(tmp_path, photometric):
    with pytest.raises(UserError, match="IM1: a colour picture, not a scan"):
        _require_scan_type(tmp_path / "IM1", "DERIVED\\PRIMARY", photometric)


@pytest.mark.parametrize(
    "words",
    [
        "ORIGINAL\\PRIMARY\\M\\ND",
        "DERIVED\\PRIMARY\\M\\NORM\\DIS3D",
        "ORIGINAL\\PRIMARY\\M_FFE ",
        "DERIVED\\SECONDARY\\MPR",
    ],
)
def test_ordinary_reconstructions_are_taken(tmp_path, words):
    image = head()
    write_dicom(tmp_path / "series", image, **{"0008|0008": words})
    assert read_series(tmp_path / "series").shape == image.shape
