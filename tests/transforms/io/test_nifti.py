import gzip
import tracemalloc
import warnings
from threading import Thread
from types import SimpleNamespace

import ixi_like
import nibabel as nib
import numpy as np
import psutil
import pytest
from nibabel import imageglobals

from transforms.io.nifti import read_nifti
from transforms.io.nifti_checks import nibabel_silent


@pytest.fixture
def volume():
    return ixi_like.ixi_t1(scale=16)


def saved(image, path):
    nib.save(image, path)
    return path


def image_of(data, affine=None):
    return nib.Nifti1Image(np.asarray(data), np.eye(4) if affine is None else affine)


def ramp(shape=(4, 5, 6), dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.hdr"])
def test_voxels_affine_and_header_are_those_of_the_file(tmp_path, volume, name):
    image = nib.Nifti1Pair(volume.dataobj, volume.affine, volume.header) if name == "x.hdr" else volume
    array, affine, header = read_nifti(saved(image, tmp_path / name))
    assert array.dtype == np.float32
    assert np.array_equal(array, np.asarray(volume.dataobj))
    assert np.array_equal(affine, nib.load(tmp_path / name).affine)
    assert header.get_xyzt_units() == ("mm", "sec")


def test_scaling_is_applied(tmp_path):
    content = bytearray(image_of(ramp(dtype=np.int16)).to_bytes())
    content[112:120] = np.array([2, -5], np.float32).tobytes()  # scl_slope, scl_inter
    (tmp_path / "x.nii").write_bytes(content)
    assert np.array_equal(read_nifti(tmp_path / "x.nii")[0], ramp() * 2 - 5)


def test_an_image_in_memory_is_read_without_changing_it():
    data = ramp()
    data[0, 0, 0] = np.nan
    image = image_of(data, np.diag([2.0, 2.0, 3.0, 1.0]))
    with pytest.warns(UserWarning, match="the image: 1 NaN or infinite voxels were replaced"):
        array, affine, _ = read_nifti(image)
    assert array[0, 0, 0] == 1 and np.isnan(data[0, 0, 0])
    assert np.array_equal(affine, image.affine)


def test_nifti_2_and_big_endian_files_are_read(tmp_path):
    second = nib.Nifti2Image(ramp(), np.eye(4))
    big = nib.Nifti1Image(ramp(), np.eye(4), nib.Nifti1Header(endianness=">"))
    for image in (second, big):
        assert np.array_equal(read_nifti(saved(image, tmp_path / "x.nii"))[0], ramp())


def test_a_series_of_one_volume_counts_as_a_volume(tmp_path):
    assert read_nifti(saved(image_of(ramp((4, 5, 6, 1))), tmp_path / "x.nii"))[0].shape == (4, 5, 6)


def test_a_name_that_says_otherwise_than_the_content_is_refused_with_the_right_one(tmp_path):
    plain, zipped = tmp_path / "plain.nii.gz", tmp_path / "zipped.nii"
    plain.write_bytes(image_of(ramp()).to_bytes())
    zipped.write_bytes(gzip.compress(image_of(ramp()).to_bytes()))
    with pytest.raises(ValueError, match=r"is not compressed although its name ends in \.gz; rename it to plain\.nii$"):
        read_nifti(plain)
    with pytest.raises(ValueError, match=r"is compressed \(gzip\) although .* rename it to zipped\.nii\.gz$"):
        read_nifti(zipped)


def test_nan_and_infinite_voxels_become_the_finite_extremes(tmp_path):
    data = ramp() - 10
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    with pytest.warns(UserWarning, match=r"3 NaN or infinite .* the lowest finite value \(\+inf by the highest\)"):
        array, _, _ = read_nifti(saved(image_of(data), tmp_path / "x.nii"))
    assert array[0, 0, :3].tolist() == [-7, 109, -7]


def test_a_sound_file_warns_of_nothing(tmp_path, volume):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_nifti(saved(volume, tmp_path / "x.nii.gz"))


PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(500)
NOT_NIFTI = {
    "empty.nii": (b"", "an empty file"),
    "notes.nii.gz": (b"subject 7 was tired\n" * 40, "a text file"),
    "pointer.nii.gz": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "run `git lfs pull`"),
    "page.nii.gz": (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
    "picture.nii": (PICTURE, "a PNG picture"),
    "dicom.nii": (bytes(128) + b"DICM" + bytes(500), "convert the series with dcm2niix"),
    "zeros.nii": (bytes(1000), "something else"),
    "zipped-text.nii.gz": (gzip.compress(b"hello " * 200), "a text file"),
    "short.nii": (image_of(ramp()).to_bytes()[:100], "not a NIfTI volume"),
}


@pytest.mark.parametrize("name", NOT_NIFTI)
def test_what_is_no_nifti_is_named_for_what_it_is(tmp_path, name):
    content, message = NOT_NIFTI[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_nifti(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_nifti(tmp_path / "x.nii")
    with pytest.raises(ValueError, match="is a folder"):
        read_nifti(tmp_path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, volume, suffix, share):
    path = saved(volume, tmp_path / f"x{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"truncated.*again"):
        read_nifti(path)


def test_a_wrong_gzip_checksum_is_refused(tmp_path, volume):
    path = saved(volume, tmp_path / "x.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the checksum's first byte: every voxel still unpacks
    path.write_bytes(content)
    assert nib.load(path).get_fdata().shape == volume.shape
    with pytest.raises(ValueError, match="damaged gzip data"):
        read_nifti(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path, suffix):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30_000, 30_000, 30_000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = header.binaryblock + bytes(1000)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    with pytest.raises(ValueError, match="claims 30000×30000×30000 voxels, more than the file can hold"):
        read_nifti(path)


def test_a_pair_needs_its_whole_image_file(tmp_path, volume):
    path = saved(nib.Nifti1Pair(volume.dataobj, volume.affine, volume.header), tmp_path / "x.hdr")
    voxels = tmp_path / "x.img"
    voxels.write_bytes(voxels.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"x\.img: truncated"):
        read_nifti(path)
    voxels.unlink()
    with pytest.raises(ValueError, match=r"x\.hdr: .*x\.img is missing"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ramp((4, 5)), r"2 dimensions \(4×5\)"),
        (ramp((4, 5, 6, 7)), "a series of 7 volumes"),
        (ramp().astype(np.complex64), "holds complex voxels"),
        (np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "holds colour voxels"),
        (np.full((4, 5, 6), 7, np.float32), "every voxel has the same value, 7"),
        (np.full((4, 5, 6), np.nan, np.float32), "every voxel is NaN or infinite"),
    ],
)
def test_volumes_that_cannot_be_translated_are_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        read_nifti(saved(image_of(data), tmp_path / "x.nii"))


def test_an_unknown_data_type_is_refused(tmp_path):
    content = bytearray(image_of(ramp()).to_bytes())
    content[70:72] = np.int16(77).tobytes()  # datatype
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.nii: not a readable NIfTI file .*77"):
        read_nifti(tmp_path / "x.nii")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 0, 0], [0, np.nan, 0], [0, 0, 1]], "holds NaN"),
        ([[1, 1, 0], [0, 0, 0], [0, 0, 1]], "is singular"),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], "measure 1×0×1 mm"),
        ([[0.0001, 0, 0], [0, 1, 0], [0, 0, 1]], "which cannot be"),
    ],
)
def test_affines_that_place_nothing_are_refused(tmp_path, rows, message):
    content = bytearray(image_of(ramp()).to_bytes())
    sform = np.hstack([np.array(rows, np.float32), np.zeros((3, 1), np.float32)])
    content[280:328] = sform.astype(np.float32).tobytes()  # srow_x, srow_y, srow_z
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_nifti(tmp_path / "x.nii")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.hdr"])
def test_a_volume_beyond_the_free_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    image = image_of(np.arange(100**3, dtype=np.float64).reshape(100, 100, 100))
    path = saved(nib.Nifti1Pair(image.dataobj, image.affine) if name == "x.hdr" else image, tmp_path / name)
    free = SimpleNamespace(available=10_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=r"100×100×100 voxels need 0\.0[12]\d* GB and 0\.01 GB are free; crop it"
    ) as caught:
        read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 and name in str(caught.value)
    free.available = 30_000_000
    assert read_nifti(path)[0].max() == 999_999


