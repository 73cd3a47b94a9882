"""The same slices translated by every compared model, from the checkpoints that were evaluated."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.comparison.runs import Contrasts, FinishedRun
from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader, View
from pipeline.data.split_file import split_from_file
from pipeline.data_builders import planned_cases
from pipeline.evaluation.translation_writer import translate_scan
from pipeline.inference.model import TranslationModel, load_model
from pipeline.metrics.similarity import DATA_RANGE, psnr
from pipeline.reporting.panels import SliceOfMethods, side_by_side
from pipeline.reporting.tiles import RADIOLOGICAL, Tile
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import chain_settings, registrations
from pipeline.utils.console import progress
from pipeline.utils.errors import UserError
from transforms.slice_chain import PreprocessSettings

logger = logging.getLogger(__name__)

SUBJECTS = 2  # the first by name, chosen without regard to scores
CAPTION = "The slice with the most head in it, of the first test subjects by name. Gray levels from -1 to 1 throughout."
MEASURE = "PSNR: of this slice, inside the head of the real target, data range 2."


def draw_slices(runs: Sequence[FinishedRun], quiet: bool) -> Tile:
    """Translate the same slices with every run's model, on the CPU, and draw them side by side.

    Raises:
        UserError: The data is no longer where the runs had it, or a checkpoint cannot be read.
    """
    test_pairs = _test_pairs(runs[0])
    models = {run.label: load_model(_evaluated_checkpoint(run), "cpu") for run in runs}
    strides, settings = {model.stride for model in models.values()}, models[runs[0].label].settings
    rows: list[SliceOfMethods] = []
    for pair in progress(test_pairs, total=min(SUBJECTS, len(test_pairs)), title="slices", unit="subject", quiet=quiet):
        try:
            views = {stride: _views(runs[0], pair, stride, settings) for stride in strides}
        except UserError as error:
            logger.warning(f"{error}; not in the figure")
            continue
        for side, contrasts in enumerate(runs[0].directions):
            rows.append(_row(pair[0].subject, contrasts, {stride: views[stride][side] for stride in strides}, models))
        if len(rows) == 2 * SUBJECTS:
            break
    if not rows:
        raise UserError("no test subject could be read; the reasons are above")
    labels = [run.label for run in runs]
    return side_by_side(
        rows,
        labels,
        title="The same slices through every method" + _phantom_note(runs[0]),
        footer=MEASURE if runs[0].config.data.source == "images" else f"{MEASURE} {RADIOLOGICAL}",
    )


def _evaluated_checkpoint(run: FinishedRun) -> Path:
    return RunFolder(run.folder).evaluated_checkpoint(run.config.evaluation.checkpoint)


def _phantom_note(run: FinishedRun) -> str:
    return " (phantom: easier than real data)" if run.config.data.source == "phantom" else ""


def _test_pairs(run: FinishedRun) -> list[tuple[Case, Case]]:
    """Return the test subjects' pairs, in order of name.

    Raises:
        UserError: The data is not where the run had it.
    """
    contrasts = run.config.contrasts
    cases = planned_cases(run.config)
    split = split_from_file(RunFolder(run.folder).split, cases, contrasts, pairing=run.config.split.pairing)
    test_pairs = pairs(split.test, contrasts)
    if not any(case.path.exists() for pair in test_pairs for case in pair):
        raise UserError(f"{run.config.data.folder}: the test subjects' images are no longer there")
    return test_pairs


def _views(
    run: FinishedRun, pair: tuple[Case, Case], stride: int, settings: PreprocessSettings | None = None
) -> tuple[View, View]:
    """Return a pair in both directions, prepared by the slice chain and padded to multiples of a model's stride.

    `settings` are the model's settings of the chain; None takes those of a new run.
    """
    registration_cache = registrations(run.config.preprocess.store)
    with TemporaryDirectory() as temporary_folder:  # a missing cache is not made again
        reader = PairReader(
            settings or chain_settings(run.config.preprocess),
            stride,
            register=run.config.evaluation.register_pairs,
            cache=registration_cache if registration_cache.is_dir() else Path(temporary_folder),
        )
        forward, backward, _ = reader.read(pair)
    return forward, backward


def _row(
    subject: str, contrasts: Contrasts, views: dict[int, View], models: dict[str, TranslationModel]
) -> SliceOfMethods:
    """Return the subject's slice with the largest foreground, translated by every model of the target contrast."""
    any_view = next(iter(views.values()))
    index = int(np.argmax(any_view.foreground.sum(axis=(1, 2))))
    real, foreground = any_view.real[index], any_view.foreground[index]
    translations = {}
    for label, model in models.items():
        if contrasts[1] in model.translators:
            translation = _translated_slice(views[model.stride], index, contrasts[1], model, subject)
            translations[label] = (translation, f"{psnr(translation, real, DATA_RANGE, foreground):.2f} dB")
    return SliceOfMethods(f"{subject}, {' → '.join(contrasts)}", any_view.source.stack[index], translations, real)


def _translated_slice(view: View, index: int, to: str, model: TranslationModel, name: str) -> np.ndarray:
    """Return the translation of one slice of a scan, (H, W)."""
    single = view.source.slices[index : index + 1], view.source.foreground[index : index + 1]
    scan = replace(view.source, slices=single[0], foreground=single[1])
    return scan.unpadded(translate_scan(scan, to, model, batch_size=1, name=name))[0]
