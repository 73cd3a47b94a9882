"""Every case of `tests/volume_cases*.py` through the real command: exit code, message, leftovers, geometry."""

import gzip
import logging
import os
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from negative_model import loads, model_of
from raw_affine import check_raw_affine, content_of
from torch import nn
from volume_cases import SLOPE, head
from volume_cases_bad import BAD, CANNOT_BE_ROOT
from volume_cases_doubtful import DOUBTFUL
from volume_cases_good import GOOD

from pipeline.translate import main
from transforms.slice_chain import CHAIN_VERSION

VALUES_CHANGE = ("NaN voxels", "infinite voxels", "a float64 voxel beyond float32", "a float32 voxel of 3e38")
INVERTED = "slope -1 and intercept 900"  # a sound file, whose head is darker than the air: no head can be cut out
BEYOND_NIBABEL = ("intercept", "code", "qfac")  # which it refuses, or mends in another way
PAIR = (".hdr", ".IMG")
KEPT = (
    "dim", "dim_info", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
    "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    """Have the command find a model that changes nothing."""
    loads(monkeypatch, lambda uri, device: model_of(nn.Identity(), version=CHAIN_VERSION))


def translate(*arguments) -> int:
    """Run the command as outside of pytest, whose handlers keep from the terminal what libraries log."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        return main([*map(str, arguments), "--model", "any", "--to", "T2"])
    finally:
        root.handlers = handlers


def everything_below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def check_places(source: np.ndarray, result: np.ndarray) -> None:
    """An identity network scales intensities linearly and clips at the head's maximum: bright voxels stay in place."""
    source = np.asarray(source, np.float64).reshape(result.shape)
    source = source / np.abs(source).max()
    bright = source > source.min() + 0.3 * (source.max() - source.min())
    gain, offset = np.polyfit(source[bright], result[bright], 1)
    scale = source[bright].max() - source[bright].min()
    np.testing.assert_allclose((result[bright] - offset) / gain, source[bright], rtol=0, atol=0.01 * scale)


def load(path: Path) -> nib.spatialimages.SpatialImage:
    """As nibabel, which looks for other names where the suffix is in mixed case."""
    if path.suffix in PAIR:
        return nib.load(path)
    content = gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()
    return (nib.Nifti2Image if content[4:7] == b"n+2" else nib.Nifti1Image).from_bytes(content)


def check_geometry(source: nib.Nifti1Image, result: nib.Nifti1Image) -> None:
    assert result.shape == source.shape[:3]
    assert np.array_equal(result.affine, source.affine)
    assert type(result) is (nib.Nifti2Image if isinstance(source.header, nib.Nifti2Header) else nib.Nifti1Image)
    if isinstance(source.header, nib.Nifti1Header) and source.ndim == 3:
        for field in KEPT:
            assert np.array_equal(result.header[field], source.header[field], equal_nan=True), field
    if isinstance(source, nib.Nifti1Image):
        assert result.header.endianness == source.header.endianness
    (record,) = result.header.extensions  # of what made it, and nothing of the source's
    assert b'"contrast-translation"' in bytes(record.content)
    assert np.isfinite(result.get_fdata()).all()


def load_voxels(path: Path) -> np.ndarray:
    """The stored voxels, without their scaling, which in doubtful files may be meaningless."""
    return np.asarray(load(path).dataobj.get_unscaled()) if path.suffix in PAIR else unscaled(path)


def unscaled(path: Path) -> np.ndarray:
    content = bytearray(path.read_bytes() if path.suffix == ".nii" else gzip.decompress(path.read_bytes()))
    content[SLOPE : SLOPE + 8] = bytes(8)
    return np.asarray(nib.Nifti1Image.from_bytes(bytes(content)).dataobj)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_sound_volumes_come_back_on_their_grid_and_nothing_is_said(tmp_path, capfd, case):
    path = case.write(tmp_path / "in")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert translate("-i", path, "-o", tmp_path / "out", "--quiet") == 0
    printed = capfd.readouterr()
    doubtful = case.name == INVERTED
    assert printed.out == "" and ("where the head ends cannot be told" in printed.err) == doubtful
    assert len(printed.err.splitlines()) == doubtful
    written = list((tmp_path / "out").iterdir())
    assert [file.name for file in written] == [path.name if path.suffix not in PAIR else "head.nii.gz"]
    source, result = load(path), load(written[0])
    check_geometry(source, result)
    check_places(source.dataobj, result.get_fdata())


@pytest.mark.parametrize("case", DOUBTFUL, ids=lambda case: case.name)
def test_doubtful_volumes_are_translated_with_one_warning(tmp_path, capfd, case):
    path = case.write(tmp_path / "in")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert translate("-i", path, "-o", tmp_path / "out", "--quiet") == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"warning: {path}: "), lines
    assert lines[0].count(str(path)) == 1 and ".py" not in lines[0]
    assert all(phrase in lines[0] for phrase in case.says), lines[0]
    result = load(next((tmp_path / "out").iterdir()))
    if path.suffix not in PAIR:
        check_raw_affine(content_of(path), content_of(next((tmp_path / "out").iterdir())))
    if not any(word in case.name for word in BEYOND_NIBABEL):
        check_geometry(load(path), result)
    if case.name not in VALUES_CHANGE:
        check_places(head(shape=result.shape) if "byte 0" in case.name else load_voxels(path), result.get_fdata())


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_volumes_are_refused_in_one_line_and_leave_nothing(tmp_path, capfd, case):
    if case.name == CANNOT_BE_ROOT and os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "in").mkdir()
    path = case.write(tmp_path / "in")
    before = everything_below(tmp_path)
    assert translate("-i", path, "-o", tmp_path / "out", "--quiet") == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == (2 if case.name == ".nii beside .nii.gz" else 1), lines
    assert lines[0].startswith("error: ") and str(tmp_path / "in") in lines[0]
    assert all(phrase in lines[0] for phrase in case.says), lines[0]
    assert "Traceback" not in lines[0] and "unexpected" not in lines[0]
    assert everything_below(tmp_path) == before
