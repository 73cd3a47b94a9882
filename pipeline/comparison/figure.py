"""The same slices translated by every compared model, from the checkpoints that were evaluated."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.comparison.runs import FinishedRun
from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PairReader, PreparedScan, View
from pipeline.data.split_file import split_from_file
from pipeline.data_builders import planned_cases_of
from pipeline.inference.model import TranslationModel, load_model
from pipeline.inference.slice_translator import translate_slices, with_neighbours
from pipeline.metrics.similarity import DATA_RANGE, psnr
from pipeline.reporting.panels import SliceOfMethods, side_by_side
from pipeline.reporting.tiles import RADIOLOGICAL, Tile
from pipeline.runs.folder import RunFolder
from pipeline.runs.prepare import registrations
from pipeline.utils.console import progress
from pipeline.utils.errors import UserError

SUBJECTS = 2  # the first by name, chosen without regard to scores
CAPTION = "The slice with the most head in it, of the first test subjects by name. Gray levels from -1 to 1 throughout."
MEASURE = "PSNR: of this slice, inside the head of the real target, data range 2."
logger = logging.getLogger(__name__)


def draw_slices(runs: Sequence[FinishedRun], quiet: bool) -> Tile:
    """Translate the same slices with every run's model, on the CPU, and draw them side by side.

    UserError: the data is no longer where the runs had it, or a checkpoint cannot be read.
    """
    test_pairs = pairs_of_test(runs[0])
    models = {
        run.label: load_model(
            RunFolder(run.folder).evaluated_checkpoint(run.settings["evaluation"]["checkpoint"]), "cpu"
        )
        for run in runs
    }
    rows: list[SliceOfMethods] = []
    for pair in progress(test_pairs, total=min(SUBJECTS, len(test_pairs)), title="slices", unit="subject", quiet=quiet):
        try:
            rows += _rows(runs[0], pair, models)
        except UserError as error:
            logger.warning(f"{error}; not in the figure")
        if len(rows) == 2 * SUBJECTS:
            break
    if not rows:
        raise UserError("no test subject could be read; the reasons are above")
    source = runs[0].settings["data"]["source"]
    note = " (phantom: easier than real data)" if source == "phantom" else ""
    return side_by_side(
        rows,
        list(models),
        title=f"The same slices through every method{note}",
        footer=MEASURE if source == "images" else f"{MEASURE} {RADIOLOGICAL}",
    )


def pairs_of_test(run: FinishedRun) -> list[tuple[Case, Case]]:
    """Return the test subjects' pairs, in order of name; UserError: the data is not where the run had it."""
    contrasts, folder = run.directions[0], RunFolder(run.folder)
    cases = planned_cases_of(folder.config)
    settings = run.settings["split"]
    split = split_from_file(folder.split, cases, contrasts, pairing=settings["pairing"], pairs_beside=settings["pairs"])
    test_pairs = pairs(split.test, contrasts)
    if not any(case.path.exists() for pair in test_pairs for case in pair):
        raise UserError(f"{run.settings['data']['folder']}: the test subjects' images are no longer there")
    return test_pairs


def views_of(run: FinishedRun, pair: tuple[Case, Case], model: TranslationModel) -> tuple[View, View]:
    """Return a pair in both directions, prepared by a model's slice chain and padded to multiples of its stride."""
    registration_folder = registrations(Path(run.settings["preprocess"]["store"]))
    with TemporaryDirectory() as temporary_folder:  # a missing cache is not made again
        reader = PairReader(
            model.settings,
            model.stride,
            register=run.settings["evaluation"]["register_pairs"],
            registrations=registration_folder if registration_folder.is_dir() else Path(temporary_folder),
        )
        forward, backward, _ = reader.read(pair)
    return forward, backward


def _rows(run: FinishedRun, pair: tuple[Case, Case], models: dict[str, TranslationModel]) -> Iterator[SliceOfMethods]:
    """Yield, of each direction, the subject's slice with the largest foreground, translated by every model."""
    views = {model.stride: views_of(run, pair, model) for model in models.values()}
    for side, (source, target) in enumerate(run.directions):
        view = next(iter(views.values()))[side]
        index = int(np.argmax(view.foreground.sum(axis=(1, 2))))
        real, foreground = view.real[index], view.foreground[index]
        translations = {}
        for label, model in models.items():
            if target in model.translators:
                scan = views[model.stride][side].source
                translation = scan.unpadded(_translated_slice(scan, index, target, model, pair[0].subject))[0]
                translations[label] = (translation, f"{psnr(translation, real, DATA_RANGE, foreground):.2f} dB")
        label = f"{pair[0].subject}, {source} → {target}"
        yield SliceOfMethods(label, view.source.stack[index], translations, real)


def _translated_slice(scan: PreparedScan, index: int, to: str, model: TranslationModel, name: str) -> np.ndarray:
    """Return one slice of a scan translated to a contrast, (1, H, W), still padded."""
    network = model.translators[to]
    return translate_slices(
        with_neighbours(scan.slices, np.array([index]), network, scan.spacing_mm[0]),
        network,
        device=model.device,
        batch_size=1,
        precision=model.precision,
        name=name,
    )
