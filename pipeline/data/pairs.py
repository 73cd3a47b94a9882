"""Two contrasts of one subject, each on the other's grid: read as for translation, registered where needed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.affines import from_matvec, voxel_sizes

from pipeline.data.case import Case
from pipeline.utils.console import warnings_as_lines
from pipeline.utils.errors import UserError, first_cause
from pipeline.utils.files import atomic_text, file_identity
from transforms.cropping import blacken_beyond, put_back
from transforms.registration import register_rigid, resample_onto, same_grid
from transforms.slice_chain import slice_chain
from transforms.slices import AXES, centre_fit, contiguous, cut_slices, slices_with_content, stack_slices

VERSION = 3  # of the registration; raise it when its results change


class BadScan(UserError):
    """An image, or a pair of them, cannot be used; names the file or both, and the reason."""


@dataclass(frozen=True)
class PreparedScan:
    """A scan as the network takes it, scaled by its own percentiles.

    Attributes:
        slices: (N, H, W) float32 in [-1, 1], padded to what the network takes.
        field_of_view: (h, w) of the slices before padding.
        foreground: (N, h, w) bool, not padded.
        affine: (4, 4) of the unpadded volume, voxel to RAS millimetres.
        axis: Along which slices are cut.
        way_back: What the chain's inverse needs besides slices, so that a translation can be written on the file's own
            grid without reading it again; see `transforms.monai_transforms`.
        name: Of the file, for messages.
        request: What it was prepared from: path, settings of the chain, stride.
    """

    slices: np.ndarray
    field_of_view: tuple[int, int]
    foreground: np.ndarray
    affine: np.ndarray
    axis: str
    inverse_state: Mapping[str, object] = field(default_factory=dict)
    name: str = "an image"
    request: tuple[Path, Mapping[str, object], int] | None = None

    def unpadded(self, slices: np.ndarray) -> np.ndarray:
        """Return a stack like `slices`, (N, H, W), without the padding: (N, h, w)."""
        return centre_fit(slices, *self.field_of_view, fill=-1)

    @property
    def occupied(self) -> np.ndarray:
        """(N,) bool: the slices that show anything but air."""
        return slices_with_content(self.slices, self.foreground)

    @property
    def stack(self) -> np.ndarray:
        """The unpadded slices, (N, h, w)."""
        return self.unpadded(self.slices)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing of the voxels of `stack` along its axes: between slices, between rows, between columns."""
        sizes = voxel_sizes(self.affine).tolist()
        return sizes.pop(AXES[self.axis]), *sizes

    @property
    def volume(self) -> np.ndarray:
        """The unpadded (X, Y, Z) volume on the grid of `affine`."""
        return stack_slices(self.stack, self.axis)

    @property
    def box(self) -> np.ndarray | None:
        """(3, 2), which voxels of its file, axes brought to RAS, the volume shows; None where it shows all."""
        return self.inverse_state.get("image_box")

    @property
    def whole_grid(self) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and affine of the file, axes brought to RAS; of a volume that was not cut out of it, of that."""
        if self.box is None:
            return self.volume.shape, self.affine
        shape, affine, *_ = self.inverse_state["image_before_crop"]
        return shape, affine


@dataclass(frozen=True)
class View:
    """A source scan and, on its grid, the real target.

    Attributes:
        source: The scan to translate.
        real: (N, h, w) float32 in [-1, 1], the target by its own normalisation; -1 beyond its field of view.
        foreground: (N, h, w) bool, of the real target.
    """

    source: PreparedScan
    real: np.ndarray
    foreground: np.ndarray


class PairReader:
    """Reads two contrasts of a subject and brings each onto the other's grid.

    Args:
        settings: Arguments of `transforms.slice_chain.slice_chain` that training used.
        stride: The networks take heights and widths that are multiples of this.
        register: Whether to register pairs on different grids; otherwise their headers are believed.
        cache: Folder that keeps registrations between runs.
    """

    def __init__(self, settings: Mapping[str, object], stride: int, *, register: bool, cache: Path):
        self.settings, self.stride, self.register, self.cache = settings, stride, register, cache

    def identity(self) -> dict[str, object]:
        """Return all that its results depend on besides the files, in JSON's types."""
        return {"settings": dict(self.settings), "stride": self.stride, "register": self.register}

    def scan(self, path: Path) -> PreparedScan:
        """Read one image; raises like `prepare_scan`, and prints what it warns of."""
        with warnings_as_lines():
            return prepare_scan(path, self.settings, self.stride)

    def read(self, cases: tuple[Case, Case]) -> tuple[View, View, np.ndarray]:
        """Return the first scan as source, the second as source, and the (4, 4) movement from first to second.

        Raises:
            BadScan: a file cannot be used, the registration failed, or the two heads do not overlap.
        """
        first, second = (self.scan(case.path) for case in cases)
        movement = rigid_transform_between(
            first, second, cases, self.settings, register=self.register, cache=self.cache
        )
        there = View(first, *resampled_onto(first, second, movement))
        back = View(second, *resampled_onto(second, first, np.linalg.inv(movement)))
        if not (there.foreground.any() and back.foreground.any()):
            raise BadScan(f"{cases[0].path} and {cases[1].path}: the heads do not overlap; check their affines")
        return there, back, movement


