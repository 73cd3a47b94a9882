"""How two contrasts' scans differ beside their contrast, for a network takes whatever differs for the contrast's."""

from collections.abc import Mapping, Sequence

from pipeline.data.coverage import AGREE, Coverage, shared_length

VOXELS_AGREE = 1.2  # times the smaller voxel, along each axis


def coverage_text(shown_mm: Mapping[str, float], coverage: Coverage, *, of: str = "head") -> str | None:
    """Return what to say where contrasts show different lengths along the sliced axis; None where they agree.

    Args:
        shown_mm: Contrast -> the typical length; of both, or nothing is said.
        coverage: What is trained on.
        of: What the lengths are of.
    """
    if len(shown_mm) < 2:
        return None
    used = {contrast: min(length, coverage.mm or length) for contrast, length in shown_mm.items()}
    if max(used.values()) <= AGREE * min(used.values()):
        return None
    lengths = " and ".join(f"{length:.0f} mm in {contrast}" for contrast, length in shown_mm.items())
    shared = Coverage(coverage.axis, shared_length(shown_mm))
    beyond = "" if coverage.mm is None else f", and preprocess.coverage_mm = {coverage.mm:g} leaves that different"
    remedy = f"preprocess.coverage_mm: shared would train on {shared}" if of == "head" else (
        "preprocess.coverage_mm: shared would train on what both contrasts' heads show"
    )  # fmt: skip
    return (
        f"along the {coverage.axis} slices' axis scans show {lengths} of {of} (medians){beyond}; networks would take "
        f"what one contrast never shows for a matter of contrast; {remedy}"
    )


def voxel_text(voxels_mm: Mapping[str, Sequence[float]]) -> str | None:
    """Return what to say where the contrasts' voxels differ in size and volumes keep their own; None where they agree.

    Args:
        voxels_mm: Contrast -> the typical voxel size along R, A, S; of both, or nothing is said.
    """
    if len(voxels_mm) < 2:
        return None
    ratios = [max(sizes) / min(sizes) for sizes in zip(*voxels_mm.values(), strict=True)]
    if max(ratios) <= VOXELS_AGREE:
        return None
    sizes = " and ".join(
        f"{' × '.join(f'{size:.3g}' for size in voxel)} mm in {contrast}" for contrast, voxel in voxels_mm.items()
    )
    return (
        f"voxels measure {sizes} (medians; right, anterior, superior) and preprocess.spacing_mm is null, so heads are "
        f"up to {max(ratios):.2g} times as large in one contrast as in the other; set preprocess.spacing_mm"
    )
