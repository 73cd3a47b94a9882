"""What MLflow shows of a finished run first: its description, in Markdown, and its table of test subjects."""

from collections.abc import Mapping, Sequence

from pipeline.evaluation.report import result_sentence
from pipeline.evaluation.scores import DESCRIPTIONS, UNPAIRED, Scores, SummaryRow
from pipeline.inference.model import TranslationModel
from pipeline.metrics.names import HEADINGS, MODEL, OWN, figure_parts, mean_and_sd, system_title
from pipeline.metrics.protocols import subject_means
from pipeline.tracking.mlflow_run import artifact_address
from pipeline.utils.files import json_number

SUBJECT_TABLE = "subject_scores.json"
HEADLINES = ("psnr", "ssim", "mae", "intensity_distance", "cycle_error")  # in the order of the columns
Row = list[str | float | None]


def front_page(
    model: TranslationModel,
    scores: Scores,
    checkpoint: str,
    provenance: Mapping[str, str],
    warnings: Sequence[str],
    pictures: Mapping[str, str],
) -> str:
    """Return a run's description: the result, warnings, pictures, figures beside the baselines', protocol and data.

    `provenance` has versions, seed, steps and time by name; `warnings` are sentences; `pictures` has what each shows,
    and its path among the run's artifacts.
    """
    protocol = OWN if scores.paired else UNPAIRED
    parts = [
        result_sentence(scores, model.contrasts),  # first, for MLflow shows three lines until one asks for more
        f'{model.origin}, checkpoint "{checkpoint}". **Not for clinical use.**',
        "\n".join(f"- **{warning}**" for warning in warnings),
        *(f"![{title}]({artifact_address(path)})" for title, path in pictures.items()),
        *(_figures(rows) for rows in _by_direction(scores)),
        f"Whole volumes inside the head, mean and SD; {protocol}: {DESCRIPTIONS[protocol]}.",
        "\n".join(f"- {text}" for text in _data_and_training(model, provenance)),
        "\n".join(f"Note: {note}.\n" for note in scores.notes),
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def subject_table(scores: Scores) -> tuple[list[str], list[Row]]:
    """Return columns and rows of a table of volumes inside the head: a row a subject, direction and system.

    MLflow groups the rows of several runs by the first column and compares the second, so these say whose row it is,
    and its first figure. The model's rows come first.
    """
    by_score = [(score, _headlines(subject_means(score.measurements))) for score in scores.subjects]
    by_score = [(score, figures) for score, figures in by_score if score.protocol in (OWN, UNPAIRED) and figures]
    metrics = [metric for metric in HEADLINES if any(metric in figures for _, figures in by_score)]
    rows: list[Row] = [
        [
            f"{score.subject} {score.source} → {score.target}, {score.system}",
            *(json_number(round(figures[metric], 4)) if metric in figures else None for metric in metrics),
            *(score.subject, score.source, score.target, score.system),
        ]
        for score, figures in sorted(by_score, key=lambda pair: pair[0].system != MODEL)
    ]
    return ["row", *map(_heading, metrics), "subject", "source", "target", "system"], rows


def _headlines(means: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of volumes inside the head, by metric."""
    parts = {figure_parts(figure): mean for figure, mean in means.items()}
    return {name: parts["volume", "foreground", name] for name in HEADLINES if ("volume", "foreground", name) in parts}


def _by_direction(scores: Scores) -> list[list[SummaryRow]]:
    directions: dict[tuple[str, str], list[SummaryRow]] = {}
    for row in scores.summary():
        is_headline = (row.unit, row.region) == ("volume", "foreground") and row.metric in HEADLINES
        if is_headline and row.protocol in (OWN, UNPAIRED):
            directions.setdefault((row.source, row.target), []).append(row)
    return list(directions.values())


def _figures(rows: Sequence[SummaryRow]) -> str:
    """Return a direction's table: a line a system."""
    metrics = [metric for metric in HEADLINES if any(row.metric == metric for row in rows)]
    cells = {(row.system, row.metric): mean_and_sd(row.metric, row.mean, row.sd) for row in rows}
    title = f"{rows[0].source} → {rows[0].target}, n = {max(row.n for row in rows)}"
    lines = [[title, *map(_heading, metrics)], ["---"] * (len(metrics) + 1)]
    lines += [
        [system_title(system), *(cells.get((system, metric), "") for metric in metrics)]
        for system in dict.fromkeys(row.system for row in rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _heading(metric: str) -> str:
    return HEADINGS.get(metric, metric.replace("_", " "))


def _data_and_training(model: TranslationModel, provenance: Mapping[str, str]) -> list[str]:
    cohorts = [
        f"{model.statistics[contrast].cases} scans in {contrast} ({model.statistics[contrast].slices:,} slices)"
        for contrast in model.contrasts
    ]
    return [f"trained on: {', '.join(cohorts)}", *(f"{name}: {text}" for name, text in provenance.items())]
