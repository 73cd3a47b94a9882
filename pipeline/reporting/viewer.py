"""The report's interactive viewer: test volumes small enough to embed, and the package that shows them."""

import gzip
import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec, voxel_sizes
from skimage.transform import resize

from transforms.label_maps import UNCOUNTED, LabelMap
from transforms.mask_regions import bounding_box
from transforms.spatial import affine_at_shape, shape_at_spacing

FOLDER = Path(__file__).parent / "viewer"
NOT_FETCHED = (
    "There is no interactive viewer on this page, for its package was not fetched when the report was written: "
    "`make viewer` fetches it, and the same run command then writes the report anew. The pictures are all there."
)
MOST_BYTES = 6 * 2**20  # of all volumes, compressed; 8 MiB as base64
AIR_VOXELS = 3  # margin around the head
HUE_STEP = (5**0.5 - 1) / 2  # of the colour circle: the golden ratio keeps any number of hues apart

_PACKAGE = Path("node_modules/@niivue/niivue/dist/niivue.umd.js")


@dataclass(frozen=True)
class ViewedSubject:
    """One test subject in one direction, made by `viewed_subject`: (X, Y, Z) uint8 volumes, 0 for -1, 255 for +1."""

    label: str  # in the selector, such as "worst: sub-07, 11.20 dB"
    source_name: str
    target_name: str
    affine: np.ndarray  # (4, 4), voxel to RAS millimetres
    source: np.ndarray
    translated: np.ndarray
    real: np.ndarray | None
    units: str = ""  # meaning of the intensities in a sentence; "" for plain normalised intensities
    regions: Mapping[str, LabelMap] = field(default_factory=dict)  # (X, Y, Z), that the run scores within


@dataclass(frozen=True)
class Viewer:
    """Data, scripts and style of the page's viewer."""

    data: dict  # as returned by `packed`
    package: str  # NiiVue as one script
    script: str  # this project's scripts in one, which set NiiVue up
    style: str
    licences: str  # of NiiVue and of the packages in it

    def policy(self) -> str:
        """Return the script sources of a content security policy that allows only these two scripts."""
        digests = (hashlib.sha256(script.encode()).digest() for script in (self.package, self.script))
        return " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)


def is_fetched(folder: Path = FOLDER) -> bool:
    """Whether the package is where `npm ci` installs it."""
    return (folder / _PACKAGE).is_file()


def make_viewer(subjects: Sequence[ViewedSubject], folder: Path = FOLDER) -> Viewer | None:
    """Return the viewer of the subjects; None without subjects, or if the package was not fetched."""
    if not subjects or not is_fetched(folder):
        return None
    # Browsers hash a script with line ends \n, which Python's text mode makes when reading.
    package = (folder / _PACKAGE).read_text(encoding="utf-8")
    names = ("regions.js", "viewer.js", "viewer.css")
    *scripts, style = ((folder / name).read_text(encoding="utf-8") for name in names)
    script = "\n".join(scripts)
    if any(mark in code.lower() for code in (package, script) for mark in ("</script", "<!--")):
        return None  # it cannot be embedded in a page
    return Viewer(packed(subjects), package, script, style, _licences(folder))


def viewed_subject(
    label: str,
    source_name: str,
    target_name: str,
    *,
    source: np.ndarray,
    translated: np.ndarray,
    real: np.ndarray | None,
    foreground: np.ndarray,
    affine: np.ndarray,
    units: str = "",
    regions: Mapping[str, LabelMap] | None = None,
) -> ViewedSubject:
    """Crop volumes in [-1, 1] to the bounding box of `foreground`, with a margin, and reduce them to 8 bits.

    All, and the label maps of `regions`, are (X, Y, Z), RAS, on one grid; `affine` (4, 4) takes the uncropped grid's
    voxels to millimetres. Values beyond the range are clipped.
    """
    box = bounding_box(foreground, AIR_VOXELS)
    origin = affine @ [*(bounds.start for bounds in box), 1]
    return ViewedSubject(
        label, source_name, target_name, from_matvec(affine[:3, :3], origin[:3]),
        _quantised(source[box]), _quantised(translated[box]), None if real is None else _quantised(real[box]), units,
        {name: _without_uncounted(label_map, box) for name, label_map in (regions or {}).items()},
    )  # fmt: skip


def packed(subjects: Sequence[ViewedSubject], most_bytes: int = MOST_BYTES) -> dict:
    """Return the subjects for the page's script, in JSON's types.

    Equal volumes, such as one direction's source and the other's real target, are stored once. If all together exceed
    `most_bytes`, the volumes are resampled to a coarser voxel size, the same for all.

    Returns:
        `volumes`: base64 of gzipped uint8 NIfTI files that decode to [-1, 1], or hold labels. `subjects`: label,
        direction, names of the contrasts, units, `spacing` in millimetres as text, `coarser` (whether it was
        resampled), the volumes' indices (`real` may be None), and `regions`: for each label map the index of its
        volume, and those of its labels that the volume shows, as [name such as "tissue/4", number in the volume].
        `colours`: red, green and blue of each such name, the same for all subjects.
    """
    smallest_mm = min(min(voxel_sizes(subject.affine)) for subject in subjects)
    longest = max(max(voxel_sizes(subject.affine) * subject.source.shape) for subject in subjects)
    limit_mm = 0.0
    while True:
        files, entries = _encoded_volumes(subjects, limit_mm)
        size = sum(map(len, files))
        if size <= most_bytes or limit_mm > longest:
            encoded = [b64encode(file).decode() for file in files]
            return {"volumes": encoded, "subjects": entries, "colours": _region_colours(entries)}
        limit_mm = max(limit_mm, smallest_mm) * max(1.05, (size / most_bytes) ** (1 / 3))


