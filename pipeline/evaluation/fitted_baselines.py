"""The baselines that stand beside a model in its evaluation, fitted to the training subjects."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from pipeline.data.case import Case
from pipeline.data.pairs import PairReader, read_or_reason
from pipeline.metrics.baselines import (
    Baseline,
    Baselines,
    copy_input,
    fit_lookup,
    look_up,
    look_up_in_context,
    match_histogram,
)
from pipeline.metrics.names import CONTEXT, COPY, HISTOGRAM
from pipeline.utils.console import progress
from pipeline.utils.workers import WorkerPool
from transforms.context_lookup import ContextTable

logger = logging.getLogger(__name__)
MAX_LOOKUP_PAIRS = 8  # more change a table of 128 entries little, and each may cost a registration
VOXEL_STEP = 4  # for the lookup every fourth voxel of the head is plenty, and eight heads fit into memory


def unpaired_baselines(
    quantiles: Mapping[str, np.ndarray], context_tables: Mapping[str, ContextTable]
) -> dict[str, Baselines]:
    """Return the baselines that need no pair, by target contrast and name.

    Args:
        quantiles: Quantiles of the training cohort's intensities by contrast.
        context_tables: The context lookup by target contrast; where there is none, that baseline is left out.
    """
    baselines: dict[str, Baselines] = {
        contrast: {COPY: copy_input, HISTOGRAM: partial(match_histogram, target_quantiles=values)}
        for contrast, values in quantiles.items()
    }
    for contrast, table in context_tables.items():
        baselines[contrast][CONTEXT] = partial(look_up_in_context, table=table)
    return baselines


def paired_lookups(
    training_pairs: Sequence[tuple[Case, Case]],
    contrasts: tuple[str, str],
    reader: PairReader,
    workers: WorkerPool,
    *,
    quiet: bool,
) -> tuple[dict[str, Baseline], str]:
    """Fit the lookup of intensities to training pairs; return it by target contrast, and a note about it.

    Without a readable pair there is none. A pair that cannot be read costs a warning.
    """
    fitting_pairs = training_pairs[:: max(1, -(-len(training_pairs) // MAX_LOOKUP_PAIRS))]
    voxels = []
    results = workers.imap(_training_voxels, [(reader, pair) for pair in fitting_pairs], workers.processes)
    pairs_with_bar = progress(fitting_pairs, title="lookup", unit="pair", quiet=quiet or not fitting_pairs)
    for pair, intensities in zip(pairs_with_bar, results, strict=True):
        if isinstance(intensities, str):
            logger.warning(f"{pair[0].subject}: {intensities}; left out of the lookup's training pairs")
        else:
            voxels.append(intensities)
    if not voxels:
        return {}, "no training subject has both contrasts, so there is no lookup"
    lookups: dict[str, Baseline] = {}
    for to, contrast in enumerate(contrasts):
        table = fit_lookup((intensities[1 - to], intensities[to]) for intensities in voxels)
        lookups[contrast] = partial(look_up, table=table)
    return lookups, (
        f"the lookup was fitted on {len(voxels)} training pairs; a model that trains without pairs never sees them"
    )


def _training_voxels(reader: PairReader, pair: tuple[Case, Case]) -> tuple[np.ndarray, np.ndarray] | str:
    """Return a training pair's intensities voxel by voxel in the head, or the reason why it cannot be used."""
    result = read_or_reason(reader.read, pair)
    if isinstance(result, str):
        return result
    view, _, _ = result
    region = view.source.foreground & view.foreground
    return view.source.stack[region][::VOXEL_STEP].copy(), view.real[region][::VOXEL_STEP].copy()
