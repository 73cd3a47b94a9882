"""Where each volume's map of the error to expect goes, and that it falls on nothing else."""

from pathlib import Path

from pipeline.errors import UserError
from pipeline.translation.jobs import FAILED, Job
from pipeline.translation.places import real, without_suffix

UNCERTAINTY = "uncertainty"


def plan_maps(jobs: list[Job], *, bids: bool) -> None:
    """Give every job a map beside its target: `X_uncertainty.nii.gz`, in BIDS `…_desc-synthuncertainty_T2w.nii.gz`.

    A job whose map would have the name of another job's target has failed already.

    Raises:
        UserError: a source would be overwritten.
    """
    sources = {real(job.source) for job in jobs}
    targets = {without_suffix(job.target) for job in jobs}
    for job in jobs:
        job.uncertainty = _map_of(job.target, bids=bids)
        if real(job.uncertainty) in sources:
            raise UserError(f"{job.uncertainty}: the uncertainty's map would overwrite a source; choose another OUT")
        if without_suffix(job.uncertainty) in targets:
            job.status = FAILED
            job.error = f"{job.source}: its map would be another volume, {job.uncertainty.name}; move one away"


def _map_of(target: Path, *, bids: bool) -> Path:
    stem = Path(without_suffix(target)).name
    suffix = target.name[len(stem) :]
    if bids:
        entities, _, contrast = stem.rpartition("_")  # whose last entity is our desc-
        return target.with_name(f"{entities}{UNCERTAINTY}_{contrast}{suffix}")
    return target.with_name(f"{stem}_{UNCERTAINTY}{suffix}")
