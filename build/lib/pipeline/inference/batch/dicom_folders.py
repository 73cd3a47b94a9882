"""A DICOM series in a folder, read as one volume: sorted by position, refused where slices are missing.

Geometry as DICOM PS3.3 C.7.6.2 defines it: the first column and row run along ImageOrientationPatient from
ImagePositionPatient, in millimetres of a frame whose axes point left, posterior and superior (LPS); NIfTI's is RAS.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.utils.errors import UserError
from pipeline.utils.files import is_folder
from transforms.io.odd_names import utf8_name

if TYPE_CHECKING:
    import nibabel as nib
    import numpy as np

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
_SERIES_UID, _INSTANCE = "0020|000e", "0020|0013"
_POSITION, _ORIENTATION, _CLASS = "0020|0032", "0020|0037", "0008|0016"
_IMAGE_TYPE, _PHOTOMETRIC = "0008|0008", "0028|0004"
_COLOUR = "a colour picture, not a scan; give the folder of a gray-scale series"
_COLOURS = ("RGB", "PALETTE", "YBR")
_REFUSED_IMAGE_TYPES = {  # values of ImageType
    "MOSAIC": "a Siemens mosaic, whose one picture holds all slices side by side; convert the series with dcm2niix",
    "LOCALIZER": "a localizer, not a scan of the head; give the folder of another series",
    "SCREEN SAVE": "a picture of a screen, not a scan; give the folder of the series itself",
    "SCREENSAVE": "a picture of a screen, not a scan; give the folder of the series itself",
}
_ENHANCED = (  # classes whose files hold each frame's position in functional groups: Enhanced and Legacy Converted
    "1.2.840.10008.5.1.4.1.1.4.1",  # MR
    "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.2.1",  # CT
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.130",  # PET
    "1.2.840.10008.5.1.4.1.1.128.1",
)
_SAME_DIRECTION = 1e-3  # largest difference of direction cosines; scanners write them with 6 digits
_UNEVEN = 0.02  # of the slice distance, beyond rounding in positions


@dataclass(frozen=True)
class _Slice:
    """The position of a file's pixels by its header, in millimetres, LPS."""

    path: Path
    series: str
    instance: str
    origin: "np.ndarray"  # (3,)
    axes: "np.ndarray"  # (3, 3), columns are the unit directions of x, y, z
    spacing: tuple[float, ...]  # of x, y (and z where it has several frames)
    size: tuple[int, ...]
    has_position: bool  # whether it says where its pixels lie; otherwise origin and axes are GDCM's inventions

    @property
    def height(self) -> float:
        """Position along the normal of the slices."""
        return float(self.axes[:, 2] @ self.origin)


def holds_dicom(folder: Path) -> bool:
    """Whether a folder directly holds DICOM files: by suffix, or by the letters "DICM" after the preamble."""
    try:
        return is_folder(folder) and any(_is_dicom(path) for path in folder.iterdir())
    except OSError:  # it cannot be listed
        return False


def files_of_series(folder: Path) -> list[Path]:
    """Return the DICOM files that a folder directly holds, sorted by name."""
    return [path for path in sorted(folder.iterdir()) if _is_dicom(path)]


def _is_dicom(path: Path) -> bool:
    suffix = path.suffix.lower()
    if path.name.startswith(".") or path.name == "DICOMDIR" or not path.is_file():
        return False
    if suffix in DICOM_SUFFIXES:
        return True
    if suffix and not suffix[1:].isdigit():  # other kinds of files; "1.2.840.7" is a usual name
        return False
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
        folder's. `extra["cautions"]` lists what `transforms.io.nifti.read_nifti` adds to its warning: gaps in the
        instance numbers, so that slices may be missing at an end; a single file without a position, which gets the
        affine of a NIfTI header without form codes (LAS), its rows flipped as if it were axial.

    Raises:
        UserError: no or several series; slices that are unreadable, in colour, unequal, missing, at the same position,
            or without a position; mosaics, localizers and screenshots.
    """
    import nibabel as nib
    import numpy as np

    slices = [_read_header(path) for path in files_of_series(folder)]
    slices = _sorted_series(slices, folder)
    if not all(item.has_position for item in slices):
        return _read_unplaced_slice(slices, folder)
    step = _slice_step(slices, folder)
    voxels = np.concatenate([_read_pixels(item) for item in slices], axis=2)  # (X, Y, Z)
    first = slices[0]
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([first.axes[:, 0] * first.spacing[0], first.axes[:, 1] * first.spacing[1], step])
    affine[:3, 3] = first.origin
    image = nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    image.set_sform(image.affine, code="scanner")
    image.set_qform(image.affine, code="scanner", strip_shears=True)
    return _finished_image(image, folder, _gap_cautions(slices))


def _read_unplaced_slice(slices: list[_Slice], folder: Path) -> "nib.Nifti1Image":
    """Read a single file without a position as a NIfTI image without form codes."""
    import nibabel as nib

    tags = "ImagePositionPatient and ImageOrientationPatient"
    if len(slices) > 1:
        name = next(item for item in slices if not item.has_position).path.name
        raise UserError(f"{folder}: {name} does not say where it lies ({tags}); export the series again with them")
    first = slices[0]
    image = nib.Nifti1Image(_read_pixels(first)[:, ::-1], None)  # rows run to the back in DICOM, to the front in LAS
    image.header.set_zooms(first.spacing)
    image = nib.Nifti1Image(image.dataobj, image.header.get_base_affine(), image.header)
    return _finished_image(image, folder, [f"its DICOM header does not say where the slice lies ({tags})"])


def _finished_image(image: "nib.Nifti1Image", folder: Path, cautions: list[str]) -> "nib.Nifti1Image":
    """Return the image with its unit, the folder's name for messages, and the cautions about it."""
    image.header.set_xyzt_units("mm")
    image.file_map["image"].filename = str(folder)
    image.extra["cautions"] = cautions
    return image


