"""Validation while training: fixed slices of the validation subjects, their scores and their pictures."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.data.case import Case, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage
from pipeline.data.pairs import PairReader
from pipeline.inference.slice_translator import translate_slices
from pipeline.metrics.baselines import histogram_quantiles
from pipeline.metrics.failure_detectors import Cohort, Translated, depth_layers, measure
from pipeline.metrics.similarity import DATA_RANGE, intensity_distance, mae, psnr, ssim
from pipeline.reporting.panels import SampleRow, sample_panel
from pipeline.reporting.tiles import RADIOLOGICAL, Tile
from pipeline.training.prepared_slices import prepare_scan_slices, prepared_slices
from pipeline.utils.errors import UserError
from transforms.slices import centre_fit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FixedSlices:
    """The chosen slices of one validation scan.

    Attributes:
        label: Name of the subject.
        source: (K, H, W) in [-1, 1], as the network takes them.
        field_of_view: (h, w) of a slice before padding.
        foreground: (K, h, w) bool, of the real target, or of the source without pairs.
        real: (K, h, w) in [-1, 1], or None without pairs.
        head: (K, h, w) bool, the source's foreground.
        pixel_mm: Height and width of a pixel in mm.
        stacks: (K, C, H, W), the slices with their neighbours, or None where the networks see none.
    """

    label: str
    source: np.ndarray
    field_of_view: tuple[int, int]
    foreground: np.ndarray
    real: np.ndarray | None
    head: np.ndarray
    pixel_mm: tuple[float, float]
    stacks: np.ndarray | None = None

    @classmethod
    def from_arrays(cls, label: str, arrays: Mapping[str, np.ndarray]) -> "FixedSlices":
        """Make an instance from arrays by field name; "real" and "stacks" may be missing."""
        return cls(
            label=label,
            source=arrays["source"],
            field_of_view=tuple(arrays["field_of_view"].tolist()),
            foreground=arrays["foreground"],
            real=arrays.get("real"),
            head=arrays["head"],
            pixel_mm=tuple(arrays["pixel_mm"].tolist()),
            stacks=arrays.get("stacks"),
        )

    @property
    def input(self) -> np.ndarray:
        """(K, C, H, W), what the networks take: the slices, with their neighbours where there are any."""
        return self.source[:, None] if self.stacks is None else self.stacks

    @cached_property
    def layers(self) -> np.ndarray:
        """(K, h, w), `pipeline.metrics.failure_detectors.depth_layers` of the source's head."""
        return depth_layers(self.head)

    def unpadded(self, slices: np.ndarray) -> np.ndarray:
        """Return (K, H, W) slices without their padding."""
        return centre_fit(slices, *self.field_of_view, fill=-1)


