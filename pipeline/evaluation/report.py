"""The report of a finished run, and its last lines on the console."""

import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline import __version__
from pipeline.data.case import Case
from pipeline.data.sources.phantom_anatomy import TISSUES
from pipeline.evaluation.score_tables import score_tables
from pipeline.evaluation.scores import MASKED_PSNR, Scores
from pipeline.evaluation.translation_writer import TranslatedVolume, sample_frames
from pipeline.metrics.names import CONTEXT, COPY, HISTOGRAM, MODEL, START
from pipeline.reporting.report_page import (
    PHANTOM_FLAG,
    PHANTOM_NOTE,
    Highlight,
    Picture,
    Report,
    SubjectResult,
    write_report,
)
from pipeline.reporting.viewer import NOT_FETCHED, Viewer, is_fetched
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import PreparedData
from pipeline.training.failure_monitor import TrainingWarning
from pipeline.training.schedule import NOT_OF_TRAINING, TrainerState

EMBEDDED_MOSAICS = 4  # a report stays a file that can be mailed
TISSUE_NOTE = f"the tissues of the phantom, by number: {', '.join(f'{n} {name}' for n, name in enumerate(TISSUES, 1))}"
CALIBRATION = "calibration curves, and expected beside observed error"
CALIBRATION_CAPTION = (
    "Left: mean expected against mean observed error in ten equally filled bins, over test subjects (bars: SD); on the "
    "dashed line the size is right. Right: both errors in one slice, 0 outside the head."
)


@dataclass(frozen=True)
class RunDescription:
    """What the report says of a run besides its results."""

    name: str
    contrasts: tuple[str, str]
    source: str  # the kind of its data: "phantom", "ixi", "nifti" or "images"
    config_yaml: str  # the resolved configuration
    provenance: Mapping[str, str]  # versions, seed, steps and time, by name


def write_run_report(
    folder: RunFolder,
    run: RunDescription,
    prepared: PreparedData,
    scores: Scores,
    volumes: Sequence[TranslatedVolume],
    gifs: Mapping[str, Path],
    *,
    viewer: Viewer | None = None,
    uncertainty: Path | None = None,
    training_warnings: Sequence[TrainingWarning] = (),
    shift: str = "",
) -> None:
    """Write the run's report.html.

    `gifs` are the training's, by direction, such as "T1_to_T2"; without a viewer the page says how to get it;
    `uncertainty` is the picture of the calibration; `shift` a sentence on how far translations lie from their sources.
    """
    # The pictures of the best and worst subjects, and some others.
    phantom = run.source == "phantom"
    subjects = _best_and_worst(scores, run.contrasts, volumes)
    shown_mosaics = {subject.picture.content for subject in subjects if subject.picture}
    other_volumes = [volume for volume in volumes if volume.mosaic not in shown_mosaics]

    # The page, from top to bottom.
    report = Report(
        title=run.name,
        result=result_sentence(scores, run.contrasts),
        highlights=_highlights(scores, run.contrasts),
        warnings=report_warnings(run.source, prepared, scores, training_warnings),
        animations=[
            Picture(path, f"training, {_arrow(direction)}", f"{_arrow(direction)}: the same slices, epoch by epoch")
            for direction, path in gifs.items()
        ],
        samples={_arrow(direction): _before_and_after(folder, direction) for direction in gifs},
        mosaics=[
            Picture(
                volume.mosaic,
                f"{volume.case.name} translated to {volume.target}",
                f"{volume.case.name} → {volume.target}; each row is windowed by its own percentiles",
            )
            for volume in other_volumes[:EMBEDDED_MOSAICS]
        ],
        scores=score_tables(scores),
        scores_flag=PHANTOM_FLAG if phantom else "",
        training_warnings={
            warning.title: (warning.observation, warning.first.check.meaning, warning.advice)
            for warning in training_warnings
        },
        curves=Picture(folder.curves, "losses and validation scores", shift, on_white=True),
        uncertainty=Picture(uncertainty, CALIBRATION, CALIBRATION_CAPTION, on_white=True) if uncertainty else None,
        subjects=subjects,
        viewer=viewer,
        viewer_note="" if viewer or is_fetched() else NOT_FETCHED,
        split_rows=_split_rows(run.contrasts, prepared),
        split_subjects=_split_subjects(run.contrasts, prepared),
        config_yaml=run.config_yaml,
        provenance=run.provenance,
        next_commands=_next_commands(folder, run),
        notes=[*scores.notes, *([TISSUE_NOTE] if phantom else [])],
    )
    write_report(folder.report, report)


