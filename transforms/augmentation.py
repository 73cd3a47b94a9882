"""Random changes of training slices: what is drawn is a function of the random generator alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class AugmentationParameters:
    """What was drawn for one slice."""

    flip_left_right: bool = False
    flip_front_back: bool = False
    quarter_turns: int = 0
    crop: tuple[float, float] = (0.5, 0.5)  # where the crop of the enlarged slice starts, 0 to 1 of the room there is
    brightness: float = 0.0  # added, in the slice's own units: the range is 2
    contrast: float = 1.0  # factor about the slice's mean

    @property
    def flips(self) -> tuple[int, int]:
        """The steps, 1 or -1, in which a slice's two axes are walked."""
        return -1 if self.flip_left_right else 1, -1 if self.flip_front_back else 1


@dataclass(frozen=True)
class Augmentation:
    """Flips, enlarge-and-crop jitter, quarter turns, brightness and contrast of slices in [-1, 1].

    Args:
        horizontal_flip: Probability of a left-right mirror (the first axis of a slice).
        jitter: Factor of an enlargement that is cropped back at a random place; 1 for none.
        vertical_flip: Probability of a front-back mirror (the second axis).
        rotate90: Probability of a turn by 90, 180 or 270 degrees.
        brightness: Largest shift, as a share of the intensity range.
        contrast: Largest relative change of contrast.
    """

    horizontal_flip: float = 0.0
    jitter: float = 1.0
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def draw(self, random: np.random.Generator) -> AugmentationParameters:
        """Draw one slice's change; always the same number of draws, whatever is switched on."""
        draws = random.random(8)
        return AugmentationParameters(
            flip_left_right=bool(draws[0] < self.horizontal_flip),
            flip_front_back=bool(draws[1] < self.vertical_flip),
            quarter_turns=1 + int(draws[3] * 3) if draws[2] < self.rotate90 else 0,
            crop=(float(draws[4]), float(draws[5])),
            brightness=2 * self.brightness * float(2 * draws[6] - 1),
            contrast=1 + self.contrast * float(2 * draws[7] - 1),
        )

    def apply(self, slices: Tensor, changes: list[AugmentationParameters]) -> Tensor:
        """Return slices (N, 1, S, S) with one change each; they stay within [-1, 1]."""
        enlarged, changed = enlarge(slices, self.jitter), torch.empty_like(slices)
        for target, image, change in zip(changed, enlarged, changes, strict=True):
            image = _cropped(image, slices.shape[-1], change)
            flips = [axis for axis, on in ((1, change.flip_left_right), (2, change.flip_front_back)) if on]
            target.copy_(_turned_and_recoloured(image.flip(flips) if flips else image, change))
        return changed

    def apply_at_once(self, slices: Tensor, changes: list[AugmentationParameters]) -> Tensor:
        """Do what `apply` does in a few operations on the whole batch, for a GPU that each of them must be sent to."""
        size, enlarged = slices.shape[-1], enlarge(slices, self.jitter)
        origins = _origins(changes, size, enlarged.shape[-1] - size)
        rows, columns, turned = (on_device(one, slices.device) for one in origins)
        turned, batch = turned[:, None, None], torch.arange(len(slices), device=slices.device)[:, None, None]
        down = torch.where(turned, rows[:, None, :], rows[:, :, None])
        across = torch.where(turned, columns[:, :, None], columns[:, None, :])
        images = enlarged[batch, 0, down, across][:, None]
        if not (self.brightness or self.contrast):
            return images
        colours = np.array([(change.contrast, change.brightness) for change in changes], dtype=np.float32)
        contrast, brightness = on_device(colours, slices.device)[:, :, None, None, None].unbind(dim=1)
        means = images.mean(dim=(1, 2, 3), keepdim=True)
        return ((images - means) * contrast + means + brightness).clamp(-1, 1)

    def apply_to_flipped(self, slices: Tensor, changes: list[AugmentationParameters]) -> Tensor:
        """Change slices in place that were flipped (`AugmentationParameters.flips`) as they were read, and return them.

        It is what `apply` does of unflipped ones where the jitter is 1: then the flips are what comes first.
        """
        if self.jitter != 1:
            raise ValueError(f"slices are to be enlarged by {self.jitter:g} before they are flipped")
        for index, change in enumerate(changes):
            if change.quarter_turns or change.brightness or change.contrast != 1:
                slices[index] = _turned_and_recoloured(slices[index], change)
        return slices


def enlarge(slices: Tensor, factor: float) -> Tensor:
    """Return slices (N, 1, S, S) as (N, 1, S', S') with S' = round(factor · S), bilinearly."""
    side = round(slices.shape[-1] * factor)
    if side == slices.shape[-1]:
        return slices
    return torch.nn.functional.interpolate(slices, size=(side, side), mode="bilinear", align_corners=False)


def on_device(numbers: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on a device, on its way from memory that a GPU reads by itself, so that nothing waits."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _origins(changes: list[AugmentationParameters], size: int, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which row and column of an enlarged slice each row and column of a changed one shows.

    Args:
        changes: N of them.
        size: Of a slice.
        room: By how much an enlarged slice is larger.

    Returns:
        Rows (N, size) and columns (N, size); and whether (N,) they run across and down, for the slice is turned.
    """
    forth = np.arange(size)
    rows, columns = np.empty((2, len(changes), size), dtype=np.int64)
    for row, column, change in zip(rows, columns, changes, strict=True):
        turns = change.quarter_turns % 4
        back_down = change.flip_left_right ^ (turns in (2, 3))
        back_across = change.flip_front_back ^ (turns in (1, 2))
        top, left = (int(start * (room + 1)) for start in change.crop)
        row[:] = top + (forth[::-1] if back_down else forth)
        column[:] = left + (forth[::-1] if back_across else forth)
    return rows, columns, np.array([change.quarter_turns % 2 == 1 for change in changes])


def _cropped(image: Tensor, size: int, change: AugmentationParameters) -> Tensor:
    """Return one slice (1, S', S') cropped to (1, size, size)."""
    top, left = (int(start * (image.shape[-1] - size + 1)) for start in change.crop)
    return image[:, top : top + size, left : left + size]


def _turned_and_recoloured(image: Tensor, change: AugmentationParameters) -> Tensor:
    """Return one flipped slice (1, S, S) turned, and its brightness and contrast changed."""
    if change.quarter_turns:
        image = torch.rot90(image, change.quarter_turns, (1, 2))
    if change.brightness or change.contrast != 1:
        mean = image.mean()
        image = ((image - mean) * change.contrast + mean + change.brightness).clamp(-1, 1)
    return image
