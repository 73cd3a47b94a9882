"""What the pages of docs/how-to show is run, at a small size and without what a test has not: networks, GPUs, Slurm."""

import argparse
import csv
import hashlib
import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import bids_set
import dicom_series
import ixi_like
import nibabel as nib
import numpy as np
import pytest
from negative_model import files_in, loads, negative_model, summary_of
from page_commands import run_commands, shown_commands, text_of
from small_run import CONFIGS, QUICK, TINY, finished_phantom, lookups_fitted_once, without_pictures
from web_server import serve, web_server

from pipeline import download
from pipeline.config.load import load_config
from pipeline.inference.batch.dicom_folders import read_series
from pipeline.planning import durations
from transforms import registration

ROOT = CONFIGS.parent
NETWORKS = tuple(word for word in TINY if not word.startswith(("data.", "preprocess.size")))
SHORT = ("training.steps_per_epoch=2", "training.decay_epochs=0", "evaluation.uncertainty=false")
COARSE = ("preprocess.spacing_mm={in_plane: 7.5, through_plane: 9}", "preprocess.size=32")
SMALL_IXI = (*NETWORKS, *SHORT, *COARSE, "tracking.mlflow=false")


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The folder in which commands are typed, with the checkout's configurations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    monkeypatch.setattr(registration, "GRID_MM", 4.0)
    monkeypatch.setattr(durations, "ENOUGH_SECONDS", 0.0)
    with without_pictures(), lookups_fitted_once():
        yield tmp_path


@pytest.fixture
def model(monkeypatch):
    """What every `--model` loads."""
    made = negative_model()
    loads(monkeypatch, lambda uri, device: made)
    return made


