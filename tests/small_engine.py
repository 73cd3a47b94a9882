"""A small engine, batches for it, and a comparison of states to the bit."""

import io

import torch

from pipeline.config.schema import Config, Training
from pipeline.engines.build import build_engine

METHOD = {"type": "cyclegan", "discriminator_scale": 0.5, "ema_decay": 0.0}
CYCLEGAN = {"adversarial": "least_squares", "cycle_weight": 10.0, "identity_share": 0.5, "pool_size": 0}
TRAINING = {"learning_rate": 2e-4, "discriminator_learning_rate": 2e-4, "beta1": 0.5, "precision": "float32"}


def engine_of(*, depth=3, width=3, dropout=0.0, dtype=torch.float32, weights_seed=0, seed=0, **options):
    """A small engine, a CycleGAN unless `type` says otherwise; `depth` 6 has one layer with dropout.

    Options go where they belong: those of training there, `generator` and `discriminator` as sections, the rest to the
    method.
    """
    training = TRAINING | {name: options.pop(name) for name in list(options) if name in Training.model_fields}
    usual = CYCLEGAN if options.get("type", "cyclegan") == "cyclegan" else {}
    config = Config.model_validate(
        {
            "name": "small",
            "seed": seed,
            "data": {"source": "phantom"},
            "generator": options.pop("generator", {"depth": depth, "width": width, "dropout": dropout}),
            "discriminator": options.pop("discriminator", {"width": 4, "layers": 1}),
            "method": METHOD | usual | options,
            "training": training,
        }
    )
    torch.manual_seed(weights_seed)
    engine = build_engine(config, torch.device("cpu"))
    for networks in (engine.generators, engine.discriminators, engine.averaged):
        if networks is not None:
            networks.to(dtype)
    return engine


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
