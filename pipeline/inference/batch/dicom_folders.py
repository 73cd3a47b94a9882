"""A DICOM series in a folder, read as one volume: sorted by position, refused where slices are missing.

Geometry as DICOM PS3.3 C.7.6.2 defines it: the first column and row run along ImageOrientationPatient from
ImagePositionPatient, in millimetres of a frame whose axes point left, posterior and superior (LPS); NIfTI's is RAS.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.utils.errors import UserError
from pipeline.utils.files import is_folder
from transforms.io.fetched import not_fetched

if TYPE_CHECKING:
    import nibabel as nib

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_SERIES_UID, _INSTANCE, _POSITION, _ORIENTATION = "0020|000e", "0020|0013", "0020|0032", "0020|0037"
_IMAGE_TYPE, _PHOTOMETRIC = "0008|0008", "0028|0004"
_COLOURS = ("RGB", "PALETTE", "YBR")
_REFUSED_IMAGE_TYPES = {  # values of ImageType (DICOM PS3.3 C.7.6.1.1.2); derived reconstructions are scans
    "MOSAIC": "a Siemens mosaic, whose one picture holds all slices side by side; convert the series with dcm2niix",
    "LOCALIZER": "a localizer, not a scan of the head; give the folder of another series",
    "SCREEN SAVE": "a picture of a screen, not a scan; give the folder of the series itself",
}
_SAME_DIRECTION = 1e-3  # largest difference of direction cosines; scanners write them with 6 digits
_UNEVEN = 0.02  # of the slice distance, beyond rounding in positions


@dataclass(frozen=True)
class _Slice:
    """The position of a file's pixels by its header, in millimetres, LPS."""

    path: Path
    series: str
    instance: str
    origin: np.ndarray  # (3,)
    axes: np.ndarray  # (3, 3), columns are the unit directions of x, y, z
    spacing: tuple[float, ...]
    size: tuple[int, ...]

    @property
    def height(self) -> float:
        """Position along the normal of the slices."""
        return float(self.axes[:, 2] @ self.origin)


def holds_dicom(folder: Path) -> bool:
    """Whether a folder directly holds DICOM files: by suffix, or by the letters "DICM" after the preamble.

    A file without a suffix whose content git-annex keeps may as well be a README.
    """
    try:
        return is_folder(folder) and any(
            _is_dicom(path) for path in folder.iterdir() if path.suffix.lower() in DICOM_SUFFIXES or path.exists()
        )
    except OSError:  # it cannot be listed
        return False


def files_of_series(folder: Path) -> list[Path]:
    """Return the DICOM files that a folder directly holds, sorted by name."""
    return [path for path in sorted(folder.iterdir()) if _is_dicom(path)]


def _is_dicom(path: Path) -> bool:
    suffix = path.suffix.lower()
    leads_nowhere = path.is_symlink() and not path.exists()  # a slice that is missing, not one that was never there
    if path.name.startswith(".") or path.name == "DICOMDIR" or not (path.is_file() or leads_nowhere):
        return False
    if suffix in DICOM_SUFFIXES:
        return True
    if suffix and not suffix[1:].isdigit():  # other kinds of files; "1.2.840.7" is a usual name
        return False
    if leads_nowhere:
        return not_fetched(path) is not None
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_series(folder: Path) -> "nib.Nifti1Image":
    """Read the one DICOM series that a folder holds.

    Returns:
        (X, Y, Z) float32 voxels with each slice's rescaling applied, on the series' own grid, with the affine to RAS
        millimetres. Nothing else of the DICOM headers is kept, so no name of a patient. The image's file name is the
        folder's. `extra["warnings"]` lists what `transforms.io.nifti.read_nifti` adds to its warning: gaps in the
        instance numbers, so that slices may be missing at an end.

    Raises:
        UserError: no or several series; slices that are unreadable, in colour, unequal, missing, at the same position,
            or without a position; multi-frame files, mosaics, localizers and screenshots.
    """
    import nibabel as nib
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    files = files_of_series(folder)
    if missing := next((path for path in files if not path.exists()), None):
        raise UserError(not_fetched(missing) or f"{missing}: a link that leads nowhere; copy the series again")
    slices = sorted((_read_header(path) for path in files), key=lambda item: item.height)
    _require_one_series(slices, folder)
    step, first = _slice_step(slices, folder), slices[0]
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(item.path) for item in slices])
    try:
        voxels = sitk.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)  # (X, Y, Z)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"{folder}: its pixels cannot be read ({reason}); copy it again, or export it uncompressed"
        ) from error

    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([first.axes[:, 0] * first.spacing[0], first.axes[:, 1] * first.spacing[1], step])
    affine[:3, 3] = first.origin
    image = nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner", strip_shears=True)
    image.header.set_xyzt_units("mm")
    image.file_map["image"].filename = str(folder)
    numbers = sorted(int(item.instance) for item in slices if item.instance.isdecimal())
    if numbers and numbers[-1] - numbers[0] + 1 > len(slices):
        image.extra["warnings"] = ["its instance numbers have gaps; slices may be missing at an end"]
    return image


