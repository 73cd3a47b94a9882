"""Images whose content is still elsewhere (git-annex, Git LFS), said before anything is read."""

from collections.abc import Sequence

from pipeline.data.case import Case
from pipeline.utils.console import warn
from pipeline.utils.errors import UserError
from transforms.io.fetched import not_fetched


def require_fetched(cases: Sequence[Case]) -> None:
    """Say in a line how many images are not here, and the command that fetches the first of them.

    Those that are here can be worked with; what is to become of the others is told where each is read.

    Raises:
        UserError: none is here.
    """
    missing = [text for case in cases if (text := not_fetched(case.path))]
    if missing and len(missing) == len(cases):
        raise UserError(f"none of {len(cases)} images is here; {missing[0]}, and so for the others")
    if missing:
        warn(f"warning: {len(missing)} of {len(cases)} images are not here; {missing[0]}, and so for the others")
