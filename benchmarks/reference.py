"""Training steps as public research code has them: the yardstick, with the same networks and the same mathematics.

A pass for each term, `nn.InstanceNorm2d` and `nn.Conv2d`, a list of tensors as the image pool, torch's default Adam,
nothing fused, and the allocator as the system has it. `tests/benchmarks/test_reference.py` holds losses and weights
equal to the engines'. The plain steps share their choices (styles are drawn once a step, losses are
computed before updates).
"""

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from networks.cpu_kernels import torch_layers
from pipeline.config.schema import Config

Losses = dict[str, Tensor]


def with_instance_norms(network: nn.Module) -> nn.Module:
    """Replace every group norm with one channel a group by `nn.InstanceNorm2d`; return the network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm) and child.num_groups == child.num_channels:
                plain = nn.InstanceNorm2d(child.num_channels, affine=True, dtype=child.weight.dtype)
                plain.weight, plain.bias = child.weight, child.bias
                setattr(module, name, plain)
    return network


class Pool:
    """A pool of earlier translations, as a list of (1, 1, H, W) tensors."""

    def __init__(self, size: int):
        self.size = size
        self.images: list[Tensor] = []

    def query(self, batch: Tensor) -> Tensor:
        """Return a batch of new and older images."""
        if self.size == 0:
            return batch
        returned = []
        for image in batch.detach().split(1):
            if len(self.images) < self.size:
                self.images.append(image)
                returned.append(image)
                continue
            if random.random() > 0.5:
                index = random.randrange(self.size)
                returned.append(self.images[index].clone())
                self.images[index] = image
            else:
                returned.append(image)
        return torch.cat(returned)


class Plain(ABC):
    """Two players with an Adam each; `generator_losses` and `discriminator_losses` are the method's.

    Args:
        config: The run's configuration.
        networks: The networks to copy.
        foreach: Whether Adam moves all weights at once; None: torch's choice, on a GPU yes, on a CPU no.
    """

    def __init__(self, config: Config, networks: Mapping[str, nn.Module], foreach: bool | None = None):
        self.method: Any = config.method
        self.fake_a = self.fake_b = torch.empty(0)
        self.networks: dict[str, Any] = {
            name: with_instance_norms(torch_layers(copy.deepcopy(network))) for name, network in networks.items()
        }
        self.generators = [network for name, network in self.networks.items() if name[0] != "D"]
        self.discriminators = [network for name, network in self.networks.items() if name[0] == "D"]
        rate, discriminator_rate = config.training.learning_rate, config.training.discriminator_learning_rate
        self.optimisers = [
            torch.optim.Adam(
                [weight for network in networks for weight in network.parameters()],
                player_rate,
                (0.5, 0.999),
                foreach=foreach,
            )
            for networks, player_rate in ((self.generators, rate), (self.discriminators, discriminator_rate or rate))
        ]

    def step(self, a: Tensor, b: Tensor) -> Losses:
        """Make one step: the generators with frozen discriminators, then the discriminators."""
        for network in self.discriminators:
            network.requires_grad_(False)
        losses = self.generator_losses(a, b)
        self.optimisers[0].zero_grad()
        total: Any = sum(losses.values())
        total.backward()
        self.optimisers[0].step()
        for network in self.discriminators:
            network.requires_grad_(True)
        self.optimisers[1].zero_grad()
        discriminator_losses = self.discriminator_losses(a, b)
        for loss in discriminator_losses.values():
            loss.backward()
        self.optimisers[1].step()
        return losses | discriminator_losses

    @abstractmethod
    def generator_losses(self, a: Tensor, b: Tensor) -> Losses:
        """Return the generators' weighted terms, and keep the translations as `fake_a` and `fake_b`."""

    def discriminator_losses(self, a: Tensor, b: Tensor) -> Losses:
        """Return each discriminator's loss."""
        losses = {}
        for side, real, fake in (("A", a, self.fake_a), ("B", b, self.fake_b)):
            network = self.networks[f"D_{side}"]
            unweighted = least_squares(network(real), True) + least_squares(network(fake.detach()), False)
            losses[f"discriminator_{side}"] = self.method.discriminator_scale * unweighted
        return losses


