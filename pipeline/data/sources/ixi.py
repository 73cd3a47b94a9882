"""The IXI data set as cases, in the layout of its archives."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.case import Case
from pipeline.data.sources.listing import check_unique_names, nifti_stem
from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError


def ixi_cases(folder: Path, contrasts: Sequence[str]) -> list[Case]:
    """List IXI's volumes of the given contrasts, sorted.

    `IXI-T1/IXI002-Guys-0828-T1.nii.gz`, or the same file directly in `folder`, is contrast "T1" (the name after
    the last dash) of subject "IXI002-Guys-0828".

    Raises:
        UserError: a contrast has no volume (the message gives the command that downloads them), or two files are the
            same subject and contrast.
    """
    cases = sorted(case for contrast in contrasts for case in _contrast_cases(folder, contrast))
    missing = [contrast for contrast in contrasts if contrast not in {case.contrast for case in cases}]
    if missing:
        command = ["python", "-m", "pipeline.download", "ixi", "-o", str(folder), "--contrasts", *contrasts]
        names = " or ".join(missing)
        raise UserError(
            f"{folder}: no IXI {names} volumes there{cwd_hint(folder)}; download them with: {shlex.join(command)}"
        )
    check_unique_names(cases)
    return cases


def _contrast_cases(folder: Path, contrast: str) -> list[Case]:
    subfolders = [path for path in (folder, folder / f"IXI-{contrast}") if path.is_dir()]
    stems = ((path, nifti_stem(path.name) or "") for subfolder in subfolders for path in subfolder.iterdir())
    names = ((path, *stem.rpartition("-")) for path, stem in stems if stem.startswith("IXI"))
    return [Case(subject, "", contrast, path) for path, subject, _, suffix in names if suffix == contrast and subject]
