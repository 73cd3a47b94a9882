"""The array transforms as MONAI dictionary transforms: thin wrappers that keep their inverse's state in the dictionary.

For a key `image` the dictionary holds, besides the data: `image_affine` (4, 4) of the present grid; `image_foreground`
(bool, same grid); `image_range` (low, high), the intensities that became -1 and 1; `image_header`, nibabel's, for NIfTI
files; and each spatial transform's input geometry under `image_before_<transform>`, which `Compose.inverse` uses.
A volume that was cropped to its head also has: `image_box`; `image_inside`, the part of the grid within the field of
view; until intensities are scaled `image_blank`, voxels without a measurement (None if there are none); and
`image_warnings`, a list of messages on what is doubtful.
"""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from monai.transforms import InvertibleTransform, MapTransform
from nibabel.affines import from_matvec, voxel_sizes

from transforms import spatial
from transforms.head_mask import find_head
from transforms.intensity import correct_bias_field, foreground_mask, percentile_range, scale_from_unit, scale_to_unit
from transforms.io.images import is_raster, read_raster
from transforms.io.nifti import name_of, read_nifti
from transforms.slices import centre_fit, cut_slices, size_without_cropping, stack_slices

Data = Mapping[Hashable, object]


class KeyedTransform(MapTransform):
    """Apply `forward(data, key)` for each key; errors name the transform and the key."""

    def forward(self, data: dict, key: str) -> None:
        raise NotImplementedError

    def __call__(self, data: Data) -> dict:
        return self._each_key(data, self.forward)

    def _each_key(self, data: Data, change: Callable[[dict, str], None]) -> dict:
        result = dict(data)
        for key in self.key_iterator(result):
            try:
                change(result, key)
            except ValueError as error:
                raise ValueError(f"{error} [{type(self).__name__}, key {key!r}]") from error
        return result


class InvertibleKeyedTransform(KeyedTransform, InvertibleTransform):
    """A keyed transform with an inverse, `backward(data, key)`."""

    def backward(self, data: dict, key: str) -> None:
        raise NotImplementedError

    def inverse(self, data: Data) -> dict:
        return self._each_key(data, self.backward)


class LoadVolumed(KeyedTransform):
    """Read a NIfTI volume, or a PNG/JPEG/TIFF slice as a volume one voxel thick: path -> (X, Y, Z) float32."""

    def forward(self, data: dict, key: str) -> None:
        source = data[key]
        if is_raster(source):
            data[key], data[f"{key}_type_range"] = read_raster(source)
            data[f"{key}_affine"] = np.eye(4)
        else:
            data[key], data[f"{key}_affine"], data[f"{key}_header"] = read_nifti(source)
            data[f"{key}_name"] = name_of(source)
        # by the values, not the type: floats stored as int16 with a slope are not whole numbers
        data[f"{key}_integer"] = all(np.array_equal(plane, np.rint(plane)) for plane in data[key])


class Canonicald(InvertibleKeyedTransform):
    """Bring the axes nearest to RAS (`to_canonical`)."""

    def forward(self, data: dict, key: str) -> None:
        affine = data[f"{key}_affine"]
        data[f"{key}_before_canonical"] = affine
        data[key], data[f"{key}_affine"] = spatial.to_canonical(data[key], affine)

    def backward(self, data: dict, key: str) -> None:
        data[f"{key}_affine"] = data[f"{key}_before_canonical"]
        data[key] = spatial.from_canonical(data[key], data[f"{key}_affine"])


