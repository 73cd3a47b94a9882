"""The absolute error to expect of a translation, from both intensities, its cycle error and the spread of its variants.

All can be measured without a real target. The cycle error is |F(G(x)) - x|, what the inverse network F does not
restore. The spread is the SD of translations that ought to be equal: of the slice, of its mirror image and of the slice
shifted by a few pixels; and, as the method allows, with dropout active (Gal and Ghahramani 2016), in neighbouring
styles, or by the run's other checkpoints. A table over source, translation and a weighted sum of the two, fitted on
validation subjects, holds the absolute error (`pipeline.evaluation.uncertainty_fit`): which intensities a translation
gets wrong, such as those between fluid and grey matter, says more than how much it varies.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import nn

SAMPLES = 3  # of dropout or styles
SEED = 0  # of the samples: the same volume gets the same map
STYLE_STEP = 0.5  # SD of the styles sampled around the model's own; the prior's is 1
SHIFTS_PX = (3, -3)  # along both axes of a slice; odd, because networks of stride 2 treat odd shifts differently
SMOOTHING_PX = 1.0  # sigma within slices, because single pixels are noisy

Send = Callable[[nn.Module, np.ndarray], np.ndarray]  # a network and slices (N, H, W) in [-1, 1] -> its output


class Features(NamedTuple):
    """The features that the expected error is predicted from; the last two are smoothed within slices."""

    source: np.ndarray  # (N, H, W) x in [-1, 1]
    translated: np.ndarray  # (N, H, W) G(x) in [-1, 1]
    cycle: np.ndarray | None  # (N, H, W) |F(G(x)) - x|, from 0; None without an inverse network
    spread: np.ndarray  # (N, H, W) SD over the variants of the translation, from 0

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> "Features":
        """Return what a function makes of each feature that there is."""
        return Features(*(None if part is None else function(part) for part in self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class UncertaintySources:
    """The networks from which the uncertainty of one direction is estimated."""

    forward: nn.Module  # G, which translates
    inverse: nn.Module | None = None  # F, of the other direction
    others: Mapping[str, nn.Module] = field(default_factory=dict)  # G of the run's other checkpoints, by their names
    single_network: bool = False  # whether only flips and shifts are used, as for the exported graph of one direction

    @property
    def names(self) -> list[str]:
        """The sources' names for the user, such as "cycle error" and "2 shifts"."""
        names = [*(["cycle error"] if self.inverse is not None else []), "flip", f"{len(SHIFTS_PX)} shifts"]
        if self.single_network:
            return names
        if has_own_spread(self.forward):
            names.append(f"{SAMPLES} {'dropouts' if dropouts(self.forward) else 'styles'}")
        return [*names, *(f"checkpoint {name}" for name in self.others)]


@dataclass(frozen=True)
class Calibration:
    """The map from features to the absolute error to expect, both in [-1, 1]'s unit.

    `errors` is a table of it: by source and by translation, evenly from -1 to 1, and by `sums`, rising values of the
    features' weighted sum. It is linear between its entries and constant beyond them.
    """

    cycle_weight: float  # the features' weights in their sum, 0 or more
    spread_weight: float
    sums: tuple[float, ...]
    errors: tuple[tuple[tuple[float, ...], ...], ...]
    subjects: int = 0  # how many the fit had
    voxels: int = 0

    def expected(self, features: Features) -> np.ndarray:
        """Return the absolute error to expect, float32 in the features' shape, from 0 to 2."""
        table = np.array(self.errors, dtype=np.float32)
        if features.spread.ndim == 1:
            return self._look_up(table, features)
        expected = np.empty(features.spread.shape, np.float32)
        for index in range(len(expected)):  # slice by slice, for coordinates need thrice the volume's memory
            expected[index] = self._look_up(table, features.mapped(itemgetter(index)))
        return expected

    def _look_up(self, table: np.ndarray, features: Features) -> np.ndarray:
        sums = weighted_sums(features, self.cycle_weight, self.spread_weight)
        coordinates = table_coordinates(features.source, features.translated, sums, self.sums, table.shape)
        return map_coordinates(table, np.stack(coordinates), order=1, mode="nearest")

    def to_json(self) -> dict[str, Any]:
        """Return the calibration in JSON's types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Calibration":
        """Return the calibration that `to_json` gave, of this or an earlier release.

        Raises KeyError, TypeError or ValueError where it is damaged.
        """
        if "knots" in content:  # of releases whose map took the weighted sum alone: (sum, error), rising
            sums, errors = np.array(content["knots"], dtype=float).T
            errors = np.broadcast_to(errors, (2, 2, len(sums)))
        else:
            sums, errors = np.array(content["sums"], dtype=float), np.array(content["errors"], dtype=float)
        if errors.ndim != 3 or errors.shape[2] != len(sums) or not errors.size or not np.isfinite(errors).all():
            raise ValueError("not a table of errors")
        if not np.isfinite(sums).all() or (np.diff(sums) < 0).any():
            raise ValueError("sums that do not rise")
        return cls(
            cycle_weight=float(content["cycle_weight"]),
            spread_weight=float(content["spread_weight"]),
            sums=tuple(sums.tolist()),
            errors=nested_tuples(errors),
            subjects=int(content["subjects"]),
            voxels=int(content["voxels"]),
        )


def weighted_sums(features: Features, cycle_weight: float, spread_weight: float) -> np.ndarray:
    """Return the weighted sums of cycle error and spread, in their shape."""
    spread = spread_weight * features.spread
    return spread if features.cycle is None else spread + cycle_weight * features.cycle


def table_coordinates(
    source: np.ndarray, translated: np.ndarray, sums: np.ndarray, table_sums: Sequence[float], shape: Sequence[int]
) -> list[np.ndarray]:
    """Return where voxels lie in a calibration's table of a shape, axis by axis, in units of its entries.

    `sums` are the voxels' weighted sums, `table_sums` those that the table has entries at.
    """
    intensities = [
        (image.clip(-1, 1) + 1) * ((levels - 1) / 2)
        for image, levels in zip((source, translated), shape[:2], strict=True)
    ]
    return [*intensities, np.interp(sums, table_sums, np.arange(len(table_sums)))]


def nested_tuples(errors: np.ndarray) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Return a table of errors (rows, columns, sums) as tuples."""
    return tuple(tuple(tuple(line) for line in plane) for plane in errors.tolist())