def _encoded_volumes(subjects: Sequence[ViewedSubject], limit_mm: float) -> tuple[list[bytes], list[dict]]:
    """Return the distinct files, and each subject's entry with the indices of its files."""
    files: dict[bytes, int] = {}
    entries = []
    for subject in subjects:
        shape = shape_at_spacing(
            subject.source.shape, subject.affine, np.maximum(voxel_sizes(subject.affine), limit_mm)
        )
        affine = affine_at_shape(subject.affine, subject.source.shape, shape)
        volumes = {"source": subject.source, "translated": subject.translated, "real": subject.real}
        volume_indices = {
            name: None if volume is None else files.setdefault(_file(volume, shape, affine), len(files))
            for name, volume in volumes.items()
        }
        label_maps = {name: _resampled(label_map, shape) for name, label_map in subject.regions.items()}
        regions = [
            {
                "volume": files.setdefault(_compressed(label_map.indices, affine, slope=1, intercept=0), len(files)),
                "labels": [[f"{name}/{label}", number] for label, number in labels.items()],
            }
            for name, label_map in label_maps.items()
            if (labels := _present_labels(label_map))
        ]
        entries.append(
            {
                "label": subject.label,
                "direction": f"{subject.source_name} → {subject.target_name}",
                "sourceName": subject.source_name,
                "targetName": subject.target_name,
                "units": subject.units,
                "spacing": " × ".join(f"{size:.2g}" for size in voxel_sizes(affine)),
                "coarser": shape != subject.source.shape,
                "regions": regions,
                **volume_indices,
            }
        )
    return list(files), entries


def _file(volume: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> bytes:
    """Return a volume resampled to a shape as a gzipped NIfTI file whose scaling maps 0 … 255 to -1 … 1."""
    if shape != volume.shape:
        volume = np.rint(resize(volume, shape, order=1, anti_aliasing=True, preserve_range=True)).astype(np.uint8)
    return _compressed(volume, affine, slope=2 / 255, intercept=-1)


def _resampled(label_map: LabelMap, shape: tuple[int, ...]) -> LabelMap:
    """Return a label map brought to a shape by nearest neighbour, in which small labels may be lost."""
    if shape == label_map.indices.shape:
        return label_map
    indices = resize(label_map.indices, shape, order=0, anti_aliasing=False, preserve_range=True)
    return LabelMap(indices.astype(np.uint8), label_map.labels)


def _compressed(volume: np.ndarray, affine: np.ndarray, *, slope: float, intercept: float) -> bytes:
    image = nib.Nifti1Image(volume, affine)
    image.header.set_slope_inter(slope, intercept)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 6, mtime=0)


def _without_uncounted(label_map: LabelMap, box: tuple[slice, ...]) -> LabelMap:
    """Return a label map within a box, without the labels that are not counted."""
    indices = label_map.indices[box]
    return LabelMap(np.where(indices == UNCOUNTED, 0, indices).astype(np.uint8), label_map.labels)


def _present_labels(label_map: LabelMap) -> dict[int, int]:
    """Return the labels that have a voxel, with their numbers in the label map's indices."""
    voxels = np.bincount(label_map.indices.ravel(), minlength=len(label_map.labels) + 1)
    return {label: number for number, label in enumerate(label_map.labels, 1) if voxels[number]}


def _region_colours(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return red, green and blue, 0 to 255, of each label in the subjects' entries, by the name that scores call it."""
    names = {name for entry in entries for region in entry["regions"] for name, _ in region["labels"]}
    in_order = sorted(names, key=lambda name: (name.rpartition("/")[0], int(name.rpartition("/")[2])))
    colours = [hsv_to_rgb(index * HUE_STEP % 1, 0.8, 1.0) for index in range(len(names))]
    return {name: [round(255 * share) for share in colour] for name, colour in zip(in_order, colours, strict=True)}


def _quantised(volume: np.ndarray) -> np.ndarray:
    return np.rint((np.clip(np.nan_to_num(volume, nan=-1), -1, 1) + 1) * 127.5).astype(np.uint8)


def _licences(folder: Path) -> str:
    """Return the licences of NiiVue (stored here, since its package lacks it) and of the packages built into it."""
    modules = folder / "node_modules"
    licences = sorted(path for path in modules.rglob("*") if path.stem.lower() in ("license", "licence", "notice"))
    texts = [("@niivue/niivue", folder / "LICENSE-niivue.txt")]
    texts += [(path.parent.relative_to(modules).as_posix(), path) for path in licences if path.is_file()]
    return (
        "\n\n".join(f"{name}\n\n{path.read_text(encoding='utf-8', errors='replace').strip()}" for name, path in texts)
        + "\n"
    )
