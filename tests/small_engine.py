"""A small CycleGAN engine, batches for it, and a comparison of states to the bit."""

import io

import torch

from networks.patchgan import PatchGAN
from networks.unet import UNet
from pipeline.engines.cyclegan import CycleGanEngine

RECIPE = {
    "adversarial": "least_squares",
    "cycle_weight": 10.0,
    "identity_share": 0.5,
    "discriminator_scale": 0.5,
    "pool_size": 0,
    "ema_decay": 0.0,
    "learning_rate": 2e-4,
    "discriminator_learning_rate": 2e-4,
    "beta1": 0.5,
    "precision": "float32",
    "seed": 0,
}


def engine_of(*, depth=3, width=3, dropout=0.0, dtype=torch.float32, weights_seed=0, **options):
    """A small engine; `depth` 6 has one layer with dropout."""
    torch.manual_seed(weights_seed)
    return CycleGanEngine(
        lambda: UNet(depth=depth, width=width, dropout=dropout).to(dtype),
        lambda: PatchGAN(width=4, layers=1).to(dtype),
        device=torch.device("cpu"),
        **(RECIPE | options),
    )


def batch(index, count=2, size=16, dtype=torch.float32):
    """The two contrasts' images of a step, a function of its number."""
    random = torch.Generator().manual_seed(1000 + index)
    images = torch.rand(2, count, 1, size, size, generator=random, dtype=torch.float64) * 2 - 1
    return tuple(images.to(dtype))


def saved(engine):
    """The engine's state after a round through a file."""
    stream = io.BytesIO()
    torch.save(engine.state_dict(), stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def leaves(state, path=""):
    """Every value of a nested state with its place, tensors as they are."""
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if pairs is None:
        return {path: state}
    return {place: leaf for key, value in pairs for place, leaf in leaves(value, f"{path}/{key}").items()}


def differences(first, second):
    """The places where two states are not the same, to the bit."""
    first, second = leaves(first), leaves(second)

    def same(one, other):
        both_tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        return torch.equal(one, other) if both_tensors else one is other or one == other

    return {place for place in first.keys() | second.keys() if not same(first.get(place), second.get(place))}
