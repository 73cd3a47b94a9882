"""Files made of a run's translations: training GIFs, translated test volumes with mosaics, and the viewer's volumes."""

import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import Tensor, nn

from networks.lookup_start import start_alone, start_of
from pipeline.data.case import Case, pairs
from pipeline.data.pairs import PreparedScan
from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation.scores import Scores, Translation
from pipeline.inference.model import TranslationModel
from pipeline.inference.output_volume import write_volume
from pipeline.inference.slice_translator import forward_eagerly, translate_slices
from pipeline.inference.translator import image_of_slices
from pipeline.reporting.gif import save_gif
from pipeline.reporting.panels import volume_mosaic
from pipeline.reporting.tiles import RADIOLOGICAL, save_png
from pipeline.reporting.viewer import FOLDER, ViewedSubject, is_fetched, viewed_subject
from pipeline.runs.folder import RunFolder
from pipeline.utils.files import atomic_path, atomic_write, temporary_folder
from transforms.io.images import is_raster, write_raster
from transforms.label_maps import LabelMap
from transforms.slices import stack_slices

logger = logging.getLogger(__name__)

MAX_VIEWED = 3  # subjects a direction in the viewer: the file is mailed
INDICES, LABELS = "indices of ", "labels of "  # before a region's name, in the viewer's files


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


def translate_scan(
    scan: PreparedScan,
    to: str,
    model: TranslationModel,
    batch_size: int,
    run: Callable[[nn.Module, Tensor], Tensor] = forward_eagerly,
) -> np.ndarray:
    """Return a scan's slices (N, H, W) translated to a contrast, still padded."""
    return translate_slices(
        scan.slices,
        model.translators[to],
        scan.occupied,
        device=model.device,
        batch_size=batch_size,
        precision=model.precision,
        slice_mm=scan.spacing_mm[0],
        name=str(scan.path),
        run=run,
    )


def translate_by_start(scan: PreparedScan, to: str, model: TranslationModel, batch_size: int) -> np.ndarray | None:
    """Return what `translate_scan` does, by what the generator began with; None where that is the context lookup."""
    start = start_of(model.translators[to])
    if start is None or start.box is None:
        return None
    return translate_scan(scan, to, model, batch_size, run=start_alone)


def without_networks(model: TranslationModel) -> TranslationModel:
    """Return the model without its networks, small enough to send to a worker."""
    return replace(model, translators={}, device=torch.device("cpu"), run=forward_eagerly)


def write_translation(folder: RunFolder, model: TranslationModel, translation: Translation) -> TranslatedVolume:
    """Write a translation on its source's grid, and its mosaic. The model's networks are not used."""
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


# ── the viewer ──────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def viewer_folder(folder: Path) -> Iterator[Path | None]:
    """Yield a temporary folder for the viewer's volumes below `folder`, which is removed when the block ends.

    None, with a note on how to get it, where the viewer's package was not fetched.

    Raises:
        UserError: the folder cannot be written.
    """
    if not is_fetched():
        logger.warning(
            "the report has no interactive viewer, for its package is not here; to have it, run "
            f"npm ci --prefix {shlex.quote(str(FOLDER))} (or make viewer), then this run again"
        )
        yield None
        return
    with temporary_folder(folder) as temporary:
        yield temporary


def write_viewer_volumes(folder: Path, statistics: Mapping[str, ContrastStatistics], translation: Translation) -> Path:
    """Write a translation with source, real target and regions, reduced in size for the viewer; return the path.

    `statistics` are those of each contrast's training cohort.
    """
    case, to, scan, view = translation.case, translation.to, translation.scan, translation.view
    regions = {} if view is None else view.regions
    subject = viewed_subject(
        "",
        case.contrast,
        to,
        source=scan.volume,
        translated=stack_slices(scan.unpadded(translation.slices), scan.axis),
        real=None if view is None else stack_slices(view.real, scan.axis),
        foreground=stack_slices(scan.foreground if view is None else scan.foreground | view.foreground, scan.axis),
        affine=scan.affine,
        units=f"In a {to} scan as the model was trained on, -1 is {statistics[to].low:.4g} and +1 is "
        f"{statistics[to].high:.4g} in the file's own units.",
        regions={
            name: LabelMap(stack_slices(label_map.indices, scan.axis), label_map.labels)
            for name, label_map in regions.items()
        },
    )
    arrays = {name: value for name, value in asdict(subject).items() if name != "regions" and value is not None}
    for name, label_map in subject.regions.items():
        arrays |= {f"{INDICES}{name}": label_map.indices, f"{LABELS}{name}": np.array(label_map.labels, dtype=int)}
    path = folder / f"{case.name}_to_{to}.npz"
    atomic_write(path, lambda stream: np.savez_compressed(stream, **arrays))
    return path


def subjects_to_view(
    test: Sequence[Case], scores: Scores, contrasts: tuple[str, str], files: Mapping[Case, Path]
) -> list[ViewedSubject]:
    """Return the worst, the median and the best subject of each direction, by masked PSNR.

    Where no test subject has both contrasts, the first three scans of each contrast. `files` are those of
    `write_viewer_volumes`, by source.
    """
    cases = _extreme_cases(test, scores, contrasts) if scores.paired else _first_cases(test, contrasts, files)
    return [_read_viewer_volumes(files[case], label) for label, case in cases if case in files]


def _extreme_cases(test: Sequence[Case], scores: Scores, contrasts: tuple[str, str]) -> list[tuple[str, Case]]:
    """Return (label, source) of the subjects to show, by direction."""
    by_name = {pair[0].scan_name: pair for pair in pairs(test, contrasts)}
    cases = []
    for source, target in (contrasts, contrasts[::-1]):
        ranked = [entry for entry in scores.ranked(source, target) if entry[1] in by_name]
        indices = {"worst": 0, "median": len(ranked) // 2, "best": -1} if len(ranked) > 1 else {"only": 0}
        if len(ranked) == 2:
            del indices["median"]
        for name, index in indices.items() if ranked else ():
            psnr, subject = ranked[index]
            case = by_name[subject][contrasts.index(source)]
            cases.append((f"{name}: {subject}, {psnr:.2f} dB masked PSNR", case))
    return cases


def _first_cases(
    test: Sequence[Case], contrasts: tuple[str, str], files: Mapping[Case, Path]
) -> list[tuple[str, Case]]:
    """Return (label, source) of the first few scans of each contrast."""
    by_contrast = ([case for case in test if case.contrast == contrast and case in files] for contrast in contrasts)
    return [(case.scan_name, case) for cases in by_contrast for case in cases[:MAX_VIEWED]]


def _read_viewer_volumes(path: Path, label: str) -> ViewedSubject:
    with np.load(path, allow_pickle=False) as arrays:
        stored: dict[str, Any] = {name: arrays[name] if arrays[name].ndim else arrays[name].item() for name in arrays}
    names = [name.removeprefix(INDICES) for name in stored if name.startswith(INDICES)]
    regions = {
        name: LabelMap(stored.pop(f"{INDICES}{name}"), tuple(stored.pop(f"{LABELS}{name}").tolist())) for name in names
    }
    return ViewedSubject(**{"real": None} | stored | {"label": label, "regions": regions})
