"""Differences between two contrasts' scans that a network would mistake for contrast: coverage and voxel size."""

from collections.abc import Mapping, Sequence

from pipeline.data.coverage import MAX_LENGTH_RATIO, Coverage, shared_length

MAX_VOXEL_RATIO = 1.2  # larger voxel size over smaller, along each axis


def coverage_text(shown_mm: Mapping[str, float], coverage: Coverage, *, region: str = "head") -> str | None:
    """Return a warning where the contrasts cover different lengths along the sliced axis, or None where they agree.

    Args:
        shown_mm: Contrast -> typical length covered. With fewer than two contrasts there is no warning.
        coverage: The range that is trained on.
        region: What is measured, "head" or "field of view".
    """
    if len(shown_mm) < 2:
        return None
    trained_mm = {contrast: min(length, coverage.mm or length) for contrast, length in shown_mm.items()}
    if max(trained_mm.values()) <= MAX_LENGTH_RATIO * min(trained_mm.values()):
        return None
    lengths = " and ".join(f"{length:.0f} mm in {contrast}" for contrast, length in shown_mm.items())
    shared = Coverage(coverage.axis, shared_length(shown_mm))
    excess = "" if coverage.mm is None else f", and preprocess.coverage_mm = {coverage.mm:g} leaves that different"
    remedy = f"preprocess.coverage_mm: shared would train on {shared}" if region == "head" else (
        "preprocess.coverage_mm: shared would train on what both contrasts' heads show"
    )  # fmt: skip
    return (
        f"along the {coverage.axis} slices' axis scans show {lengths} of {region} (medians){excess}; networks would "
        f"take what one contrast never shows for a matter of contrast; {remedy}"
    )


def voxel_text(voxels_mm: Mapping[str, Sequence[float]]) -> str | None:
    """Return a warning where the contrasts' voxels differ in size and are not resampled, or None where they agree.

    Args:
        voxels_mm: Contrast -> typical voxel size along R, A, S. With fewer than two contrasts there is no warning.
    """
    if len(voxels_mm) < 2:
        return None
    ratios = [max(sizes) / min(sizes) for sizes in zip(*voxels_mm.values(), strict=True)]
    if max(ratios) <= MAX_VOXEL_RATIO:
        return None
    sizes = " and ".join(
        f"{' × '.join(f'{size:.3g}' for size in voxel)} mm in {contrast}" for contrast, voxel in voxels_mm.items()
    )
    return (
        f"voxels measure {sizes} (medians; right, anterior, superior) and preprocess.spacing_mm is null, so heads are "
        f"up to {max(ratios):.2g} times as large in one contrast as in the other; set preprocess.spacing_mm"
    )
