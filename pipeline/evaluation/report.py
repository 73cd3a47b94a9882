"""The report of a finished run: the figures, pictures and tables on its page."""

import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline import __version__
from pipeline.config.load import resolved_yaml
from pipeline.config.schema import Config
from pipeline.engines.base import Engine
from pipeline.evaluation.scores import DESCRIPTIONS, MASKED_PSNR, Scores
from pipeline.evaluation.translation_writer import TranslatedVolume, sample_frames
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, MODEL, OWN
from pipeline.metrics.protocols import PUBLISHED
from pipeline.reporting.report_page import (
    PHANTOM_FLAG,
    PHANTOM_NOTE,
    BeforeAfter,
    Highlight,
    Picture,
    Report,
    ScoreTable,
    SubjectResult,
    write_report,
)
from pipeline.reporting.viewer import NOT_FETCHED, Viewer, is_fetched
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData
from pipeline.training.failure_monitor import TrainingWarning
from pipeline.training.history import history_texts
from pipeline.training.schedule import TrainerState

EMBEDDED_MOSAICS = 4  # a report stays a file that can be mailed


def write_summary(
    config: Config,
    folder: RunFolder,
    prepared: PreparedData,
    scores: Scores,
    volumes: Sequence[TranslatedVolume],
    gifs: Mapping[str, Path],
    curves: Path,
    position: TrainerState,
    engine: Engine,
    viewer: Viewer | None = None,
    uncertainty: Path | None = None,
    training_warnings: Sequence[TrainingWarning] = (),
    history: Mapping[str, object] | None = None,
    shift: str = "",
) -> None:
    """Write the run's report.html.

    Args:
        viewer: The interactive viewer; None to print how to get it instead.
        uncertainty: Path of the picture of the calibration.
        shift: A sentence on the shift of translations against their sources.
    """
    # The pictures of the best and worst subjects, and some others.
    phantom = config.data.source == "phantom"
    subjects = _best_and_worst(scores, config.contrasts, volumes)
    shown_mosaics = {subject.picture.content for subject in subjects if subject.picture}
    other_volumes = [volume for volume in volumes if volume.mosaic not in shown_mosaics]

    # The page, from top to bottom.
    report = Report(
        title=config.name,
        result=result_sentence(scores, config.contrasts),
        highlights=_highlights(scores, config.contrasts),
        warnings=[
            *([PHANTOM_NOTE] if phantom else []),
            *_standing_warnings(training_warnings),
            *_exclusions(prepared, scores),
        ],
        animations=[
            Picture(path, f"training, {_arrow(direction)}", f"{_arrow(direction)}: the same slices, epoch by epoch")
            for direction, path in gifs.items()
        ],
        samples=[_before_after(folder, direction) for direction in gifs],
        mosaics=[
            Picture(
                volume.mosaic,
                f"{volume.case.name} translated to {volume.target}",
                f"{volume.case.name} → {volume.target}; each row is windowed by its own percentiles",
            )
            for volume in other_volumes[:EMBEDDED_MOSAICS]
        ],
        scores=_tables(scores, config.contrasts),
        scores_flag=PHANTOM_FLAG if phantom else "",
        training_warnings={
            warning.title: (warning.observation, warning.meaning, warning.first.advice) for warning in training_warnings
        },
        curves=Picture(curves, "losses and validation scores", shift, on_white=True),
        uncertainty=_uncertainty(uncertainty),
        subjects=subjects,
        viewer=viewer,
        viewer_note="" if viewer or is_fetched() else NOT_FETCHED,
        split_header=["split", "contrast", "subjects", "images", "slices"],
        split_rows=_split_rows(config, prepared),
        split_subjects=_split_subjects(config, prepared),
        config_yaml=resolved_yaml(config),
        provenance=_provenance(config, prepared, position, engine) | history_texts(history or {}),
        next_commands=_next_commands(config, folder),
        notes=scores.notes,
    )
    write_report(folder.report, report)


