"""A translator of whole volumes in TorchScript: the chain of `transforms.slice_chain`, a network, and its inverse.

MONAI's own transforms have no mask of the head whatever surrounds it, no low-pass resampling that keeps the field of
view, and no slices that are left out as empty; a network's norms depend on all three. So the computation is part of
the model, which then runs wherever TorchScript does, without this package.
"""

import torch
from torch import Tensor, nn

from pipeline.exporting.scripted_head import bounding_box, find_head, percentile


class VolumeTranslator(nn.Module):
    """Translates volumes on their own grids.

    Attributes:
        network: (N, C, H, W) -> (N, 1, H, W) in [-1, 1], in TorchScript.
        axis: Axis of an RAS volume across its slices.
        spacing_mm: Along R, A and S; empty to keep the volume's own.
        size, stride: Slices are padded to `size` pixels a side, larger ones to multiples of `stride`.
        percentiles: Of the head's intensities, that become -1 and 1.
        low, high: Intensities of the result for -1 and 1.
        integer: Whether the result is rounded to whole numbers.
        neighbours: Slices on either side that the network sees next to a slice.
        neighbour_mm: How far others on either side lie that it sees, rising.
        batch_size: Slices in a batch.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        axis: int,
        spacing_mm: list[float],
        size: int,
        stride: int,
        percentiles: tuple[float, float],
        intensities: tuple[float, float],
        integer: bool,
        neighbours: int,
        neighbour_mm: list[float],
        batch_size: int = 8,
    ):
        super().__init__()
        self.network = network
        self.axis, self.spacing_mm = axis, torch.jit.Attribute(spacing_mm, list[float])
        self.size, self.stride = size, stride
        self.lower, self.upper = percentiles
        self.low, self.high = intensities
        self.integer, self.neighbours, self.batch_size = integer, neighbours, batch_size
        self.neighbour_mm = torch.jit.Attribute(neighbour_mm, list[float])

    def forward(self, image: Tensor, spacing_mm: Tensor | None = None) -> Tensor:
        """Translate volumes (N, 1, X, Y, Z), with axes nearest to right, anterior and superior, to the same shape.

        Args:
            image: The intensities, in any unit; NaN and infinities count as the lowest and highest finite value, as do
                values beyond ±1e30.
            spacing_mm: (3,) or (N, 3), along the three axes; 1 mm where it is not given.

        Raises:
            ValueError (in TorchScript an error with that message): no voxel is finite, or all voxels, or most of a
                head, have one value.
        """
        spacings = torch.ones(image.size(0), 3) if spacing_mm is None else spacing_mm.reshape(-1, 3)
        translated = torch.zeros_like(image, dtype=torch.float32)
        for index in range(image.size(0)):
            spacing = spacings[min(index, spacings.size(0) - 1)].double().cpu()
            translated[index, 0] = self.translate(image[index, 0].float(), spacing)
        return translated

    def translate(self, volume: Tensor, spacing: Tensor) -> Tensor:
        """Translate one volume (X, Y, Z) of a spacing (3,) in mm, float64 on the CPU."""
        # Crop to the head, with an intensity at its dark end where nothing was measured.
        volume = finite(volume)
        field, mask, outer_box, head_blank, masked = find_head(volume)
        box = box_around(mask, outer_box, field, spacing)
        mask_box = [box[end] - field[end // 2 * 2] for end in range(6)]
        mask_field = [0, mask.size(0), 0, mask.size(1), 0, mask.size(2)]
        inside = field_in_box(mask_box, mask_field)
        foreground = fill_outside(crop_box(mask, mask_box, mask_field), inside, 0.0)
        scan = crop_box(volume, box, field)
        blank = torch.zeros_like(foreground) if head_blank is None else crop_box(head_blank, mask_box, mask_field)
        if masked:
            blank = fill_outside(blank, inside, 1.0)
            inside = [0, blank.size(0), 0, blank.size(1), 0, blank.size(2)]
        if bool(blank.any()):
            head_values = scan[foreground & ~blank]
            scan[blank] = percentile(head_values, 1.0) if head_values.numel() > 0 else float(scan.min())
        background = blank & ~foreground

        # Resample, and scale the head's percentiles to -1 and 1.
        cropped_shape = list(scan.shape)
        shape = self.resampled_shape(cropped_shape, spacing)
        scan = resample(scan, shape)
        foreground, blank = resample_mask(foreground, shape), resample_mask(blank, shape)
        inside = resample_field(inside, cropped_shape, shape)
        head_values = scan[foreground & ~blank]
        if head_values.numel() == 0:
            raise ValueError("no head is to be seen in the volume")
        low, high = percentile(head_values, self.lower), percentile(head_values, self.upper)
        if not high - low > 1e-30:
            raise ValueError("most of the head has the same value: there is nothing to translate in the volume")
        scan = ((scan - low) * (2 / (high - low)) - 1).clamp(-1, 1)
        scan = fill_outside(torch.where(blank, torch.full_like(scan, -1), scan), inside, -1.0)

        # Translate the slices.
        slices, heads = scan.movedim(self.axis, 0), foreground.movedim(self.axis, 0)
        slice_mm = float(spacing[self.axis]) * cropped_shape[self.axis] / shape[self.axis]
        slices = self.translate_slices(slices.contiguous(), heads, slice_mm)
        scan = (slices.movedim(0, self.axis) + 1) * ((self.high - self.low) / 2) + self.low

        # Return to the volume's grid.
        scan = resample(crop_box(scan, [0, shape[0], 0, shape[1], 0, shape[2]], inside), cropped_shape)
        scan = torch.where(background, torch.full_like(scan, self.low), scan)
        result = paste_box(scan, box, field, torch.full_like(volume, self.low))
        return torch.round(result) if self.integer else result

    def resampled_shape(self, shape: list[int], spacing: Tensor) -> list[int]:
        """Return the number of the model's voxels that fill a field of view: rounded, at least one."""
        if len(self.spacing_mm) == 0:
            return shape
        extent_mm = torch.tensor(shape, dtype=torch.float64) * spacing
        counts = (extent_mm / torch.tensor(self.spacing_mm, dtype=torch.float64) * 1e4).round() / 1e4
        return [max(1, int(count)) for count in counts.round()]

    def translate_slices(self, slices: Tensor, heads: Tensor, slice_mm: float) -> Tensor:
        """Translate slices (N, H, W) in [-1, 1], so far apart, that show anything but air; the others become -1."""
        height, width = slices.size(1), slices.size(2)
        top, left = pad_before(height, self.padded(height)), pad_before(width, self.padded(width))
        bottom, right = self.padded(height) - height - top, self.padded(width) - width - left
        occupied = torch.nonzero(heads.flatten(1).any(1) | (slices.flatten(1).amax(1) > -0.5))[:, 0]
        offsets, ends = self.steps(slice_mm).to(slices.device), (0, slices.size(0) - 1)
        if offsets.numel() > 1:
            ends = neighbour_ends(slices, slice_mm)
        translated = torch.full_like(slices, -1)
        for positions in occupied.split(self.batch_size):
            middle = positions[:, None]
            stacks = (middle + offsets).clamp(middle.clamp(max=ends[0]), middle.clamp(min=ends[1]))  # (B, C)
            batch = nn.functional.pad(slices[stacks], [left, right, top, bottom], value=-1.0)
            output = self.network(batch)[:, 0]
            translated[positions] = output[:, top : top + height, left : left + width].float()
        return translated

    def steps(self, slice_mm: float) -> Tensor:
        """Return `transforms.neighbours.Neighbours.steps`."""
        steps = (torch.tensor(self.neighbour_mm, dtype=torch.float64) / slice_mm).round().clamp(min=1).long()
        return torch.cat([-steps.flip(0), torch.arange(-self.neighbours, self.neighbours + 1), steps])

    def padded(self, length: int) -> int:
        """Return the pixels of a slice's side after padding."""
        return self.size if length <= self.size else -(-length // self.stride) * self.stride


def pad_before(length: int, padded: int) -> int:
    """Return how many of the pixels that pad a line to a length lie before it."""
    return (padded - length) // 2


def finite(volume: Tensor) -> Tensor:
    """Return a volume whose NaN and -inf (below -1e30) are its lowest finite value, +inf (above 1e30) the highest."""
    usable = volume.abs() <= 1e30
    if bool(usable.all()):
        return volume
    if not bool(usable.any()):
        raise ValueError("every voxel is NaN or infinite; export it again")
    low, high = float(volume[usable].min()), float(volume[usable].max())
    return volume.nan_to_num(nan=low, posinf=high, neginf=low).clamp(low, high)


def box_around(mask: Tensor, outer_box: list[int], field: list[int], spacing: Tensor) -> list[int]:
    """Return `transforms.spatial.box_around` of a head."""
    box: list[int] = []
    inner_box = bounding_box(mask)
    for axis in range(3):
        margin, reach = in_voxels(10.0, spacing[axis]), in_voxels(30.0, spacing[axis])
        start, first, stop = field[2 * axis], inner_box[2 * axis], inner_box[2 * axis + 1]
        if mask.size(axis) > 1:
            box.append(start + min(first - margin, max(outer_box[2 * axis] - 1, first - reach)))
            box.append(start + max(stop + margin, min(outer_box[2 * axis + 1] + 1, stop + reach)))
        else:
            box += [start, field[2 * axis + 1]]
    return box


def in_voxels(width_mm: float, spacing: Tensor) -> int:
    """Return a width as whole voxels, two at least."""
    return max(2, int(((width_mm / spacing * 1000).round() / 1000).ceil()))


def crop_box(volume: Tensor, box: list[int], field: list[int]) -> Tensor:
    """Crop a volume to a box; outside the field, the nearest voxel of the field is repeated."""
    for axis in range(3):
        line = torch.arange(box[2 * axis], box[2 * axis + 1], device=volume.device)
        volume = volume.index_select(axis, line.clamp(field[2 * axis], field[2 * axis + 1] - 1))
    return volume


def paste_box(crop: Tensor, box: list[int], field: list[int], volume: Tensor) -> Tensor:
    """Paste a crop by `crop_box` back into the field of a volume, in place, and return the volume."""
    firsts: list[int] = []
    lengths: list[int] = []
    for axis in range(3):
        start, stop = box[2 * axis], box[2 * axis + 1]
        firsts.append(max(start, field[2 * axis]))
        lengths.append(max(min(stop, field[2 * axis + 1]), max(start, field[2 * axis])) - firsts[axis])
        crop = crop.narrow(axis, firsts[axis] - start, lengths[axis])
    target = volume
    for axis in range(3):
        target = target.narrow(axis, firsts[axis], lengths[axis])
    target.copy_(crop)
    return volume


def field_in_box(box: list[int], field: list[int]) -> list[int]:
    """Return the part of a cropped box that lies in the field; a whole axis where they do not overlap."""
    inside: list[int] = []
    for axis in range(3):
        start, stop = box[2 * axis], box[2 * axis + 1]
        first, last = max(start, field[2 * axis]) - start, min(stop, field[2 * axis + 1]) - start
        inside += [first, last] if last > first else [0, stop - start]
    return inside


def fill_outside(volume: Tensor, inside: list[int], value: float) -> Tensor:
    """Set the voxels outside the field to a value, in place, and return the volume."""
    for axis in range(3):
        volume.narrow(axis, 0, inside[2 * axis]).fill_(value)
        volume.narrow(axis, inside[2 * axis + 1], volume.size(axis) - inside[2 * axis + 1]).fill_(value)
    return volume


def resample(volume: Tensor, shape: list[int]) -> Tensor:
    """Return `transforms.spatial.resample_to_shape` with its low-pass filter."""
    planes = volume[None].contiguous()  # (1, X, Y, Z)
    if planes.shape[2:] != shape[1:]:
        planes = bilinear(planes, shape[1:])
    if planes.size(1) != shape[0]:
        planes = bilinear(planes.flatten(2)[None], [shape[0], shape[1] * shape[2]])
    return planes.reshape(shape)


def bilinear(images: Tensor, size: list[int]) -> Tensor:
    """Resample (N, C, H, W) images to another (H, W), filtered where pixels become larger."""
    coarser = size[0] < images.size(2) or size[1] < images.size(3)
    return nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=coarser)