def _read_header(path: Path) -> _Slice:
    import numpy as np
    import SimpleITK as sitk

    # Read the header alone.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    try:
        with utf8_name(path) as name:
            reader.SetFileName(name)
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(
            f"{path}: cannot be read as a DICOM image; copy it again, or move what is no image out of the folder"
        ) from error

    # Refuse what is no slice of a scan.
    tags = reader.GetMetaDataKeys()
    _require_scan_type(path, *(reader.GetMetaData(tag) if tag in tags else "" for tag in (_IMAGE_TYPE, _PHOTOMETRIC)))
    if reader.GetNumberOfComponents() != 1:
        raise UserError(f"{path}: {_COLOUR}")
    size = reader.GetSize()
    axes = np.array(reader.GetDirection(), dtype=float).reshape(len(size), len(size))
    if len(size) != 3:
        raise UserError(f"{path}: has {len(size)} dimensions; convert the series with dcm2niix")

    # Its geometry, and whether the header states it.
    return _Slice(
        path=path,
        series=reader.GetMetaData(_SERIES_UID).strip() if _SERIES_UID in tags else "",
        instance=reader.GetMetaData(_INSTANCE).strip() if _INSTANCE in tags else "",
        origin=np.array(reader.GetOrigin(), dtype=float),
        axes=axes,
        spacing=reader.GetSpacing(),
        size=size,
        has_position={_POSITION, _ORIENTATION} <= set(tags)
        or (_CLASS in tags and reader.GetMetaData(_CLASS).strip(" \0") in _ENHANCED),
    )


def _require_scan_type(path: Path, image_type: str, photometric: str) -> None:
    """Refuse images that are no slice of a scan by their ImageType (DICOM PS3.3, C.7.6.1.1.2) or colours.

    Derived reconstructions are scans: normalised or distortion-corrected ones, and reformats, which scanners and
    libraries mark as secondary.
    """
    values = [value.strip(" \0").upper() for value in image_type.split("\\")]
    kinds = [reason for value, reason in _REFUSED_IMAGE_TYPES.items() if value in values]
    if photometric.strip(" \0").upper().startswith(_COLOURS):
        kinds.append(_COLOUR)
    if kinds:
        kind, _, remedy = kinds[0].partition("; ")
        note = f" (ImageType {image_type.strip()})" if any(values) else ""
        raise UserError(f"{path}: {kind}{note}; {remedy}")


def _sorted_series(slices: list[_Slice], folder: Path) -> list[_Slice]:
    """Return the slices from the lowest to the highest; raise unless they are one series of like slices."""
    import numpy as np

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
    if len(slices) > 1 and first.size[2] > 1:
        raise UserError(f"{folder}: several multi-frame files in one series; put one in a folder of its own")
    return sorted(slices, key=lambda item: item.height)


def _slice_step(slices: list[_Slice], folder: Path) -> "np.ndarray":
    """Return the (3,) step from one slice to the next, in mm; raise where slices are not evenly spaced in a line."""
    import numpy as np

    # A single slice.
    first, last = slices[0], slices[-1]
    if len(slices) == 1:
        return first.axes[:, 2] * first.spacing[2]

    # Even distances along the slices' normal.
    gaps = np.diff([item.height for item in slices])
    spacing = float(np.median(gaps))
    if gaps.min() < 1e-3:
        raise UserError(
            f"{folder}: several images at one position (echoes or time points); "
            "put one volume's slices in a folder of their own"
        )
    widest = int(np.argmax(np.abs(gaps - spacing)))
    tolerance = max(_UNEVEN * spacing, 0.01)
    if abs(gaps[widest] - spacing) > tolerance:
        neighbours = f"between {slices[widest].path.name} and {slices[widest + 1].path.name}"
        missing = sum(round(gap / spacing) - 1 for gap in gaps if gap > 1.5 * spacing)
        is_multiple = all(math.isclose(gap / spacing, round(gap / spacing), abs_tol=0.05) for gap in gaps)
        reason = f"slices are missing, {missing} in all" if missing and is_multiple else "its slices lie unevenly"
        raise UserError(
            f"{folder}: {reason} ({gaps[widest]:.2f} mm {neighbours}, elsewhere {spacing:.2f} mm); export the series "
            "again"
        )

    # Positions in one line.
    step = (last.origin - first.origin) / (len(slices) - 1)
    line = first.origin + np.arange(len(slices))[:, None] * step  # (slices, 3), in mm
    offsets = np.linalg.norm([item.origin for item in slices] - line, axis=1)
    if offsets.max() > tolerance:
        raise UserError(
            f"{folder}: its slices do not lie in one line ({slices[int(offsets.argmax())].path.name} is "
            f"{offsets.max():.2f} mm beside it); export the series again"
        )
    return step


def _gap_cautions(slices: list[_Slice]) -> list[str]:
    numbers = sorted(int(item.instance) for item in slices if item.instance.isdecimal())
    has_gaps = len(slices) > 1 and len(numbers) == len(slices) and numbers[-1] - numbers[0] + 1 != len(numbers)
    return ["its instance numbers have gaps; slices may be missing at an end"] if has_gaps else []


def _read_pixels(item: _Slice) -> "np.ndarray":
    """Return a file's (X, Y, frames) float32 pixels, rescaled."""
    import numpy as np
    import SimpleITK as sitk

    try:
        with utf8_name(item.path) as name:
            image = sitk.ReadImage(name, sitk.sitkFloat32, imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise UserError(f"{item.path}: its pixels cannot be read; copy it again, or export it uncompressed") from error
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)  # (X, Y, Z)
