"""Statistics of one image: grid, data type, intensities before and after normalisation, and slices."""

import hashlib
import warnings
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, obliquity, voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image

from pipeline.data.coverage import head_slices
from transforms.io.images import is_raster, read_raster
from transforms.io.nifti import read_nifti
from transforms.io.nifti_checks import MAX_MAGNITUDE, nibabel_silent
from transforms.mask_regions import bounding_box
from transforms.slice_chain import PreprocessSettings, slice_chain
from transforms.slices import AXES, centre_fit, occupied_slices, stack_slices
from transforms.spatial import to_canonical

PERCENTILES = (1, 25, 50, 75, 99)
BINS = 128
CELL_MM = 10.0  # spacing of the lattice on which two heads are compared
MOST_POINTS = 2_000_000  # of this lattice
LONGEST_PICTURE = 160  # pixels
TYPE_NAMES = {255.0: "8 bit", 65535.0: "16 bit", None: "32 bit or float"}


@dataclass(frozen=True)
class Grid:
    """Voxel grid of a volume."""

    shape: tuple[int, ...]  # (X, Y, Z) in the file's order of axes
    spacing_mm: tuple[float, ...]  # voxel size in the file's order of axes
    orientation: str  # directions of the file's axes, such as "PSR"
    oblique_degrees: float  # largest angle between an axis of the file and the nearest anatomical axis
    shape_ras: tuple[int, ...]  # along right, anterior, superior
    spacing_ras_mm: tuple[float, ...]


@dataclass(frozen=True)
class ImageStatistics:
    """Statistics of one image; "head" is the foreground of the normalisation."""

    grid: Grid | None  # None for 2D images
    shape: tuple[int, ...]  # (X, Y, Z) in the file's order of axes, or (width, height) of a 2D image
    stored_as: str  # data type; "unknown" if nibabel cannot open the file under its name
    slope: float  # from stored values to intensities
    intercept: float
    lowest: float  # of all finite voxels, in the file's units
    highest: float
    percentiles: tuple[float, ...]  # `PERCENTILES` of the head, in the file's units
    zeros: float  # share of voxels that are 0
    nan: int  # number of voxels, before they were replaced
    inf: int  # or beyond `MAX_MAGNITUDE`
    warning: str  # warnings of reading the image; "" for none
    low: float  # intensity that becomes -1
    high: float  # and 1
    head: float  # share of the image that is head
    cut_off: float  # share of the head beyond the square training slices
    slices: int  # that training would use
    checksum: str  # of shape and voxels in RAS order, independent of how the file stores them
    histogram: np.ndarray  # of the head's normalised intensities over [-1, 1], (BINS,), with sum 1
    cells: np.ndarray | None  # (K, 3) int32, the points of `lattice_points` that lie in the head; None if unknown
    # plane -> normalised slice through the middle of the head, uint8 (A, B) in true proportions
    planes: dict[str, np.ndarray]
    occupied: tuple[int, ...] = ()  # indices along the slicing axis of the slices with enough head
    head_slices: tuple[int, int] | None = None  # first and last slice of the head; None for 2D images
    slice_mm: float = 1.0  # distance between two slices

    @property
    def head_mm(self) -> float | None:
        """Length of the visible head along the slicing axis; None for 2D images."""
        return None if self.head_slices is None else (self.head_slices[1] - self.head_slices[0] + 1) * self.slice_mm


def examine(path: Path, settings: PreprocessSettings, min_foreground: float) -> ImageStatistics:
    """Read a volume or a 2D image, normalise it as training would, and compute its statistics.

    `min_foreground` is the smallest share of head in a slice that training uses. ValueError: the image cannot be used;
    the message gives the reason.
    """
    # Read the image, and apply the slice chain of training.
    is_picture = is_raster(path)
    voxels, affine, type_range, warning = _read(path)  # (X, Y, Z) in the file's order of axes
    volume, canonical = to_canonical(voxels, affine)
    chain = slice_chain(settings, stride=1, load=False)  # a stride of 1 crops nothing
    picture = {"image_type_range": type_range} if is_picture else {}
    prepared = chain({"image": volume, "image_affine": canonical, **picture})
    spacing_mm = voxel_sizes(prepared["image_affine"])

    # Cut slices (N, H, W) with and without the crop to training's square.
    height, width = prepared["image_before_fit"]
    slices = centre_fit(prepared["image"], height, width, fill=-1)
    foreground = centre_fit(prepared["image_foreground"], height, width, fill=False)
    training_mask = centre_fit(foreground, settings.size, settings.size, fill=False)
    head = stack_slices(foreground, settings.axis)

    # Map the head back to the original grid.
    inverse_state = {**prepared, "image": prepared["image_foreground"] * np.float32(2) - 1, "image_range": (0.0, 1.0)}
    raw_head = chain.inverse(inverse_state)["image"] > 0.5
    inside = volume[raw_head] if raw_head.any() else volume.ravel()

    # Collect the statistics.
    warning = "; ".join(filter(None, [warning, *prepared.get("image_warnings", [])]))
    stored_as, slope, intercept, nan, inf = _storage(path, count=bool(warning))
    histogram = np.histogram(slices[foreground], bins=BINS, range=(-1, 1))[0]
    occupied = occupied_slices(training_mask, min_foreground)
    digest = hashlib.sha256(str(volume.shape).encode())
    digest.update(np.ascontiguousarray(volume).data)
    return ImageStatistics(
        grid=None if is_picture else grid_of(voxels.shape, affine),
        shape=voxels.shape[:2] if is_picture else voxels.shape,
        stored_as=TYPE_NAMES[type_range] if is_picture else stored_as,
        slope=slope,
        intercept=intercept,
        lowest=float(volume.min()),
        highest=float(volume.max()),
        percentiles=tuple(np.percentile(inside, PERCENTILES).tolist()),
        zeros=float(np.mean(volume == 0)),
        nan=nan,
        inf=inf,
        warning=warning,
        low=prepared["image_range"][0],
        high=prepared["image_range"][1],
        head=float(raw_head.mean()),
        cut_off=1 - np.count_nonzero(training_mask) / np.count_nonzero(foreground),
        slices=len(occupied),
        checksum=digest.hexdigest()[:32],
        histogram=histogram / histogram.sum(),
        cells=None if is_picture else lattice_points(raw_head, canonical),
        planes=_planes(stack_slices(slices, settings.axis), head, spacing_mm),
        occupied=tuple(occupied.tolist()),
        head_slices=None if is_picture else head_slices(foreground),
        slice_mm=float(spacing_mm[AXES[settings.axis]]),
    )


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, float | None, str]:
    """Return (X, Y, Z) voxels, affine, the largest value of a 2D image's data type, and warnings of reading."""
    if is_raster(path):
        voxels, type_range = read_raster(path)
        return voxels, np.eye(4), type_range, ""
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always", UserWarning)
        voxels, affine, _ = read_nifti(path)
    messages = [str(warning.message).replace(f"{path}: ", "") for warning in records]
    return voxels, affine, None, "; ".join(messages)


