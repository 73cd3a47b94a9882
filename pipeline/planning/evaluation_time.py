"""Estimated CPU time of registration and evaluation, for `--dry-run`.

The constants are seconds per million voxels of a prepared scan. They were measured on one core of a server of 2025,
on a pair of IXI's size (256×256×150 and 256×256×130 voxels).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
from nibabel.affines import voxel_sizes

from pipeline.config.schema import Config
from pipeline.data.case import Case, pairs
from pipeline.data.splits import CohortSplit
from transforms.registration import same_grid

READ_S = 0.15  # to read and prepare a scan, and to resample its partner onto its grid
REGISTER_S = 0.6  # a pair, by the voxels of one of its scans
DRAW_S = 0.2  # to write a translated scan, its mosaic and its volumes for the viewer
OWN_S = 0.24  # to compute and score one system's prediction in our own protocol
PUBLISHED_S: Mapping[str, float] = {"syndiff": 0.03, "selfrdb": 0.21, "reggan": 0.07}
SYSTEMS = 4  # the model and three baselines
LOOKUP_PAIRS = 8  # maximum of training pairs to which the lookup baseline is fitted

Grid = tuple[tuple[int, ...], np.ndarray]  # shape and affine


def cpu_work_text(
    config: Config, split: CohortSplit, grid_of: Callable[[Sequence[Case]], Grid], *, paired: bool = False
) -> str:
    """Return a line with the minutes to register the pairs and to evaluate the test subjects.

    Args:
        config: Configuration of the run.
        split: Subjects of training, validation and test.
        grid_of: Function of scans that returns the grid of the first one with a readable header.
        paired: Whether the method learns from registered pairs, so that every training pair is registered.
    """
    subsets = {
        "training": [case for cases in split.train.values() for case in cases],
        "validation": split.validation,
        "test": split.test,
    }

    # Count the pairs to register and the scans to evaluate.
    pairs_by_subset = {name: pairs(cases, config.contrasts) for name, cases in subsets.items()}
    test, held_out = pairs_by_subset["test"] or split.test, [*pairs_by_subset["validation"], *pairs_by_subset["test"]]
    processes = config.preprocess.processes or os.cpu_count() or 1
    if config.data.source == "images" or not (test or held_out):
        voxels, registrations = float(config.preprocess.size**2), 0
    else:
        voxels = _prepared_voxels(config, grid_of([*split.test, *split.validation]))
        needs_registration = config.evaluation.register_pairs and held_out and not _on_one_grid(held_out, grid_of)
        training_pairs = len(pairs_by_subset["training"])
        registrations = len(held_out) + (training_pairs if paired else min(LOOKUP_PAIRS, training_pairs))
        registrations = registrations if needs_registration else 0

    # Multiply by the measured seconds, and divide among the processes.
    million = voxels / 1e6
    scored = SYSTEMS * (OWN_S + sum(PUBLISHED_S[name] for name in config.evaluation.protocols)) + DRAW_S + READ_S
    scans = len(test) * (2 if pairs_by_subset["test"] else 1)
    registration_seconds = registrations * (REGISTER_S + 2 * READ_S) * million / min(processes, max(1, registrations))
    evaluation_seconds = scans * scored * million / min(processes, max(1, scans))
    return (
        f"CPU work   {_minutes(registration_seconds)} to register {registrations:,} pairs and "
        f"{_minutes(evaluation_seconds)} to evaluate {len(test):,} test subjects, in {processes} processes, "
        "besides the networks (estimate)"
    )


def _prepared_voxels(config: Config, grid: Grid) -> float:
    """Return the number of voxels of a scan after resampling."""
    (shape, affine), spacing = grid, config.preprocess.spacing_mm
    if spacing is None:
        return float(prod(shape[:3]))
    return prod(shape[:3]) * float(prod(voxel_sizes(affine))) / (spacing.in_plane**2 * spacing.through_plane)


def _on_one_grid(case_pairs: Sequence[tuple[Case, Case]], grid_of: Callable[[Sequence[Case]], Grid]) -> bool:
    """Whether the first pair's two scans share a grid; all other pairs are assumed to be alike."""
    first, second = (grid_of([pair[side] for pair in case_pairs]) for side in (0, 1))
    return same_grid(first[0], first[1], second[0], second[1])


def _minutes(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"some {round(seconds / 60):,} min"
