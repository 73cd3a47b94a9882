"""Pictures and volumes at the end of a run: training GIFs, curves, translated test volumes and their mosaics."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nibabel.affines import voxel_sizes

from pipeline.data.case import Case
from pipeline.data.pairs import PairReader, PreparedScan
from pipeline.evaluation.parallel_scoring import READ_AHEAD, Translation, read_scan
from pipeline.inference.model import TranslationModel
from pipeline.inference.output_volume import write_volume
from pipeline.inference.slice_translator import run_eagerly, translate_slices
from pipeline.inference.translator import image_of_slices
from pipeline.reporting.curves import save_curves
from pipeline.reporting.gif import save_gif
from pipeline.reporting.panels import volume_mosaic
from pipeline.reporting.tiles import RADIOLOGICAL, save_png
from pipeline.runs.folder import RunFolder
from pipeline.utils.console import progress
from pipeline.utils.errors import Stopped, UserError, first_cause
from pipeline.utils.files import atomic_path
from pipeline.utils.workers import WorkerPool
from transforms.io.images import is_raster, write_raster
from transforms.slices import stack_slices

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TranslatedVolume:
    """A test image's translation and its picture."""

    case: Case
    target: str
    path: Path
    mosaic: Path


def sample_frames(folder: RunFolder, direction: str) -> dict[int, Path]:
    """Return the sample panels of a direction by epoch, in order."""
    frames = sorted((folder.samples / direction).glob("epoch-*.png"))
    return {int(path.stem.removeprefix("epoch-")): path for path in frames}


def draw_gifs(folder: RunFolder, contrasts: tuple[str, str]) -> dict[str, Path]:
    """Write, by direction, the GIF of the sample panels: the same slices, one frame an epoch."""
    gifs = {}
    for target in reversed(contrasts):
        direction = folder.direction(contrasts, target)
        save_gif(sample_frames(folder, direction), folder.gif(direction))
        gifs[direction] = folder.gif(direction)
    return gifs


def draw_curves(folder: RunFolder, steps_per_epoch: int) -> Path:
    """Write the curves of losses and validation scores."""
    save_curves(folder.metrics, folder.curves, steps_per_epoch=steps_per_epoch)
    return folder.curves


class TranslationWriter:
    """Writes each translation of a test image on the image's grid, with a mosaic, during the evaluation.

    Only paths are held in memory. A translation that cannot be written is left out, with a warning.

    Args:
        model: The model that translates.
        folder: The run's folder.
        batch_size: Slices in a batch, for images that the evaluation does not translate.
    """

    def __init__(self, model: TranslationModel, folder: RunFolder, batch_size: int):
        self.model, self.folder, self.batch_size = model, folder, batch_size
        self._written: dict[Case, TranslatedVolume | None] = {}  # None: writing failed

    def add(self, translation: Translation) -> None:
        """Write one translation."""
        self.take(translation.case, self.job(translation)(translation))

    def job(self, translation: Translation) -> Callable[[Translation], TranslatedVolume | str]:
        """Return a function that writes one translation and returns its paths, or a line with the reason it failed."""
        # Without networks, the model is small enough to send to a worker.
        model = replace(self.model, translators={}, device=torch.device("cpu"), run=run_eagerly)
        return partial(_try_write, self.folder, model)

    def take(self, case: Case, result: TranslatedVolume | str) -> None:
        """Store the job's result, or warn with the reason why there is none."""
        self._written[case] = None if isinstance(result, str) else result
        if isinstance(result, str):
            logger.warning(result)

    def add_rest(
        self, test: Sequence[Case], reader: PairReader, quiet: bool, workers: WorkerPool | None = None
    ) -> list[TranslatedVolume]:
        """Translate the test images without a partner, which the evaluation left out; return all images in order.

        Images that cannot be read are left out, with a warning.
        """
        remaining = [case for case in test if case not in self._written]
        scans = (workers or WorkerPool(1)).imap(read_scan, [(reader, case) for case in remaining], READ_AHEAD)
        bar = progress(remaining, title="translation", unit="vol", quiet=quiet or not remaining)
        for case, scan in zip(bar, scans, strict=True):
            to = self.model.contrasts[1 - self.model.contrasts.index(case.contrast)]
            if isinstance(scan, str):
                logger.warning(f"{scan}; not translated")
                continue
            try:
                slices = translate_scan(scan, to, self.model, self.batch_size, str(case.path))
            except UserError as error:
                logger.warning(f"{error}; not translated")
                continue
            self.add(Translation(case, to, scan, slices))
        return [volume for case in test if (volume := self._written.get(case))]


def _try_write(folder: RunFolder, model: TranslationModel, translation: Translation) -> TranslatedVolume | str:
    """Write a translation; return the reason where that fails."""
    try:
        return _write(folder, model, translation)
    except UserError as error:
        return f"{error}; not translated"
    except Stopped:
        raise
    except Exception as error:  # a picture that cannot be drawn must not cost the evaluation
        return f"{translation.case.path}: no translation or no picture of it ({first_cause(error)})"


def _write(folder: RunFolder, model: TranslationModel, translation: Translation) -> TranslatedVolume:
    """Write a translation and its mosaic. The model's networks are not used."""
    case, to, scan = translation.case, translation.to, translation.scan
    name = f"{case.name}_to_{to}"
    translated = scan.unpadded(translation.slices)
    if is_raster(case.path):
        path = folder.translated / f"{name}.png"
        with atomic_path(path) as temporary:
            write_raster(temporary, (translated[0] + 1) / 2)
    else:
        path = folder.translated / f"{name}.nii.gz"
        write_volume(image_of_slices(translation.slices, scan.inverse_state, model, to), path)
    mosaic = volume_mosaic(
        scan.volume,
        stack_slices(translated, scan.axis),
        None if translation.view is None else stack_slices(translation.view.real, scan.axis),
        spacing_mm=voxel_sizes(scan.affine),
        source_name=case.contrast,
        target_name=to,
        axis=scan.axis,
        title=f"{case.name} → {to}",
        footer="" if is_raster(case.path) else RADIOLOGICAL,
    )
    picture = folder.mosaics / f"{name}.png"
    save_png(mosaic, picture)
    return TranslatedVolume(case, to, path, picture)


def translate_scan(scan: PreparedScan, to: str, model: TranslationModel, batch_size: int, name: str) -> np.ndarray:
    """Return a scan's slices (N, H, W) translated to a contrast, still padded; `name` is for messages."""
    return translate_slices(
        scan.slices,
        model.translators[to],
        scan.occupied,
        device=model.device,
        batch_size=batch_size,
        precision=model.precision,
        name=name,
    )
