"""A case: one image of one subject in one contrast, and where it lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.utils.texts import printable


@dataclass(frozen=True, order=True)
class Case:
    """One image file.

    Attributes:
        subject: Who was scanned. Splits are made by this name.
        session: Which of the subject's scans this is ("" where there is one); pairs share subject and session.
        contrast: The contrast's name as the configuration spells it, free text.
        path: A NIfTI volume, or a PNG/JPEG/TIFF slice.
        split: "test" where the source itself sets the case aside for testing, otherwise None.
    """

    subject: str
    session: str
    contrast: str
    path: Path
    split: str | None = None

    def __post_init__(self) -> None:
        """Have names that every page, table and store can take, of files whose names are in no encoding."""
        for name in ("subject", "session"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @property
    def name(self) -> str:
        """Subject, session and contrast as one readable name; unique, for sources refuse cases that would share it."""
        return "_".join(part for part in (self.subject, self.session, self.contrast) if part)


def pairs(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[Case, Case]]:
    """Return the (first, second) contrast pairs: same subject, same session, in order of name."""
    by_key = {(case.subject, case.session, case.contrast): case for case in cases}
    keys = sorted({(case.subject, case.session) for case in cases})
    found = ((by_key.get((*key, contrasts[0])), by_key.get((*key, contrasts[1]))) for key in keys)
    return [(first, second) for first, second in found if first and second]
