"""Validation while training: fixed slices of the validation subjects, their scores and their pictures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import nn

from pipeline.data.case import Case, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage, head_slices
from pipeline.data.pairs import PairReader, PreparedScan
from pipeline.inference.translator import translate_slices
from pipeline.metrics.baselines import histogram_quantiles
from pipeline.metrics.failure_detectors import Cohort, Translated, depth_layers, measure
from pipeline.metrics.similarity import DATA_RANGE, intensity_distance, mae, psnr, ssim
from pipeline.reporting.panels import SampleRow, sample_panel
from pipeline.reporting.tiles import RADIOLOGICAL, Tile
from pipeline.training.prepared_slices import prepared_slices
from pipeline.utils.console import warn
from pipeline.utils.errors import UserError
from transforms.slices import AXES, centre_fit, well_filled_slices


@dataclass(frozen=True)
class FixedSlices:
    """Some slices of one validation scan.

    Attributes:
        label: The subject.
        source: (K, H, W) in [-1, 1], as the network takes them.
        field_of_view: (h, w) before padding.
        foreground: (K, h, w) bool: of the real target, or of the source where there is none.
        real: (K, h, w) in [-1, 1], or None without pairs.
        head: (K, h, w) bool: of the source.
        pixel_mm: Height and width of a pixel.
    """

    label: str
    source: np.ndarray
    field_of_view: tuple[int, int]
    foreground: np.ndarray
    real: np.ndarray | None
    head: np.ndarray
    pixel_mm: tuple[float, float]

    @classmethod
    def from_arrays(cls, label: str, arrays: Mapping[str, np.ndarray]) -> "FixedSlices":
        """Make them of arrays by name, without "real" where there is none."""
        numbers = {name: tuple(arrays[name].tolist()) for name in ("field_of_view", "pixel_mm")}
        return cls(**{"real": None, **arrays, **numbers, "label": label})

    @cached_property
    def layers(self) -> np.ndarray:
        """(K, h, w): `pipeline.metrics.failure_detectors.depth_layers` of the source's head."""
        return depth_layers(self.head)

    def unpadded(self, slices: np.ndarray) -> np.ndarray:
        """Return (K, H, W) slices without their padding."""
        return centre_fit(slices, *self.field_of_view, fill=-1)


