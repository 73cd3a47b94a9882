"""A style taken from a reference volume, for models that have styles (MUNIT)."""

from pathlib import Path

import numpy as np
import torch

from pipeline.data.pairs import prepare_scan
from pipeline.inference.model import TranslationModel
from pipeline.utils.console import warnings_as_lines
from pipeline.utils.errors import UserError, first_cause

MIN_HEAD_SHARE = 0.25  # of the fullest slice's head; slices with less were not trained on and have odd styles


def use_style_of(reference: Path, model: TranslationModel, to: str) -> None:
    """Set a model's style to that of a volume: the mean of its slices' styles, the same for all slices.

    Args:
        reference: A NIfTI volume of the contrast `to`, of any subject.
        model: The model, changed in place. The style of its other direction stays.
        to: The contrast to make.

    Raises:
        UserError: the volume cannot be used, or the model has no styles.
    """
    network = model.translators[to]
    if not hasattr(network, "encode_style"):
        raise UserError(
            f"{model.origin}: it has no styles to set; --style is for method munit, from a run's folder or a checkpoint"
        )
    with warnings_as_lines():
        scan = prepare_scan(reference, model.settings, model.stride)
    head = scan.foreground.mean(axis=(1, 2))
    slices = np.ascontiguousarray(scan.slices[head >= MIN_HEAD_SHARE * head.max()], dtype=np.float32)
    try:
        network.set_style(network.encode_style(torch.from_numpy(slices)[:, None].to(model.device)))
    except (ValueError, RuntimeError) as error:  # what the model's weights make of it, or the device's memory
        raise UserError(f"{reference}: no style can be taken from it: {first_cause(error)}") from error