def _storage(path: Path, *, count: bool) -> tuple[str, float, float, int, int]:
    """Return data type, slope and intercept of a volume's file and, with `count`, its numbers of NaN and inf."""
    if is_raster(path):
        return "", 1.0, 0.0, 0, 0
    try:
        with nibabel_silent():
            image: Any = nib.load(path)
    except (OSError, ImageFileError, HeaderDataError):  # a file name or scaling that only nibabel refuses
        return "unknown", 1.0, 0.0, 0, 0
    voxels = np.asarray(image.dataobj) if count else np.zeros(1)
    nan, inf = int(np.isnan(voxels).sum()), int((np.abs(voxels) > MAX_MAGNITUDE).sum())
    return str(image.get_data_dtype()), float(image.dataobj.slope), float(image.dataobj.inter), nan, inf


def grid_of(shape: tuple[int, ...], affine: np.ndarray) -> Grid:
    """Return the grid of a volume from its (X, Y, Z) shape and (4, 4) affine."""
    orientation = nib.aff2axcodes(affine)
    order = [next(axis for axis in range(3) if orientation[axis] in pair) for pair in ("RL", "AP", "SI")]
    spacing_mm = voxel_sizes(affine).tolist()
    return Grid(
        shape=shape,
        spacing_mm=tuple(spacing_mm),
        orientation="".join(orientation),
        oblique_degrees=float(np.rad2deg(obliquity(affine).max())),
        shape_ras=tuple(shape[axis] for axis in order),
        spacing_ras_mm=tuple(spacing_mm[axis] for axis in order),
    )


def lattice_points(head: np.ndarray, affine: np.ndarray) -> np.ndarray | None:
    """Return the points of a lattice with spacing `CELL_MM` in RAS space that lie in a head, an (X, Y, Z) bool mask.

    They are (K, 3) integers, in units of `CELL_MM`; None for an implausibly large head.
    """
    if not head.any():
        return np.zeros((0, 3), np.int32)
    box = [(bounds.start - 0.5, bounds.stop - 0.5) for bounds in bounding_box(head)]
    corners = apply_affine(affine, list(product(*box))) / CELL_MM
    first, last = np.ceil(corners.min(axis=0)), np.floor(corners.max(axis=0))
    if np.prod(np.maximum(0, last - first + 1)) > MOST_POINTS:
        return None
    axes = [np.arange(start, end + 1) for start, end in zip(first, last, strict=True)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    voxels = np.rint(apply_affine(np.linalg.inv(affine), lattice * CELL_MM)).astype(int)
    inside = ((voxels >= 0) & (voxels < head.shape)).all(axis=1)
    lattice, voxels = lattice[inside], voxels[inside]
    return lattice[head[tuple(voxels.T)]].astype(np.int32)


def _planes(volume: np.ndarray, head: np.ndarray, spacing_mm: np.ndarray) -> dict[str, np.ndarray]:
    """Return plane -> slice through the middle of the head, in true proportions; one plane for a 2D image."""
    planes = {}
    for plane, axis in AXES.items():
        first, second = (number for number in range(3) if number != axis)
        if min(volume.shape[first], volume.shape[second]) < 2:
            continue
        cumulative = np.cumsum(head.sum(axis=(first, second)))
        slice_ = volume.take(int(np.searchsorted(cumulative, cumulative[-1] / 2)), axis)  # (A, B)
        lengths_mm = np.array(slice_.shape) * spacing_mm[[first, second]]
        height, width = np.maximum(1, np.rint(lengths_mm * LONGEST_PICTURE / lengths_mm.max())).astype(int)
        gray = Image.fromarray(np.rint((slice_ + 1) * 127.5).astype(np.uint8))
        planes[plane] = np.asarray(gray.resize((int(width), int(height)), Image.Resampling.BICUBIC))
    return planes
