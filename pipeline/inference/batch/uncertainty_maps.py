"""The paths of the maps of the expected error, and checks that they overwrite nothing else."""

from pathlib import Path

from pipeline.inference.batch.jobs import FAILED, Job
from pipeline.inference.batch.outputs import real_path, without_suffix
from pipeline.utils.errors import UserError
from pipeline.utils.files import is_file

UNCERTAINTY = "uncertainty"
DESCRIPTION = "expected error of synthetic"  # in the `descrip` of every map


def plan_uncertainty_maps(jobs: list[Job], *, bids: bool, wanted: bool) -> None:
    """Set every job's map beside its target: `X_uncertainty.nii.gz`, in BIDS `…_desc-synthuncertainty_T2w.nii.gz`.

    A job whose map would have the name of another job's target fails. Where no maps are wanted, each job records the
    path of an earlier command's map, which is removed when the volume is replaced.

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
    """Whether a file is an uncertainty map of this command; False where it cannot be read."""
    if not is_file(path):
        return False
    import nibabel as nib  # slow, and needed only where the file exists

    from pipeline.inference.output_volume import NOTICE
    from transforms.io.nifti_checks import nibabel_silent

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
        entities, _, contrast = stem.rpartition("_")  # the last entity is desc-…synth
        return target.with_name(f"{entities}{UNCERTAINTY}_{contrast}{suffix}")
    return target.with_name(f"{stem}_{UNCERTAINTY}{suffix}")
