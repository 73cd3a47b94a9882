"""The array transforms as MONAI dictionary transforms: thin wrappers that keep in the dictionary what an inverse needs.

For a key `image` the dictionary holds, beside the data: `image_affine` (4, 4) of the present grid; `image_foreground`
(bool, same grid); `image_range` (low, high), the intensities that became -1 and 1; `image_header`, nibabel's, where a
NIfTI file was read; and what each spatial transform was given, under `image_before_<transform>`. `Compose.inverse`
walks the chain backwards over these.
"""

from collections.abc import Callable, Hashable, Mapping

import numpy as np
from monai.transforms import InvertibleTransform, MapTransform

from transforms.intensity import correct_bias_field, foreground_mask, percentile_range, scale_from_unit, scale_to_unit
from transforms.nifti import read_nifti
from transforms.raster import is_raster, read_raster
from transforms.slices import centre_fit, cut_slices, size_without_cropping, stack_slices
from transforms.spatial import affine_at_shape, from_canonical, resample_to_shape, shape_at_spacing, to_canonical

Data = Mapping[Hashable, object]


class KeyedTransform(MapTransform):
    """Applies `forward(data, key)` for each key; an error names the transform and the key."""

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
    """A keyed transform with `backward(data, key)`."""

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
        # of the values, not of the type: floats stored as int16 with a slope are no whole numbers
        data[f"{key}_integer"] = all(np.array_equal(plane, np.rint(plane)) for plane in data[key])


class Canonicald(InvertibleKeyedTransform):
    """Bring the axes nearest to RAS (`to_canonical`)."""

    def forward(self, data: dict, key: str) -> None:
        affine = data[f"{key}_affine"]
        data[f"{key}_before_canonical"] = affine
        data[key], data[f"{key}_affine"] = to_canonical(data[key], affine)

    def backward(self, data: dict, key: str) -> None:
        data[f"{key}_affine"] = data[f"{key}_before_canonical"]
        data[key] = from_canonical(data[key], data[f"{key}_affine"])


class BiasFieldd(KeyedTransform):
    """Correct the bias field (N4); its inverse is nothing, for a translation has no coil of its own."""

    def forward(self, data: dict, key: str) -> None:
        data[key] = correct_bias_field(data[key], foreground_mask(data[key]))


class Spacingd(InvertibleKeyedTransform):
    """Resample to a spacing in millimetres along R, A and S."""

    def __init__(self, keys, spacing_mm: tuple[float, float, float]):
        super().__init__(keys)
        self.spacing_mm = spacing_mm

    def forward(self, data: dict, key: str) -> None:
        shape, affine = data[key].shape, data[f"{key}_affine"]
        data[f"{key}_before_spacing"] = (shape, affine)
        new_shape = shape_at_spacing(shape, affine, self.spacing_mm)
        data[key] = resample_to_shape(data[key], new_shape)
        data[f"{key}_affine"] = affine_at_shape(affine, shape, new_shape)

    def backward(self, data: dict, key: str) -> None:
        shape, data[f"{key}_affine"] = data[f"{key}_before_spacing"]
        data[key] = resample_to_shape(data[key], shape)


class ScaleForegroundd(InvertibleKeyedTransform):
    """Scale to [-1, 1] by two percentiles of the foreground, or by the range of the file's type (`percentiles=None`).

    The inverse maps to `image_range` as it then stands: put the target contrast's range there to translate.
    """

    def __init__(self, keys, percentiles: tuple[float, float] | None):
        super().__init__(keys)
        self.percentiles = percentiles

    def forward(self, data: dict, key: str) -> None:
        foreground = foreground_mask(data[key])
        if self.percentiles is None:
            type_range = data.get(f"{key}_type_range")
            if type_range is None:
                raise ValueError(
                    "scaling by the type's range is for pictures of 8 or 16 bit; set preprocess.scaling: percentiles"
                )
            low, high = 0.0, float(type_range)
        else:
            low, high = percentile_range(data[key], foreground, *self.percentiles)
        data[f"{key}_foreground"], data[f"{key}_range"] = foreground, (low, high)
        data[key] = scale_to_unit(data[key], low, high)

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
    """Crop or pad slices to a square of `size`; with a `stride`, enlarge to its multiples rather than crop.

    `<key>_whole_foreground` keeps the foreground (N, H, W) as it was.
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
        data[key] = centre_fit(data[key], *data[f"{key}_before_fit"], fill=-1)
