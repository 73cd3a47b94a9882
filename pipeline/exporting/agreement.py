"""The test that every exported network passes before its file is kept: it gives what the network gives."""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.exporting.record import style_of
from pipeline.inference.model import TranslationModel
from pipeline.inference.runtimes import IMAGE, STYLE, Run
from pipeline.inference.slice_translator import neighbours_of
from pipeline.utils.errors import UserError

BOUND = 1e-4  # of [-1, 1]: rounding in float32 by other kernels stays below a tenth of it
LEAST_SIDE = 32  # pixels


def require_agreement(model: TranslationModel, target: str, run: Run, name: str) -> None:
    """Raise UserError where an exported network differs from its original by more than `BOUND`, for several sizes.

    `run` is the exported network, which messages call by `name`.
    """
    network, largest = model.translators[target], 0.0
    for inputs in _examples(model, target):
        arguments = (torch.from_numpy(value).to(model.device) for value in inputs.values())
        with torch.no_grad():
            expected = network(*arguments).float().cpu().numpy()
        difference = float(np.abs(run(inputs, "float32") - expected).max())
        largest = max(largest, difference if np.isfinite(difference) else np.inf)
    if largest > BOUND:
        raise UserError(
            f"{model.origin}: {name} differs from the network by {largest:.2g} of [-1, 1], {BOUND:g} is allowed; "
            "choose another format, or torch"
        )


def _examples(model: TranslationModel, target: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield images of several sizes, and a style where the network takes one."""
    random, stride = np.random.default_rng(0), model.stride
    network = model.translators[target]
    side = -(-LEAST_SIDE // stride) * stride
    channels, style = neighbours_of(network).channels, style_of(network)
    for count, height, width in ((1, side, side + stride), (3, side, side)):
        inputs = {IMAGE: random.uniform(-1, 1, (count, channels, height, width)).astype(np.float32)}
        if style is not None:
            inputs[STYLE] = style.cpu().numpy() + random.normal(size=tuple(style.shape)).astype(np.float32)
        yield inputs
