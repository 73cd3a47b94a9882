"""Random augmentation of training slices, a function of the random generator alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class AugmentationParameters:
    """The random parameters of one slice's augmentation."""

    flip_left_right: bool = False
    flip_front_back: bool = False
    quarter_turns: int = 0
    crop: tuple[float, float] = (0.5, 0.5)  # start of the crop along each axis, 0 to 1 of the margin
    brightness: float = 0.0  # added, in the slice's own units: the range is 2
    contrast: float = 1.0  # factor about the slice's mean
    extra_seed: int = 0  # of `Augmentation.extra`

    @property
    def flips(self) -> tuple[int, int]:
        """The steps along a slice's two axes, 1 or -1 (flipped)."""
        return -1 if self.flip_left_right else 1, -1 if self.flip_front_back else 1


@dataclass(frozen=True)
class Augmentation:
    """Flips, enlarge-and-crop jitter, quarter turns, brightness and contrast of slices in [-1, 1].

    A slice may have its neighbours beside it, as further channels, which are changed alike. `extra` comes after the
    others (`transforms.monai_augmentation`): a function of a slice (C, S, S) and a seed.
    """

    horizontal_flip: float = 0.0  # probability of a left-right mirror, the first axis of a slice
    jitter: float = 1.0  # factor by which slices are enlarged before a random crop to their size
    vertical_flip: float = 0.0  # probability of a front-back mirror, the second axis
    rotate90: float = 0.0  # probability of a turn by 90, 180 or 270 degrees
    brightness: float = 0.0  # largest shift, as a share of the intensity range
    contrast: float = 0.0  # largest relative change of contrast
    extra: Callable[[Tensor, int], Tensor] | None = None

    def draw(self, random: np.random.Generator) -> AugmentationParameters:
        """Draw one slice's parameters, always with the same number of random draws, whatever is switched on."""
        draws = random.random(8)
        return AugmentationParameters(
            flip_left_right=bool(draws[0] < self.horizontal_flip),
            flip_front_back=bool(draws[1] < self.vertical_flip),
            quarter_turns=1 + int(draws[3] * 3) if draws[2] < self.rotate90 else 0,
            crop=(float(draws[4]), float(draws[5])),
            brightness=2 * self.brightness * float(2 * draws[6] - 1),
            contrast=1 + self.contrast * float(2 * draws[7] - 1),
            extra_seed=int(random.integers(2**32)) if self.extra else 0,
        )

    def apply(self, slices: Tensor, changes: list[AugmentationParameters]) -> Tensor:
        """Return slices (N, C, S, S), each with its own parameters applied; they stay within [-1, 1]."""
        size, enlarged, augmented = slices.shape[-1], enlarge(slices, self.jitter), torch.empty_like(slices)
        for target, image, change in zip(augmented, enlarged, changes, strict=True):
            top, left = (int(start * (image.shape[-1] - size + 1)) for start in change.crop)
            image = image[:, top : top + size, left : left + size]
            flips = [axis for axis, on in ((1, change.flip_left_right), (2, change.flip_front_back)) if on]
            target.copy_(self._finished(image.flip(flips) if flips else image, change))
        return augmented

    def apply_batched(self, slices: Tensor, changes: list[AugmentationParameters]) -> Tensor:
        """Return the same as `apply` in a few operations on the whole batch, to launch few GPU kernels.

        On a CPU it takes four times as long. There can be no `extra` augmentation, which takes slices one by one.
        """
        size, enlarged = slices.shape[-1], enlarge(slices, self.jitter)
        # Gather flipped, turned and cropped slices by their source indices.
        source_indices = _source_indices(changes, size, enlarged.shape[-1] - size)
        rows, columns, is_transposed = (on_device(array, slices.device) for array in source_indices)
        is_transposed = is_transposed[:, None, None]
        batch, channel = (torch.arange(length, device=slices.device) for length in slices.shape[:2])
        row_index = torch.where(is_transposed, rows[:, None, :], rows[:, :, None])[:, None]
        column_index = torch.where(is_transposed, columns[:, :, None], columns[:, None, :])[:, None]
        images = enlarged[batch[:, None, None, None], channel[:, None, None], row_index, column_index]
        if not (self.brightness or self.contrast):
            return images

        # Change brightness and contrast.
        adjustments = np.array([(change.contrast, change.brightness) for change in changes], dtype=np.float32)
        contrast, brightness = on_device(adjustments, slices.device)[:, :, None, None, None].unbind(dim=1)
        means = images.mean(dim=(1, 2, 3), keepdim=True)
        return ((images - means) * contrast + means + brightness).clamp(-1, 1)

    def apply_to_flipped(self, slices: Tensor, changes: list[AugmentationParameters]) -> Tensor:
        """Augment slices in place that were flipped (`AugmentationParameters.flips`) while being read; return them.

        Without a jitter flips come first, so that the result equals `apply` of the unflipped slices.
        """
        for index, change in enumerate(changes):
            if change.quarter_turns or change.brightness or change.contrast != 1 or self.extra:
                slices[index] = self._finished(slices[index], change)
        return slices

    def _finished(self, image: Tensor, change: AugmentationParameters) -> Tensor:
        """Return one flipped slice (C, S, S) with everything else that its parameters change."""
        if change.quarter_turns:
            image = torch.rot90(image, change.quarter_turns, (1, 2))
        if change.brightness or change.contrast != 1:
            mean = image.mean()
            image = ((image - mean) * change.contrast + mean + change.brightness).clamp(-1, 1)
        return self.extra(image, change.extra_seed) if self.extra else image


def enlarge(slices: Tensor, factor: float) -> Tensor:
    """Resize slices (N, C, S, S) to (N, C, S', S') with S' = round(factor · S), bilinearly."""
    side = round(slices.shape[-1] * factor)
    if side == slices.shape[-1]:
        return slices
    return torch.nn.functional.interpolate(slices, size=(side, side), mode="bilinear", align_corners=False)


def on_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on a device; to a GPU it is copied asynchronously from pinned memory."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _source_indices(
    changes: list[AugmentationParameters], size: int, room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows (N, size) and columns (N, size) of enlarged slices that the augmented slices show.

    And (N,) bool, whether a quarter turn swaps them. `room` is an enlarged slice's side less `size`.
    """
    forward = np.arange(size)
    rows, columns = np.empty((2, len(changes), size), dtype=np.int64)
    for row, column, change in zip(rows, columns, changes, strict=True):
        turns = change.quarter_turns % 4
        is_row_reversed = change.flip_left_right ^ (turns in (2, 3))
        is_column_reversed = change.flip_front_back ^ (turns in (1, 2))
        top, left = (int(start * (room + 1)) for start in change.crop)
        row[:] = top + (forward[::-1] if is_row_reversed else forward)
        column[:] = left + (forward[::-1] if is_column_reversed else forward)
    return rows, columns, np.array([change.quarter_turns % 2 == 1 for change in changes])
