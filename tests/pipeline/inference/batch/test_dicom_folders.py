"""DICOM series, written slice by slice with SimpleITK, through the reader and the command."""

import warnings
from pathlib import Path

import ixi_like
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_series import RAS_FROM_LPS, head, write_dicom, write_slice
from negative_model import batch, files_in, run, volume_at

from pipeline.inference.batch.dicom_folders import _require_scan_type, files_of_series, holds_dicom, read_series
from pipeline.inference.batch.provenance import source_files
from pipeline.utils.errors import UserError
from transforms.io.nifti import read_nifti


@pytest.mark.parametrize("columns", ["oblique", "left-handed", "sheared"])
def test_voxels_and_affine_are_those_that_were_written(tmp_path, columns):
    affine = ixi_like.ixi_t1(scale=16).affine.copy()
    if columns == "left-handed":  # slices counted the other way round: the reader turns them, not the head
        affine[:3, 3] += affine[:3, 2] * 9
        affine[:3, 2] *= -1
    if columns == "sheared":  # a tilted gantry
        affine[:3, 2] += 0.3 * affine[:3, 1]
    image = head(affine=affine)
    write_dicom(tmp_path / "series", image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = read_series(tmp_path / "series")
    expected, stored = np.asarray(image.dataobj), affine
    if np.linalg.det(RAS_FROM_LPS[:3, :3] @ affine[:3, :3]) < 0:  # DICOM's normal is row × column
        expected = expected[:, :, ::-1]
        stored = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, expected.shape[2] - 1], [0, 0, 0, 1]])
    assert np.array_equal(read.get_fdata(), expected)
    assert np.allclose(read.affine, stored, atol=1e-4)
    assert read.header.get_xyzt_units()[0] == "mm" and read.header["sform_code"] == 1


def test_a_name_that_would_abort_simpleitk_is_refused(tmp_path):
    write_dicom(tmp_path / "series", head())
    with pytest.raises(UserError, match="its name is not UTF-8; rename"):
        read_series((tmp_path / "series").rename(tmp_path / b"caf\xe9".decode(errors="surrogateescape")))


def test_each_slice_has_its_own_rescaling(tmp_path):
    image = head(affine=np.diag([8.0, 8.0, 16.0, 1.0]))
    coarse = write_dicom(tmp_path / "coarse", image, **{"0028|1052": "-5", "0028|1053": "9"})
    for path in write_dicom(tmp_path / "series", image, **{"0028|1052": "-5", "0028|1053": "2"})[5:]:
        coarse_path = next(other for other in coarse if other.name == path.name)
        coarse_path.replace(path)
    read, stored = read_series(tmp_path / "series").get_fdata(), np.asarray(image.dataobj)
    for part, slope in ((np.s_[:, :, :5], 2), (np.s_[:, :, 5:], 9)):
        assert set(np.unique((read[part] + 5) % slope)) == {0.0}  # all that slope n - 5 can be
        assert np.abs(read[part] - stored[part]).max() <= slope


def test_a_series_becomes_a_volume_named_after_its_folder_without_the_patient(tmp_path, model):
    image = head()
    write_dicom(tmp_path / "in" / "1.2.840.77", image, suffix="")
    write_dicom(tmp_path / "in" / "site" / "scan", image, series="1.2.4")
    volume_at(tmp_path / "in" / "site" / "b.nii.gz")
    assert batch(tmp_path) == 0
    assert files_in(tmp_path / "out") == ["1.2.840.77.nii.gz", "site/b.nii.gz", "site/scan.nii.gz"]
    translation = nib.load(tmp_path / "out" / "1.2.840.77.nii.gz")
    series = read_series(tmp_path / "in" / "1.2.840.77")
    assert translation.shape == series.shape and np.allclose(translation.affine, series.affine)
    head_voxels = series.get_fdata() > 100
    assert np.corrcoef(translation.get_fdata()[head_voxels], series.get_fdata()[head_voxels])[0, 1] < -0.9
    assert run("-i", tmp_path / "in" / "site" / "scan", "-o", tmp_path / "one.nii", "--keep-header-text") == 0
    assert run("-i", tmp_path / "in" / "site" / "scan", "-o", tmp_path / "two") == 0
    assert files_in(tmp_path / "two") == ["scan.nii.gz"]
    for path in (tmp_path / "one.nii", tmp_path / "two" / "scan.nii.gz"):
        assert b"Jane" not in nib.load(path).to_bytes()


