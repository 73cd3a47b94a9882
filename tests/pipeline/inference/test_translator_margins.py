"""The same head gives the same translation, whatever surrounds it and whatever its zero is."""

import os
from pathlib import Path

import ixi_like
import nibabel as nib
import numpy as np
import pytest
import torch
from negative_model import model_of
from torch import nn

from pipeline.inference.translator import translate
from transforms.slice_chain import CHAIN_VERSION


class PositionDependent(nn.Module):
    """Adds to each pixel what depends on where it lies in the slice, as a network with padding does."""

    def forward(self, slices):
        rows = torch.linspace(-0.2, 0.2, slices.shape[-2])[:, None]
        return slices * 0.7 + rows + 0.1 * torch.linspace(-1, 1, slices.shape[-1]) - slices.mean((-1, -2), True)


def widened(source, margins, value=0):
    data = np.pad(np.asarray(source.dataobj), margins, constant_values=value)
    affine = source.affine @ nib.affines.from_matvec(np.eye(3), [-before for before, _ in margins])
    return nib.Nifti1Image(data, affine)


ONE_SIDED, ODD = [(0, 0), (40, 0), (0, 0)], [(3, 17), (0, 9), (1, 0)]


@pytest.mark.parametrize(
    ("settings", "margins"),
    [({}, ONE_SIDED), ({"spacing_mm": (7.0, 9.0)}, ODD), ({"n4": True}, ODD), ({"axis": "sagittal", "size": 16}, ODD)],
)
def test_the_same_head_gives_the_same_translation_whatever_empty_margin_surrounds_it(margins, settings):
    model = model_of(PositionDependent(), 0, 1000, version=CHAIN_VERSION, **settings)
    for make in (ixi_like.ixi_t1, ixi_like.ixi_t2):
        source = make(scale=8)
        expected = translate(source, model, "T2").get_fdata()
        translation = translate(widened(source, margins), model, "T2").get_fdata()
        original = tuple(
            slice(before, before + length) for (before, _), length in zip(margins, source.shape, strict=True)
        )
        assert np.abs(translation[original] - expected).max() < 1e-2
        around = np.ones(translation.shape, bool)
        around[original] = False
        assert (translation[around] == 0).all()  # the target's darkest


def test_what_a_model_of_the_earlier_chain_makes_beside_an_empty_margin_is_doubtful(caplog):
    source = ixi_like.ixi_t1(scale=8)
    model = model_of(PositionDependent(), 0, 1000, version=1)
    translate(widened(source, [(8, 8), (0, 0), (0, 0)]), model, "T2")
    assert "has 16 empty planes around what was scanned, and this model's result" in caplog.text


REAL = Path(os.environ.get("MRI_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
SCANS = [*sorted(REAL.glob("ms-raw/*.nii.gz"))[:1], *sorted(REAL.glob("infant/sub-01/*_T[12]w.nii.gz"))]


@pytest.mark.skipif(not SCANS, reason="needs real volumes, in MRI_TEST_DATA")
@pytest.mark.parametrize("path", SCANS, ids=lambda path: path.name)
def test_a_real_head_gives_the_same_translation_within_an_empty_margin_and_of_mean_0_on_a_background_of_0(path):
    source, margins = nib.load(path), [(8, 8), (40, 0), (0, 3)]
    original = tuple(slice(before, before + length) for (before, _), length in zip(margins, source.shape, strict=True))
    model = model_of(PositionDependent(), 0, 1000, version=CHAIN_VERSION, spacing_mm=(1.5, 3.0), size=64)
    expected = translate(source, model, "T2").get_fdata()
    translations = [translate(widened(source, margins), model, "T2").get_fdata()[original]]
    if path.parent.name != "ms-raw":  # whose background is noise
        data = np.asarray(source.dataobj, np.float32)
        inside = data != 0
        standardised = np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0).astype(np.float32)
        translations.append(translate(nib.Nifti1Image(standardised, source.affine), model, "T2").get_fdata())
    for translation in translations:
        assert np.sqrt(np.mean((translation - expected) ** 2)) < 1000 / 1e3  # 60 dB