def _read_header(path: Path) -> _Slice:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    try:
        str(path).encode()  # SimpleITK would abort the process over a name that is not UTF-8
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: its name is not UTF-8; rename the file and its folders") from error
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(
            f"{path}: cannot be read as a DICOM image; copy it again, or move what is no image out of the folder"
        ) from error
    tags = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
    _require_scan_type(path, tags.get(_IMAGE_TYPE, ""), tags.get(_PHOTOMETRIC, ""))
    if len(reader.GetSize()) != 3 or reader.GetSize()[2] != 1:
        raise UserError(f"{path}: holds several frames (multi-frame or enhanced DICOM); convert it with dcm2niix")
    if not {_POSITION, _ORIENTATION} <= tags.keys():
        missing = "ImagePositionPatient and ImageOrientationPatient"
        raise UserError(f"{path}: does not say where it lies ({missing}); export the series again with them")
    return _Slice(
        path=path,
        series=tags.get(_SERIES_UID, ""),
        instance=tags.get(_INSTANCE, ""),
        origin=np.array(reader.GetOrigin()),
        axes=np.array(reader.GetDirection()).reshape(3, 3),
        spacing=reader.GetSpacing(),
        size=reader.GetSize(),
    )


def _require_scan_type(path: Path, image_type: str, photometric: str) -> None:
    """Refuse images that are no slice of a scan by their ImageType or colours."""
    values = [value.strip(" \0").upper() for value in image_type.split("\\")]
    for value, reason in _REFUSED_IMAGE_TYPES.items():
        if value in values:
            kind, _, remedy = reason.partition("; ")
            raise UserError(f"{path}: {kind} (ImageType {image_type}); {remedy}")
    if photometric.upper().startswith(_COLOURS):
        raise UserError(f"{path}: a colour picture, not a scan; give the folder of a gray-scale series")


def _require_one_series(slices: list[_Slice], folder: Path) -> None:
    series = {item.series for item in slices}
    if len(series) > 1:
        listing = ", ".join(
            f"{uid or 'unnamed'} ({sum(p.series == uid for p in slices)} files)" for uid in sorted(series)
        )
        raise UserError(
            f"{folder}: holds {len(series)} DICOM series: {listing}; put the one to translate in a folder of its own"
        )
    first = slices[0]
    for item in slices:
        if not np.allclose(item.axes, first.axes, rtol=0, atol=_SAME_DIRECTION):
            raise UserError(f"{folder}: its slices have several orientations, as a localizer's; give another series")
        if item.size != first.size or not np.allclose(item.spacing[:2], first.spacing[:2], rtol=1e-3):
            raise UserError(f"{folder}: {item.path.name} and {first.path.name} differ in size; give a whole series")


def _slice_step(slices: list[_Slice], folder: Path) -> np.ndarray:
    """Return the (3,) step from one slice to the next, in mm; raise where slices are not evenly spaced in a line."""
    if len(slices) == 1:
        return slices[0].axes[:, 2] * slices[0].spacing[2]
    origins = np.array([item.origin for item in slices])  # (slices, 3)
    gaps = np.diff([item.height for item in slices])
    spacing = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise UserError(
            f"{folder}: several images at one position (echoes or time points); "
            "put one volume's slices in a folder of their own"
        )
    steps = np.diff(origins, axis=0)
    deviations = np.linalg.norm(steps - np.median(steps, axis=0), axis=1)
    widest = int(np.argmax(deviations))
    if deviations[widest] > max(_UNEVEN * spacing, 0.01):
        distance = float(np.linalg.norm(steps[widest]))
        raise UserError(
            f"{folder}: slices are missing, or lie unevenly or not in one line ({distance:.2f} mm between "
            f"{slices[widest].path.name} and {slices[widest + 1].path.name}, elsewhere {spacing:.2f} mm); "
            "export the series again"
        )
    return (origins[-1] - origins[0]) / (len(slices) - 1)