def _next_commands(config: Config, folder: RunFolder) -> dict[str, str]:
    """Return the commands for what a user may want to do next, by their purpose."""
    model, to = shlex.quote(str(folder.path)), shlex.quote(config.contrasts[1])
    translate = f"python -m pipeline.translate -i IN.nii.gz -o OUT.nii.gz --model {model} --to {to}"
    return {
        **({} if config.data.source == "images" else {"translate a volume": translate}),
        "compare it with another run": f"python -m pipeline.compare {model} runs/OTHER -o compare.html",
        "look at all runs": "mlflow ui",
        "repeat this run": f"python -m pipeline.run {shlex.quote(str(folder.config))} output=runs/again",
    }


def result_sentence(scores: Scores, contrasts: tuple[str, str]) -> str:
    """Return a sentence that compares the model with the better of copy and histogram matching, by direction."""
    if not scores.paired:
        return "No test subject has both contrasts: these figures cannot say whether a translation is right."
    sentences = []
    for source, target in (contrasts, contrasts[::-1]):
        psnr, baseline, baseline_psnr = _against_baseline(scores, source, target)
        sentences.append(f"{source} → {target} {psnr:.2f} dB, {psnr - baseline_psnr:+.2f} dB against {baseline}")
    return f"Masked PSNR of whole test volumes (our protocol, data range 2): {'; '.join(sentences)}."


def _against_baseline(scores: Scores, source: str, target: str) -> tuple[float, str, float]:
    """Return the model's masked volume PSNR, and the better one's name and PSNR of copy and histogram matching."""
    means = {name: scores.mean(source, target, name, MASKED_PSNR) for name in (MODEL, COPY, HISTOGRAM)}
    better = max((COPY, HISTOGRAM), key=means.__getitem__)
    return means[MODEL], better, means[better]


def _highlights(scores: Scores, contrasts: tuple[str, str]) -> list[Highlight]:
    if not scores.paired:
        return []
    highlights = []
    for source, target in (contrasts, contrasts[::-1]):
        psnr, baseline, baseline_psnr = _against_baseline(scores, source, target)
        similarity = {
            system: scores.mean(source, target, system, "volume/foreground/ssim") for system in (MODEL, COPY, HISTOGRAM)
        }
        highlights.append(
            Highlight(
                f"{psnr:.1f} dB", f"{source} → {target}, masked PSNR", f"{psnr - baseline_psnr:+.1f} dB over {baseline}"
            )
        )
        if np.isnan(similarity[MODEL]):  # a picture is too thin for an SSIM of volumes
            continue
        better = max(similarity[COPY], similarity[HISTOGRAM])
        highlights.append(
            Highlight(
                f"{similarity[MODEL]:.2f}",
                f"{source} → {target}, masked SSIM",
                f"{similarity[MODEL] - better:+.2f} over the better of copy and {HISTOGRAM}",
            )
        )
    return highlights


def _exclusions(prepared: PreparedData, scores: Scores) -> list[str]:
    training = [f"{case.path}: {reason}; not trained on" for case, reason in prepared.left_out.items()]
    return training + [f"{subject}: {reason}; not evaluated" for subject, reason in scores.failures.items()]


def _standing_warnings(training_warnings: Sequence[TrainingWarning]) -> list[str]:
    titles = "; ".join(warning.title for warning in training_warnings if warning.cleared is None)
    return [f"Warnings stood when training ended, see there what to do: {titles}."] if titles else []


def _before_after(folder: RunFolder, direction: str) -> BeforeAfter:
    frames = sample_frames(folder, direction)
    first, last = min(frames), max(frames)
    first_picture = (
        Picture(frames[first], f"{_arrow(direction)}, untrained", "untrained") if first == 0 < last else None
    )
    last_picture = Picture(frames[last], f"{_arrow(direction)} after {last} epochs", f"after {last} epochs")
    return BeforeAfter(_arrow(direction), first_picture, last_picture)


def _uncertainty(picture: Path | None) -> Picture | None:
    if picture is None:
        return None
    caption = (
        "Left: mean expected against mean observed error in ten equally filled bins, over test subjects (bars: SD); on "
        "the dashed line the size is right. Right: both errors in one slice, 0 outside the head."
    )
    return Picture(picture, "calibration curves, and expected beside observed error", caption, on_white=True)


