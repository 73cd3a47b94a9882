"""Images whose content was not fetched yet (git-annex, Git LFS): reported before anything is read."""

import logging
from collections.abc import Sequence

from pipeline.data.case import Case
from pipeline.utils.errors import UserError
from transforms.io.fetched import not_fetched

logger = logging.getLogger(__name__)


def require_fetched(cases: Sequence[Case]) -> None:
    """Warn in one line how many images are not fetched, with the command that fetches the first of them.

    A run can go on with the others; each missing image is reported again where it is read.

    Raises:
        UserError: no image is fetched.
    """
    missing = [text for case in cases if (text := not_fetched(case.path))]
    if missing and len(missing) == len(cases):
        raise UserError(f"none of {len(cases)} images is here; {missing[0]}, and so for the others")
    if missing:
        logger.warning(f"{len(missing)} of {len(cases)} images are not here; {missing[0]}, and so for the others")
