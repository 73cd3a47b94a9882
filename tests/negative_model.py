"""A translation model without weights, whose every accident can be arranged, and the command that uses it."""

import json
from dataclasses import replace
from pathlib import Path

import ixi_like
import nibabel as nib
import torch
from torch import nn

import pipeline.inference.model
import pipeline.inference.uncertainty_calibration  # before anyone replaces the `load_model` that it takes
from pipeline.data.statistics import ContrastStatistics
from pipeline.inference.model import TranslationModel
from pipeline.translate import main
from transforms.slice_chain import PreprocessSettings

MODEL = "models:/any@best"  # an address at which no file is looked for
SETTINGS = PreprocessSettings(axis="axial", spacing_mm=None, size=32, n4=False, percentiles=(0.0, 100.0))


class Negative(nn.Module):
    """Turns dark into bright; at a call, counted from 1, raises what `accidents` holds for it, or calls it."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.accidents = {}

    def forward(self, slices):
        self.calls += 1
        accident = self.accidents.get(self.calls)
        if isinstance(accident, BaseException):
            raise accident
        if accident is not None:
            accident()
        return -slices


def negative_model(contrasts: tuple[str, str] = ("T1", "T2")) -> TranslationModel:
    """Return a model that makes both contrasts of each other."""
    return TranslationModel(
        contrasts=contrasts,
        translators={name: Negative() for name in contrasts},
        settings=SETTINGS,
        statistics={name: ContrastStatistics(0.0, 1000.0, integer=True) for name in contrasts},
        stride=8,
        device=torch.device("cpu"),
    )


def loads(monkeypatch, load):
    """Have the command load its models by `load(uri, device)`, wherever they are said to be."""
    monkeypatch.setattr(pipeline.inference.model, "load_model", load)


def volume_at(path: Path, seed: int = 0) -> Path:
    """Write a small head; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(ixi_like.ixi_t1(scale=8, seed=seed), path)
    return path


def files_in(folder: Path) -> list[str]:
    """Every file below a folder, but for a batch's summary."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not path.endswith("summary.json"))


def run(*arguments: object) -> int:
    """Translate to T2 by the command; `load_model` must give it a model, as the fixture `model` does."""
    return main([*map(str, arguments), "--model", MODEL, "--to", "T2"])


def batch(folder: Path, *options: object) -> int:
    """Translate the volumes in a folder's "in" into its "out"."""
    return run("-i", folder / "in", "-o", folder / "out", *options)


def summary_of(out: Path) -> dict:
    """What a command's summary.json in `out` says."""
    return json.loads((out / "summary.json").read_text())


def statuses(out: Path) -> dict[str, str]:
    """What a command's summary.json in `out` says became of each source, by its name."""
    return {Path(volume["source"]).name: volume["status"] for volume in summary_of(out)["volumes"]}


def model_of(network, low=0.0, high=1.0, *, integer=False, precision="float32", **settings) -> TranslationModel:
    """Return a model that makes T2 by a network; `settings` are those of its preprocessing."""
    return TranslationModel(
        contrasts=("T1", "T2"),
        translators={"T2": network.eval()},
        settings=replace(SETTINGS, **settings),
        statistics={"T2": ContrastStatistics(low, high, integer=integer)},
        stride=8,
        device=torch.device("cpu"),
        precision=precision,
        origin="test model",
    )