def prepare_scan(path: Path, settings: Mapping[str, object], stride: int) -> PreparedScan:
    """Read an image and prepare it as for translation: whole, not cropped.

    Args:
        path: A NIfTI volume or a 2D image.
        settings: Arguments of `transforms.slice_chain.slice_chain` that training used.
        stride: The networks take heights and widths that are multiples of this.

    Raises:
        BadScan: it cannot be used.
    """
    return _prepared(path, settings, stride)


def _prepared(path: Path, settings: Mapping[str, object], stride: int, box: np.ndarray | None = None) -> PreparedScan:
    try:
        data = slice_chain(**settings, stride=stride, box=box)({"image": path})
    except (ValueError, OSError, RuntimeError) as error:
        reason = first_cause(error)
        raise BadScan(reason if str(path) in reason else f"{path}: {reason}") from error
    field_of_view = data["image_before_fit"]
    return PreparedScan(
        slices=data["image"],
        field_of_view=field_of_view,
        foreground=centre_fit(data["image_foreground"], *field_of_view, fill=False),
        affine=data["image_affine"],
        axis=settings["axis"],
        inverse_state={name: value for name, value in data.items() if name not in ("image", "image_foreground")},
        name=str(path),
        request=(path, settings, stride),
    )


def resampled_onto(source: PreparedScan, target: PreparedScan, movement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring a target onto its source's grid, with the intensities of its own normalisation.

    Args:
        source, target: Two scans of one subject.
        movement: (4, 4), where each point of the source lies in the target; `rigid_transform_between`.

    Returns:
        The target's slices (N, h, w) in [-1, 1] and its foreground; -1 and False beyond the target's field of view.
    """
    shape = source.volume.shape
    if np.array_equal(movement, np.eye(4)):
        if same_grid(shape, source.affine, target.volume.shape, target.affine):
            return target.stack, target.foreground
        if source.box is not None and target.box is not None and same_grid(*source.whole_grid, *target.whole_grid):
            return _cut_as(source, target)
    grid = (target.affine, movement, shape, source.affine)
    moved = resample_onto(target.volume, *grid, order=1, fill=-1)
    mask = stack_slices(target.foreground, target.axis).astype(np.uint8)
    foreground = resample_onto(mask, *grid, order=0, fill=0)
    # in C order, as they arrive from a worker process, too: the order in memory is that in which sums are rounded
    return contiguous(cut_slices(moved, source.axis)), contiguous(cut_slices(foreground, source.axis) > 0)


def _cut_as(source: PreparedScan, target: PreparedScan) -> tuple[np.ndarray, np.ndarray]:
    """Return a target's slices and foreground on its source's grid, where the files have one grid and two heads' boxes.

    Where the chain resamples, the target is prepared anew in the source's box: so it is resampled no second time.
    """
    path, settings, stride = target.request
    if settings["spacing_mm"] is not None:
        try:
            again = _prepared(path, settings, stride, source.box)
        except BadScan:  # nothing of its head lies there
            return np.full_like(source.stack, -1), np.zeros_like(source.foreground)
        return again.stack, again.foreground
    shape, box = source.volume.shape, target.box - source.box[:, :1]
    field = tuple(slice(0, length) for length in shape)
    moved = put_back(target.volume, box, field, shape, -1)
    foreground = put_back(stack_slices(target.foreground, target.axis), box, field, shape, False)
    return cut_slices(moved, source.axis), cut_slices(foreground, source.axis)


def field_of_view_mask(source: PreparedScan, target: PreparedScan, movement: np.ndarray) -> np.ndarray:
    """Return where a target's field of view covers its source's grid, as (N, h, w) bool; see `resampled_onto`."""
    everywhere = np.ones(target.volume.shape, np.uint8)
    if target.box is not None:
        blacken_beyond(everywhere, target.inverse_state["image_inside"], 0)
    covered = resample_onto(everywhere, target.affine, movement, source.volume.shape, source.affine, order=0)
    return cut_slices(covered, source.axis) > 0


def rigid_transform_between(
    first: PreparedScan,
    second: PreparedScan,
    cases: tuple[Case, Case],
    settings: Mapping[str, object],
    *,
    register: bool,
    cache: Path,
) -> np.ndarray:
    """Return where each point of the first scan lies in the second, as a (4, 4) in RAS millimetres.

    The identity where both lie on one grid, or where `register` is off (then the headers are believed); otherwise
    found by rigid registration, once: the result is kept in `cache` for as long as neither file nor settings change.

    Raises:
        BadScan: the registration failed, or a 2D image has another size than its partner.
    """
    names = f"{cases[0].path} and {cases[1].path}"
    if same_grid(*first.whole_grid, *second.whole_grid):
        return np.eye(4)
    if 1 in first.volume.shape + second.volume.shape:
        sizes = " and ".join("x".join(map(str, scan.volume.shape)) for scan in (first, second))
        raise BadScan(f"{names}: a single slice cannot be registered ({sizes} voxels); give slices of one size")
    if not register:
        return np.eye(4)
    note = cache / f"{_registration_key(cases, settings)}.json"
    try:
        return read_rigid_transform(note)
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged
        pass
    try:
        movement = register_rigid(*_in_whole_field(first), *_in_whole_field(second))
    except ValueError as error:
        raise BadScan(f"{names}: {error}") from error
    write_rigid_transform(note, movement, cases)
    return movement


def _in_whole_field(scan: PreparedScan) -> tuple[np.ndarray, np.ndarray]:
    """Return a scan's volume and affine with the air that the cut to the head left out, and nothing from beyond."""
    if scan.box is None:
        return scan.volume, scan.affine
    _, _, field, _ = scan.inverse_state["image_before_crop"]
    inside, volume = scan.inverse_state["image_inside"], scan.volume
    finer = np.array(volume.shape) / (scan.box[:, 1] - scan.box[:, 0])  # than the file
    ends = np.array([[own.start, own.stop] for own in field])
    air = np.floor(np.maximum(0, (scan.box - ends) * [1, -1]) * finer[:, None]).astype(int)
    start = [own.start for own in inside] - air[:, 0]
    return np.pad(volume[inside], air, constant_values=-1), scan.affine @ from_matvec(np.eye(3), start)


def write_rigid_transform(path: Path, movement: np.ndarray, cases: tuple[Case, Case]) -> None:
    """Write a movement as a small JSON file that says what it is."""
    about = "maps RAS millimetres of the first image to RAS millimetres of the second"
    names = [case.path.name for case in cases]
    atomic_text(path, json.dumps({"about": about, "images": names, "matrix": movement.tolist()}, indent=1) + "\n")


def read_rigid_transform(path: Path) -> np.ndarray:
    """Read what `write_rigid_transform` wrote.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is not there, or damaged.
    """
    movement = np.array(json.loads(path.read_text(encoding="utf-8"))["matrix"], dtype=float)
    if movement.shape != (4, 4) or not np.isfinite(movement).all():
        raise ValueError(f"{path}: not a 4x4 matrix of finite numbers")
    return movement


def _registration_key(cases: tuple[Case, Case], settings: Mapping[str, object]) -> str:
    files = [file_identity(case.path) for case in cases]
    return hashlib.sha256(json.dumps([VERSION, files, settings], sort_keys=True).encode()).hexdigest()[:24]