class PlainCycleGan(Plain):
    """Zhu et al. 2017 with the identity loss: six generator passes."""

    def __init__(self, config: Config, networks: Mapping[str, nn.Module], foreach: bool | None = None):
        super().__init__(config, networks, foreach)
        self.pools = Pool(self.method.pool_size), Pool(self.method.pool_size)

    def generator_losses(self, a: Tensor, b: Tensor) -> Losses:
        """See `Plain`."""
        G, F, weight = self.networks["G"], self.networks["F"], self.method.cycle_weight
        fake_b, fake_a = G(a), F(b)
        cycled_a, cycled_b = F(fake_b), G(fake_a)
        identity_a, identity_b = F(a), G(b)
        self.fake_a, self.fake_b = fake_a, fake_b
        return {
            "adversarial_G": least_squares(self.networks["D_B"](fake_b), True),
            "adversarial_F": least_squares(self.networks["D_A"](fake_a), True),
            "cycle_a": nn.functional.l1_loss(cycled_a, a) * weight,
            "cycle_b": nn.functional.l1_loss(cycled_b, b) * weight,
            "identity_a": nn.functional.l1_loss(identity_a, a) * weight * self.method.identity_share,
            "identity_b": nn.functional.l1_loss(identity_b, b) * weight * self.method.identity_share,
        }

    def discriminator_losses(self, a: Tensor, b: Tensor) -> Losses:
        """See `Plain`: translations come from the pools."""
        self.fake_a, self.fake_b = self.pools[0].query(self.fake_a), self.pools[1].query(self.fake_b)
        return super().discriminator_losses(a, b)


class PlainDualGan(Plain):
    """Yi et al. 2017 with a least-squares loss: four generator passes."""

    def generator_losses(self, a: Tensor, b: Tensor) -> Losses:
        """See `Plain`."""
        G, F, weight = self.networks["G"], self.networks["F"], self.method.reconstruction_weight
        self.fake_b, self.fake_a = G(a), F(b)
        return {
            "adversarial_G": least_squares(self.networks["D_B"](self.fake_b), True),
            "adversarial_F": least_squares(self.networks["D_A"](self.fake_a), True),
            "reconstruction_a": nn.functional.l1_loss(F(self.fake_b), a) * weight,
            "reconstruction_b": nn.functional.l1_loss(G(self.fake_a), b) * weight,
        }


class PlainMunit(Plain):
    """Huang et al. 2018: four encodings, four decodings, and two more with the explicit cycle."""

    def __init__(self, config: Config, networks: Mapping[str, nn.Module], foreach: bool | None = None):
        super().__init__(config, networks, foreach)
        self.random = torch.Generator().manual_seed(config.seed)
        generator: Any = config.generator
        torch.randn(2, generator.style_size, generator=self.random)  # the engine's own styles come first

    def generator_losses(self, a: Tensor, b: Tensor) -> Losses:
        """See `Plain`."""
        A, B, weights = self.networks["A"], self.networks["B"], self.method
        (content_a, style_a), (content_b, style_b) = A.encode(a), B.encode(b)
        random_style_a, random_style_b = (torch.randn(style_a.shape, generator=self.random).to(a) for _ in range(2))
        reconstructed_a, reconstructed_b = A.decode(content_a, style_a), B.decode(content_b, style_b)
        self.fake_a, self.fake_b = A.decode(content_b, random_style_a), B.decode(content_a, random_style_b)
        (recoded_content_b, recoded_style_a), (recoded_content_a, recoded_style_b) = (
            A.encode(self.fake_a),
            B.encode(self.fake_b),
        )
        l1 = nn.functional.l1_loss
        losses = {
            "adversarial_A": weights.adversarial_weight * least_squares(self.networks["D_A"](self.fake_a), True),
            "adversarial_B": weights.adversarial_weight * least_squares(self.networks["D_B"](self.fake_b), True),
            "image_a": weights.image_weight * l1(reconstructed_a, a),
            "image_b": weights.image_weight * l1(reconstructed_b, b),
            "content_a": weights.content_weight * l1(recoded_content_a, content_a),
            "content_b": weights.content_weight * l1(recoded_content_b, content_b),
            "style_a": weights.style_weight * l1(recoded_style_a, random_style_a),
            "style_b": weights.style_weight * l1(recoded_style_b, random_style_b),
        }
        if weights.cycle_weight:
            losses["cycle_a"] = weights.cycle_weight * l1(A.decode(recoded_content_a, style_a), a)
            losses["cycle_b"] = weights.cycle_weight * l1(B.decode(recoded_content_b, style_b), b)
        return losses


def least_squares(logits: Tensor | list[Tensor], real: bool) -> Tensor:
    """Return the least-squares loss against a target expanded to the logits, over one scale or several."""
    scales = [logits] if isinstance(logits, Tensor) else logits
    targets = [scale.new_full((), float(real)).expand_as(scale) for scale in scales]
    total: Any = sum(nn.functional.mse_loss(scale, target) for scale, target in zip(scales, targets, strict=True))
    return total


PLAIN: dict[str, type[Plain]] = {"cyclegan": PlainCycleGan, "dualgan": PlainDualGan, "munit": PlainMunit}