def _tables(scores: Scores, contrasts: tuple[str, str]) -> list[ScoreTable]:
    """Return a table for each direction, protocol, unit and region; a protocol's first table explains it."""
    grouped: dict[tuple, dict[str, dict[str, tuple[float, float, int]]]] = {}
    for row in scores.summary():
        key = (row.source, row.target, row.protocol, row.unit, row.region)
        grouped.setdefault(key, {}).setdefault(row.system, {})[row.metric] = (row.mean, row.sd, row.n)
    first = {key[2]: key for key in reversed(grouped)}
    return [
        ScoreTable(
            direction=f"{source} → {target}",
            protocol=_protocol_title(protocol, unit, region),
            description=DESCRIPTIONS[protocol] if first[protocol] == (source, target, protocol, unit, region) else "",
            rows=rows,
            model=MODEL,
            trained_on_pairs=(LOOKUP,),
        )
        for (source, target, protocol, unit, region), rows in grouped.items()
    ]


def _protocol_title(protocol: str, unit: str, region: str) -> str:
    regions = {"foreground": "inside the head", "interior": "tissues deep inside the head", "image": "whole image"}
    regions["both heads"] = "inside the head of source and real target"
    title = f"per {unit}, {regions.get(region, region)}"
    if protocol in PUBLISHED:
        return f"{protocol}, on our slices: {title}"
    return title if protocol == OWN else f"{protocol}: {title}"


def _best_and_worst(
    scores: Scores, contrasts: tuple[str, str], volumes: Sequence[TranslatedVolume]
) -> list[SubjectResult]:
    """Return, by direction, the test subjects with the highest and the lowest masked PSNR."""
    if not scores.paired:
        return []
    pictures = {(volume.case.name, volume.target): volume.mosaic for volume in volumes}
    results = []
    for source, target in (contrasts, contrasts[::-1]):
        ranked = scores.ranked(source, target, MODEL, MASKED_PSNR)
        extremes = [("worst", ranked[0]), ("best", ranked[-1])] if len(ranked) > 1 else []
        for rank, (value, subject) in extremes:
            picture = pictures.get((f"{subject}_{source}", target))
            results.append(
                SubjectResult(
                    rank,
                    subject,
                    f"{source} → {target}",
                    f"{value:.2f} dB masked PSNR",
                    Picture(picture, f"{subject}, {source} → {target}") if picture else None,
                )
            )
    return results


def _split_rows(config: Config, prepared: PreparedData) -> list[list[str]]:
    rows = []
    for contrast in config.contrasts:
        cases, statistics = prepared.split.train[contrast], prepared.statistics[contrast]
        rows.append(["train", contrast, len({case.subject for case in cases}), len(cases), statistics.slices])
    if prepared.pairs:
        subjects = {pair.first.case.subject for pair in prepared.pairs}
        rows.append(["train", "pairs", len(subjects), len(prepared.pairs), prepared.longest])
    for split_name in ("validation", "test"):
        for contrast in config.contrasts:
            cases = [case for case in getattr(prepared.split, split_name) if case.contrast == contrast]
            rows.append([split_name, contrast, len({case.subject for case in cases}), len(cases), "all"])
    return [[str(cell) for cell in row] for row in rows]


def _split_subjects(config: Config, prepared: PreparedData) -> dict[str, list[str]]:
    split = prepared.split
    splits = {f"training {contrast}": split.train[contrast] for contrast in config.contrasts}
    splits |= {"validation": split.validation, "test": split.test}
    return {name: sorted({case.subject for case in cases}) for name, cases in splits.items()}


def _provenance(config: Config, prepared: PreparedData, position: TrainerState, engine: Engine) -> dict[str, str]:
    parameters = {
        name: sum(weight.numel() for weight in network.parameters()) for name, network in engine.networks().items()
    }
    step_ms = 1000 * position.seconds / max(1, position.step)
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "seed": str(config.seed),
        "steps": f"{position.step:,} ({position.bad_steps} skipped)",
        "training time": f"{position.seconds / 60:.1f} min ({step_ms:.0f} ms a step)",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in parameters.items()),
    } | ({} if prepared.coverage.mm is None else {"trained on": f"{prepared.coverage}"})


def _arrow(direction: str) -> str:
    return direction.replace("_to_", " → ")
