"""A small engine, batches for it, a comparison of states to the bit, and what methods written out plainly share."""

import copy
import io

import torch
from torch import nn

from pipeline.config.schema import Config, Training
from pipeline.engines.builders import build_engine

METHOD = {"type": "cyclegan", "discriminator_scale": 0.5, "ema_decay": 0.0}
CYCLEGAN = {"adversarial": "least_squares", "cycle_weight": 10.0, "identity_share": 0.5, "pool_size": 0}
TRAINING = {"learning_rate": 2e-4, "discriminator_learning_rate": 2e-4, "beta1": 0.5, "precision": "float32"}
MUNIT = {  # the networks and the name of a method that has its own kinds
    "type": "munit",
    "generator": {
        "type": "munit", "width": 2, "downs": 1, "blocks": 1, "style_downs": 2, "style_size": 3, "mlp_width": 4
    },
    "discriminator": {"type": "multiscale", "width": 2, "layers": 1, "scales": 2},
}  # fmt: skip
UNIT = {
    "type": "unit",
    "generator": {"type": "unit", "width": 2, "downs": 1, "blocks": 2, "shared_blocks": 1},
    "discriminator": MUNIT["discriminator"],
}
RAMP = {"weight": 2.0, "ramp_steps": 4}
DEVICE_METHODS = {  # whose steps need not wait for the host, among them every structure loss
    "cyclegan": {"pool_size": 3, "depth": 6, "width": 1, "dropout": 0.5},
    "dualgan-penalty": {"type": "dualgan", "adversarial": "wasserstein", "gradient_penalty": 10.0},
    "dualgan-clip": {
        "type": "dualgan", "adversarial": "wasserstein", "clip": 0.02, "structure": {"type": "ngf", **RAMP}
    },
    "munit": {**MUNIT, "cycle_weight": 10.0, "structure": {"type": "mind", **RAMP}},
    "unit": {**UNIT, "structure": {"type": "lncc", **RAMP}},
    "pix2pix": {"type": "pix2pix"},
    "cut": {"type": "cut", "patches": 20, "head_width": 8},
    "cut-slices-r1": {
        "type": "cut", "patches": 20, "head_width": 8, "discriminator_slices": 5, "r1_weight": 1.0, "r1_every": 1
    },
}  # fmt: skip


class Score(nn.Module):
    """A discriminator whose logits are a function of the image."""

    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(()))

    def forward(self, image):
        return self.function(self.weight * image)


def _monai(network, **arguments):
    return {"type": "monai", "network": network, "arguments": arguments}


SMALL_GENERATORS = {
    "unet": {"type": "unet", "width": 2, "depth": 3},
    "unet-attention-nearest": {"type": "unet", "width": 2, "depth": 3, "attention": True, "upsampling": "nearest"},
    "resnet": {"type": "resnet", "width": 2, "downs": 1, "blocks": 1},
    "resnet-nearest": {"type": "resnet", "width": 2, "downs": 1, "blocks": 1, "upsampling": "nearest"},
    "residual_concat": {"type": "residual_concat", "width": 2, "downs": 1, "blocks": 1},
    "residual_concat-nearest": {
        "type": "residual_concat", "width": 2, "downs": 1, "blocks": 1, "upsampling": "nearest"
    },
    "skip": {"type": "skip", "width": 2, "downs": 1, "blocks": 1},
    "skip-no-norm": {"type": "skip", "width": 2, "downs": 1, "blocks": 1, "norm": "none"},
    "monai-AttentionUnet": _monai("AttentionUnet", channels=[2, 4], strides=[2]),
    "monai-BasicUNet": _monai("BasicUNet", features=[2] * 6),
    "monai-BasicUNetPlusPlus": _monai("BasicUNetPlusPlus", features=[2] * 6),
    "monai-DynUNet": _monai(
        "DynUNet", kernel_size=[3] * 3, strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[2, 4, 4]
    ),
    "monai-FlexibleUNet": _monai("FlexibleUNet", decoder_channels=[2] * 5),
    "monai-SegResNet": _monai("SegResNet", init_filters=8, blocks_down=[1, 1], blocks_up=[1]),
    "monai-UNet": _monai("UNet", channels=[2, 4], strides=[2], num_res_units=1),
    "monai-VNet": _monai("VNet"),
    "munit": MUNIT["generator"],
    "unit": UNIT["generator"],
}  # fmt: skip
DISCRIMINATOR_KINDS = {
    "patchgan": {"type": "patchgan", "width": 2, "layers": 1},
    "patchgan-spectral": {"type": "patchgan", "width": 2, "layers": 1, "spectral_norm": True},
    "patchgan-group": {"type": "patchgan", "width": 2, "layers": 1, "norm": "group"},
    "patchgan-none": {"type": "patchgan", "width": 2, "layers": 1, "norm": "none"},
    "multiscale": {"type": "multiscale", "width": 2, "layers": 1, "scales": 2},
    "multiscale-spectral": {"type": "multiscale", "width": 2, "layers": 1, "scales": 2, "spectral_norm": True},
}


