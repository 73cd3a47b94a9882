"""Which test subjects the report's viewer shows, and their volumes: source, translation and real target."""

import shlex
from collections.abc import Sequence

import numpy as np

from pipeline.console import progress, warn
from pipeline.data.case import Case, pairs
from pipeline.data.pairing import PairReader, PreparedScan
from pipeline.errors import UserError
from pipeline.evaluation.evaluate import MODEL
from pipeline.evaluation.gallery import translate_scan
from pipeline.evaluation.scores import MASKED_PSNR, Scores
from pipeline.report.viewer import FOLDER, ViewedSubject, Viewer, is_fetched, make_viewer, viewed_subject
from pipeline.translation.model import TranslationModel
from transforms.slices import stack_slices

MOST_SUBJECTS = 3  # a direction: the file is mailed


def make_report_viewer(
    test: Sequence[Case],
    scores: Scores,
    model: TranslationModel,
    reader: PairReader,
    *,
    batch_size: int,
    quiet: bool = False,
) -> Viewer | None:
    """Return the viewer of the test subjects that are worth a look, or None, with a line that says how to get it."""
    if not is_fetched():
        warn(
            "note: the report has no interactive viewer, for its package is not here; to have it, run "
            f"npm ci --prefix {shlex.quote(str(FOLDER))} (or make viewer), then this run again"
        )
        return None
    return make_viewer(subjects_to_view(test, scores, model, reader, batch_size=batch_size, quiet=quiet))


def subjects_to_view(
    test: Sequence[Case],
    scores: Scores,
    model: TranslationModel,
    reader: PairReader,
    *,
    batch_size: int,
    quiet: bool = False,
) -> list[ViewedSubject]:
    """Return at most three subjects for each direction, translated: by masked PSNR the worst, the median and the best.

    Where no test subject has both contrasts, the first three scans of each contrast. A subject that cannot be read was
    named by the evaluation and is left out.

    Args:
        test: The test subjects' cases.
        scores: The model's, of these subjects.
        model: What translates.
        reader: Reads scans, and pairs.
        batch_size: Slices that go through the network at once.
        quiet: Whether to leave out the progress bar.
    """
    chosen = _ranked(test, scores, model.contrasts) if scores.paired else _first(test, scores, model.contrasts)
    shown = []
    for label, case, partner in progress(chosen, title="viewer", unit="vol", quiet=quiet):
        try:
            shown.append(_viewed(label, case, partner, model, reader, batch_size))
        except UserError as error:
            warn(f"warning: {error}; not in the viewer")
    return shown


def rank_names(count: int) -> dict[str, int]:
    """Return name -> index of the worst, the median and the best of `count` subjects in ascending order.

    Of two there is no median, and a single one is neither: "only".
    """
    if count < 2:
        return {"only": 0} if count else {}
    return {"worst": 0, **({"median": count // 2} if count > 2 else {}), "best": count - 1}


def _ranked(test: Sequence[Case], scores: Scores, contrasts: tuple[str, str]) -> list[tuple[str, Case, Case | None]]:
    """Return (label, source, target) of the subjects to show, by direction."""
    by_name = {"_".join(filter(None, (pair[0].subject, pair[0].session))): pair for pair in pairs(test, contrasts)}
    chosen = []
    for source, target in (contrasts, contrasts[::-1]):
        ranked = [one for one in scores.ranked(source, target, MODEL, MASKED_PSNR) if one[1] in by_name]
        for name, index in rank_names(len(ranked)).items():
            psnr, subject = ranked[index]
            pair = by_name[subject] if source == contrasts[0] else by_name[subject][::-1]
            chosen.append((f"{name}: {subject}, {psnr:.2f} dB masked PSNR", *pair))
    return chosen


def _first(test: Sequence[Case], scores: Scores, contrasts: tuple[str, str]) -> list[tuple[str, Case, None]]:
    """Return (label, source, None) of the first few scans of each contrast that were evaluated."""
    return [
        ("_".join(filter(None, (case.subject, case.session))), case, None)
        for contrast in contrasts
        for case in [one for one in test if one.contrast == contrast and one.name not in scores.failures][
            :MOST_SUBJECTS
        ]
    ]


def _viewed(
    label: str, case: Case, partner: Case | None, model: TranslationModel, reader: PairReader, batch_size: int
) -> ViewedSubject:
    target = model.contrasts[1 - model.contrasts.index(case.contrast)]
    scan, real, foreground = _read(case, partner, reader)
    translated = scan.unpadded(translate_scan(scan, target, model, batch_size, str(case.path)))
    return viewed_subject(
        label,
        case.contrast,
        target,
        source=scan.volume,
        translated=stack_slices(translated, scan.axis),
        real=None if real is None else stack_slices(real, scan.axis),
        foreground=stack_slices(foreground, scan.axis),
        affine=scan.affine,
        units=f"In a {target} scan as the model was trained on, -1 is {model.facts[target]['low']:.4g} and +1 is "
        f"{model.facts[target]['high']:.4g} in the file's own units.",
    )


def _read(case: Case, partner: Case | None, reader: PairReader) -> tuple[PreparedScan, np.ndarray | None, np.ndarray]:
    """Return a scan, on its grid the real target where there is a partner, and where either has a head."""
    if partner is None:
        scan = reader.scan(case.path)
        return scan, None, scan.foreground
    view, _, _ = reader.read((case, partner))
    return view.source, view.real, view.source.foreground | view.foreground
