"""Where each volume's map of the error to expect goes, and that it falls on nothing else."""

from pathlib import Path

from pipeline.inference.batch.jobs import FAILED, Job
from pipeline.inference.batch.outputs import real_path, without_suffix
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file

UNCERTAINTY = "uncertainty"
DESCRIPTION = "expected error of synthetic"  # in the `descrip` of every map


def plan_uncertainty_maps(jobs: list[Job], *, bids: bool, wanted: bool) -> None:
    """Give every job a map beside its target: `X_uncertainty.nii.gz`, in BIDS `…_desc-synthuncertainty_T2w.nii.gz`.

    A job whose map would have the name of another job's target has failed already. Where no maps are wanted, each job
    notes where an earlier command's would lie instead: it goes when its volume is replaced.

    Raises:
        UserError: a source would be overwritten.
    """
    sources = {real_path(job.source) for job in jobs}
    targets = {without_suffix(job.target) for job in jobs}
    for job in jobs:
        path = _map_path(job.target, bids=bids)
        if not wanted:
            job.outdated = None if real_path(path) in sources or without_suffix(path) in targets else path
            continue
        job.uncertainty = path
        if real_path(job.uncertainty) in sources:
            raise UserError(f"{job.uncertainty}: the uncertainty's map would overwrite a source; choose another OUT")
        if without_suffix(job.uncertainty) in targets:
            job.status = FAILED
            job.error = f"{job.source}: its map would be another volume, {job.uncertainty.name}; move one away"


def is_uncertainty_map(path: Path) -> bool:
    """Whether a file is a map that this command has written; one that cannot be read is left to its owner."""
    if not is_file(path):
        return False
    import nibabel as nib  # slow, and needed only where there is something to look at

    from pipeline.inference.output_volume import NOTICE
    from transforms.io.nifti_log import nibabel_silent

    try:
        with nibabel_silent():
            header = nib.load(path).header
        return header["descrip"].item().removeprefix(f"{NOTICE}; ".encode()).startswith(DESCRIPTION.encode())
    except Exception:  # whatever a damaged file, or another format, makes nibabel raise
        return False


def _map_path(target: Path, *, bids: bool) -> Path:
    stem = Path(without_suffix(target)).name
    suffix = target.name[len(stem) :]
    if bids:
        entities, _, contrast = stem.rpartition("_")  # whose last entity is our desc-
        return target.with_name(f"{entities}{UNCERTAINTY}_{contrast}{suffix}")
    return target.with_name(f"{stem}_{UNCERTAINTY}{suffix}")