class CropHeadd(InvertibleKeyedTransform):
    """Crop a volume to its head with a fixed margin on all sides; pictures stay whole.

    Blank voxels (a background of one value, padding) get an intensity at the head's dark end, so that resampling mixes
    no other value into the head's edge. The inverse gives the lowest intensity of `image_range` to everything cropped
    off and to blank voxels around the head. `box` gives (3, 2) voxel bounds instead of the head's own.
    """

    def __init__(self, keys, box: np.ndarray | None = None):
        super().__init__(keys)
        self.box = box

    def forward(self, data: dict, key: str) -> None:
        if f"{key}_type_range" in data:
            return
        # Find the head and crop it, repeating the field's edge where the box reaches beyond.
        volume, affine = data[key], data[f"{key}_affine"]
        head = find_head(volume)
        box = spatial.box_around(head, voxel_sizes(affine)) if self.box is None else self.box
        mask_field = tuple(slice(0, length) for length in head.mask.shape)  # the masks cover the field only
        in_field = box - [[bounds.start] for bounds in head.field]
        inside = spatial.field_in_box(in_field, mask_field)
        foreground = spatial.crop_box(head.mask, in_field, mask_field)
        spatial.fill_outside(foreground, inside, False)
        data[key] = spatial.crop_box(volume, box, head.field)

        # Fill blank voxels from the head's dark end.
        blank = None if head.blank is None else spatial.crop_box(head.blank, in_field, mask_field)
        if head.masked:  # outside the field there is more background
            blank = np.zeros(foreground.shape, dtype=bool) if blank is None else blank
            spatial.fill_outside(blank, inside, True)
            inside = tuple(slice(0, length) for length in blank.shape)
        if blank is not None:
            data[key][blank] = _dark_end(data[key], foreground & ~blank)

        # Keep the geometry for the inverse and the next transforms.
        data[f"{key}_before_crop"] = (volume.shape, affine, head.field, None if blank is None else blank & ~foreground)
        data[f"{key}_box"], data[f"{key}_foreground"] = box, foreground
        data[f"{key}_inside"], data[f"{key}_blank"] = inside, blank
        data[f"{key}_affine"] = affine @ from_matvec(np.eye(3), box[:, 0])
        data[f"{key}_warnings"] = list(head.warnings)
        if head.warnings and f"{key}_name" in data:
            warnings.warn(f"{data[f'{key}_name']}: {'; '.join(head.warnings)}", stacklevel=2)

    def backward(self, data: dict, key: str) -> None:
        if f"{key}_before_crop" not in data:
            return
        shape, affine, field, background = data[f"{key}_before_crop"]
        lowest = data[f"{key}_range"][0]
        if background is not None:
            data[key] = np.where(background, np.float32(lowest), data[key])
        data[key] = spatial.paste_box(data[key], data[f"{key}_box"], field, shape, lowest)
        data[f"{key}_affine"] = affine


def _dark_end(volume: np.ndarray, head: np.ndarray) -> float:
    """Return the 1st percentile of a head's intensities."""
    return float(np.percentile(volume[head], [1], overwrite_input=True)[0]) if head.any() else float(volume.min())


class BiasFieldd(KeyedTransform):
    """Correct the bias field (N4); not inverted, as a translation has no receive coil."""

    def forward(self, data: dict, key: str) -> None:
        if f"{key}_foreground" in data:  # found when the volume was cropped
            data[key] = correct_bias_field(data[key], data[f"{key}_foreground"], blank=data[f"{key}_blank"])
        else:
            data[key] = correct_bias_field(data[key], foreground_mask(data[key]))


class Spacingd(InvertibleKeyedTransform):
    """Resample to a spacing in millimetres along R, A and S; with `low_pass`, filter where voxels become larger."""

    def __init__(self, keys, spacing_mm: Sequence[float], low_pass: bool = False):
        super().__init__(keys)
        self.spacing_mm, self.low_pass = spacing_mm, low_pass

    def forward(self, data: dict, key: str) -> None:
        shape, affine = data[key].shape, data[f"{key}_affine"]
        data[f"{key}_before_spacing"] = (shape, affine)
        new_shape = spatial.shape_at_spacing(shape, affine, self.spacing_mm)
        data[key] = spatial.resample_to_shape(data[key], new_shape, low_pass=self.low_pass)
        data[f"{key}_affine"] = spatial.affine_at_shape(affine, shape, new_shape)
        for name in (f"{key}_foreground", f"{key}_blank"):
            if data.get(name) is not None:
                data[name] = spatial.resample_mask(data[name], new_shape)
        if f"{key}_inside" in data:
            data[f"{key}_inside"] = spatial.resample_field(data[f"{key}_inside"], shape, new_shape)

    def backward(self, data: dict, key: str) -> None:
        shape, data[f"{key}_affine"] = data[f"{key}_before_spacing"]
        if f"{key}_inside" in data:  # keep black voxels outside the field of view out of its edge
            data[key] = spatial.repeat_edges(data[key], data[f"{key}_inside"])
        data[key] = spatial.resample_to_shape(data[key], shape, low_pass=self.low_pass)


