import gzip

import ixi_like
import nibabel as nib
import numpy as np
import pytest

from pipeline.inference.output_volume import image_like, write_volume
from pipeline.utils.errors import UserError
from transforms.io.nifti import read_nifti

KEPT = ("dim_info", "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
KEPT += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "toffset")


def written(source, path, data=None, integer=True, description="ours"):
    array, affine, header = read_nifti(source)
    data = array if data is None else data
    write_volume(image_like(data, affine, header, integer=integer, description=description), path)
    return nib.load(path)


def header_on_disk(path):
    """The header as stored: nibabel blanks the scaling fields of a loaded image's header."""
    content = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    return nib.Nifti1Header(content[:348])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (2, 4), (0, 0)])
def test_forms_codes_and_units_stay_bit_for_bit(tmp_path, codes, suffix):
    source = ixi_like.ixi_t1(scale=16)
    turned = ixi_like.centred_affine(source.shape, np.eye(3), source.header.get_zooms(), 20)
    source.header.set_qform(source.affine, codes[0])
    source.header.set_sform(turned if codes[1] else source.affine, codes[1])
    source.header.set_dim_info(freq=1, phase=0, slice=2)
    source.header["pixdim"][4:] = 0, 2.5, 0, 0
    path = tmp_path / "source.nii"
    path.write_bytes(nib.Nifti1Image(source.dataobj, None, source.header).to_bytes())
    before = nib.load(path)
    after = written(path, tmp_path / f"out{suffix}")
    assert before.header["pixdim"][5] == 2.5
    for field in KEPT:
        assert before.header[field].tobytes() == after.header[field].tobytes(), field
    assert np.array_equal(before.affine, after.affine)
    assert after.shape == before.shape


def test_what_described_the_source_is_reset(tmp_path):
    source = ixi_like.ixi_t1(scale=16)
    source.header.set_intent("t test", (10,), name="somebody")
    source.header["cal_min"], source.header["cal_max"] = 5, 900
    source.header["db_name"], source.header["aux_file"], source.header["descrip"] = b"Jane Doe", b"jane.txt", b"Jane"
    source.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, born 1970"))
    nib.save(source, tmp_path / "source.nii")
    after = written(tmp_path / "source.nii", tmp_path / "out.nii", description="ours")
    assert after.header["descrip"].item() == b"not for clinical use; ours"
    assert after.header["cal_min"] == after.header["cal_max"] == 0
    assert after.header.get_intent() == ("none", (), "")
    assert not after.header.extensions
    assert b"Jane" not in (tmp_path / "out.nii").read_bytes()
    assert (tmp_path / "out.nii").stat().st_size == 352 + 2 * np.prod(source.shape)
    assert len(source.header.extensions) == 1


@pytest.mark.parametrize("integer", [True, False])
def test_scaling_is_one_and_zero_whatever_the_source_had(tmp_path, integer):
    content = bytearray(ixi_like.ixi_t1(scale=16).to_bytes())
    content[112:120] = np.array([0.5, 7], np.float32).tobytes()
    (tmp_path / "source.nii").write_bytes(content)
    written(tmp_path / "source.nii", tmp_path / "out.nii.gz", integer=integer)
    stored = header_on_disk(tmp_path / "out.nii.gz")
    assert (stored["scl_slope"], stored["scl_inter"]) == (1, 0)


def test_integers_are_rounded_and_others_are_stored_as_they_are(tmp_path):
    source = ixi_like.ixi_t1(scale=16)
    data = np.full(source.shape, 10.6, np.float32)
    data[0, 0, 0] = -3.5
    _, affine, header = read_nifti(source)
    whole = image_like(data, affine, header, integer=True, description="")
    assert whole.get_data_dtype() == np.int16
    assert (whole.dataobj[0, 0, 0], whole.dataobj[1, 1, 1]) == (-4, 11)
    exact = image_like(data, affine, header, integer=False, description="")
    assert exact.get_data_dtype() == np.float32
    assert np.array_equal(exact.dataobj, data)
    large = image_like(data + 40_000, affine, header, integer=True, description="")  # is not clipped to int16
    assert large.get_data_dtype() == np.float32 and np.asarray(large.dataobj).max() == 40_011


def test_a_long_description_is_cut_between_characters(tmp_path):
    after = written(ixi_like.ixi_t1(scale=16), tmp_path / "out.nii", description="é" * 60)
    assert after.header["descrip"].item().decode() == "not for clinical use; " + "é" * 28  # 22 and 56 of 79 bytes


def test_equal_volumes_make_equal_bytes(tmp_path):
    image = ixi_like.ixi_t1(scale=16)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(image, tmp_path / name)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes()
    assert content[3:8] == bytes(5)  # neither a name nor a time in gzip's header


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"out\.mgz: volumes are written as \.nii or \.nii\.gz"):
        write_volume(ixi_like.ixi_t1(scale=16), tmp_path / "out.mgz")


@pytest.mark.parametrize("unit", ["mm", "micron", "meter"])
def test_an_affine_that_was_changed_in_memory_is_that_of_the_result(unit):
    source = ixi_like.ixi_t1(scale=8)
    source.header.set_xyzt_units(unit)
    scale = {"mm": 1.0, "micron": 1000.0, "meter": 0.001}[unit]
    header_affine = np.diag([scale] * 3 + [1.0]) @ source.affine
    source.header.set_sform(header_affine, code=1)
    source.header.set_qform(header_affine, code=1)
    data = np.zeros(source.shape)
    image = image_like(data, source.affine, source.header, integer=True, description="")
    np.testing.assert_allclose(image.affine, header_affine)
    moved = source.affine.copy()
    moved[0, 3] += 50
    shifted = image_like(data, moved, source.header, integer=True, description="")
    np.testing.assert_allclose(shifted.affine, moved)