def without_the_fourth(paths):
    paths[3].unlink()


def one_aside(paths):
    image = sitk.ReadImage(str(paths[3]))
    x, y, z = map(float, image.GetMetaData("0020|0032").split("\\"))
    row_direction = [float(text) for text in image.GetMetaData("0020|0037").split("\\")][:3]  # along the rows
    position = "\\".join(f"{value + 5 * index:.9g}" for value, index in zip((x, y, z), row_direction, strict=True))
    image.SetMetaData("0020|0032", position)
    write_slice(image, paths[3])


def cut_in_half(paths):
    paths[2].write_bytes(paths[2].read_bytes()[: paths[2].stat().st_size // 2])


def text_named_dicom(paths):
    paths[0].with_name("notes.dcm").write_text("hello")


SPOILT = {
    "a slice lies aside": (
        one_aside,
        "lie unevenly or not in one line (16.76 mm between IM0014.dcm and IM0021.dcm, elsewhere 16.00 mm); export",
    ),
    "a slice is missing": (
        without_the_fourth,
        "slices are missing, or lie unevenly or not in one line (32.00 mm between IM0014.dcm and IM0028.dcm, elsewhere",
    ),
    "a damaged slice": (cut_in_half, "IM0014.dcm: "),
    "no DICOM": (text_named_dicom, "notes.dcm: cannot be read as a DICOM image; copy it again, or move"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_series_that_is_not_whole_is_refused_by_name(tmp_path, kind):
    spoil, message = SPOILT[kind]
    affine = np.diag([8.0, 8.0, 16.0, 1.0])
    spoil(write_dicom(tmp_path / "series", head(affine=affine)))
    with pytest.raises(UserError) as caught:
        read_series(tmp_path / "series")
    assert message in str(caught.value)


ANNEXED = ".git/annex/objects/xX/7q/MD5-s9--0a/MD5-s9--0a"
LINKS = [
    (".dcm", ANNEXED, "its content is not fetched (git-annex keeps it); run `datalad get "),
    ("", ANNEXED, "its content is not fetched (git-annex keeps it); run `datalad get "),
    (".dcm", "/nowhere/1.dcm", "a link that leads nowhere; copy the series again"),
]


@pytest.mark.parametrize(("suffix", "target", "message"), LINKS)
def test_a_slice_that_is_a_broken_link_is_not_left_out(tmp_path, model, capsys, suffix, target, message):
    last = write_dicom(tmp_path / "series", head(), suffix=suffix)[-1]  # whose lack nothing else shows
    last.unlink(), last.symlink_to(target)
    assert run("-i", tmp_path / "series", "-o", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"error: {last}: {message}")


def test_several_series_in_a_folder_are_named_and_refused(tmp_path):
    write_dicom(tmp_path / "series", head(), series="1.2.3")
    for path in write_dicom(tmp_path / "other", head(), series="1.2.9")[:4]:
        path.rename(tmp_path / "series" / f"second-{path.name}")
    with pytest.raises(UserError, match=r"2 DICOM series: 1\.2\.3 \(10 files\), 1\.2\.9 \(4 files\); put the one"):
        read_series(tmp_path / "series")


def test_slices_at_one_place_or_at_angles_are_refused(tmp_path):
    image = head()
    turned = image.affine[:, [1, 0, 2, 3]]
    cases = {"at one position": image.affine, "several orientations": turned}
    for number, (message, affine) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        write_dicom(folder, image)
        for path in write_dicom(folder / "more", head(affine=affine))[:1]:
            path.rename(folder / "IM9999.dcm")
        with pytest.raises(UserError, match=message):
            read_series(folder)


def test_gaps_in_the_numbering_warn(tmp_path):
    for path in write_dicom(tmp_path / "series", head())[::2]:
        path.unlink()
    read = read_series(tmp_path / "series")
    with pytest.warns(UserWarning, match="series: its instance numbers have gaps; slices may be missing at an end$"):
        read_nifti(read)


def test_a_multi_frame_file_is_refused(tmp_path):
    stack = sitk.GetImageFromArray(np.asarray(head().dataobj).transpose(2, 1, 0).astype(np.uint16))  # (Z, Y, X)
    (tmp_path / "series").mkdir()
    write_slice(stack, tmp_path / "series" / "all.dcm")
    with pytest.raises(UserError, match=r"all\.dcm: holds several frames .*; convert it with dcm2niix"):
        read_series(tmp_path / "series")


def write_without_place(folder: Path) -> Path:
    """Write the slices of a head without the elements that say where they lie."""
    for path in write_dicom(folder, head()):
        content = path.read_bytes()
        for element in (b"\x20\0\x32\0", b"\x20\0\x37\0"):
            start = content.index(element)
            size = int.from_bytes(content[start + 4 : start + 8], "little")  # implicit VR
            content = content[:start] + content[start + 8 + size :]
        path.write_bytes(content)
    return folder


def test_slices_without_positions_are_refused_by_the_tags_that_are_missing(tmp_path):
    folder = write_without_place(tmp_path / "slices")
    with pytest.raises(
        UserError, match=r"0\.dcm: does not say where it lies \(ImagePositionPatient and .*; export the"
    ):
        read_series(folder)


def test_other_files_are_not_taken_for_dicom(tmp_path):
    for name in ("a.txt", "a.json", "noextension", "1.2.3", ".hidden.dcm", "DICOMDIR"):
        (tmp_path / name).write_bytes(bytes(200))
    (tmp_path / "README").symlink_to(ANNEXED)
    assert not holds_dicom(tmp_path)
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    assert holds_dicom(tmp_path) and not holds_dicom(tmp_path / "IM1")


# ── kinds of series ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_series_with_another_slice_is_stale(tmp_path, model):
    slices = write_dicom(tmp_path / "series", head())
    assert source_files(tmp_path / "series") == sorted(slices) == files_of_series(tmp_path / "series")
    assert run("-i", tmp_path / "series", "-o", tmp_path / "a.nii") == 0
    assert run("-i", tmp_path / "series", "-o", tmp_path / "a.nii") == 0
    content = bytearray(slices[0].read_bytes())
    content[-1] ^= 1
    slices[0].write_bytes(content)
    assert run("-i", tmp_path / "series", "-o", tmp_path / "a.nii") == 2


KINDS = [
    ("ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC", "MONOCHROME2", "a Siemens mosaic"),
    ("ORIGINAL\\PRIMARY\\LOCALIZER", "MONOCHROME2", "a localizer, not a scan"),
    ("DERIVED\\SECONDARY\\SCREEN SAVE", "MONOCHROME2", "a picture of a screen"),
    *(("DERIVED\\PRIMARY", colours, "a colour picture") for colours in ("RGB", "PALETTE COLOR", "YBR_FULL")),
]


@pytest.mark.parametrize(("image_type", "photometric", "reason"), KINDS)
def test_what_is_no_slice_of_a_scan_is_refused_by_its_own_words(image_type, photometric, reason):
    with pytest.raises(UserError, match=f"^IM1: {reason}") as caught:
        _require_scan_type(Path("IM1"), image_type, photometric)
    assert photometric != "MONOCHROME2" or f"(ImageType {image_type})" in str(caught.value)
    _require_scan_type(Path("IM1"), "DERIVED\\SECONDARY\\MPR", "MONOCHROME2")  # an ordinary reconstruction
