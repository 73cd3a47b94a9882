"""How far off a translation may be: what its networks disagree on, calibrated to the absolute error to expect.

Two things are seen without a real target. The cycle error |F(G(x)) - x|: what the way back cannot restore. The spread
(SD) of translations that ought to be one: of the slice, its mirror image and the slice a few pixels aside, and, as the
method allows, with dropout active (Gal and Ghahramani 2016), in neighbouring styles, or by the run's other checkpoints.
Neither is an error in any unit; a monotone map, fitted on validation subjects, makes it one
(`pipeline.evaluation.uncertainty_scores`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

SAMPLES = 3  # of dropout or styles
SEED = 0  # of what is drawn: the same volume gets the same map
STYLE_STEP = 0.5  # SD of the styles drawn around the model's own; the prior's is 1
SHIFTS_PX = (3, -3)  # along both axes of a slice; odd, for what networks of stride 2 make of it
SMOOTHING_PX = 1.0  # sigma, within slices: an expected error is no matter of a single pixel

Send = Callable[[nn.Module, np.ndarray], np.ndarray]  # a network and slices (N, H, W) in [-1, 1] -> its output


class Features(NamedTuple):
    """What is seen of a translation without a real target, smoothed within slices.

    Attributes:
        cycle: (N, H, W) |F(G(x)) - x|, from 0; None without a way back.
        spread: (N, H, W) SD over the versions of the translation, from 0.
    """

    cycle: np.ndarray | None
    spread: np.ndarray


@dataclass(frozen=True)
class UncertaintySources:
    """The networks that are asked about one direction's translations.

    Attributes:
        forward: G, what translates.
        inverse: F, the way back; None where it is not there.
        others: Checkpoint's name -> G as it stood in that checkpoint.
        single_network: Whether flips and shifts are all that is asked for, as of a single direction's exported graph.
    """

    forward: nn.Module
    inverse: nn.Module | None = None
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    single_network: bool = False

    @property
    def names(self) -> list[str]:
        """What is looked at, in words."""
        cycle = ["cycle error"] if self.inverse is not None else []
        shifted = ["flip", f"{len(SHIFTS_PX)} shifts"]
        if self.single_network:
            return [*cycle, *shifted]
        variation = "dropouts" if dropouts(self.forward) else "styles" if has_styles(self.forward) else ""
        return [
            *cycle,
            *shifted,
            *([f"{SAMPLES} {variation}"] if variation else []),
            *(f"checkpoint {name}" for name in self.others),
        ]


@dataclass(frozen=True)
class Calibration:
    """The monotone map from features to the absolute error to expect, both in [-1, 1]'s unit.

    Attributes:
        cycle_weight, spread_weight: From 0: of the features, in the one number that the map is of.
        knots: (that number, expected absolute error), both ascending; linear between, constant beyond.
        subjects, voxels: How many it was fitted on.
    """

    cycle_weight: float
    spread_weight: float
    knots: tuple[tuple[float, float], ...]
    subjects: int = 0
    voxels: int = 0

    def combined(self, features: Features) -> np.ndarray:
        """Return the weighted sum of the features, in their shape."""
        spread = self.spread_weight * features.spread
        return spread if features.cycle is None else spread + self.cycle_weight * features.cycle

    def expected(self, features: Features) -> np.ndarray:
        """Return the absolute error to expect, float32 in the features' shape, from 0 to 2."""
        feature_values, errors = zip(*self.knots, strict=True)
        return np.interp(self.combined(features), feature_values, errors).astype(np.float32)


def uncertainty_features(
    slices: np.ndarray, translated: np.ndarray, sources: UncertaintySources, send: Send
) -> Features:
    """Look at a translation with every witness.

    Args:
        slices: (N, H, W) in [-1, 1], the source x.
        translated: (N, H, W), G(x).
        witnesses: Whom to ask.
        send: Sends slices through a network.
    """
    cycle = None if sources.inverse is None else _smoothed(np.abs(send(sources.inverse, translated) - slices))
    count, mean, squares = 1, translated.astype(np.float32), np.zeros(translated.shape, np.float32)
    for version in _translation_versions(slices, sources, send):  # Welford 1962: one at a time, for volumes are large
        count += 1
        step = version - mean
        mean = mean + step / count
        squares += step * (version - mean)
    return Features(cycle, _smoothed(np.sqrt(squares / count)))


def _translation_versions(slices: np.ndarray, sources: UncertaintySources, send: Send) -> Iterator[np.ndarray]:
    network = sources.forward
    yield send(network, slices[:, ::-1])[:, ::-1]  # left and right; of sagittal slices, front and back
    for shift in SHIFTS_PX:
        yield np.roll(send(network, np.roll(slices, (shift, shift), (1, 2))), (-shift, -shift), (1, 2))
    if sources.single_network:
        return
    variation = _active_dropout if dropouts(network) else _sampled_style if has_styles(network) else None
    for sample in range(SAMPLES if variation else 0):
        with variation(network, SEED + sample):
            version = send(network, slices)
        yield version
    for other in sources.others.values():
        yield send(other, slices)


def has_own_spread(network: nn.Module) -> bool:
    """Whether a network alone, by dropout or style, gives other translations: no other checkpoint is asked then."""
    return bool(dropouts(network)) or has_styles(network)


def dropouts(network: nn.Module) -> list[nn.Module]:
    """Return a network's dropout layers that drop anything."""
    return [layer for layer in network.modules() if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0]


def has_styles(network: nn.Module) -> bool:
    """Whether a network translates in a style that can be set (MUNIT)."""
    return hasattr(network, "set_style")


def fused_error(expected: Sequence[np.ndarray], translated: Sequence[np.ndarray]) -> np.ndarray:
    """Return the error to expect of the mean of several views' translations, from the error to expect of each.

    The views' mean, but at least the spread (SD) of the views: where they disagree, most are wrong. Averaging tends to
    lower errors, so this is rather too high than too low. Where no view expects any, as outside the head, it is 0.

    Args:
        expected: (X, Y, Z) by view.
        translated: (X, Y, Z) by view, in the same unit.
    """
    if len(expected) == 1:
        return expected[0]
    mean = np.mean(expected, axis=0)
    return np.where(mean > 0, np.maximum(mean, np.std(translated, axis=0)), mean)


def _smoothed(slices: np.ndarray) -> np.ndarray:
    return gaussian_filter(slices, (0, SMOOTHING_PX, SMOOTHING_PX), output=np.float32)


@contextmanager
def _seeded(network: nn.Module, seed: int) -> Iterator[None]:
    devices = {weight.device for weight in network.parameters() if weight.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


@contextmanager
def _active_dropout(network: nn.Module, seed: int) -> Iterator[None]:
    layers = dropouts(network)
    with _seeded(network, seed):
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()


@contextmanager
def _sampled_style(network: nn.Module, seed: int) -> Iterator[None]:
    style = network.style[0].clone()
    step = torch.randn(style.shape, generator=torch.Generator().manual_seed(seed)).to(style)
    try:
        network.set_style(style + STYLE_STEP * step)
        yield
    finally:
        network.set_style(style)