class Validation:
    """The validation subjects' fixed slices in both directions.

    Args:
        cases: The validation subjects' cases.
        contrasts: The two contrasts' names.
        scored_in_pairs: Whether a subject's contrasts may be compared; without, or without any pair among the cases,
            scores are those that need none.
        reader: Reads and registers.
        slices: How many slices to score in each direction, spread evenly over subjects.
        histograms: By contrast, the training cohort's foreground intensities over [-1, 1].
        cohorts: By contrast, what the detectors know of the training cohort; None leaves the detectors out.
        coverage: The range of the head that is trained on: slices beyond it are not scored.
        device: Where the networks are.
        precision: In which they compute: that in which they will translate; see
            `pipeline.inference.model.precision_of`.
        store: Folder that keeps the slices for the next start; None keeps none.
        processes: Worker processes that read and register what is not there; None for one per core.
        quiet: Whether to leave out the progress bar.

    Raises:
        UserError: there is no case, or none could be read.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        contrasts: tuple[str, str],
        *,
        scored_in_pairs: bool,
        reader: PairReader,
        slices: int,
        histograms: Mapping[str, Sequence[float]],
        device: torch.device,
        cohorts: Mapping[str, Cohort] | None = None,
        coverage: Coverage = FULL_COVERAGE,
        precision: str = "float32",
        store: Path | None = None,
        processes: int | None = 1,
        quiet: bool = False,
    ):
        self.contrasts, self.device, self.cohorts, self.precision = contrasts, device, cohorts, precision
        self.quantiles = {contrast: histogram_quantiles(histograms[contrast]) for contrast in contrasts}
        self.by_target: dict[str, list[FixedSlices]] = {contrast: [] for contrast in contrasts}
        found = pairs(cases, contrasts) if scored_in_pairs else []
        each = max(1, slices // max(1, len(found) or len(cases) // 2))
        settings = {"slices": each, "coverage": [coverage.axis, coverage.mm]}
        settings |= {} if store is None else reader.identity()
        how = {"store": store, "processes": processes, "quiet": quiet}
        for scan, sides in prepared_slices(found or cases, partial(_prepare, reader, each, coverage), settings, **how):
            if isinstance(sides, str):
                warn(f"warning: {sides}; left out of the validation")
                continue
            for case, arrays in zip((scan,) if isinstance(scan, Case) else scan, sides, strict=True):
                label = scan.name if isinstance(scan, Case) else case.subject
                self.by_target[self._other(case.contrast)].append(FixedSlices.from_arrays(label, arrays))
        if not all(self.by_target.values()):
            raise UserError(
                "no validation subject could be read, for the reasons above: restore them or, where nothing is trained "
                "yet, let others validate (split.validation, split.file)"
            )

    def scores(self, translators: Mapping[str, nn.Module]) -> dict[str, float]:
        """Return PSNR and SSIM by direction, inside the head, averaged over subjects; and "validation/score".

        The score is the mean PSNR of both directions; without pairs, minus the sum of cycle error and intensity
        distance. SSIM is not used to choose: an untrained network that copies its input already has a fair one.

        With `cohorts` there are the detectors' values too, "detectors/<direction>/<name>", which use no pairs.
        """
        metrics: dict[str, list[float]] = {}
        watched: dict[str, float] = {}
        for target, sets in self.by_target.items():
            way = f"{self._other(target)}_to_{target}"
            direction, scans = f"validation/{way}", []
            for fixed in sets:
                translated = self._translate(fixed.source, translators[target])
                scans.append(_translated(fixed, translated))
                if fixed.real is None:
                    back = self._translate(translated, translators[self._other(target)])
                    prediction = fixed.unpadded(translated)[fixed.foreground]
                    found = {
                        "cycle_error": mae(fixed.unpadded(back), fixed.unpadded(fixed.source), fixed.foreground),
                        "intensity_distance": intensity_distance(prediction, self.quantiles[target]),
                    }
                else:
                    found = _similarity(fixed.unpadded(translated), fixed.real, fixed.foreground)
                for name, value in found.items():
                    metrics.setdefault(f"{direction}/{name}", []).append(value)
            if self.cohorts is not None:
                values = measure(scans, self.cohorts[self._other(target)], self.cohorts[target])
                watched |= {f"detectors/{way}/{name}": value for name, value in values.items()}
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        gains = [value for name, value in means.items() if name.endswith("/psnr")]
        losses = [value for name, value in means.items() if name.endswith(("/cycle_error", "/intensity_distance"))]
        return {**means, **watched, "validation/score": float(np.mean(gains)) if gains else -sum(losses) / 2}

    def panels(self, translators: Mapping[str, nn.Module], rows: int, *, oriented: bool) -> dict[str, Tile]:
        """Draw, by target, `rows` fixed slices as input | translated | real target | error.

        Args:
            translators: By target contrast.
            rows: Slices a picture.
            oriented: Whether left and right are known (volumes), so that the caption may speak of them.
        """
        drawn = {}
        for target, sets in self.by_target.items():
            source = self._other(target)
            spread = [
                (fixed, index) for index in range(len(sets[0].source)) for fixed in sets if index < len(fixed.source)
            ]
            chosen = [spread[round(place)] for place in np.linspace(0.1, 0.9, rows) * (len(spread) - 1)]
            sample_rows = [self._sample(fixed, index, target, translators) for fixed, index in chosen]
            footer = RADIOLOGICAL if oriented else ""
            drawn[target] = sample_panel(sample_rows, source=source, target=target, footer=footer)
        return drawn

    def _sample(self, fixed: FixedSlices, index: int, target: str, translators: Mapping[str, nn.Module]) -> SampleRow:
        source = fixed.source[index : index + 1]
        translated = self._translate(source, translators[target])
        back = None
        if fixed.real is None:
            back = fixed.unpadded(self._translate(translated, translators[self._other(target)]))[0]
        return SampleRow(
            source=fixed.unpadded(source)[0],
            translated=fixed.unpadded(translated)[0],
            real=None if fixed.real is None else fixed.real[index],
            reconstructed=back,
            label=fixed.label,
        )

    def _translate(self, slices: np.ndarray, network: nn.Module) -> np.ndarray:
        with evaluating(network):
            return translate_slices(
                slices,
                network,
                np.ones(len(slices), bool),
                device=self.device,
                batch_size=8,
                precision=self.precision,
                name="a validation slice",
            )

    def _other(self, contrast: str) -> str:
        first, second = self.contrasts
        return second if contrast == first else first


def _similarity(prediction: np.ndarray, real: np.ndarray, foreground: np.ndarray) -> dict[str, float]:
    """Return PSNR over the slices' foreground together, and the mean of their 2D SSIM there."""
    similar = [ssim(*one[:2], DATA_RANGE, one[2]) for one in zip(prediction, real, foreground, strict=True)]
    return {"psnr": psnr(prediction, real, DATA_RANGE, foreground), "ssim": float(np.mean(similar))}


