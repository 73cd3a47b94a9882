"""DICOM series, written slice by slice with SimpleITK."""

import locale
from pathlib import Path

import ixi_like
import nibabel as nib
import numpy as np
import SimpleITK as sitk

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
PATIENT = "Doe^Jane"


def write_dicom(
    folder: Path, image: nib.Nifti1Image, series: str = "1.2.3", suffix: str = ".dcm", **tags
) -> list[Path]:
    """Write a volume as a DICOM series, its slices in an order that is not that of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = RAS_FROM_LPS @ image.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    voxels = np.asarray(image.dataobj)
    paths = []
    for number in range(voxels.shape[2]):
        piece = sitk.GetImageFromArray(voxels[None, :, :, number].transpose(0, 2, 1).astype(np.int16))  # (1, Y, X)
        origin = lps[:3, 3] + lps[:3, 2] * number
        piece.SetSpacing(spacing)
        texts = {
            "0008|0060": "MR",
            "0010|0010": PATIENT,
            "0010|0020": "Jane-4711",
            "0020|000d": "1.2",
            "0020|000e": series,
            "0008|103e": "Jane's T1",
            "0020|0013": str(number + 1),
            "0020|0032": "\\".join(f"{value:.9g}" for value in origin),
            "0020|0037": "\\".join(f"{value:.9g}" for value in directions[:, :2].T.ravel()),
        }
        for tag, text in (texts | tags).items():
            piece.SetMetaData(tag, text)
        path = folder / f"IM{(number * 7) % 1009:04d}{suffix}"
        write_slice(piece, path.with_suffix(".dcm"))
        paths.append(path.with_suffix(".dcm").rename(path))
    return paths


def write_slice(image: sitk.Image, path: Path) -> None:
    """Write an image as a DICOM file with the tags that it has.

    GDCM sets the process's locale to "C" when it writes; it is set back, or other tests would read ASCII.
    """
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    writer.SetFileName(str(path))
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)


def head(**changes) -> nib.Nifti1Image:
    image = ixi_like.ixi_t1(scale=16)
    return nib.Nifti1Image(np.asarray(image.dataobj), changes.get("affine", image.affine))
