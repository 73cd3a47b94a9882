import csv
import json

import nibabel as nib
import numpy as np
import pytest
from ixi_like import write_ixi
from PIL import Image
from small_run import CONFIGS, QUICK, TINY
from small_volumes import write_volume

from pipeline.run import main
from transforms import registration

SMALL = (*(setting for setting in TINY if not setting.startswith(("data.", "split.", "preprocess.size"))), *QUICK)
UNET = ("generator.type=unet", "generator.start=lookup")  # as SMALL makes it small
SHORT = ("training.steps_per_epoch=2", "training.epochs=1", "training.decay_epochs=0")


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(config, *overrides):
    return main([str(CONFIGS / config), *SMALL, *SHORT, *overrides, "--quiet"])


# ── IXI ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_volumes_like_ixis_are_registered_and_come_out_on_their_own_grids(workspace, monkeypatch):
    for number in range(1, 5):
        _, t2 = write_ixi(workspace / "data/ixi", f"IXI{number:03d}-Guys-0800", scale=8, seed=number)
        image = nib.load(t2)
        affine = image.affine.copy()
        affine[:3, 3] += (5, -4, 6)  # the patient moved between the scans
        moved = nib.Nifti1Image(np.asarray(image.dataobj), affine)
        moved.set_qform(affine, code="scanner")
        moved.set_sform(affine, code="scanner")
        nib.save(moved, t2)
    for path in ("IXI-T2/IXI001-Guys-0800-T2", "IXI-T1/IXI002-Guys-0800-T1"):  # half a pair each: fewer registrations
        (workspace / f"data/ixi/{path}.nii.gz").unlink()
    monkeypatch.setattr(registration, "GRID_MM", 4.0)
    spacing = "preprocess.spacing_mm={in_plane: 7.5, through_plane: 9}"
    assert run("ixi.yaml", spacing, "preprocess.size=32", "split.validation=1", "split.test=1") == 0
    folder = workspace / "runs/ixi"
    (subject,) = json.loads((folder / "split.json").read_text())["test"]
    for source, target in (("T1", "T2"), ("T2", "T1")):
        original = nib.load(workspace / f"data/ixi/IXI-{source}/{subject}-{source}.nii.gz")
        made = nib.load(folder / f"translated/{subject}_{source}_to_{target}.nii.gz")
        assert made.shape == original.shape
        np.testing.assert_allclose(made.affine, original.affine, rtol=0, atol=1e-4)
        assert nib.aff2axcodes(made.affine) == {"T1": ("P", "S", "R"), "T2": ("L", "A", "S")}[source]
        assert (made.header["qform_code"], made.header["sform_code"]) == (1, 1)
    (note,) = (folder / "registration").iterdir()
    assert note.name == f"{subject}_T1-to-T2.json"
    movement = np.array(json.loads(note.read_text())["matrix"])
    np.testing.assert_allclose(movement[:3, 3], (5, -4, 6), atol=2.5)
    np.testing.assert_allclose(movement[:3, :3], np.eye(3), atol=0.04)


# ── folders of pictures ─────────────────────────────────────────────────────────────────────────────────────


def picture(path, number, contrast):
    """Write a 217x181 slice of a head, brighter inside in T2, as RGBA, RGB, gray or 16-bit gray by its number."""
    across, down = np.meshgrid(np.linspace(-1, 1, 217), np.linspace(-1, 1, 181))
    size = 0.6 + 0.02 * number
    level = np.where(across**2 + down**2 < size, 90 if contrast == "T1" else 200, 0)
    level[across**2 + down**2 < size / 4] = 200 if contrast == "T1" else 60
    level = np.uint8(level + np.random.default_rng(number).integers(0, 8, level.shape))
    image = Image.fromarray(level)
    path.parent.mkdir(parents=True, exist_ok=True)
    if number % 4 == 3:
        Image.fromarray(level.astype(np.uint16) * 257).save(path)
    else:
        (image if number % 4 == 2 else image.convert(("RGBA", "RGB")[number % 4])).save(path)


def pictures(folder, contrast, count):
    for number in range(1, count + 1):
        picture(folder / f"Image #{number}.png", number, contrast)


PUBLISHED_AUGMENTATION = (
    "augment.horizontal_flip=0.5", "augment.vertical_flip=0.5", "augment.rotate90=0.5", "augment.brightness=0.2",
    "augment.contrast=0.2", "augment.monai=[{RandGaussianNoised: {prob: 0.5, std: 0.02}}]",
)  # fmt: skip
MUNIT = (
    "method={type: munit}", "generator={type: munit, width: 2, style_downs: 2, blocks: 1, mlp_width: 4}",
    "discriminator={type: multiscale, width: 2, layers: 2}",
)  # fmt: skip


