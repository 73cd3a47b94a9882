"""Validation while training: fixed slices of the validation subjects, their scores and their pictures."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from networks.lookup_start import LookupStart, start_alone, start_of
from pipeline.data.case import Case, other_contrast, pairs
from pipeline.data.coverage import FULL_COVERAGE, Coverage
from pipeline.data.pairs import PairReader
from pipeline.data.slice_cache import CacheOptions
from pipeline.inference.slice_translator import Forward, forward_eagerly, translate_slices
from pipeline.metrics.baselines import histogram_quantiles
from pipeline.metrics.failure_detectors import Cohort, measure
from pipeline.metrics.hidden_information import hidden_information
from pipeline.metrics.similarity import SSIM_WINDOW, intensity_distance, mae
from pipeline.reporting.panels import SampleRow, sample_panel
from pipeline.reporting.tiles import RADIOLOGICAL, Tile
from pipeline.training.fixed_slices import FixedSlices, cycled_with_noise, detector_input
from pipeline.training.prepared_slices import Arrays, Scan, prepare_scan_slices, prepared_slices
from pipeline.training.validation_scores import direction_score, scan_score, scan_similarity
from pipeline.utils.errors import UserError
from transforms.neighbours import NO_NEIGHBOURS, Neighbours
from transforms.slices import evenly_spread

logger = logging.getLogger(__name__)
CORRECTION_SHARES = (0.25, 0.5, 0.75, 1.0)  # of which the best is chosen
BOX_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # likewise


class Validation:
    """The validation subjects' fixed slices in both directions.

    Args:
        scored_in_pairs: Whether a subject's contrasts may be compared; if not, or if there are no pairs, scores are
            those that need no pairs.
        slices: Number of slices to score in each direction, spread evenly over subjects.
        neighbours: Which slices on either side of a slice the networks see, too.
        histograms: Histogram of the training cohort's foreground over [-1, 1], by contrast.
        cohorts: Statistics of the training cohort for the detectors, by contrast.
        coverage: Range of the head that is trained on; slices beyond it are not scored.
        precision: Precision of the networks, that of translation; see `pipeline.inference.model.precision_on`.
        cache: The slice cache, and how new scans are read and registered.

    Raises:
        UserError: there are no cases, none could be read and scored, or one could not and the cache's `on_bad_volume`
            is "stop".
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
        cohorts: Mapping[str, Cohort],
        cache: CacheOptions,
        neighbours: Neighbours = NO_NEIGHBOURS,
        coverage: Coverage = FULL_COVERAGE,
        precision: str = "float32",
    ):
        self.contrasts, self.device, self.cohorts, self.precision = contrasts, device, cohorts, precision
        self.quantiles = {contrast: histogram_quantiles(histograms[contrast]) for contrast in contrasts}
        self.by_target: dict[str, list[FixedSlices]] = {contrast: [] for contrast in contrasts}
        self._unscored: set[str] = set()  # directions that were warned of
        scan_pairs = pairs(cases, contrasts) if scored_in_pairs else []
        sides = [[case for case in cases if case.contrast == contrast] for contrast in contrasts]
        for group in [scan_pairs] if scan_pairs else sides:
            # Of pictures there may be more than `slices`.
            scans = [group[index] for index in evenly_spread(len(group), slices)]
            slices_per_scan = max(1, slices // max(1, len(scans)))
            settings = {"slices": slices_per_scan, "coverage": [coverage.axis, coverage.mm], **reader.identity()}
            settings |= {"neighbours": asdict(neighbours)} if neighbours.channels > 1 else {}
            prepare = partial(prepare_scan_slices, reader, slices_per_scan, neighbours, coverage)
            for scan, images in prepared_slices(scans, prepare, settings, cache):
                problems = [images] if isinstance(images, str) else self._add(scan, images)
                for problem in problems:
                    if cache.on_bad_volume == "stop":
                        raise UserError(f"{problem} (preprocess.on_bad_volume: skip would validate without it)")
                    logger.warning(f"{problem}; left out of the validation")
        if not all(self.by_target.values()):
            raise UserError(
                "no validation subject could be scored, for the reasons above: mend them or, where nothing is trained "
                "yet, let others validate (split.validation, split.file)"
            )

    def _add(self, scan: Scan, images: Sequence[Arrays]) -> list[str]:
        """Keep the slices of a scan or pair; return why some of them cannot be scored."""
        problems = []
        for case, arrays in zip((scan,) if isinstance(scan, Case) else scan, images, strict=True):
            label, target = scan.name if isinstance(scan, Case) else case.subject, self._other(case.contrast)
            fixed = FixedSlices.from_arrays(label, arrays)
            height, width = fixed.foreground.shape[1:]
            if fixed.real is not None and min(height, width) < SSIM_WINDOW:
                size = f"slices of {height}x{width} pixels are too small for SSIM"
                causes = "preprocess.axis and preprocess.spacing_mm decide their size"
                problems.append(f"{case.path}: {size}, which validates by {SSIM_WINDOW} a side ({causes})")
            elif fixed.foreground.any():
                self.by_target[target].append(fixed)
            else:
                problems.append(f"{case.path}: shows no head to score {target} in")
        return problems

    def scores(self, translators: Mapping[str, nn.Module]) -> dict[str, float]:
        """Return PSNR and SSIM by direction, inside the head, averaged over subjects; and "validation/score".

        That is the mean of both directions' `direction_score`. The metrics include the detectors' values,
        "detectors/<direction>/<name>", which need no pairs.
        """
        metrics: dict[str, list[float]] = {}
        detector_values: dict[str, float] = {}
        for target, fixed_scans in self.by_target.items():
            direction = f"{self._other(target)}_to_{target}"
            prefix, translations = f"validation/{direction}", []
            # Translate every scan, and score it against the real target or, without pairs, by its cycle.
            for fixed in fixed_scans:
                translated = self._translate(fixed.input, translators[target])
                translations.append(translated)
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
                    scan_scores = scan_similarity(fixed.unpadded(translated), fixed.real, fixed.foreground)
                for name, value in scan_scores.items():
                    metrics.setdefault(f"{prefix}/{name}", []).append(value)
            # Measure what the failure checks need of a direction.
            pairs_of_slices = list(zip(fixed_scans, translations, strict=True))
            detector_inputs = [detector_input(fixed, translated) for fixed, translated in pairs_of_slices]
            values = measure(detector_inputs, self.cohorts[self._other(target)], self.cohorts[target])
            inverse = partial(self._translate, network=translators[self._other(target)])
            values |= hidden_information(cycled_with_noise(pairs_of_slices, inverse))
            detector_values |= {f"detectors/{direction}/{name}": value for name, value in values.items()}

        # Average over subjects, and make one score of both directions.
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        scores = {target: direction_score(means, f"{self._other(target)}_to_{target}") for target in self.by_target}
        for target, score in scores.items():
            if math.isnan(score):
                self._warn_unscored(target)
        return {**means, **detector_values, "validation/score": float(np.mean([*scores.values()]))}

    def choose_box_shares(self, translators: Mapping[str, nn.Module]) -> dict[str, float]:
        """Set the best `box_share` of each translator that starts from the box, if there are pairs to judge by.

        Returns:
            The chosen shares by direction, such as "T1 → T2".
        """
        chosen: dict[str, float] = {}
        for target, start, scans in self._starts(translators):
            if start.box is not None:
                translate = partial(self._translate, network=start, run=start_alone)
                best = self._choose_share(target, scans, start.box_share, BOX_SHARES, translate, translate)
                chosen |= {} if best is None else {f"{self._other(target)} → {target}": best}
        return chosen

    def choose_correction_shares(self, translators: Mapping[str, nn.Module]) -> dict[str, float]:
        """Set the best `correction_share` of each translator that corrects a start, if there are pairs to judge by.

        A share whose score is NaN is never chosen; where all are, the translator keeps the share that it has.

        Returns:
            The shares as metrics, "validation/<direction>/correction_share".
        """
        metrics = {}
        for target, start, scans in self._starts(translators):
            begin = partial(self._translate, network=start, run=start_alone)
            correct = partial(self._translate, network=translators[target])
            best = self._choose_share(target, scans, start.correction_share, CORRECTION_SHARES, begin, correct)
            if best is not None:
                metrics[f"validation/{self._other(target)}_to_{target}/correction_share"] = best
        return metrics

    def _starts(self, translators: Mapping[str, nn.Module]) -> Iterator[tuple[str, LookupStart, list[FixedSlices]]]:
        """Yield each target contrast whose translator corrects a start, that part of it, and the scans with pairs."""
        for target, network in translators.items():
            start, scans = start_of(network), [fixed for fixed in self.by_target[target] if fixed.real is not None]
            if start is not None and scans:
                yield target, start, scans

    def _choose_share(
        self,
        target: str,
        scans: Sequence[FixedSlices],
        share: Tensor,
        shares: Sequence[float],
        translate_at_0: Callable[[np.ndarray], np.ndarray],
        translate_at_1: Callable[[np.ndarray], np.ndarray],
    ) -> float | None:
        """Set a share, one of `shares`, to the one whose translations score best; None without a score: it stays."""
        present_share = float(share)
        share.fill_(0.0)
        first = [translate_at_0(fixed.input) for fixed in scans]
        share.fill_(1.0)
        second = [translate_at_1(fixed.input) for fixed in scans]
        scores = []
        for candidate in shares:
            means = [(1 - candidate) * low + candidate * high for low, high in zip(first, second, strict=True)]
            scores.append(np.mean([scan_score(*each) for each in zip(scans, means, strict=True)]))
        best = None if np.isnan(scores).all() else shares[int(np.nanargmax(scores))]
        if best is None:
            self._warn_unscored(target)
        share.fill_(present_share if best is None else best)
        return best

    def panels(self, translators: Mapping[str, nn.Module], rows: int, *, oriented: bool) -> dict[str, Tile]:
        """Draw `rows` fixed slices as input | translated | real target | error, by target.

        The caption names left and right where they are known, in `oriented` data (volumes).
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

    def _translate(self, slices: np.ndarray, network: nn.Module, run: Forward = forward_eagerly) -> np.ndarray:
        """Translate single slices (K, H, W), as translations are, or what a network takes, (K, C, H, W)."""
        with evaluating(network):
            return translate_slices(
                slices if slices.ndim == 4 else slices[:, None],
                network,
                device=self.device,
                batch_size=8,
                precision=self.precision,
                name="a validation slice",
                run=run,
            )

    def _warn_unscored(self, target: str) -> None:
        """Warn, once, that the translations to a contrast have no score."""
        if target not in self._unscored:
            self._unscored.add(target)
            direction = f"{self._other(target)} → {target}"
            logger.warning(
                f"validation: the score of {direction} is not a number, so nothing is chosen by it; "
                "look for values that are no numbers in the validation subjects' scans, or let others validate "
                "(split.validation, split.file)"
            )

    def _other(self, contrast: str) -> str:
        return other_contrast(self.contrasts, contrast)


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
