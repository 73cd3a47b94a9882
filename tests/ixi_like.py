"""Volumes shaped like IXI's, of a small head-like phantom that looks different from every side."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

# tissue: (centre mm, semi-axes mm) in RAS, painted in this order; no axis can be flipped unnoticed
_ELLIPSOIDS = (
    ("scalp", (0, 0, 0), (74, 92, 72)),
    ("scalp", (0, 90, -20), (10, 16, 12)),  # the nose: anterior and low
    ("skull", (0, 0, 0), (70, 88, 68)),
    ("grey", (0, -2, 2), (64, 80, 62)),
    ("white", (0, -2, 4), (54, 68, 50)),
    ("fluid", (-9, 6, 8), (7, 24, 11)),  # the left ventricle is the larger one
    ("fluid", (9, 2, 8), (5, 16, 8)),
    ("fluid", (30, 34, 20), (18, 16, 16)),  # a cyst: right, frontal, high
)
INTENSITIES = {
    "T1": {"air": 0, "scalp": 900, "skull": 60, "grey": 500, "white": 800, "fluid": 150},
    "T2": {"air": 0, "scalp": 600, "skull": 40, "grey": 700, "white": 450, "fluid": 1200},
}

STORED = {  # shape, spacing in mm, directions of the axes (PSR, LAS) and degrees that these are oblique
    "T1": ((256, 256, 150), (0.9375, 0.9375, 1.2), np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]), 8.0),
    "T2": ((256, 256, 130), (0.9375, 0.9375, 1.25), np.diag([-1, 1, 1]), 4.0),
}


def head(shape: tuple[int, int, int], affine: np.ndarray, contrast: str, noise: float = 4.0, seed: int = 0):
    """Return the (X, Y, Z) int16 phantom in a contrast of `INTENSITIES`, with a little Rician noise."""
    grid = np.indices(shape, dtype=np.float32, sparse=True)
    world = [
        sum(np.float32(affine[row, column]) * grid[column] for column in range(3)) + np.float32(affine[row, 3])
        for row in range(3)
    ]
    intensities = INTENSITIES[contrast]
    volume = np.full(shape, intensities["air"], np.float32)
    for tissue, centre, semi_axes in _ELLIPSOIDS:
        distance = sum(((world[row] - centre[row]) / semi_axes[row]) ** 2 for row in range(3))
        volume[distance < 1] = intensities[tissue]
    rng = np.random.default_rng(seed)
    real, imaginary = (rng.standard_normal(shape, np.float32) * noise for _ in range(2))
    return np.rint(np.hypot(volume + real, imaginary)).astype(np.int16)


def centred_affine(shape, columns: np.ndarray, spacing_mm, oblique_degrees: float) -> np.ndarray:
    """Return an affine with the given axis directions, tilted about the right-left axis, centred on the origin."""
    angle = np.deg2rad(oblique_degrees)
    tilt = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = tilt @ columns @ np.diag(spacing_mm)
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def ixi_t1(scale: int = 1, seed: int = 0) -> nib.Nifti1Image:
    """Return a T1 as IXI stores it: PSR, 256×256×150 at 0.9375×0.9375×1.2 mm, 8° oblique; coarser by `scale`."""
    return _image("T1", scale, seed)


def ixi_t2(scale: int = 1, seed: int = 0) -> nib.Nifti1Image:
    """Return a T2 as IXI stores it: LAS, 256×256×130 at 0.9375×0.9375×1.25 mm, 4° oblique; coarser by `scale`."""
    return _image("T2", scale, seed)


def _image(contrast: str, scale: int, seed: int) -> nib.Nifti1Image:
    shape, spacing_mm, columns, oblique_degrees = STORED[contrast]
    shape = tuple(-(-length // scale) for length in shape)
    affine = centred_affine(shape, columns, np.multiply(spacing_mm, scale), oblique_degrees)
    image = nib.Nifti1Image(head(shape, affine, contrast, seed=seed), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_qform(affine, code="scanner")
    image.header.set_sform(affine, code="scanner")
    image.header["descrip"] = b"MR"
    return image


def write_ixi(folder: Path, subject: str = "IXI002-Guys-0828", scale: int = 1, seed: int = 0) -> tuple[Path, Path]:
    """Write a subject's T1 and T2 as IXI's archives unpack; return both paths."""
    paths = folder / "IXI-T1" / f"{subject}-T1.nii.gz", folder / "IXI-T2" / f"{subject}-T2.nii.gz"
    for path, image in zip(paths, (ixi_t1(scale, seed), ixi_t2(scale, seed)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
    return paths


def write_ixi_headers(folder: Path, scans: dict[str, str]) -> None:
    """Write files that have IXI's names and headers and no voxels, of each subject's contrasts, such as "T1 T2"."""
    for contrast, (shape, spacing_mm, columns, oblique_degrees) in STORED.items():
        affine = centred_affine(shape, columns, spacing_mm, oblique_degrees)
        header = nib.Nifti1Image(np.empty((1, 1, 1), np.int16), affine).header
        header.set_data_shape(shape)
        header["vox_offset"] = 352
        content = gzip.compress(header.binaryblock + bytes(4))
        (folder / f"IXI-{contrast}").mkdir(parents=True)
        for subject in (name for name, contrasts in scans.items() if contrast in contrasts.split()):
            (folder / f"IXI-{contrast}" / f"{subject}-{contrast}.nii.gz").write_bytes(content)


def ixi_cohort() -> dict[str, str]:
    """Return as many subjects as IXI has, under names like its own: 577 with both contrasts, 4 with T1, 1 with T2."""
    sites = ("Guys", "HH", "IOP")
    names = [f"IXI{number:03d}-{sites[number % 3]}-{500 + number}" for number in range(2, 584)]
    return dict(zip(names, ["T1 T2"] * 577 + ["T1"] * 4 + ["T2"], strict=True))