def config_of(*, depth=3, width=3, dropout=0.0, seed=0, **options):
    """The configuration of a small engine, a CycleGAN unless `type` says otherwise.

    Options go where they belong: those of training there, `generator` and `discriminator` as sections, the rest to the
    method. `depth` 6 has one layer with dropout.
    """
    training = TRAINING | {name: options.pop(name) for name in list(options) if name in Training.model_fields}
    usual = CYCLEGAN if options.get("type", "cyclegan") == "cyclegan" else {}
    return Config.model_validate(
        {
            "name": "small",
            "seed": seed,
            "data": {"source": "phantom"},
            "generator": options.pop("generator", {"depth": depth, "width": width, "dropout": dropout}),
            "discriminator": options.pop("discriminator", {"width": 4, "layers": 1}),
            "preprocess": options.pop("preprocess", {}),
            "method": METHOD | usual | options,
            "training": training,
        }
    )


def engine_of(*, dtype=torch.float32, weights_seed=0, **options):
    """A small engine of `config_of`, its initial weights drawn from a seed of their own."""
    torch.manual_seed(weights_seed)
    engine = build_engine(config_of(**options), torch.device("cpu"))
    for networks in (engine.generators, engine.discriminators, engine.evaluated_generators()):
        networks.to(dtype)
    return engine


def force_the_ways(monkeypatch):
    """Have layers of any size compute by the ways that pay for large ones."""
    monkeypatch.setattr("networks.cpu_kernels.winograd.LEAST_TILES", {3: 0, 4: 0})
    for name in ("winograd.LEAST_CHANNELS", "winograd.LEAST_KERNELS", "gemm_conv.LEAST_WEIGHTS", "gemm_conv.SHARE"):
        monkeypatch.setattr(f"networks.cpu_kernels.{name}", 0)


def batch(index, count=2, size=16, dtype=torch.float32):
    """The two contrasts' images of a step, a function of its number."""
    random = torch.Generator().manual_seed(1000 + index)
    images = torch.rand(2, count, 1, size, size, generator=random, dtype=torch.float64) * 2 - 1
    return tuple(images.to(dtype))


def train(engine, steps, size=16):
    """Make the steps of these numbers, each at a rate of its own."""
    for index in steps:
        engine.set_learning_rate(1 - index / 20)
        engine.step(*batch(index, size=size))


def saved(component):
    """The state of an engine, or of one of its components, after a round through a file."""
    stream = io.BytesIO()
    torch.save(component.state_dict(), stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True, map_location="cpu")


def leaves(state, path=""):
    """Every value of a nested state with its place, tensors as they are."""
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else None
    if pairs is None:
        return {path: state}
    return {place: leaf for key, value in pairs for place, leaf in leaves(value, f"{path}/{key}").items()}


def differences(first, second):
    """The places where two states are not the same, to the bit."""
    first, second = leaves(first), leaves(second)

    def same(item, other):
        both_tensors = isinstance(item, torch.Tensor) and isinstance(other, torch.Tensor)
        return torch.equal(item, other) if both_tensors else item is other or item == other

    return {place for place in first.keys() | second.keys() if not same(first.get(place), second.get(place))}


def adversarial_loss(kind, logits, real):
    """An adversarial loss written out."""
    target = torch.full_like(logits, float(real))
    if kind == "wasserstein":
        return -logits.mean() if real else logits.mean()
    if kind == "bce":
        return nn.functional.binary_cross_entropy_with_logits(logits, target)
    return ((logits - target) ** 2).mean()


class Plain:
    """Copies of an engine's networks, with plain optimisers, for a method that is written out in a test.

    Args:
        engine: Its networks' weights are where the copies start.
        rates: Of the generators and of the discriminators (those called `D…`).
        optimiser: Makes one optimiser of parameters and a rate.
    """

    def __init__(self, engine, rates=(2e-4, 2e-4), optimiser=None):
        self.networks = {name: copy.deepcopy(network) for name, network in engine.networks().items()}
        make = optimiser or (lambda weights, rate: torch.optim.Adam(weights, rate, (0.5, 0.999), fused=False))
        self.optimisers = {
            name: make(network.parameters(), rates[name.startswith("D")]) for name, network in self.networks.items()
        }

    def update(self, loss, *names):
        """Move the named networks alone down the gradient of a loss."""
        for network in self.networks.values():
            network.zero_grad()
        loss.backward()
        for name in names:
            self.optimisers[name].step()


def assert_equal_steps(engine, plain, steps, tolerance=1e-10):
    """Both make the same losses and come to the same weights, step by step, in float64."""
    for index in range(steps):
        real = batch(index, dtype=torch.float64)
        losses, expected = engine.step(*real), plain.step(*real)
        assert losses.keys() == expected.keys(), f"in step {index}"
        for name, loss in losses.items():
            assert loss.dtype == torch.float64
            where = f"{name} in step {index}"
            torch.testing.assert_close(loss, expected[name].detach(), rtol=0, atol=tolerance, msg=where)
        for name, network in engine.networks().items():
            for (place, weight), other in zip(
                network.named_parameters(), plain.networks[name].parameters(), strict=True
            ):
                where = f"{name}.{place} in step {index}"
                torch.testing.assert_close(weight, other, rtol=0, atol=tolerance, msg=where)