def ixi_archives(folder: Path) -> dict[str, bytes]:
    """Return both of IXI's archives, by contrast, of a few small subjects, some of which have one contrast."""
    for number in range(1, 6):
        t1, t2 = ixi_like.write_ixi(folder, f"IXI{number:03d}-Guys-0800", scale=8, seed=number)
        for path in {1: [t2], 2: [t1]}.get(number, []):
            path.unlink()
    archives = {}
    for contrast in ("T1", "T2"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for path in sorted((folder / f"IXI-{contrast}").iterdir()):
                tar.add(path, path.name)
        archives[contrast] = buffer.getvalue()
    return archives


def test_from_ixis_archives_to_a_table(workspace, tmp_path_factory, monkeypatch):
    archives = ixi_archives(tmp_path_factory.mktemp("archives"))
    for contrast, content in archives.items():
        monkeypatch.setitem(download.IXI_MD5, contrast, hashlib.md5(content).hexdigest())
    monkeypatch.setenv("no_proxy", "*")
    with web_server() as server:
        server.answers = [lambda handler: serve(archives[handler.path[-6:-4]])(handler)]
        run_commands(
            shown_commands(text_of("ixi-to-table.md")),
            appended={
                "pipeline.download": ["--base-url", server.url],
                "pipeline.explore": SMALL_IXI,
                "pipeline.run": SMALL_IXI,
            },
        )
    assert {"table.html", "table.csv", "table.json"} <= {path.name for path in workspace.iterdir()}
    for name in ("ixi", "ixi_tutorial"):
        rows = list(csv.DictReader((workspace / "runs" / name / "scores.csv").open()))
        assert list(rows[0]) == [
            "source", "target", "system", "protocol", "unit", "region", "metric", "mean", "sd", "n",
        ]  # fmt: skip
        assert {"own", "syndiff", "selfrdb", "reggan"} == {row["protocol"] for row in rows}
    assert (workspace / "explore/ixi/explore.html").is_file()


def test_the_steps_and_hours_of_ixi_are_what_the_page_computes():
    settings = load_config(CONFIGS / "ixi.yaml", []).training
    steps = settings.steps_per_epoch * (settings.epochs + settings.decay_epochs)
    assert (steps, round(steps * 1.65 / 3600)) == (250_000, 115)


def validate(words: list[str]) -> None:
    """Run the validator, where it is installed; it comes with the test extra."""
    if (program := Path(sys.executable).with_name(words[0])).exists():
        subprocess.run([program, *words[1:]], check=True, capture_output=True, timeout=120)


def test_a_bids_data_set_becomes_a_derivative(workspace):
    scans = [f"sub-0{n}/anat/sub-0{n}_{suffix}.nii.gz" for n in range(1, 6) for suffix in ("T1w", "T2w")]
    bids_set.data_set(workspace / "my_bids", *scans, *[scan.replace("sub-01", "sub-06") for scan in scans[:1]])
    small = (*NETWORKS, *SHORT, *COARSE, *QUICK, "generator.type=unet", "generator.start=lookup")
    run_commands(
        shown_commands(text_of("your-own-data.md", "A BIDS data set, from nothing to derivatives")),
        appended={"pipeline.explore": small, "pipeline.run": [*small, "evaluation.translate=false"]},
        instead={"bids-validator-deno": validate},
    )
    made = [name for name in files_in(workspace / "my_bids/derivatives/synth") if name.endswith(".nii.gz")]
    assert made == [f"sub-0{number}/anat/sub-0{number}_desc-synth_T2w.nii.gz" for number in range(1, 7)]


def test_another_suffix_is_another_pattern():
    (override,) = re.findall(r"`(data\.patterns\S+)`", text_of("your-own-data.md"))
    patterns = load_config(CONFIGS / "nifti.yaml", shlex.split(override)).data.patterns
    assert patterns == {"T1": "sub-{subject}/**/*_T1w.nii.gz", "T2": "sub-{subject}/**/*_FLAIR.nii.gz"}


def test_a_hospitals_series_become_volumes_without_its_metadata(workspace, model):
    for patient in ("4711", "4712"):
        dicom_series.write_dicom(workspace / "hospital" / patient / "t1_mprage", dicom_series.head())
    kind = {"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}
    dicom_series.write_dicom(workspace / "hospital" / "4712" / "mprage_scout", dicom_series.head(), **kind)
    (workspace / "runs/ixi/checkpoints").mkdir(parents=True)
    (workspace / "runs/ixi/checkpoints/best.pt").touch()
    commands = shown_commands(text_of("dicom.md"))
    run_commands(commands, codes={commands[-1]: 3})
    out = workspace / "synthetic_t2"
    assert files_in(out) == ["4711/t1_mprage.nii.gz", "4712/t1_mprage.nii.gz"]
    image = nib.load(out / "4711/t1_mprage.nii.gz")
    series = read_series(workspace / "hospital/4711/t1_mprage")
    assert image.shape == series.shape
    np.testing.assert_allclose(image.affine, series.affine, atol=1e-4)
    header = image.header.binaryblock + b"".join(extension.get_content() for extension in image.header.extensions)
    assert not [text for text in (b"Doe", b"Jane", b"mprage", b"hospital") if text in header]
    failed = [volume for volume in summary_of(out)["volumes"] if volume["status"] == "failed"]
    assert [Path(volume["source"]).name for volume in failed] == ["mprage_scout"]
    assert "localizer" in failed[0]["error"]


class OptionsUnderstood(BaseException):
    """A command has read its options, and is to do nothing."""


def read_options(words: list[str]) -> None:
    """Have a command read its options, for a CPU, and no more."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *arguments):
        parse(parser, *arguments)
        raise OptionsUnderstood

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OptionsUnderstood):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        importlib.import_module(words[2]).main(
            [*(word.replace("cuda", "cpu") for word in words[3:]), "--device", "cpu"]
        )


def configure(words: list[str]) -> None:
    """Check a run's configuration, and leave a finished phantom where it would be."""
    config = load_config(Path(words[3]), [word for word in words[4:] if word != "--dry-run"])
    if config.data.source == "phantom":
        shutil.copytree(finished_phantom(), config.output)


def test_the_commands_for_a_gpu_are_understood_and_their_runs_compared(workspace):
    run_commands(
        shown_commands(text_of("gpu.md")),
        instead={
            "pytest": lambda words: (ROOT / words[3]).stat(),
            "pipeline.run": configure,
            **{f"benchmarks.{name}": read_options for name in ("cuda", "data", "inference", "step")},
        },
    )
    assert (workspace / "compared.html").is_file()
