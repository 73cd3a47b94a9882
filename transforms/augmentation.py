"""Random changes of training slices: what is drawn is a function of the random generator alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Change:
    """What was drawn for one slice."""

    flip_left_right: bool = False
    flip_front_back: bool = False
    quarter_turns: int = 0
    crop: tuple[float, float] = (0.5, 0.5)  # where the crop of the enlarged slice starts, 0 to 1 of the room there is
    brightness: float = 0.0  # added, in the slice's own units: the range is 2
    contrast: float = 1.0  # factor about the slice's mean


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

    def draw(self, random: np.random.Generator) -> Change:
        """Draw one slice's change; always the same number of draws, whatever is switched on."""
        draws = random.random(8)
        return Change(
            flip_left_right=bool(draws[0] < self.horizontal_flip),
            flip_front_back=bool(draws[1] < self.vertical_flip),
            quarter_turns=1 + int(draws[3] * 3) if draws[2] < self.rotate90 else 0,
            crop=(float(draws[4]), float(draws[5])),
            brightness=2 * self.brightness * float(2 * draws[6] - 1),
            contrast=1 + self.contrast * float(2 * draws[7] - 1),
        )

    def apply(self, slices: Tensor, changes: list[Change]) -> Tensor:
        """Return slices (N, 1, S, S) with one change each; they stay within [-1, 1]."""
        enlarged = enlarge(slices, self.jitter)
        return torch.stack(
            [_changed(image, slices.shape[-1], change) for image, change in zip(enlarged, changes, strict=True)]
        )


def enlarge(slices: Tensor, factor: float) -> Tensor:
    """Return slices (N, 1, S, S) as (N, 1, S', S') with S' = round(factor · S), bilinearly."""
    side = round(slices.shape[-1] * factor)
    if side == slices.shape[-1]:
        return slices
    return torch.nn.functional.interpolate(slices, size=(side, side), mode="bilinear", align_corners=False)


def _changed(image: Tensor, size: int, change: Change) -> Tensor:
    """Return one slice (1, S', S') cropped to (1, size, size) and changed."""
    top, left = (int(start * (image.shape[-1] - size + 1)) for start in change.crop)
    image = image[:, top : top + size, left : left + size]
    flips = [axis for axis, on in ((1, change.flip_left_right), (2, change.flip_front_back)) if on]
    if flips:
        image = image.flip(flips)
    if change.quarter_turns:
        image = torch.rot90(image, change.quarter_turns, (1, 2))
    if change.brightness or change.contrast != 1:
        mean = image.mean()
        image = ((image - mean) * change.contrast + mean + change.brightness).clamp(-1, 1)
    return image
