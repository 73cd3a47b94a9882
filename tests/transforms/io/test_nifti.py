import tracemalloc
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


def test_nan_and_infinite_voxels_become_the_finite_extremes(tmp_path):
    data = ramp() - 10
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    with pytest.warns(UserWarning, match=r"3 NaN or infinite .* the lowest finite value \(\+inf by the highest\)"):
        array, _, _ = read_nifti(saved(image_of(data), tmp_path / "x.nii"))
    assert array[0, 0, :3].tolist() == [-7, 109, -7]


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.hdr"])
def test_a_volume_beyond_the_free_memory_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    image = image_of(np.arange(100**3, dtype=np.float64).reshape(100, 100, 100))
    path = saved(nib.Nifti1Pair(image.dataobj, image.affine) if name == "x.hdr" else image, tmp_path / name)
    free = SimpleNamespace(available=10_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    tracemalloc.start()
    message = r"100×100×100 voxels need 0\.0[12]\d* GB and 0\.01 GB are free; crop it"
    with pytest.raises(ValueError, match=message) as caught:
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
    with pytest.warns(UserWarning, match=r"x\.nii: its sform_code is 300, taken as 2$"):
        _, affine, read = read_nifti(tmp_path / "x.nii")
    assert np.array_equal(affine, image.affine) and int(read["sform_code"]) == 2


def test_nibabels_log_is_kept_back_in_this_thread_and_this_block_alone(caplog):
    log = imageglobals.logger
    with nibabel_silent():
        log.warning("here")
        thread = Thread(target=lambda: log.warning("elsewhere"))
        thread.start()
        thread.join()
    log.warning("afterwards")
    assert [record.message for record in caplog.records] == ["elsewhere", "afterwards"]