def uncertainty_features(
    slices: np.ndarray, translated: np.ndarray, sources: UncertaintySources, send: Send
) -> Features:
    """Return the features of a translation G(x), (N, H, W), of slices x, both in [-1, 1].

    Slices are (N, H, W), or (N, C, H, W) with the neighbours that the network sees. Translations go back each slice by
    itself, as in training.
    """
    source = slices if slices.ndim == 3 else slices[:, slices.shape[1] // 2]
    cycle = None if sources.inverse is None else _smoothed(np.abs(send(sources.inverse, translated[:, None]) - source))
    mean: np.ndarray = translated.astype(np.float32)
    count, squares = 1, np.zeros(translated.shape, np.float32)
    for version in _translation_versions(slices, sources, send):  # Welford 1962: one at a time, for volumes are large
        count += 1
        step = version - mean
        mean = mean + step / count
        squares += step * (version - mean)
    return Features(source, translated, cycle, _smoothed(np.sqrt(squares / count)))


def _translation_versions(slices: np.ndarray, sources: UncertaintySources, send: Send) -> Iterator[np.ndarray]:
    network = sources.forward
    yield send(network, slices[..., ::-1, :])[:, ::-1]  # left and right; of sagittal slices, front and back
    for shift in SHIFTS_PX:
        yield np.roll(send(network, np.roll(slices, (shift, shift), (-2, -1))), (-shift, -shift), (1, 2))
    if sources.single_network:
        return
    vary = _active_dropout if dropouts(network) else _sampled_style
    for sample in range(SAMPLES if has_own_spread(network) else 0):
        with vary(network, SEED + sample):
            version = send(network, slices)
        yield version
    for other in sources.others.values():
        yield send(other, slices)


def has_own_spread(network: nn.Module) -> bool:
    """Whether a network varies its translations by dropout or style; other checkpoints are not needed then."""
    return bool(dropouts(network)) or hasattr(network, "set_style")  # MUNIT


def dropouts(network: nn.Module) -> list[nn.Module]:
    """Return a network's dropout layers with a probability above 0."""
    return [layer for layer in network.modules() if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0]


def fused_error(expected: Sequence[np.ndarray], translated: Sequence[np.ndarray]) -> np.ndarray:
    """Return the expected error of several views' mean translation, from the expected error of each.

    It is the mean of the views' errors, but at least the SD of their translations: where views disagree, most are
    wrong. Averaging tends to lower errors, so this rather overestimates. It is 0 where every view expects 0, as outside
    the head. `expected` and `translated` hold (X, Y, Z) of each view, in the same unit.
    """
    if len(expected) == 1:
        return expected[0]
    mean = np.mean(expected, axis=0)
    return np.where(mean > 0, np.maximum(mean, np.std(translated, axis=0)), mean)


def _smoothed(slices: np.ndarray) -> np.ndarray:
    return gaussian_filter(slices, (0, SMOOTHING_PX, SMOOTHING_PX), output=np.float32)


@contextmanager
def _active_dropout(network: nn.Module, seed: int) -> Iterator[None]:
    devices = {weight.device for weight in network.parameters() if weight.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        try:
            for layer in dropouts(network):
                layer.train()
            yield
        finally:
            for layer in dropouts(network):
                layer.eval()


@contextmanager
def _sampled_style(network: Any, seed: int) -> Iterator[None]:
    style = network.style[0].clone()
    step = torch.randn(style.shape, generator=torch.Generator().manual_seed(seed)).to(style)
    try:
        network.set_style(style + STYLE_STEP * step)
        yield
    finally:
        network.set_style(style)
