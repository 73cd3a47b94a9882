"""The test subjects in the report's viewer, and their volumes: source, translation and real target."""

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.data.case import Case, pairs
from pipeline.data.statistics import ContrastStatistics
from pipeline.evaluation.parallel_scoring import Translation
from pipeline.evaluation.scores import MASKED_PSNR, Scores
from pipeline.inference.model import TranslationModel
from pipeline.metrics.names import MODEL
from pipeline.reporting.viewer import FOLDER, ViewedSubject, is_fetched, viewed_subject
from pipeline.utils.files import atomic_write, temporary_folder
from transforms.slices import stack_slices

logger = logging.getLogger(__name__)

MAX_SUBJECTS = 3  # a direction: the file is mailed


class ViewerVolumes:
    """Keeps every translation in a small file, until the scores decide which ones the viewer shows.

    Args:
        folder: Folder for the files; the caller removes it.
        model: The model that translates.
    """

    def __init__(self, folder: Path, model: TranslationModel):
        self.folder, self.model = folder, model
        self._files: dict[Case, Path] = {}
        self._unpaired, self._count = dict.fromkeys(model.contrasts, 0), 0

    def add(self, translation: Translation) -> None:
        """Keep a translation; of those without a real target, the first few of each contrast."""
        job = self.job(translation)
        if job is not None:
            self.take(translation.case, job(translation))

    def job(self, translation: Translation) -> Callable[[Translation], Path] | None:
        """Return a function that writes a translation and returns its path.

        None for a translation without a real target, where its contrast has `MAX_SUBJECTS` of them already.
        """
        if translation.view is None:
            contrast = translation.case.contrast
            self._unpaired[contrast] += 1
            if self._unpaired[contrast] > MAX_SUBJECTS:
                return None
        self._count += 1
        return partial(_write, self.folder / f"{self._count}.npz", self.model.statistics[translation.to])

    def take(self, case: Case, result: Path) -> None:
        """Store the path of a translation."""
        self._files[case] = result

    def get(self, case: Case, label: str) -> ViewedSubject | None:
        """Return a case's translation with a label; None where none was kept."""
        if case not in self._files:
            return None
        with np.load(self._files[case], allow_pickle=False) as arrays:
            arrays_by_name = {name: arrays[name] if arrays[name].ndim else arrays[name].item() for name in arrays.files}
        return ViewedSubject(**{"real": None, **arrays_by_name, "label": label})


def _write(path: Path, statistics: ContrastStatistics, translation: Translation) -> Path:
    """Write a translation with source and real target, reduced in size for the viewer; return the path.

    Args:
        path: The file's path.
        statistics: The target contrast's training statistics.
        translation: The translation.
    """
    case, scan, view = translation.case, translation.scan, translation.view
    subject = viewed_subject(
        "",
        case.contrast,
        translation.to,
        source=scan.volume,
        translated=stack_slices(scan.unpadded(translation.slices), scan.axis),
        real=None if view is None else stack_slices(view.real, scan.axis),
        foreground=stack_slices(scan.foreground if view is None else scan.foreground | view.foreground, scan.axis),
        affine=scan.affine,
        units=f"In a {translation.to} scan as the model was trained on, -1 is {statistics.low:.4g} and +1 is "
        f"{statistics.high:.4g} in the file's own units.",
    )
    arrays = {name: value for name, value in asdict(subject).items() if value is not None}
    atomic_write(path, lambda stream: np.savez_compressed(stream, **arrays))
    return path


@contextmanager
def collect_viewer_volumes(folder: Path, model: TranslationModel) -> Iterator[ViewerVolumes | None]:
    """Yield a `ViewerVolumes` in a temporary folder below `folder`, which is removed when the block ends.

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
        yield ViewerVolumes(temporary, model)


def subjects_to_view(test: Sequence[Case], scores: Scores, volumes: ViewerVolumes) -> list[ViewedSubject]:
    """Return the worst, the median and the best subject of each direction, by masked PSNR.

    Where no test subject has both contrasts, the first three scans of each contrast.

    Args:
        test: The test subjects' cases.
        scores: The scores of the evaluation.
        volumes: The translations of the evaluation.
    """
    contrasts = volumes.model.contrasts
    cases = _extreme_cases(test, scores, contrasts) if scores.paired else _first_cases(test, scores, contrasts)
    return [subject for label, case in cases if (subject := volumes.get(case, label))]


def rank_names(count: int) -> dict[str, int]:
    """Return the indices of the worst, the median and the best of `count` subjects in ascending order, by name.

    Two subjects have no median; a single one is called "only".
    """
    if count < 2:
        return {"only": 0} if count else {}
    return {"worst": 0, **({"median": count // 2} if count > 2 else {}), "best": count - 1}


def _extreme_cases(test: Sequence[Case], scores: Scores, contrasts: tuple[str, str]) -> list[tuple[str, Case]]:
    """Return (label, source) of the subjects to show, by direction."""
    by_name = {"_".join(filter(None, (pair[0].subject, pair[0].session))): pair for pair in pairs(test, contrasts)}
    cases = []
    for source, target in (contrasts, contrasts[::-1]):
        ranked = [entry for entry in scores.ranked(source, target, MODEL, MASKED_PSNR) if entry[1] in by_name]
        for name, index in rank_names(len(ranked)).items():
            psnr, subject = ranked[index]
            case = by_name[subject][contrasts.index(source)]
            cases.append((f"{name}: {subject}, {psnr:.2f} dB masked PSNR", case))
    return cases


def _first_cases(test: Sequence[Case], scores: Scores, contrasts: tuple[str, str]) -> list[tuple[str, Case]]:
    """Return (label, source) of the first few scans of each contrast that were evaluated."""
    evaluated = [case for case in test if case.name not in scores.failures]
    cases = []
    for contrast in contrasts:
        cases += [case for case in evaluated if case.contrast == contrast][:MAX_SUBJECTS]
    return [("_".join(filter(None, (case.subject, case.session))), case) for case in cases]