def provenance(seed: int, position: TrainerState, networks: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return versions, machine, seed, time and sizes of a run, by name."""
    parameters = {name: sum(weight.numel() for weight in network.parameters()) for name, network in networks.items()}
    step_ms = 1000 * position.seconds / max(1, position.step)
    return {
        "version": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "seed": str(seed),
        "steps": f"{position.step:,} ({position.bad_steps} skipped)",
        "training time": f"{position.seconds / 60:.1f} min ({step_ms:.0f} ms a step)",
        "parameters": ", ".join(f"{name} {count:,}" for name, count in parameters.items()),
    }


def evaluated_steps(
    checkpoint: str, position: TrainerState, contrasts: tuple[str, str], *, held_out: bool
) -> tuple[dict[str, str], list[str]]:
    """Return which step's translators were evaluated, as an entry of the provenance, and notes where it is the first.

    Args:
        checkpoint: The one evaluated, "best" or "latest".
        position: State of the training; one of an earlier release does not know the steps, so nothing is returned.
        contrasts: Contrasts of the run.
        held_out: Whether validation subjects chose, or training subjects for want of any.
    """
    if checkpoint != "best" or not position.best_steps:
        return {}, []
    steps = {
        f"{source} → {target}": position.best_steps[target]
        for source, target in (contrasts, contrasts[::-1])
        if target in position.best_steps
    }
    texts = [f"{direction} of step {step:,}" for direction, step in steps.items()]
    chooser = "validation" if held_out else "scores without pairs, on training subjects,"
    note = f"{chooser} chose what training began with, {NOT_OF_TRAINING}"
    notes = [f"{direction}: {note}" for direction, step in steps.items() if step == 0]
    return {"evaluated": ", ".join(texts)}, notes


def result_sentence(scores: Scores, contrasts: tuple[str, str]) -> str:
    """Return a sentence that compares the model with the best baseline without pairs or its start, by direction."""
    if not scores.paired:
        return "No test subject has both contrasts: these figures cannot say whether a translation is right."
    sentences = []
    for source, target in (contrasts, contrasts[::-1]):
        psnr, gain, baseline = _against_baseline(scores, source, target, MASKED_PSNR)
        sentences.append(f"{source} → {target} {psnr:.2f} dB, {gain:+.2f} dB against {baseline}")
    return f"Masked PSNR of whole test volumes (our protocol, data range 2): {'; '.join(sentences)}."


def _against_baseline(scores: Scores, source: str, target: str, figure: str) -> tuple[float, float, str]:
    """Return the model's mean, and what it has more than its start or the best baseline without pairs, by name."""
    model = scores.mean(source, target, MODEL, figure)
    means = {name: scores.mean(source, target, name, figure) for name in (COPY, HISTOGRAM, CONTEXT, START)}
    best = max(means, key=lambda name: means[name] if means[name] == means[name] else float("-inf"))  # NaN: none
    return model, model - means[best], best


def _highlights(scores: Scores, contrasts: tuple[str, str]) -> list[Highlight]:
    highlights = []
    for source, target in (contrasts, contrasts[::-1]) if scores.paired else ():
        psnr, gain, better = _against_baseline(scores, source, target, MASKED_PSNR)
        label = f"{source} → {target}, masked PSNR"
        highlights.append(Highlight(f"{psnr:.1f} dB", label, f"{gain:+.1f} dB over {better}"))
        ssim, gain, _ = _against_baseline(scores, source, target, "volume/foreground/ssim")
        if not np.isnan(ssim):  # a picture is too thin for an SSIM of volumes
            note = f"{gain:+.2f} over the best baseline without pairs"
            highlights.append(Highlight(f"{ssim:.2f}", f"{source} → {target}, masked SSIM", note))
    return highlights


def report_warnings(
    source: str, prepared: PreparedData, scores: Scores, training_warnings: Sequence[TrainingWarning]
) -> list[str]:
    """Return sentences on phantom data, on warnings that stand, and on images that were left out."""
    titles = "; ".join(warning.title for warning in training_warnings if warning.cleared_epoch is None)
    return [
        *([PHANTOM_NOTE] if source == "phantom" else []),
        *([f"Warnings stood when training ended, see there what to do: {titles}."] if titles else []),
        *(f"{case.path}: {reason}; not trained on" for case, reason in prepared.left_out.items()),
        *(f"{subject}: {reason}; not evaluated" for subject, reason in scores.failures.items()),
    ]


def _before_and_after(folder: RunFolder, direction: str) -> list[Picture]:
    frames, title = sample_frames(folder, direction), _arrow(direction)
    last = max(frames)
    before = [Picture(frames[0], f"{title} before training", "before training")] if min(frames) == 0 < last else []
    return [*before, Picture(frames[last], f"{title} after {last} epochs", f"after {last} epochs")]


def _best_and_worst(
    scores: Scores, contrasts: tuple[str, str], volumes: Sequence[TranslatedVolume]
) -> list[SubjectResult]:
    """Return, by direction, the test subjects with the highest and the lowest masked PSNR."""
    pictures = {(volume.case.name, volume.target): volume.mosaic for volume in volumes}
    results = []
    for source, target in (contrasts, contrasts[::-1]) if scores.paired else ():
        scores_by_rank, direction = scores.ranked(source, target), f"{source} → {target}"
        extremes = [("worst", scores_by_rank[0]), ("best", scores_by_rank[-1])] if len(scores_by_rank) > 1 else []
        for rank, (value, subject) in extremes:
            mosaic = pictures.get((f"{subject}_{source}", target))
            picture = Picture(mosaic, f"{subject}, {direction}") if mosaic else None
            results.append(SubjectResult(f"{rank}: {subject}, {direction}", f"{value:.2f} dB masked PSNR", picture))
    return results


def _split_rows(contrasts: tuple[str, str], prepared: PreparedData) -> list[list[str]]:
    def row(split: str, contrast: str, cases: Iterable[Case], slices: int | str) -> list[str]:
        cases = list(cases)
        return [split, contrast, str(len({case.subject for case in cases})), str(len(cases)), str(slices)]

    split, rows = prepared.split, []
    for contrast in contrasts:
        rows.append(row("train", contrast, split.train[contrast], prepared.statistics[contrast].slices))
    if prepared.pairs:
        rows.append(row("train", "pairs", (pair.first.case for pair in prepared.pairs), prepared.paired_slices))
    for name, cases in (("validation", split.validation), ("test", split.test)):
        for contrast in contrasts:
            rows.append(row(name, contrast, (case for case in cases if case.contrast == contrast), "all"))
    return rows


def _split_subjects(contrasts: tuple[str, str], prepared: PreparedData) -> dict[str, list[str]]:
    split = prepared.split
    splits = {f"training {contrast}": split.train[contrast] for contrast in contrasts}
    splits |= {"training pairs": split.pairs} if split.pairs else {}
    splits |= {"validation": split.validation, "test": split.test}
    return {name: sorted({case.subject for case in cases}) for name, cases in splits.items()}


def _next_commands(folder: RunFolder, run: RunDescription) -> dict[str, str]:
    """Return the commands for what a user may want to do next, by their purpose."""
    model, to = shlex.quote(str(folder.path)), shlex.quote(run.contrasts[1])
    translate = f"python -m pipeline.translate -i IN.nii.gz -o OUT.nii.gz --model {model} --to {to}"
    return {
        **({} if run.source == "images" else {"translate a volume": translate}),
        "compare it with another run": f"python -m pipeline.compare {model} runs/OTHER -o compare.html",
        "look at all runs": "mlflow ui",
        "repeat this run": f"python -m pipeline.run {shlex.quote(str(folder.config))} output=runs/again",
    }


def _arrow(direction: str) -> str:
    return direction.replace("_to_", " → ")


# ── the last lines of a run on the console ──────────────────────────────────────────────────────────────────


def work_summary(position: TrainerState, steps_before: int, seconds: float) -> str:
    """Return a phrase on what the command did: trained and evaluated, or only evaluated an earlier training."""
    trained = position.step - steps_before
    if not trained:
        done = f"evaluated and reported in {seconds / 60:.1f} min"
        return f"nothing was left to train after step {position.step:,}; {done}"
    skipped = f", {position.bad_steps:,} of them skipped" if position.bad_steps else ""
    total = f" of {position.step:,}" if steps_before else ""
    return f"trained {trained:,}{total} steps{skipped} and evaluated in {seconds / 60:.1f} min"


def closing_lines(folder: RunFolder, mlflow_command: str, work: str, *, translated: bool) -> str:
    """Return the last lines of a run: what was done, the paths of its results and how to open them.

    `translated` is whether the evaluation wrote volumes; an earlier one's may be there.
    """
    gifs = ", ".join(str(path) for path in sorted(folder.path.glob("training_*.gif")))
    volumes = "NIfTI, on each source's grid; open with any viewer" if any(folder.translated.glob("*.nii.gz")) else "PNG"
    line = f"  translated  {folder.translated}/   ({volumes})"
    return "\n".join(
        [
            work,
            f"  report      {folder.report}   (open it in a browser)",
            f"  training    {gifs}",
            *([line] if translated and folder.translated.exists() else []),
            f"  MLflow      {mlflow_command}",
        ]
    )
