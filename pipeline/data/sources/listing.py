"""Shared by the sources of cases: the order of names, volume suffixes, and checks of the cases that were listed."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.data.case import Case
from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError
from transforms.io.fetched import not_fetched

logger = logging.getLogger(__name__)

VOLUME_SUFFIX = r"\.(?:nii(?:\.gz)?|mgz|mgh)"  # regular expression of NIfTI's and FreeSurfer's suffixes


def natural_key(text: str) -> list[str | int]:
    """Return a sort key in counting order: "Image #2" comes before "Image #10"."""
    return [int(piece) if index % 2 else piece for index, piece in enumerate(re.split(r"([0-9]+)", text))]


def nifti_stem(name: str) -> str | None:
    """Return a file name without .nii, .nii.gz, .mgz or .mgh; None for other and for hidden files."""
    match = re.fullmatch(rf"(?P<stem>[^.].*){VOLUME_SUFFIX}", name, re.IGNORECASE)
    return match["stem"] if match else None


def check_unique_names(cases: Iterable[Case]) -> None:
    """Raise UserError naming both files where two cases are the same, or have the same name.

    Outputs are named by subject, session and contrast joined: ("p1_b", "", "T1") and ("p1", "b", "T1") would overwrite
    each other, and so would ("p1", "b", "T1") and ("p1", "", "b_T1").
    """
    case_by_name: dict[str, Case] = {}
    for case in cases:
        first = case_by_name.setdefault(case.name, case)
        if first is not case:
            subjects = [", session ".join(filter(None, (item.subject, item.session))) for item in (first, case)]
            raise UserError(
                f"{first.path} and {case.path} would both be called {case.name} in the results (subject {subjects[0]}; "
                f"subject {subjects[1]}); rename one of them, or move it away"
            )


def require_folder(folder: Path, key: str) -> None:
    """Raise UserError naming the configuration's `key` where `folder` is not a folder."""
    if not folder.is_dir():
        kind = "not a" if folder.exists() else "no such"
        raise UserError(f"{folder}: {kind} folder{cwd_hint(folder)}; correct {key}")


def require_fetched(cases: Sequence[Case]) -> None:
    """Warn in one line how many images are not fetched, with the command that fetches the first; UserError: none is.

    A run can go on with the others; each missing image is reported again where it is read.
    """
    missing = [text for case in cases if (text := not_fetched(case.path))]
    if missing and len(missing) == len(cases):
        raise UserError(f"none of {len(cases)} images is here; {missing[0]}, and so for the others")
    if missing:
        logger.warning(f"{len(missing)} of {len(cases)} images are not here; {missing[0]}, and so for the others")
