"""Folders of finished runs for tests, with the files that a comparison reads and without the hours before."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from pipeline.comparison.runs import FinishedRun, load_run, load_runs
from pipeline.config.load import load_settings
from pipeline.config.methods import PAIRED
from pipeline.config.schema import Config
from pipeline.evaluation.scores import Scores, SubjectScore

SUBJECTS = ("s1", "s2", "s3", "s4", "s5", "s6", "s7")
SPLIT = {"train": {"T1": ["t1"], "T2": ["t2"]}, "validation": ["v"], "test": list(SUBJECTS)}
BASELINES = {"copy": 9.0, "histogram matching": 11.0, "lookup": 16.0}  # PSNR of the first subject
RECORD = {
    "steps": 1000, "seconds": 250.0, "seconds_per_step": 0.25, "translator_parameters": 2_000_000,
    "parameters": {"G": 1_000_000, "F": 1_000_000, "D": 500_000}, "device": "cpu", "threads": 1, "precision": "float32",
    "configuration": "its hash",
}  # fmt: skip


def finished_run(
    folder: Path,
    name: str,
    psnr: float = 13.0,
    *,
    gains: tuple[float, ...] = (),
    split: dict | None = None,
    settings: dict | None = None,
    record: dict | None = RECORD,
    baselines: dict[str, float] = BASELINES,
    extra: dict[str, float] | None = None,
) -> Path:
    """Write a run's folder, and return it.

    Args:
        folder: Where run folders lie; this one gets the run's name.
        name: The run's name.
        psnr: Of the first subject, T1 to T2; each further one has 1 dB more (baselines 1.01), the way back 2 dB more.
        gains: What to add to it for each subject in turn.
        split: Instead of SPLIT.
        settings: Sections of the configuration to change.
        record: The content of run.json; None for none.
        baselines: PSNR of the first subject by baseline.
        extra: Further figures of every system and subject, by "unit/region/metric".
    """
    split = split or SPLIT
    config = {
        "name": name,
        "output": str(folder / name),
        "data": {"source": "nifti", "folder": "gone", "patterns": {"T1": "{subject}_T1.nii", "T2": "{subject}_T2.nii"}},
        "tracking": {"mlflow": False, "experiment": "trial"},
    }
    for section, values in (settings or {}).items():
        config[section] = {**config.get(section, {}), **values} if isinstance(values, dict) else values
    content = Config.model_validate(config).model_dump(mode="json")
    place = folder / name
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(yaml.safe_dump(content))
    (place / "split.json").write_text(json.dumps(split))
    scores = []
    for direction, more in ((("T1", "T2"), 0.0), (("T2", "T1"), 2.0)):
        for system, first in {"model": psnr, **baselines}.items():
            for index, scan in enumerate(split["test"]):
                gain = gains[index] if system == "model" and gains else 0.0
                step = 1.0 if system == "model" else 1.01  # no two differences are the same: ties take SciPy long
                measured = _measured(first + more + step * index + gain) | (extra or {})
                measured = {key: np.array([value]) for key, value in measured.items()}
                scores.append(SubjectScore(scan.replace("/", "_"), *direction, system, "own", measured))
    Scores(paired=True, subjects=scores).save(place)
    if record is not None:
        (place / "run.json").write_text(json.dumps(record))
    return place


def _measured(psnr: float) -> dict[str, float]:
    return {
        "volume/foreground/psnr": psnr,
        "volume/foreground/ssim": psnr / 20,
        "volume/foreground/mae": 1 / psnr,
        "volume/image/psnr": psnr + 6,
        "slice/foreground/psnr": psnr - 1,
    }


def read_run(folder: Path) -> FinishedRun:
    """Read a run as the command does."""
    return load_run(folder, load_settings, PAIRED)


def read_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Read runs as the command does."""
    return load_runs(folders, load_settings, PAIRED)


def bound() -> dict:
    """The sections of a run that trained on pairs."""
    return {"split": {"pairing": "paired"}, "method": {"type": "pix2pix"}}
