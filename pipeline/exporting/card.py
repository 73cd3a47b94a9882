"""A model card in Markdown, from what a model and its run's folder know."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from networks.lookup_start import start_texts
from pipeline import __version__
from pipeline.exporting.record import preprocessing_steps
from pipeline.inference.model import TranslationModel
from pipeline.metrics.names import mean_and_sd, system_title

USE = (
    "Research on synthetic MRI. Not for clinical use: a translation shows what a scan of the other contrast might look "
    "like; it can lose or invent structures, lesions above all."
)
LIMITS = """- Anatomy can be lost or invented, lesions above all; no check tells it for certain.
- Slices are translated one by one: neighbouring slices may disagree.
- Scanners, sequences, ages and diseases that the training scans did not show are untested.
- Scores compare intensities; they do not show that a translation serves a purpose.
"""
SHOWN = {"psnr": "PSNR [dB]", "ssim": "SSIM", "mae": "MAE"}
BOX_CONFIGURATION = "033a7e88234a"  # hash of what the model in the box was trained by, which saw no real scan
PARTS = {"train": "trained on", "validation": "validated on", "test": "tested on"}


def model_card(model: TranslationModel, target: str, *, evaluated_now: bool = False) -> str:
    """Return the card of one direction of a model: use, data, preprocessing, method, figures and limits.

    What its run's folder does not say, or a folder that is not known (`TranslationModel.folder`), is left out, and so
    are figures that are outdated (`is_outdated`), unless `evaluated_now`: the run has just made them, and has yet to
    write its record. The card names no subject and no path.
    """
    source = model.source(target)
    sections = {
        "Use": USE,
        "Data": "\n".join(_bullets(_data(model, target))),
        "Preprocessing": "\n".join(f"- {step}" for step in preprocessing_steps(model)),
        "Training": "\n".join(_bullets(_training(model, target))),
        "Figures": _figures(model, target) if evaluated_now or not is_outdated(model) else "",
        "Limits": LIMITS.rstrip(),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    return f"# {source} to {target}\n\n{first_sentence(model, target)} **Not for clinical use.**\n\n{body}\n"


def first_sentence(model: TranslationModel, target: str) -> str:
    """Return what a model does, in a sentence."""
    axis = model.settings.axis
    return f"Translates brain MRI volumes from {model.source(target)} to {target}, {axis} slice by slice."


def own_figures(model: TranslationModel, target: str) -> dict[str, float]:
    """Return the model's mean figures inside the head by our protocol, by metric; none where they are outdated."""
    if is_outdated(model):
        return {}
    rows = [row for row in _rows(_read(model, "scores.json"), target) if row["system"] == "model"]
    return {row["metric"]: round(row["mean"], 4) for row in rows if isinstance(row["mean"], float)}


def is_outdated(model: TranslationModel) -> bool:
    """Whether the figures in the run's folder are outdated: it trained on since, or its evaluation is not finished."""
    record = _read(model, "run.json")
    return bool(record) and (bool(record.get("scores_outdated")) or "configuration" not in record)


def _bullets(entries: Iterator[tuple[str, str]]) -> list[str]:
    return [f"- {name}: {text}" for name, text in entries if text]


def _data(model: TranslationModel, target: str) -> Iterator[tuple[str, str]]:
    config, split = _read(model, "config.yaml"), _read(model, "split.json")
    yield "source", str(config.get("data", {}).get("source", ""))
    training = split.get("train", {})
    names = list(model.contrasts)
    if isinstance(training, Mapping):
        counts = ", ".join(f"{len(training.get(name, []))} in {name}" for name in names)
        pairing = config.get("split", {}).get("pairing", "unpaired")
        beside = f", {len(split['pairs'])} of them as pairs" if split.get("pairs") else ""
        yield PARTS["train"], f"{counts} ({pairing}{beside})" if training else ""
    for part in ("validation", "test"):
        if part in split:
            yield PARTS[part], _subjects(len(split[part]))
    if not split:
        cases = {name: model.statistics[name].cases for name in names if name in model.statistics}
        kind = (
            "synthetic scans, drawn from one atlas without any real scan,"
            if model.config_hash == BOX_CONFIGURATION
            else "scans"
        )
        yield PARTS["train"], ", ".join(f"{count} {kind} in {name}" for name, count in cases.items() if count)
    statistics = model.statistics[target]
    yield f"intensities of synthetic {target}", f"{statistics.low:.6g} to {statistics.high:.6g}, those of training"


def _subjects(count: int) -> str:
    return f"{count} subject{'s' * (count != 1)}"


def _training(model: TranslationModel, target: str) -> Iterator[tuple[str, str]]:
    config, record = _read(model, "config.yaml"), _read(model, "run.json")
    yield "method", model.origin
    yield "generator", str(config.get("generator", {}).get("type", ""))
    yield "generator starts from", start_texts(model.translators).get(target, "")
    knows_steps = record.keys() >= {"steps", "batch_size"} and not is_outdated(model)
    yield "steps", f"{record['steps']:,} of batch {record['batch_size']}" if knows_steps else ""
    yield "weights", model.identity(target)
    yield "configuration", model.config_hash
    yield "contrast-translation", str(record.get("version", __version__))


def _figures(model: TranslationModel, target: str) -> str:
    """Return a table of the model beside the baselines, with what is needed to read it; "" where there is none."""
    scores = _read(model, "scores.json")
    by_system: dict[str, dict[str, str]] = {}
    count = 0
    for row in _rows(scores, target):
        if row["metric"] in SHOWN and isinstance(row["mean"], float):  # what is not finite is text there, or None
            sd = row["sd"] if isinstance(row["sd"], float) else math.nan
            by_system.setdefault(row["system"], {})[row["metric"]] = mean_and_sd(row["metric"], row["mean"], sd)
            count = max(count, row["n"])
    if not by_system:
        return ""
    lines = [
        f"Whole volumes inside the head of the real target, test: {_subjects(count)}, mean and sample SD over them.",
        f"Protocol: {scores.get('protocols', {}).get('own', 'own')}.",
        "",
        f"| | {' | '.join(SHOWN.values())} |",
        f"| --- {'| --- ' * len(SHOWN)}|",
    ]
    for system, values in by_system.items():
        lines.append(f"| {system_title(system)} | {' | '.join(values.get(metric, '') for metric in SHOWN)} |")
    lines += [f"\nNote: {note}." for note in scores.get("notes", [])]
    return "\n".join(lines)


def _rows(scores: Mapping[str, Any], target: str) -> list[dict[str, Any]]:
    keys = {"target": target, "protocol": "own", "unit": "volume", "region": "foreground"}
    return [row for row in scores.get("summary", []) if all(row.get(key) == value for key, value in keys.items())]


def _read(model: TranslationModel, name: str) -> dict[str, Any]:
    """Return a file of the run's folder; empty where it is missing or cannot be read."""
    if model.folder is None:
        return {}
    try:
        text = (model.folder / name).read_text(encoding="utf-8")
        content = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
