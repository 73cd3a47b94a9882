"""Runs that differ in their seed alone: every figure's mean and spread over them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.metrics.names import HEADINGS, MODEL, OWN, mean_and_sd
from pipeline.metrics.protocols import Summary, summarise
from pipeline.runs.folder import RunFolder, json_text
from pipeline.utils.console import table
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, csv_text, json_row

KEYS = ("source", "target", "system", "protocol", "unit", "region", "metric")  # of a figure
SHOWN = ("psnr", "calibrated_psnr", "ssim", "mae", "nmi")  # in the head, on a terminal

JOINED = "\n"  # between the values of KEYS, none of which may hold it


def summarise_seeds(folders: Mapping[int, Path], home: Path) -> str:
    """Write `seeds.csv` and `seeds.json` into `home`, and return the table for a terminal.

    A figure of one seed is its mean over test subjects; its mean over seeds, and their sample SD, say what another
    training would have given. Between subjects figures vary more: see each run's scores. `folders` are those of the
    finished runs, by seed.

    Raises:
        UserError: a run's scores cannot be read.
    """
    by_seed = {seed: _figures(folder) for seed, folder in folders.items()}
    summary = summarise(list(by_seed.values()))
    rows: list[dict[str, Any]] = [
        dict(zip(KEYS, figure.split(JOINED), strict=True))
        | {"mean": over_seeds.mean, "sd": over_seeds.sd, "n": over_seeds.n}
        | {f"seed-{seed}": figures.get(figure, float("nan")) for seed, figures in by_seed.items()}
        for figure, over_seeds in summary.items()
    ]
    atomic_text(home / "seeds.csv", csv_text(rows))
    atomic_text(home / "seeds.json", json_text({"seeds": list(folders), "figures": [json_row(row) for row in rows]}))
    return _text(summary, len(folders), home)


def _figures(folder: Path) -> dict[str, float]:
    """Return the means over subjects that a run wrote, by their joined keys; those that were not measured are NaN."""
    path = RunFolder(folder).scores
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["summary"]
        means = {JOINED.join(row[key] for key in KEYS): row["mean"] for row in rows}
        return {figure: float("nan") if mean is None else float(mean) for figure, mean in means.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the command again") from error


def _text(summary: Mapping[str, Summary], seeds: int, home: Path) -> str:
    """Return the model's figures inside the head as a table: mean ± SD over seeds."""
    lines: dict[str, dict[str, str]] = {}
    for figure, over_seeds in summary.items():
        source, target, *group, metric = figure.split(JOINED)
        if group == [MODEL, OWN, "volume", "foreground"] and metric in SHOWN:
            lines.setdefault(f"{source} → {target}", {})[metric] = mean_and_sd(metric, over_seeds.mean, over_seeds.sd)
    body = [[direction, *(figures.get(metric, "—") for metric in SHOWN)] for direction, figures in lines.items()]
    text = table(["direction", *(HEADINGS[metric] for metric in SHOWN)], body)
    return (
        f"Mean ± SD over {seeds} seeds, whole volumes inside the head, our own protocol:\n{text}\n"
        f"  every figure  {home / 'seeds.csv'}, {home / 'seeds.json'}"
    )
