"""A style taken from a reference volume, for models that have styles (MUNIT)."""

from pathlib import Path

import torch

from pipeline.errors import UserError
from pipeline.model import TranslationModel
from pipeline.pairing import prepare_scan


def use_style_of(reference: Path, model: TranslationModel, to: str) -> None:
    """Have a model translate in the style of a volume: the mean of its slices' styles, one for whole volumes.

    Args:
        reference: A NIfTI volume of the contrast `to`, of anyone.
        model: Changed in place.
        to: The contrast to make.

    Raises:
        UserError: the volume cannot be used, or the model has no styles.
    """
    network = model.translators[to]
    if not hasattr(network, "encode_style"):
        raise UserError(
            f"{model.origin}: it has no styles to set; --style is for method munit, from a run's folder or a checkpoint"
        )
    scan = prepare_scan(reference, model.settings, model.stride)
    slices = torch.from_numpy(scan.slices[scan.occupied])[:, None].to(model.device)
    try:
        network.set_style(network.encode_style(slices))
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{reference}: no style can be taken from it: {error}") from error
