"""What the sources of cases share: how names sort, which files are volumes, and that no two cases are the same."""

import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.data.case import Case
from pipeline.utils.errors import UserError
from pipeline.utils.paths import cwd_hint

VOLUME_SUFFIX = r"\.(?:nii(?:\.gz)?|mgz|mgh)"  # a regular expression: NIfTI, and FreeSurfer's


def natural_key(text: str) -> list[str | int]:
    """Return a sort key that counts: "Image #2" comes before "Image #10"."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", text))]


def nifti_stem(name: str) -> str | None:
    """Return a file name without .nii, .nii.gz, .mgz or .mgh; None for other and for hidden files."""
    found = re.fullmatch(rf"(?P<stem>[^.].*){VOLUME_SUFFIX}", name, re.IGNORECASE)
    return found["stem"] if found else None


def check_unique_names(cases: Iterable[Case]) -> None:
    """Raise UserError naming both files where two cases are the same, or have the same name.

    Outputs are called by subject, session and contrast joined: ("p1_b", "", "T1") and ("p1", "b", "T1") would overwrite
    each other's, and so would ("p1", "b", "T1") and ("p1", "", "b_T1").
    """
    seen: dict[str, Case] = {}
    for case in cases:
        first = seen.setdefault(case.name, case)
        if first is case:
            continue
        if (first.subject, first.session) != (case.subject, case.session):
            raise UserError(
                f"{first.path} and {case.path} would both be called {case.name} in the results, as "
                f"{_who(first)} and as {_who(case)}; rename one of them"
            )
        raise UserError(
            f"{first.path} and {case.path} are both {case.contrast} of {case.subject}"
            f"{f', session {case.session}' if case.session else ''}; move one of them away or rename it"
        )


def _who(case: Case) -> str:
    return f"subject {case.subject}" + (f", session {case.session}" if case.session else "")


def require_folder(folder: Path, key: str) -> None:
    """Raise UserError naming the configuration's `key` where `folder` is not a folder."""
    if not folder.is_dir():
        kind = "not a" if folder.exists() else "no such"
        raise UserError(f"{folder}: {kind} folder{cwd_hint(folder)}; correct {key}")
