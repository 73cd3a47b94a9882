"""However a head is stored, its translation is the same; whatever its file is called, the command finds it."""

import nibabel as nib
import numpy as np
import pytest
import torch
from negative_model import loads, model_of
from nibabel.orientations import aff2axcodes, apply_orientation
from torch import nn
from volume_cases import ORIENTATIONS, affine_of, head, image, saved, stored_as
from volume_cases_bad import BAD

from pipeline.translate import main

SHEAR = np.array([[1, 0.2, 0.1], [0, 1, 0.15], [0, 0, 1]])


@pytest.fixture
def use(monkeypatch):
    """Have the command find a small network that treats left and right, top and bottom differently."""

    def install(**settings):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 5, padding=2), nn.Tanh()
        )
        model = model_of(network, 0.0, 1000.0, **{"percentiles": (0.5, 99.5)} | settings)
        loads(monkeypatch, lambda uri, device: model)

    install()
    return install


def translate(*arguments) -> int:
    return main([*map(str, arguments), "--model", "any", "--to", "T2", "--quiet"])


@pytest.mark.parametrize(
    ("settings", "columns", "degrees", "step"),
    [
        ({"axis": "sagittal", "spacing_mm": (11.0, 17.0)}, None, 8, 5),
        ({"spacing_mm": (12.0, 12.0)}, None, 40, 1),  # two axes lie nearly as near to the same two of the world
        ({"spacing_mm": (12.0, 14.0)}, SHEAR, 20, 5),
    ],
    ids=["sagittal, resampled, 8°", "40°", "sheared"],
)
def test_a_head_gives_the_same_translation_in_all_48_orientations(tmp_path, use, settings, columns, degrees, step):
    use(**settings)
    codes = (0, 1) if columns is not None else (1, 1)
    shape = (13, 15, 11)
    affine = affine_of(shape, (14.0, 15.0, 16.0), degrees, columns)
    original = image(head(shape, affine), affine, codes=codes)
    unturned = next(n for n, o in enumerate(ORIENTATIONS) if np.array_equal(o, [[0, 1], [1, 1], [2, 1]]))
    chosen = {number: o for number, o in enumerate(ORIENTATIONS) if number % step == unturned % step}
    for number, orientation in chosen.items():
        saved(tmp_path / "in", stored_as(orientation, original, codes), f"{number:02d}.nii")
    assert translate("-i", tmp_path / "in", "-o", tmp_path / "out") == 0
    expected = nib.load(tmp_path / "out" / f"{unturned:02d}.nii").get_fdata()
    assert expected.std() > 50
    modes = set()
    for number, orientation in chosen.items():
        source, result = (nib.load(tmp_path / folder / f"{number:02d}.nii") for folder in ("in", "out"))
        assert np.array_equal(source.affine, result.affine) and source.shape == result.shape
        buffer = np.empty(shape)
        buffer.flat[apply_orientation(np.arange(buffer.size).reshape(shape), orientation)] = result.get_fdata()
        assert np.array_equal(buffer, expected), aff2axcodes(source.affine)
        modes.add(aff2axcodes(source.affine))
    assert len(modes) == len(chosen) >= 48 // step


def test_bad_volumes_in_a_batch_are_3_and_the_others_are_made(tmp_path, use, capfd):
    for case in BAD[:5]:
        (tmp_path / "in" / case.name).mkdir(parents=True)
        case.write(tmp_path / "in" / case.name)
    saved(tmp_path / "in", image(), "good.nii.gz")
    (tmp_path / "in" / "gone.nii").symlink_to("nowhere.nii")
    (tmp_path / "in" / "folder.nii.gz").mkdir()
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    saved(tmp_path / "in", image(), "twin.nii")
    saved(tmp_path / "in", image(), "twin.nii.gz")
    assert translate("-i", tmp_path / "in", "-o", tmp_path / "out") == 3
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["good.nii.gz", "summary.json"]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 9 and all(line.startswith("error: ") for line in lines)
    assert sum("would be one volume" in line for line in lines) == 2


def test_an_empty_folder_is_refused_and_does_not_stop_the_others(tmp_path, use, capfd):
    (tmp_path / "empty").mkdir()
    assert translate("-i", tmp_path / "empty", "-o", tmp_path / "out") == 2 and not (tmp_path / "out").exists()
    assert "empty: no volumes (.nii.gz, .nii, .hdr, " in capfd.readouterr().err
    assert translate("-i", tmp_path / "empty", saved(tmp_path, image()), "-o", tmp_path / "out") == 3
    assert "empty: no volumes (.nii.gz, .nii, .hdr, " in capfd.readouterr().err
