"""MONAI's random transforms as additional augmentation, by name: what they do is a function of a seed alone."""

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence

import torch
from monai import transforms as monai_transforms
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from torch import Tensor

from transforms.context_lookup import ACROSS_MM

# MONAI's random dictionary transforms that keep the shape of a slice (1, H, W).
TRANSFORMS = (
    "RandAdjustContrastd", "RandAffined", "RandAxisFlipd", "RandBiasFieldd", "RandCoarseDropoutd",
    "RandCoarseShuffled", "RandFlipd", "RandGaussianNoised", "RandGaussianSharpend", "RandGaussianSmoothd",
    "RandGibbsNoised", "RandGridDistortiond", "RandHistogramShiftd", "RandKSpaceSpikeNoised", "RandRicianNoised",
    "RandRotate90d", "RandRotated", "RandScaleIntensityFixedMeand", "RandScaleIntensityd", "RandShiftIntensityd",
    "RandSimulateLowResolutiond", "RandStdShiftIntensityd", "RandZoomd", "Rand2DElasticd",
)  # fmt: skip
# Arguments that are not the user's: set here, of other dictionaries, or Python objects.
RESERVED = {"self", "keys", "allow_missing_keys", "lazy", "device", "dtype", "factor_key", "meta_keys",
            "meta_key_postfix", "kwargs", "keep_size"}  # fmt: skip
KEY = "slice"
PROBES = 8  # draws that a transform is tried with

Specification = Sequence[Mapping[str, Mapping[str, object] | None]]


class MonaiAugmentation:
    """A chain of MONAI's random transforms on slices in [-1, 1], as `[{"RandGaussianNoised": {"prob": 0.1}}]`.

    The transforms see slices in [0, 1], air at 0, as their multiplications and noise assume; afterwards values are
    clipped to [-1, 1].
    """

    def __init__(self, specification: Specification):
        self.chain = Compose(
            [_built(name, arguments or {}) for entry in specification for name, arguments in entry.items()]
        )

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Return a slice (C, H, W), transformed with the random draws of a seed (below 2**32)."""
        self.chain.set_random_state(seed)
        transformed = self.chain({KEY: (image + 1) / 2})[KEY]
        return convert_to_tensor(transformed, track_meta=False).mul(2).sub(1).clamp(-1, 1)


def problems(
    specification: Specification, size: int, neighbours: int = 0, *, lookup_in_volume: bool = False
) -> Iterator[str]:
    """Yield a line for each wrong name, argument or value.

    Each transform is tried on a slice of `size` by `size` with so many neighbours on either side, and with those that a
    lookup across slices sees.
    """
    shape = (1 + 2 * (neighbours + lookup_in_volume * len(ACROSS_MM)), size, size)
    for number, entry in enumerate(specification):
        key = f"augment.monai[{number}]"
        if len(entry) != 1:
            names = ", ".join(entry) or "nothing"
            yield f"{key} names {names}: must be one transform and its arguments, as in {{RandFlipd: {{prob: 0.5}}}}"
            continue
        [(name, arguments)] = entry.items()
        if name not in TRANSFORMS:
            yield f"{key} = {name}: must be one of MONAI's random transforms of slices{_nearest(name, TRANSFORMS)}"
            continue
        valid_arguments = _valid_arguments(name)
        unknown = [argument for argument in arguments or {} if argument not in valid_arguments]
        for argument in unknown:
            yield f"{key}.{name}.{argument}: unknown argument{_nearest(argument, valid_arguments)}"
        if not unknown and (reason := _failure(name, arguments or {}, shape)):
            yield f"{key}.{name} = {dict(arguments or {})}: {reason}"


def _valid_arguments(name: str) -> list[str]:
    signature = inspect.signature(getattr(monai_transforms, name))
    return [argument for argument in signature.parameters if argument not in RESERVED]


def _built(name: str, arguments: Mapping[str, object]):
    transform = getattr(monai_transforms, name)
    same_size = {"keep_size": True} if "keep_size" in inspect.signature(transform).parameters else {}
    return transform(keys=[KEY], **same_size, **arguments)


def _failure(name: str, arguments: Mapping[str, object], shape: tuple[int, int, int]) -> str | None:
    """Return why a transform does not work on slices (C, H, W), or None where it does."""
    probability = arguments.get("prob", 0.1)
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:  # MONAI would clip it
        return "prob must be a number from 0 to 1"
    probe = torch.linspace(-1, 1, shape[1] * shape[2]).reshape(1, *shape[1:]).repeat(shape[0], 1, 1)
    try:
        augmentation = MonaiAugmentation([{name: {**arguments, "prob": 1.0}}])
        for seed in range(PROBES):
            transformed = augmentation(probe, seed)
            if transformed.shape != probe.shape:
                return (
                    f"makes slices of {tuple(transformed.shape[1:])} from {tuple(probe.shape[1:])}; must keep the size"
                )
            if not bool(transformed.isfinite().all()):
                return "makes values that are not finite"
    except Exception as error:  # whatever MONAI and torch raise for values without sense
        cause: BaseException = error
        while cause.__cause__ is not None:  # MONAI wraps what a transform raises
            cause = cause.__cause__
        return " ".join(str(cause).split())[:200] or type(cause).__name__
    return None


def _nearest(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; the nearest is {close[0]}" if close else f"; choose from {', '.join(words)}"
