"""A case: the image file of one subject in one contrast."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.utils.files import printable


@dataclass(frozen=True, order=True)
class Case:
    """One image file."""

    subject: str  # name of the person scanned; splits are made by subject
    session: str  # "" where there is only one; pairs share subject and session
    contrast: str  # as the configuration spells it, free text
    path: Path  # a NIfTI volume, or a PNG/JPEG/TIFF slice
    split: str | None = None  # "test" where the data set itself reserves it for testing

    def __post_init__(self) -> None:
        """Make names of files in an unknown encoding printable, so that every page and table can show them."""
        for name in ("subject", "session"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @property
    def scan_name(self) -> str:
        """Subject and session as one readable name, which a pair shares."""
        return "_".join(label for label in (self.subject, self.session) if label)

    @property
    def name(self) -> str:
        """Subject, session and contrast as one readable name; sources refuse two cases of the same name."""
        return "_".join(label for label in (self.subject, self.session, self.contrast) if label)


def other_contrast(contrasts: tuple[str, str], contrast: str) -> str:
    """Return the one of two contrasts that `contrast` is not."""
    return contrasts[1 - contrasts.index(contrast)]


def pairs(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[Case, Case]]:
    """Return the (first, second) contrast pairs of the same subject and session, in order of name."""
    by_key = {(case.subject, case.session, case.contrast): case for case in cases}
    scans = sorted({(case.subject, case.session) for case in cases})
    candidates = ((by_key.get((*scan, contrasts[0])), by_key.get((*scan, contrasts[1]))) for scan in scans)
    return [(first, second) for first, second in candidates if first and second]