def test_folders_of_pictures_run_to_the_end_without_pairs_by_another_comparisons_method_and_augmentation(
    workspace, capsys
):
    pictures(workspace / "data/images/TrainT1", "T1", 13)
    pictures(workspace / "data/images/TrainT2", "T2", 14)
    small = [setting for setting in SMALL if not setting.startswith(("generator", "discriminator"))]
    options = (*small, *SHORT, *PUBLISHED_AUGMENTATION, *MUNIT, "preprocess.size=64")
    assert main([str(CONFIGS / "images.yaml"), *options, "--quiet"]) == 0
    folder, printed = workspace / "runs/images", capsys.readouterr().out
    assert "Test subjects, without pairs" in printed
    assert "no test subject has both contrasts, so there were no pairs to compare with" in printed
    assert printed.splitlines()[-2] == "  translated  runs/images/translated/   (PNG)"
    split = json.loads((folder / "split.json").read_text())
    assert len(split["test"]) == 6  # a fifth of 13 and of 14, rounded
    names = {f"{name}_{'T1_to_T2' if name.startswith('T1') else 'T2_to_T1'}.png" for name in split["test"]}
    assert {path.name for path in (folder / "translated").iterdir()} == names
    for name in names:
        with Image.open(folder / "translated" / name) as made:
            assert (made.size, made.mode) == ((217, 181), "L")
            assert np.ptp(np.asarray(made)) > 0
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert {row["metric"] for row in rows} == {"cycle_error", "intensity_distance"}
    assert "cannot say whether a translation is right" in (folder / "report.html").read_text()


def test_paired_pictures_with_test_folders_are_compared_slice_by_slice(workspace, capsys):
    for part, count in (("Train", 6), ("Test", 2)):
        for contrast in ("T1", "T2"):
            pictures(workspace / f"data/images/{part}{contrast}", contrast, count)
    sets = ("data.paired=true", "data.test={T1: TestT1, T2: TestT2}", "split.validation=1", "preprocess.size=96")
    assert run("images.yaml", *sets) == 0
    folder = workspace / "runs/images"
    split = json.loads((folder / "split.json").read_text())
    assert split["test"] == ["test-Image #1", "test-Image #2"]
    assert not set(split["train"]["T1"]) & set(split["train"]["T2"])
    rows = list(csv.DictReader((folder / "scores.csv").open()))
    assert {row["system"] for row in rows} == {"model", "copy", "histogram matching", "context lookup", "lookup"}
    assert {int(row["n"]) for row in rows if (row["unit"], row["metric"]) == ("volume", "psnr")} == {2}
    assert ">nan<" not in (folder / "report.html").read_text()
    assert len(list((folder / "translated").glob("*.png"))) == 4
    assert "SSIM" in capsys.readouterr().out


# ── volumes that cannot be read ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def cohort(workspace):
    """Eight subjects, of whom a training, a validation and a test subject have a file that is cut short."""
    for number in range(1, 9):
        for seed, contrast in enumerate(("T1", "T2")):
            write_volume(workspace / f"data/mri/sub-{number}_{contrast}.nii.gz", seed=10 * number + seed)
    for name in ("sub-2_T1", "sub-6_T2", "sub-8_T1"):
        path = workspace / f"data/mri/{name}.nii.gz"
        path.write_bytes(path.read_bytes()[:2000])
    split = {
        "train": {"T1": ["1", "2"], "T2": ["3", "4"]}, "validation": ["5", "6"], "test": ["7", "8"],
    }  # fmt: skip
    (workspace / "split.json").write_text(json.dumps(split))
    return (
        "data.folder=data/mri", "data.patterns={T1: 'sub-{subject}_T1.nii.gz', T2: 'sub-{subject}_T2.nii.gz'}",
        "split.file=split.json", "preprocess.size=32", "preprocess.spacing_mm=null", "output=runs/mine",
    )  # fmt: skip


def test_volumes_that_cannot_be_read_are_named_and_left_out(workspace, cohort, capsys):
    assert run("nifti.yaml", *UNET, *cohort) == 0
    printed, warned = capsys.readouterr()
    for name in ("sub-2_T1", "sub-6_T2", "sub-8_T1"):
        assert any("warning" in line and f"data/mri/{name}.nii.gz" in line for line in warned.splitlines())
    assert "1 of 4 training images were left out" in warned
    assert "left out: 8: " in printed
    page = (workspace / "runs/mine/report.html").read_text()
    assert "data/mri/sub-2_T1.nii.gz" in page and "not trained on" in page
    assert "data/mri/sub-8_T1.nii.gz" in page and "not evaluated" in page
    rows = list(csv.DictReader((workspace / "runs/mine/scores.csv").open()))
    assert {int(row["n"]) for row in rows if row["unit"] == "volume"} == {1}
    written = {path.name for path in (workspace / "runs/mine/translated").iterdir()}
    assert written == {"7_T1_to_T2.nii.gz", "7_T2_to_T1.nii.gz", "8_T2_to_T1.nii.gz"}
