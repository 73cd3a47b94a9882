"""What an exported file says of its model: for people, and for `pipeline.translate`, which takes the file back."""

import json
from typing import Any, cast

from torch import Tensor, nn

from pipeline import __version__
from pipeline.inference.model import TranslationModel
from pipeline.inference.runtimes import RECORD, RECORD_FORMAT
from pipeline.inference.slice_translator import neighbours_of
from transforms.neighbours import Neighbours

NOTICE = "Not for clinical use: a translation can lose or invent structures."
UNCERTAINTY_LOST = "uncertainty maps (--uncertainty): they need the networks of the run, and its calibration"
DIRECTION_LOST = "the other direction: one file holds the network of one"
CHECKS_LOST = "preprocessing and the checks of a volume against the training cohort: "
BY_OTHERS = {  # whether `pipeline.translate` takes the file back
    True: "pipeline.translate does both for this file, other programs have to themselves",
    False: "other programs have to do both themselves, and pipeline.translate does not take this format",
}
STYLE_LOST = "the style encoder: a style is an input of the graph, but none is taken from a volume (--style)"


def model_record(model: TranslationModel, to: str) -> dict[str, Any]:
    """Return in JSON's types what `pipeline.inference.model.load_model` needs of a model beside its network."""
    style = style_of(model.translators[to])
    return {
        "format": RECORD_FORMAT,
        **model.metadata(to),
        "identity": model.identity(to),
        **({} if style is None else {"style": style[0].tolist()}),
    }


def file_metadata(model: TranslationModel, to: str) -> dict[str, str]:
    """Return what a file is to say of its model: sentences for people, and the record in JSON under `RECORD`."""
    target, source = model.statistics[to], model.source(to)
    neighbours = neighbours_of(model.translators[to])
    channels = neighbours.channels
    return {
        "notice": NOTICE,
        "version": f"contrast-translation {__version__}",
        "translates": f"{source} to {to}",
        "model": f"{model.origin}, weights {model.identity(to)}",
        "input": f"image (batch, {channels}, height, width) float32 in [-1, 1], {_channels_text(neighbours)}; height "
        f"and width are multiples of {model.stride}, at least {2 * model.stride}",  # below, reflection needs two pixels
        "output": f"translation (batch, 1, height, width) float32 in [-1, 1], of {target.low:g} to {target.high:g} in "
        f"{to}'s files",
        "stride": str(model.stride),
        "neighbours": str(neighbours.adjacent),
        "neighbour_mm": json.dumps([round(distance, 3) for distance in neighbours.distances_mm]),
        "preprocessing": "; ".join(preprocessing_steps(model)),
        RECORD: json.dumps(model_record(model, to)),
    }


def _channels_text(neighbours: Neighbours) -> str:
    """Return what the channels of an image are."""
    if neighbours.channels == 1:
        return "the slice"
    neighbour_texts = [f"{neighbours.adjacent} next to it"] if neighbours.adjacent else []
    neighbour_texts += [f"one {distance:.1f} mm away" for distance in neighbours.distances_mm]
    return f"the slice in the middle of {' and '.join(neighbour_texts)} on either side, in their order"


def losses(model: TranslationModel, to: str, *, returns: bool) -> list[str]:
    """Return what a file with one network lacks; `returns` is whether `pipeline.translate` takes the file back."""
    return [
        UNCERTAINTY_LOST,
        CHECKS_LOST + BY_OTHERS[returns],
        *([DIRECTION_LOST] if len(model.translators) > 1 else []),
        *([STYLE_LOST] if hasattr(model.translators[to], "encode_style") else []),
    ]


def style_of(network: nn.Module) -> Tensor | None:
    """Return the style (1, style_dim) that a network translates in, and takes as an argument; None where it has none.

    MLflow's graph of such a network has its style within, and takes none.
    """
    return cast(Tensor, network.style).detach().clone() if hasattr(network, "set_style") else None


def preprocessing_steps(model: TranslationModel) -> list[str]:
    """Return in words how a volume becomes slices, step by step; see `transforms.slice_chain`."""
    settings = model.settings
    height, width = {"axial": ("R", "A"), "coronal": ("R", "S"), "sagittal": ("A", "S")}[settings.axis]
    steps = [
        "axes to R, A, S (ascending)",
        *(["cropped to the head"] if settings.version > 1 else []),
        *(["bias field corrected (N4)"] if settings.n4 else []),
    ]
    if settings.spacing_mm is not None:
        steps.append("resampled to {:g} mm within slices and {:g} mm between them".format(*settings.spacing_mm))
    if settings.percentiles is None:
        steps.append("the file type's range to [-1, 1]")
    else:
        steps.append("percentiles {:g} and {:g} of the head to -1 and 1, clipped".format(*settings.percentiles))
    steps.append(f"{settings.axis} slices, heights along {height} and widths along {width}")
    steps.append(f"padded with -1 about their middle to multiples of {model.stride}, {settings.size} pixels at least")
    return steps
