import gzip
import tracemalloc
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import ixi_like
import nibabel as nib
import numpy as np
import psutil
import pytest
from nibabel import imageglobals

from transforms.io.nifti import VolumeError, read_nifti, read_with_warnings
from transforms.io.nifti_checks import nibabel_silent


def saved(image, path):
    nib.save(image, path)
    return path


def image_of(data, affine=None):
    return nib.Nifti1Image(np.asarray(data), np.eye(4) if affine is None else affine)


def ramp(shape=(4, 5, 6), dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


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


# ── FreeSurfer's volumes ──────────────────────────────────────────────────────────────────────────────────────


def mgz_at(path: Path, data: np.ndarray | None = None) -> nib.Nifti1Image:
    """Write a small head, or other voxels on its grid; return it as NIfTI."""
    source = ixi_like.ixi_t1(scale=8)
    data = np.asarray(source.dataobj).astype(np.int16) if data is None else data
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.MGHImage(data, source.affine), path)
    return nib.Nifti1Image(data, source.affine)


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_a_head_is_the_same_as_mgz_and_as_nifti(tmp_path, suffix, dtype):
    data = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype)
    image = mgz_at(tmp_path / f"a{suffix}", data)
    voxels, affine, _, warnings = read_with_warnings(tmp_path / f"a{suffix}")
    assert np.array_equal(voxels, data) and voxels.dtype == np.float32
    assert np.allclose(affine, image.affine, atol=1e-4) and warnings == []


def test_a_head_without_a_place_says_so(tmp_path):
    mgz_at(tmp_path / "a.mgh")
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[28:30] = bytes(2)  # goodRASFlag
    (tmp_path / "a.mgh").write_bytes(content)
    assert "gives no orientation; taken as FreeSurfer's default" in read_with_warnings(tmp_path / "a.mgh")[3][0]


def cut_inside(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:2000]))


def huge(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[4:8] = (30_000).to_bytes(4, "big")
    path.write_bytes(gzip.compress(content))


DAMAGES = {
    "cut before it was zipped": (cut_inside, "truncated"),
    "a text": (lambda path: path.write_text("hello"), "not a FreeSurfer volume but something else"),
    "a NIfTI": (
        lambda path: path.write_bytes(ixi_like.ixi_t1(scale=8).to_bytes()),
        "not a FreeSurfer volume but a sin",
    ),
    "an impossible size": (huge, "more than the file can hold"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_ones_are_refused_by_name(tmp_path, damage):
    spoil, message = DAMAGES[damage]
    path = tmp_path / "a.mgz"
    mgz_at(path)
    spoil(path)
    with pytest.raises(VolumeError, match=message) as refused:
        read_nifti(path)
    assert str(path) in str(refused.value)


def test_one_that_is_called_a_nifti_is_named(tmp_path):
    mgz_at(tmp_path / "a.mgz")
    (tmp_path / "a.mgz").rename(tmp_path / "a.nii.gz")
    with pytest.raises(VolumeError, match=r"not a NIfTI volume but a FreeSurfer volume; give it the suffix .mgz"):
        read_nifti(tmp_path / "a.nii.gz")
