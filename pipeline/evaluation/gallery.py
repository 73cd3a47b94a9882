"""Pictures and volumes at the end of a run: training GIFs, curves, translated test volumes and their mosaics."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes

from pipeline.console import progress, warn
from pipeline.data.case import Case
from pipeline.data.pairing import PairReader, PreparedScan
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.report.curves import save_curves
from pipeline.report.gif import epoch_title, save_gif
from pipeline.report.mosaic import volume_mosaic
from pipeline.report.tiles import RADIOLOGICAL, save_png
from pipeline.runs.folder import RunFolder
from pipeline.translation.model import TranslationModel
from pipeline.translation.translator import translate_slices, translate_volume
from pipeline.translation.volume import write_volume
from transforms.raster import is_raster, write_raster
from transforms.slices import stack_slices


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
    drawn = {}
    for target in reversed(contrasts):
        direction = folder.direction(contrasts, target)
        frames = sample_frames(folder, direction)
        save_gif(list(frames.values()), folder.gif(direction), [epoch_title(epoch) for epoch in frames])
        drawn[direction] = folder.gif(direction)
    return drawn


def draw_curves(folder: RunFolder, steps_per_epoch: int) -> Path:
    """Write the curves of losses and validation scores."""
    save_curves(folder.metrics, folder.curves, steps_per_epoch=steps_per_epoch)
    return folder.curves


def translate_test_volumes(
    test: Sequence[Case],
    model: TranslationModel,
    reader: PairReader,
    folder: RunFolder,
    contrasts: tuple[str, str],
    batch_size: int,
    quiet: bool,
) -> list[TranslatedVolume]:
    """Write every test image translated to the other contrast, on its own grid, and a mosaic beside it.

    A test image that cannot be read was named by the evaluation; it is named again here and left out.
    """
    by_key = {(case.subject, case.session, case.contrast): case for case in test}
    written = []
    for case in progress(test, title="translation", unit="vol", quiet=quiet):
        target = contrasts[1 - contrasts.index(case.contrast)]
        partner = by_key.get((case.subject, case.session, target))
        try:
            written.append(_translate_one(case, partner, target, model, reader, folder, batch_size))
        except UserError as error:
            warn(f"warning: {error}; not translated")
    return written


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


def _translate_one(
    case: Case,
    partner: Case | None,
    target: str,
    model: TranslationModel,
    reader: PairReader,
    folder: RunFolder,
    batch_size: int,
) -> TranslatedVolume:
    scan, real = _scan_and_real(case, partner, reader)
    translated = scan.unpadded(translate_scan(scan, target, model, batch_size, str(case.path)))
    if is_raster(case.path):
        path = folder.translated / f"{case.name}_to_{target}.png"
        with atomic_path(path) as temporary:
            write_raster(temporary, (translated[0] + 1) / 2)
    else:
        path = folder.translated / f"{case.name}_to_{target}.nii.gz"
        write_volume(translate_volume(case.path, model, target, batch_size=batch_size), path)
    mosaic = volume_mosaic(
        scan.volume,
        stack_slices(translated, scan.axis),
        None if real is None else stack_slices(real, scan.axis),
        spacing_mm=voxel_sizes(scan.affine),
        source_name=case.contrast,
        target_name=target,
        axis=scan.axis,
        title=f"{case.name} → {target}",
        footer="" if is_raster(case.path) else RADIOLOGICAL,
    )
    picture = folder.mosaics / f"{case.name}_to_{target}.png"
    save_png(mosaic, picture)
    return TranslatedVolume(case, target, path, picture)


def _scan_and_real(case: Case, partner: Case | None, reader: PairReader) -> tuple[PreparedScan, np.ndarray | None]:
    """Return a test scan and, on its grid, its real counterpart where there is one that can be used."""
    if partner is not None:
        try:
            view, _, _ = reader.read((case, partner))
        except UserError:  # told by the evaluation; the scan itself may still be good
            pass
        else:
            return view.source, view.real
    return reader.scan(case.path), None