def _prepare(
    reader: PairReader, count: int, coverage: Coverage, scan: Case | tuple[Case, Case]
) -> list[dict[str, np.ndarray]]:
    """Return the arrays of `FixedSlices` of a scan, or of both scans of a pair, the first as source first.

    Raises:
        UserError: it cannot be used.
    """
    if isinstance(scan, Case):
        alone = reader.scan(scan.path)
        return [_choose(alone, alone.foreground, None, count, coverage)]
    return [_choose(view.source, view.foreground, view.real, count, coverage) for view in reader.read(scan)[:2]]


def _choose(
    scan: PreparedScan, foreground: np.ndarray, real: np.ndarray | None, count: int, coverage: Coverage
) -> dict[str, np.ndarray]:
    """Return `count` slices spread evenly over those with a fair share of head in the range that is trained on.

    As arrays of `FixedSlices`.

    Raises:
        UserError: there is none.
    """
    occupied = well_filled_slices(foreground)
    occupied = occupied[coverage.select(occupied, head_slices(scan.foreground), scan.spacing_mm[0])]
    if len(occupied) == 0:
        raise UserError(f"{scan.name}: shows nothing of the range trained on, {coverage}")
    index = np.unique(occupied[np.linspace(0, len(occupied) - 1, count).round().astype(int)])
    arrays = {
        "source": scan.slices[index],
        "field_of_view": np.array(scan.field_of_view),
        "foreground": foreground[index],
        "head": scan.foreground[index],
        "pixel_mm": np.delete(voxel_sizes(scan.affine), AXES[scan.axis]),
    }
    return arrays if real is None else {**arrays, "real": real[index]}


def _translated(fixed: FixedSlices, translation: np.ndarray) -> Translated:
    """Return a translation, still padded, as the detectors take it."""
    unpadded = (fixed.unpadded(fixed.source), fixed.unpadded(translation))
    return Translated(*unpadded, fixed.head, fixed.layers, fixed.pixel_mm)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and back as it was."""
    modes = {module: module.training for module in network.modules()}  # parts may be shared with other networks
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def save_sample(folder: Path, direction: str, epoch: int, panel: Tile) -> Path:
    """Write a sample panel where the training GIF finds it, and return its path."""
    from pipeline.reporting.tiles import save_png

    path = folder / direction / f"epoch-{epoch:05d}.png"
    save_png(panel, path)
    return path