class ScaleForegroundd(InvertibleKeyedTransform):
    """Scale to [-1, 1] by two percentiles of the foreground, or by the range of the file's type (`percentiles=None`).

    Where `limits` are given, these intensities become -1 and 1 instead.

    The inverse maps to the current `image_range`: to translate, set it to the target contrast's range.
    """

    def __init__(self, keys, percentiles: tuple[float, float] | None, limits: tuple[float, float] | None = None):
        super().__init__(keys)
        self.percentiles, self.limits = percentiles, limits

    def forward(self, data: dict, key: str) -> None:
        # Choose the intensity range.
        foreground, blank = data.get(f"{key}_foreground"), data.pop(f"{key}_blank", None)
        if foreground is None:
            foreground = foreground_mask(data[key])
        if self.limits is not None:
            low, high = self.limits
        elif self.percentiles is None:
            type_range = data.get(f"{key}_type_range")
            if type_range is None:
                raise ValueError(
                    "scaling by the type's range is for pictures of 8 or 16 bit; set preprocess.scaling: percentiles"
                )
            low, high = 0.0, float(type_range)
        else:
            measured = foreground if blank is None else foreground & ~blank
            low, high = percentile_range(data[key], measured, *self.percentiles)

        # Scale, with blank voxels and everything outside the field of view black.
        data[f"{key}_foreground"], data[f"{key}_range"] = foreground, (low, high)
        data[key] = scale_to_unit(data[key], low, high)
        if blank is not None:
            data[key][blank] = -1
        if f"{key}_inside" in data:
            spatial.fill_outside(data[key], data[f"{key}_inside"], -1)

    def backward(self, data: dict, key: str) -> None:
        data[key] = scale_from_unit(data[key], *data[f"{key}_range"])


class Slicesd(InvertibleKeyedTransform):
    """Cut a volume and its foreground into slices: (X, Y, Z) -> (N, H, W)."""

    def __init__(self, keys, axis: str):
        super().__init__(keys)
        self.axis = axis

    def forward(self, data: dict, key: str) -> None:
        for name in (key, f"{key}_foreground"):
            data[name] = cut_slices(data[name], self.axis)

    def backward(self, data: dict, key: str) -> None:
        data[key] = stack_slices(data[key], self.axis)


class CentreFitd(InvertibleKeyedTransform):
    """Crop or pad slices to a square of `size`; with a `stride`, pad larger slices to its multiples, uncropped.

    `<key>_whole_foreground` keeps the foreground (N, H, W) before cropping and padding.
    """

    def __init__(self, keys, size: int, stride: int | None):
        super().__init__(keys)
        self.size, self.stride = size, stride

    def forward(self, data: dict, key: str) -> None:
        height, width = data[key].shape[1:]
        data[f"{key}_before_fit"] = (height, width)
        data[f"{key}_whole_foreground"] = data[f"{key}_foreground"]
        square = (self.size, self.size)
        shape = square if self.stride is None else size_without_cropping(height, width, self.size, self.stride)
        data[key] = centre_fit(data[key], *shape, fill=-1)
        data[f"{key}_foreground"] = centre_fit(data[f"{key}_foreground"], *shape, fill=False)

    def backward(self, data: dict, key: str) -> None:
        height, width = data[f"{key}_before_fit"]
        data[key] = centre_fit(data[key], height, width, fill=-1)
