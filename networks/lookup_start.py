"""Generators that start from a translation that needs no training, and learn to correct it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, pad

from networks.context_lookup import OUTER, ContextLookup
from networks.neighbours import middle_slice
from networks.patch_features import FeatureGenerator
from networks.unet import UNet

LARGEST = 0.97  # of what a start gives before the network has learnt: at 1, tanh has no slope
DEFAULT_SHARE = 0.25  # of the correction in an evaluated translation, where no validation has chosen it
LAYERS = (nn.Conv2d, nn.ConvTranspose2d)
BOX_MM, BOX_SIDE = 2.0, 112  # pixels that the model in the box was trained with, and how many along a side
DEFAULT_BOX_SHARE = 0.5  # of the model in the box in a start, where no validation has chosen it


class BoxTranslation(nn.Module):
    """The model in the box, which is not trained further, for axial slices of pixels up to about 2.7 mm.

    Slices of small pixels are averaged to about `BOX_MM`, translated, and interpolated back; small slices are put into
    air, for the model's norms depend on how much of it there is. Since the model has never seen a scan of the cohort, a
    lookup of its own within slices, fitted to the cohort without pairs, corrects its intensities; the result is the
    mean of the model's translation and the corrected one.

    Buffers: `averaged` (), number of pixels along a side that make one of the network's; `margin` (), number of pixels
    of air on each side.
    """

    averaged: Tensor
    margin: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = UNet(depth=4, width=16, dropout=0.0).requires_grad_(False)
        self.lookup = ContextLookup()
        self.register_buffer("averaged", torch.tensor(1))
        self.register_buffer("margin", torch.tensor(0))
        self._averaged, self._margin = 1, 0

    def fit_to_slices(self, pixel_mm: float, side: int) -> None:
        """Choose how slices become those of the model's training: of pixels of a size in mm, so many along a side."""
        self._averaged = max(1, round(BOX_MM / pixel_mm))
        self._margin = max(0, BOX_SIDE * self._averaged - side) // 2
        self.averaged.fill_(self._averaged)
        self.margin.fill_(self._margin)

    def forward(self, image: Tensor) -> Tensor:
        """Translate (N, 1, H, W) in [-1, 1] to that shape and range."""
        translation = self.translate(image)
        return (translation + self.lookup(translation)) / 2

    def translate(self, image: Tensor) -> Tensor:
        """Translate (N, 1, H, W) in [-1, 1] to that shape and range by the network alone."""
        height, width = image.shape[-2:]
        multiple, margin = self.network.stride * self._averaged, self._margin
        # Sizes as multiples of a number, which a tracer sees to be divisible.
        sides = [(length + 2 * margin + multiple - 1) // multiple * multiple for length in (width, height)]
        right, bottom = (side - length - margin for side, length in zip(sides, (width, height), strict=True))
        padded = pad(image, (margin, right, margin, bottom), value=-1.0)
        if self._averaged == 1:
            translation = self.network(padded)
        else:
            coarse = self.network(avg_pool2d(padded, self._averaged))
            factor = float(self._averaged)
            translation = interpolate(coarse, scale_factor=factor, mode="bilinear", align_corners=False)
        return translation.narrow(2, margin, height).narrow(3, margin, width)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load a state, of which the numbers of pixels are plain numbers, too: sizes depend on them."""
        super()._load_from_state_dict(state_dict, prefix, *arguments)
        if not {f"{prefix}averaged", f"{prefix}margin"} - state_dict.keys():
            self._averaged, self._margin = (int(state_dict[f"{prefix}{name}"]) for name in ("averaged", "margin"))


class LookupStart(nn.Module):
    """A generator that corrects a start: x -> tanh(artanh(start(x)) + a tenth of the network before tanh).

    The start is a context lookup, or the mean of one and of the model in the box. The network, (N, C, H, W) -> (N, 1,
    H, W), takes an `offset` before its tanh. Its `last` layer begins at zero, so that before the first step this is the
    start (within `LARGEST`). In evaluation mode the result is a mean of that and the start: their errors differ, so
    that it has a smaller one than either. In the air, where losses hardly tell what a network draws, it is the lookup.

    `neighbour_mm` is how far from the slice those on either side lie that the lookup sees, and it alone, rising; empty
    for a lookup within the slice (`ContextLookup`). Buffers: `correction_share` (), of the corrected translation in
    that mean, in [0, 1], chosen in validation; `box_share` (), of the box in the start, in [0, 1], chosen before the
    first step.
    """

    correction_share: Tensor
    box_share: Tensor

    def __init__(self, network: nn.Module, neighbour_mm: Sequence[float] = (), *, with_box: bool = False):
        super().__init__()
        self.network, self.lookup = network, ContextLookup(in_volume=bool(neighbour_mm))
        self.box = BoxTranslation() if with_box else None
        if with_box:
            self.register_buffer("box_share", torch.tensor(DEFAULT_BOX_SHARE))
        self.stride, self.neighbour_mm = cast(int, network.stride), tuple(neighbour_mm)
        self.register_buffer("correction_share", torch.tensor(DEFAULT_SHARE))
        self.feature_channels = getattr(network, "feature_channels", [])  # see `patch_features.FeatureGenerator`
        *_, last = (layer for layer in cast(nn.Module, network.last).modules() if isinstance(layer, LAYERS))
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Translate the middle slice of (N, C, H, W) in [-1, 1] to (N, 1, H, W); raises what the network raises."""
        expected = self.start(image)
        corrected = self.network(self._network_slices(image), torch.atanh(expected.clamp(-LARGEST, LARGEST)))
        if self.training:
            return corrected
        mean = torch.lerp(expected, corrected, self.correction_share.to(expected.dtype))
        return torch.where(self.lookup.is_air(image), expected, mean)

    def start(self, image: Tensor) -> Tensor:
        """Return what is corrected, (N, 1, H, W) in [-1, 1], for the middle slice of (N, C, H, W)."""
        looked_up = self.lookup(image)
        if self.box is None:
            return looked_up
        boxed = self.box(middle_slice(image)).to(looked_up.dtype)
        mean = torch.lerp(looked_up, boxed, self.box_share.to(looked_up.dtype))
        return torch.where(self.lookup.is_air(image), looked_up, mean)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return what PatchNCE compares; see `patch_features.FeatureGenerator`."""
        return cast(FeatureGenerator, self.network).features(self._network_slices(image))

    def _network_slices(self, image: Tensor) -> Tensor:
        """Return what the network sees of an image: all but the lookup's slices."""
        return image[:, OUTER:-OUTER] if self.lookup.in_volume and image.shape[1] > 1 else image

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        """Load a state; those of generators that were saved without a share have one of 1."""
        state_dict.setdefault(f"{prefix}correction_share", torch.tensor(1.0))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def start_of(generator: nn.Module) -> LookupStart | None:
    """Return the part of a generator that corrects a start; None where it starts from nothing."""
    return next((module for module in generator.modules() if isinstance(module, LookupStart)), None)


def start_alone(generator: nn.Module, image: Tensor) -> Tensor:
    """Return what a generator that has a start corrects, for the middle slice of (N, C, H, W)."""
    return cast(LookupStart, start_of(generator)).start(image)


def start_texts(translators: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return what translators start from, for readers, by target contrast; those that start from nothing are left out.

    Shares are those of the start's parts in it, and of what training made of the start in a translation.
    """
    texts = {}
    for target, network in translators.items():
        if (start := start_of(network)) is None:
            continue
        parts, correction = "the context lookup", float(start.correction_share)
        if start.box is not None:
            box = float(start.box_share)
            parts = f"the context lookup ({1 - box:.0%}) and the model in the box ({box:.0%}; synthetic pairs, no scan)"
        texts[target] = f"{parts}; a translation is {1 - correction:.0%} of this start, {correction:.0%} its correction"
    return texts