def test_reading_takes_no_more_memory_than_was_asked_for(tmp_path):
    shape = (96, 96, 96)  # beside which the buffers of decompression are small
    path = saved(image_of(ramp(shape).astype(np.int16)), tmp_path / "x.nii.gz")
    tracemalloc.start()
    read_nifti(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (2 * 2 + 4) * np.prod(shape) * 1.2  # the file, what nibabel takes of it, float32


@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_form_of_an_unknown_code_counts_whatever_the_format(tmp_path, kind, endianness):
    image = kind(ramp(), np.diag([-2.0, 3.0, 4.0, 1.0]), kind.header_class(endianness=endianness))
    content = bytearray(image.to_bytes())
    fields = kind.header_class.template_dtype.newbyteorder(endianness)
    header = np.frombuffer(memoryview(content)[: fields.itemsize], fields)
    header["sform_code"], header["qform_code"], header["pixdim"][:, 1:4] = 300, 0, (2, 3, 4)
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.warns(UserWarning, match=r"x\.nii: its sform code is 300, which NIfTI does not know; taken as 2 .*\)$"):
        _, affine, read = read_nifti(tmp_path / "x.nii")
    assert np.array_equal(affine, image.affine) and int(read["sform_code"]) == 2


def test_some_bytes_behind_the_voxels_do_not_matter(tmp_path):
    (tmp_path / "x.nii").write_bytes(image_of(ramp()).to_bytes() + bytes(5000))
    assert np.array_equal(read_nifti(tmp_path / "x.nii")[0], ramp())


def test_nibabels_log_is_kept_back_in_this_thread_and_this_block_alone(caplog):
    log = imageglobals.logger
    with nibabel_silent():
        log.warning("here")
        thread = Thread(target=lambda: log.warning("elsewhere"))
        thread.start()
        thread.join()
    log.warning("afterwards")
    assert [record.message for record in caplog.records] == ["elsewhere", "afterwards"]
