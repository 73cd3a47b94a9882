"""FreeSurfer's volumes: the same head as .mgz and as NIfTI is the same head, and damaged ones are refused."""

import gzip
from pathlib import Path

import ixi_like
import nibabel as nib
import numpy as np
import pytest

from transforms.io.nifti import VolumeError, read_nifti, read_with_warnings


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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def cut_inside(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:2000]))


def turned_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # gzip's checksum
    path.write_bytes(content)


def huge(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[4:8] = (30_000).to_bytes(4, "big")
    path.write_bytes(gzip.compress(content))


DAMAGES = {
    "cut short": (cut, "truncated or damaged gzip data"),
    "cut before it was zipped": (cut_inside, "truncated"),
    "a bit turned": (turned_bit, "truncated or damaged gzip data"),
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