class Validation:
    """The validation subjects' fixed slices in both directions.

    Args:
        cases: The validation subjects' cases.
        contrasts: Names of the two contrasts.
        scored_in_pairs: Whether a subject's contrasts may be compared; if not, or if there are no pairs, scores are
            those that need no pairs.
        reader: Reads and registers.
        slices: Number of slices to score in each direction, spread evenly over subjects.
        neighbours: Number of slices on either side that the networks see, too.
        histograms: Histogram of the training cohort's foreground over [-1, 1], by contrast.
        cohorts: Statistics of the training cohort for the detectors, by contrast; None leaves the detectors out.
        coverage: Range of the head that is trained on; slices beyond it are not scored.
        device: Device of the networks.
        precision: Precision of the networks, that of translation; see `pipeline.inference.model.precision_on`.
        store: Folder of the slice cache; None keeps no slices.
        processes: Number of worker processes that read and register new scans; None for one per core.
        quiet: Whether to hide the progress bar.

    Raises:
        UserError: there are no cases, or none could be read.
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
        neighbours: int = 0,
        coverage: Coverage = FULL_COVERAGE,
        precision: str = "float32",
        store: Path | None = None,
        processes: int | None = 1,
        quiet: bool = False,
    ):
        self.contrasts, self.device, self.cohorts, self.precision = contrasts, device, cohorts, precision
        self.quantiles = {contrast: histogram_quantiles(histograms[contrast]) for contrast in contrasts}
        self.by_target: dict[str, list[FixedSlices]] = {contrast: [] for contrast in contrasts}
        scan_pairs = pairs(cases, contrasts) if scored_in_pairs else []
        slices_per_scan = max(1, slices // max(1, len(scan_pairs) or len(cases) // 2))
        settings = {"slices": slices_per_scan, "coverage": [coverage.axis, coverage.mm]}
        settings |= {} if store is None else reader.identity()
        settings |= {"neighbours": neighbours} if neighbours else {}
        prepare = partial(prepare_scan_slices, reader, slices_per_scan, neighbours, coverage)
        prepared = prepared_slices(
            scan_pairs or cases, prepare, settings, store=store, processes=processes, quiet=quiet
        )
        for scan, images in prepared:
            if isinstance(images, str):
                logger.warning(f"{images}; left out of the validation")
                continue
            for case, arrays in zip((scan,) if isinstance(scan, Case) else scan, images, strict=True):
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
        distance. SSIM is not part of the score: an untrained network that copies its input already has a fair SSIM.

        With `cohorts` the metrics include the detectors' values, "detectors/<direction>/<name>", which need no pairs.
        """
        metrics: dict[str, list[float]] = {}
        detector_values: dict[str, float] = {}
        for target, fixed_scans in self.by_target.items():
            direction = f"{self._other(target)}_to_{target}"
            prefix, detector_inputs = f"validation/{direction}", []
            # Translate every scan, and score it against the real target or, without pairs, by its cycle.
            for fixed in fixed_scans:
                translated = self._translate(fixed.input, translators[target])
                detector_inputs.append(_detector_input(fixed, translated))
                if fixed.real is None:
                    reconstructed = self._translate(translated, translators[self._other(target)])
                    prediction = fixed.unpadded(translated)[fixed.foreground]
                    scan_scores = {
                        "cycle_error": mae(
                            fixed.unpadded(reconstructed), fixed.unpadded(fixed.source), fixed.foreground
                        ),
                        "intensity_distance": intensity_distance(prediction, self.quantiles[target]),
                    }
                else:
                    scan_scores = _similarity(fixed.unpadded(translated), fixed.real, fixed.foreground)
                for name, value in scan_scores.items():
                    metrics.setdefault(f"{prefix}/{name}", []).append(value)
            # Measure what the failure checks need of a direction.
            if self.cohorts is not None:
                values = measure(detector_inputs, self.cohorts[self._other(target)], self.cohorts[target])
                detector_values |= {f"detectors/{direction}/{name}": value for name, value in values.items()}

        # Average over subjects, and make one score of both directions.
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        gains = [value for name, value in means.items() if name.endswith("/psnr")]
        losses = [value for name, value in means.items() if name.endswith(("/cycle_error", "/intensity_distance"))]
        return {**means, **detector_values, "validation/score": float(np.mean(gains)) if gains else -sum(losses) / 2}

    def panels(self, translators: Mapping[str, nn.Module], rows: int, *, oriented: bool) -> dict[str, Tile]:
        """Draw `rows` fixed slices as input | translated | real target | error, by target.

        Args:
            translators: Networks by target contrast.
            rows: Number of slices in a picture.
            oriented: Whether left and right are known (volumes), so that the caption may name them.
        """
        panels = {}
        for target, fixed_scans in self.by_target.items():
            source = self._other(target)
            candidates = [
                (fixed, index)
                for index in range(len(fixed_scans[0].source))
                for fixed in fixed_scans
                if index < len(fixed.source)
            ]
            chosen = [candidates[round(position)] for position in np.linspace(0.1, 0.9, rows) * (len(candidates) - 1)]
            sample_rows = [self._sample(fixed, index, target, translators) for fixed, index in chosen]
            footer = RADIOLOGICAL if oriented else ""
            panels[target] = sample_panel(sample_rows, source=source, target=target, footer=footer)
        return panels

    def _sample(self, fixed: FixedSlices, index: int, target: str, translators: Mapping[str, nn.Module]) -> SampleRow:
        source = fixed.source[index : index + 1]
        translated = self._translate(fixed.input[index : index + 1], translators[target])
        reconstructed = None
        if fixed.real is None:
            reconstructed = fixed.unpadded(self._translate(translated, translators[self._other(target)]))[0]
        return SampleRow(
            source=fixed.unpadded(source)[0],
            translated=fixed.unpadded(translated)[0],
            real=None if fixed.real is None else fixed.real[index],
            reconstructed=reconstructed,
            label=fixed.label,
        )

    def _translate(self, slices: np.ndarray, network: nn.Module) -> np.ndarray:
        """Translate single slices (K, H, W), as translations are, or what a network takes, (K, C, H, W)."""
        with evaluating(network):
            return translate_slices(
                slices if slices.ndim == 4 else slices[:, None],
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
    """Return PSNR over the foreground of all slices, and the mean of the slices' 2D SSIM there."""
    ssims = [ssim(*arrays[:2], DATA_RANGE, arrays[2]) for arrays in zip(prediction, real, foreground, strict=True)]
    return {"psnr": psnr(prediction, real, DATA_RANGE, foreground), "ssim": float(np.mean(ssims))}


def _detector_input(fixed: FixedSlices, translation: np.ndarray) -> Translated:
    """Return a padded translation as input of the detectors."""
    images = (fixed.unpadded(fixed.source), fixed.unpadded(translation))
    return Translated(*images, fixed.head, fixed.layers, fixed.pixel_mm)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode within the block, then restore its modes."""
    modes = {module: module.training for module in network.modules()}  # submodules may be shared with other networks
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
