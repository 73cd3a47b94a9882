"""Two contrasts of one subject, each resampled onto the other's grid and registered where needed."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import from_matvec, voxel_sizes

from pipeline.data.case import Case
from pipeline.data.slice_cache import cache_key
from pipeline.utils.console import warnings_as_lines
from pipeline.utils.errors import DiskFull, UserError, first_cause, root_cause
from pipeline.utils.files import atomic_text, file_identity
from transforms.label_maps import LabelMap
from transforms.registration import register_rigid, resample_onto, same_grid
from transforms.slice_chain import PreprocessSettings, slice_chain
from transforms.slices import AXES, centre_fit, contiguous, cut_slices, slices_with_content, stack_slices
from transforms.spatial import fill_outside, paste_box

VERSION = 3  # version of the registration; raise it when its results change


class BadScan(UserError):
    """An image or a pair cannot be used; the message names the files and the reason."""


@dataclass(frozen=True)
class PreparedScan:
    """A scan as network input, scaled by its own percentiles."""

    slices: np.ndarray  # (N, H, W) float32 in [-1, 1], padded to the network's stride
    field_of_view: tuple[int, int]  # (h, w) of the slices before padding
    foreground: np.ndarray  # (N, h, w) bool, the head, not padded
    affine: np.ndarray  # (4, 4) of the unpadded volume, voxel to RAS millimetres
    settings: PreprocessSettings  # of training
    stride: int = 1  # of which padded heights and widths are multiples
    path: Path = Path("an image")
    # values that the chain's inverse needs besides slices, so that a translation can be written on the file's grid
    # without reading it again; see `transforms.monai_transforms`
    inverse_state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def axis(self) -> str:
        """Orientation of the slices."""
        return self.settings.axis

    def unpadded(self, slices: np.ndarray) -> np.ndarray:
        """Return a stack like `slices`, (N, H, W), without the padding: (N, h, w)."""
        return centre_fit(slices, *self.field_of_view, fill=-1)

    @property
    def occupied(self) -> np.ndarray:
        """(N,) bool, whether each slice shows anything but air."""
        return slices_with_content(self.slices, self.foreground)

    @property
    def stack(self) -> np.ndarray:
        """The unpadded slices, (N, h, w)."""
        return self.unpadded(self.slices)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing of `stack`: between slices, between rows, between columns."""
        sizes = voxel_sizes(self.affine).tolist()
        return sizes.pop(AXES[self.axis]), *sizes

    @property
    def volume(self) -> np.ndarray:
        """The unpadded (X, Y, Z) volume on the grid of `affine`."""
        return stack_slices(self.stack, self.axis)

    @property
    def box(self) -> np.ndarray | None:
        """(3, 2) voxel bounds of the volume within its file, axes in RAS order; None where it is the whole file."""
        return self.inverse_state.get("image_box")

    @property
    def whole_grid(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and affine of the uncropped volume, axes in RAS order."""
        return (self.volume.shape, self.affine) if self.box is None else self.inverse_state["image_before_crop"][:2]


@dataclass(frozen=True)
class View:
    """A source scan and, on its grid, the real target."""

    source: PreparedScan
    real: np.ndarray  # (N, h, w) float32 in [-1, 1], the target by its own normalisation; -1 beyond its field of view
    foreground: np.ndarray  # (N, h, w) bool, the head in the real target
    regions: Mapping[str, LabelMap] = field(default_factory=dict)  # labels (N, h, w), by the region's name


class PairReader:
    """Reads two contrasts of a subject and resamples each onto the other's grid.

    With `register` pairs on different grids are registered, and the folder `registrations` keeps that between runs;
    otherwise their headers are trusted.
    """

    def __init__(self, settings: PreprocessSettings, stride: int, *, register: bool, registrations: Path):
        self.settings, self.stride, self.register, self.registrations = settings, stride, register, registrations

    def identity(self) -> dict[str, object]:
        """Return everything besides the files that the results depend on, in JSON's types."""
        return {"settings": self.settings.to_json(), "stride": self.stride, "register": self.register}

    def scan(self, path: Path) -> PreparedScan:
        """Read one image and print its warnings; raises like `prepare_scan`."""
        with warnings_as_lines():
            return prepare_scan(path, self.settings, self.stride)

    def read(self, cases: tuple[Case, Case]) -> tuple[View, View, np.ndarray]:
        """Return the views from the first and the second scan, and the (4, 4) transform from first to second.

        BadScan: a file cannot be used, the registration failed, or the two heads do not overlap.
        """
        first, second = (self.scan(case.path) for case in cases)
        rigid_transform = rigid_transform_between(first, second, register=self.register, folder=self.registrations)
        first_view = View(first, *resampled_onto(first, second, rigid_transform))
        second_view = View(second, *resampled_onto(second, first, np.linalg.inv(rigid_transform)))
        if not (first_view.foreground.any() and second_view.foreground.any()):
            raise BadScan(f"{cases[0].path} and {cases[1].path}: the heads do not overlap; check their affines")
        return first_view, second_view, rigid_transform


def prepare_scan(
    path: Path,
    settings: PreprocessSettings,
    stride: int,
    *,
    box: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> PreparedScan:
    """Read an image and prepare it as for translation: its slices are padded and never cropped; raises BadScan.

    `box` and `limits` are bounds and intensities instead of the head's own; see `transforms.slice_chain.slice_chain`.
    """
    try:
        data = slice_chain(settings, stride=stride, box=box, limits=limits)({"image": path})
    except (ValueError, OSError, RuntimeError) as error:
        reason = first_cause(error)
        raise BadScan(reason if str(path) in reason else f"{path}: {reason}") from error
    height, width = data["image_before_fit"]
    return PreparedScan(
        slices=data["image"],
        field_of_view=(height, width),
        foreground=centre_fit(data["image_foreground"], height, width, fill=False),
        affine=data["image_affine"],
        settings=settings,
        stride=stride,
        path=path,
        inverse_state={name: value for name, value in data.items() if name not in ("image", "image_foreground")},
    )


def resampled_onto(
    source: PreparedScan, target: PreparedScan, rigid_transform: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a target onto its source's grid, keeping the intensities of its own normalisation.

    `rigid_transform` is (4, 4), from points of the source to points of the target. Returned are the target's slices
    (N, h, w) in [-1, 1] and its foreground; -1 and False beyond the target's field of view.
    """
    # Scans on one grid need no resampling.
    shape = source.volume.shape
    if np.array_equal(rigid_transform, np.eye(4)):
        if same_grid(shape, source.affine, target.volume.shape, target.affine):
            return target.stack, target.foreground
        if source.box is not None and target.box is not None and same_grid(*source.whole_grid, *target.whole_grid):
            return _in_source_box(source, target)

    # Resample the target and its mask.
    mapping = (target.affine, rigid_transform, shape, source.affine)
    resampled = resample_onto(target.volume, *mapping, order=1, fill=-1)
    target_mask = stack_slices(target.foreground, target.axis).astype(np.uint8)
    foreground = resample_onto(target_mask, *mapping, order=0, fill=0)
    # C order, as after a trip through a worker process: sums are rounded in the order of memory
    return contiguous(cut_slices(resampled, source.axis)), contiguous(cut_slices(foreground, source.axis) > 0)


def _in_source_box(source: PreparedScan, target: PreparedScan) -> tuple[np.ndarray, np.ndarray]:
    """Return a target's slices and foreground in the source's box, where both files have the same grid.

    Where the chain resamples, the target is prepared anew in the source's box, which avoids resampling it twice.
    The box may cut off parts of its head, so its intensities are scaled as those of the whole head.
    """
    if target.settings.spacing_mm is not None:
        limits = target.inverse_state["image_range"]
        try:
            scan = prepare_scan(target.path, target.settings, target.stride, box=source.box, limits=limits)
        except BadScan as error:
            if isinstance(root_cause(error), OSError):
                raise
            # The target's head lies outside the box.
            return np.full_like(source.stack, -1), np.zeros_like(source.foreground)
        return scan.stack, scan.foreground
    assert source.box is not None and target.box is not None
    shape, box = source.volume.shape, target.box - source.box[:, :1]
    field = tuple(slice(0, length) for length in shape)
    volume = paste_box(target.volume, box, field, shape, -1)
    foreground = paste_box(stack_slices(target.foreground, target.axis), box, field, shape, False)
    return contiguous(cut_slices(volume, source.axis)), contiguous(cut_slices(foreground, source.axis))


def field_of_view_mask(source: PreparedScan, target: PreparedScan, rigid_transform: np.ndarray) -> np.ndarray:
    """Return as (N, h, w) bool where a target's field of view covers its source's grid; see `resampled_onto`."""
    full_mask = np.ones(target.volume.shape, np.uint8)
    if target.box is not None:
        fill_outside(full_mask, target.inverse_state["image_inside"], 0)
    covered = resample_onto(full_mask, target.affine, rigid_transform, source.volume.shape, source.affine, order=0)
    return cut_slices(covered, source.axis) > 0


def rigid_transform_between(first: PreparedScan, second: PreparedScan, *, register: bool, folder: Path) -> np.ndarray:
    """Return the (4, 4) rigid transform from the first scan to the second, in RAS millimetres.

    The identity where both have one grid, or where `register` is off (headers are trusted then). Otherwise the scans
    are registered once, and `folder` keeps the result for as long as neither files nor settings change. BadScan: the
    registration failed, or a 2D image has another size than its partner.
    """
    # Scans on one grid, and headers that are to be trusted, need no registration.
    paths, names = (first.path, second.path), f"{first.path} and {second.path}"
    if not register or same_grid(*first.whole_grid, *second.whole_grid):
        return np.eye(4)
    if 1 in first.volume.shape + second.volume.shape:
        sizes = " and ".join("x".join(map(str, scan.volume.shape)) for scan in (first, second))
        reason = f"a single slice cannot be registered ({sizes} voxels)"
        raise BadScan(f"{names}: {reason}; give slices of one size and position")

    # Take the transform from the folder, or register and keep it there.
    identity = [VERSION, [file_identity(path) for path in paths], first.settings.to_json()]
    transform_path = folder / f"{cache_key(identity)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged
        return read_rigid_transform(transform_path)
    try:
        rigid_transform = register_rigid(*_with_field_of_view(first), *_with_field_of_view(second))
    except ValueError as error:
        raise BadScan(f"{names}: {error}") from error
    write_rigid_transform(transform_path, rigid_transform, paths)
    return rigid_transform


def read_or_reason(read: Callable[[Any], Any], images: object) -> Any:
    """Return what `PairReader.read` or `scan` makes of images, or why they are unusable. Runs in a worker."""
    try:
        return read(images)
    except DiskFull:  # no fault of the images': a report without them would pass for a whole one
        raise
    except UserError as error:
        return str(error)


def _with_field_of_view(scan: PreparedScan) -> tuple[np.ndarray, np.ndarray]:
    """Return a scan's volume and affine with its whole field of view, air included, and nothing beyond it."""
    if scan.box is None:
        return scan.volume, scan.affine
    _, _, field, _ = scan.inverse_state["image_before_crop"]
    inside, volume = scan.inverse_state["image_inside"], scan.volume
    voxel_ratio = np.array(volume.shape) / (scan.box[:, 1] - scan.box[:, 0])  # against the file
    field_bounds = np.array([[bounds.start, bounds.stop] for bounds in field])
    padding = np.floor(np.maximum(0, (scan.box - field_bounds) * [1, -1]) * voxel_ratio[:, None]).astype(int)
    start = [bounds.start for bounds in inside] - padding[:, 0]
    return np.pad(volume[inside], padding, constant_values=-1), scan.affine @ from_matvec(np.eye(3), start)


def write_rigid_transform(path: Path, rigid_transform: np.ndarray, images: Sequence[Path]) -> None:
    """Write a (4, 4) transform as JSON, with the names of the images and its meaning."""
    meaning = "maps RAS millimetres of the first image to RAS millimetres of the second"
    content = {"about": meaning, "images": [image.name for image in images], "matrix": rigid_transform.tolist()}
    atomic_text(path, json.dumps(content, indent=1) + "\n")


def read_rigid_transform(path: Path) -> np.ndarray:
    """Return the transform of a file; OSError, ValueError, KeyError, TypeError: the file is absent or damaged."""
    rigid_transform = np.array(json.loads(path.read_text(encoding="utf-8"))["matrix"], dtype=float)
    if rigid_transform.shape != (4, 4) or not np.isfinite(rigid_transform).all():
        raise ValueError(f"{path}: not a 4x4 matrix of finite numbers")
    return rigid_transform