def nearest_indices(length: int, new_length: int) -> Tensor:
    """Return the nearest voxels of a line of `length` for `new_length` voxels over the same field of view."""
    return ((torch.arange(new_length, dtype=torch.float64) + 0.5) * length / new_length).long().clamp(max=length - 1)


def resample_mask(mask: Tensor, shape: list[int]) -> Tensor:
    """Resample a mask to another shape over the same field of view, by nearest neighbour."""
    for axis in range(3):
        if mask.size(axis) != shape[axis]:
            mask = mask.index_select(axis, nearest_indices(mask.size(axis), shape[axis]).to(mask.device))
    return mask


def resample_field(inside: list[int], shape: list[int], new_shape: list[int]) -> list[int]:
    """Return the box of `field_in_box` on a resampled grid."""
    resampled: list[int] = []
    for axis in range(3):
        indices = nearest_indices(shape[axis], new_shape[axis])
        planes = torch.nonzero((indices >= inside[2 * axis]) & (indices < inside[2 * axis + 1]))[:, 0]
        resampled += [int(planes[0]), int(planes[-1]) + 1] if planes.numel() > 0 else [0, new_shape[axis]]
    return resampled


def neighbour_ends(slices: Tensor, slice_mm: float) -> tuple[int, int]:
    """Return `transforms.neighbours.neighbour_ends`, with its constants."""
    if slice_mm < 2.5:
        return 0, slices.size(0) - 1
    areas = torch.stack([(image > -0.8).double().mean() for image in slices.unbind(0)])
    largest_area, last = float(areas.max()), slices.size(0) - 1
    indices = torch.nonzero(areas > 0.05 * largest_area)[:, 0]
    if indices.numel() == 0:
        return 0, last
    most_at_crown = max(0.1, slice_mm / 15) * largest_area
    first, final = int(indices[0]), int(indices[-1])
    return first if float(areas[first]) > most_at_crown else 0, final if float(areas[final]) > most_at_crown else last
