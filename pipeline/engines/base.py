"""The base of all methods: two players, their optimisers, precision, averaged generators and states."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from networks.lookup_start import start_alone
from networks.neighbours import middle_slice
from pipeline.engines.losses import ADVERSARIAL, finite, mean_absolute, total
from pipeline.engines.state import ExponentialMovingAverage, RandomState, Stateful, restore_options, update_scaler
from pipeline.engines.structure import StructureOptions, StructureTerm
from pipeline.utils.distributed import SINGLE_PROCESS, World

GENERATORS, DISCRIMINATORS = "generators", "discriminators"
Losses = dict[str, Tensor]
Networks = Mapping[str, nn.Module]
Optimise = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Precision = Literal["float32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Options of every method; those of one method are in its module. Defaults are the configuration's."""

    adversarial: str = "least_squares"  # name of the adversarial loss, a key of `losses.ADVERSARIAL`
    discriminator_scale: float = 0.5  # factor of the discriminators' losses
    ema_decay: float = 0.0  # decay per step of the generators' moving average; 0: none is kept
    seed: int = 0  # seed of the method's own random numbers
    structure: StructureOptions | None = None  # the loss between a translation and its source; None: there is none
    lookup_weight: float = 0.0  # weight of the L1 distance between a translation and the lookup that it starts from


class Engine(ABC):
    """A method's networks, losses and optimisers: generators and discriminators that take turns at one batch.

    Contrasts are called a (first) and b (second) within an engine; the caller knows their names. An engine touches
    neither disk nor tracking. A method defines its losses in `losses`, and whatever it has besides the usual; the rest
    is here. All losses of a step are computed before any weight moves. If one of them is not finite, no weight moves
    (under fp16, gradients that overflow make the loss scaler skip single updates).

    On a CPU, Python reads whether the losses are finite. On a GPU that would wait for all of its work, so optimisers
    and averages there use `is_finite`, a tensor () on the device (`disable_host_sync`).

    If several processes train together (`world`), each sees its block of the batch. Losses and gradients are averaged
    over the processes. Random numbers and stored images are those of the whole batch, so that every process holds the
    state that a single process with the whole batch would hold.

    Args:
        options: The method's options.
        generators: The networks of the first player, by name; usually G from contrast a to b and F from b to a.
        discriminators: The networks of the second player, possibly none; usually D_A for contrast a and D_B for b.
        optimisers: A function for each player that makes the optimiser of its weights.
        device: The device of networks and batches.
        precision: The precision in which losses are computed; weights have float32.
        world: The processes that train together.
    """

    options: MethodOptions
    paired: ClassVar[bool] = False  # whether `step` takes both contrasts of the same slices, or any slices

    def __init__(
        self,
        options: MethodOptions,
        generators: Networks,
        discriminators: Networks,
        optimisers: Mapping[str, Optimise],
        device: torch.device,
        precision: Precision = "float32",
        world: World = SINGLE_PROCESS,
    ):
        self.options, self.world, self.device = options, world, device
        self.generators = nn.ModuleDict(generators).to(device)
        self.discriminators = nn.ModuleDict(discriminators).to(device)
        self.ema = ExponentialMovingAverage(self.generators, options.ema_decay, device) if options.ema_decay else None
        self.adversarial = ADVERSARIAL[options.adversarial]
        self.structure = None if options.structure is None else StructureTerm(options.structure, device)
        # Optimisers, their rates, and where they are kept.
        players = {GENERATORS: self.generators, DISCRIMINATORS: self.discriminators}
        self.optimisers = {
            player: optimisers[player](networks.parameters()) for player, networks in players.items() if len(networks)
        }
        self.rates = {player: optimiser.param_groups[0]["lr"] for player, optimiser in self.optimisers.items()}
        skips_on_device = all(isinstance(optimiser, torch.optim.Adam) for optimiser in self.optimisers.values())
        same_terms = self.critic_steps == 1 and not self.has_lazy_terms
        self.requires_host_sync, self.host_sync = not (same_terms and skips_on_device), True
        self._device_rates: dict[str, Tensor] = {}
        if device.type == "cuda" and not self.requires_host_sync:
            self.disable_host_sync()
        # Precision: autocast, exceptions from it, and the loss scaler.
        half_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        # The meta device, on which a dry run builds an engine, has no autocast.
        self._half_dtype = half_dtype if torch.amp.is_autocast_available(device.type) else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.set_up()

    # ── what a method defines ───────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """Return the weighted terms of each player's loss, by player and name; only of players that move next."""

    def paired_losses(self, image_a: Tensor, image_b: Tensor) -> Losses:
        """Return the generators' weighted terms on registered pairs (N, 1, H, W) that come beside unpaired slices."""
        raise ValueError(f"{type(self).__name__} learns from no pairs beside unpaired slices; set split.pairs to 0")

    def set_up(self) -> None:  # noqa: B027
        """Hook at the end of `__init__`, to make what a method has besides networks and optimisers."""

    def extra_state(self) -> dict[str, Stateful]:
        """Return the method's other components with a state, by name."""
        return {}

    def on_step_end(self, is_finite: Tensor) -> None:  # noqa: B027
        """Hook after weights have moved; if the step was skipped, `is_finite` () is false or it is not called."""

    @property
    def critic_steps(self) -> int:
        """Number of the discriminators' updates for each of the generators'."""
        return 1

    @property
    def has_lazy_terms(self) -> bool:
        """Whether only some of the steps have all terms, so that Python must count the steps that were not skipped."""
        return False

    @staticmethod
    def translators_of(generators: Networks) -> dict[str, nn.Module]:
        """Return, by target ("a" or "b"), the modules that translate, made of the generators."""
        return {"a": generators["F"], "b": generators["G"]}

    # ── what its losses are made of ─────────────────────────────────────────────────────────────────────────

    def generator_adversarial_loss(self, discriminator: str, image: Tensor) -> Tensor:
        """Return the adversarial loss of the generator of a fake image; the discriminator gets no gradients."""
        network = self.discriminators[discriminator].requires_grad_(False)
        try:
            return self.adversarial(network(image), True)
        finally:
            network.requires_grad_(True)

    def discriminator_loss(self, discriminator: str, real: Tensor, fake: Tensor) -> Tensor:
        """Return the weighted loss of a discriminator on real and fake images; the generator gets no gradients."""
        logits = self.discriminators[discriminator](torch.cat([real, fake.detach()]))
        scales = [logits] if isinstance(logits, Tensor) else logits
        on_real, on_fake = zip(*(scale.split([len(real), len(fake)]) for scale in scales), strict=True)
        return self.options.discriminator_scale * (self.adversarial(on_real, True) + self.adversarial(on_fake, False))

    def source_losses(self, generator: str, translation: Tensor, source: Tensor) -> Losses:
        """Return the weighted terms, by name, that tie a translation to its source (with its neighbours); or none."""
        losses = {}
        with self.full_precision():
            if self.structure is not None:
                losses[f"structure_{generator}"] = self.structure(translation, middle_slice(source))
            if self.options.lookup_weight:
                with torch.no_grad():
                    expected = start_alone(self.generators[generator], source)
                losses[f"lookup_{generator}"] = self.options.lookup_weight * mean_absolute(translation, expected)
        return losses

    def sample_for_rank(self, draw: Callable[..., Tensor], count: int, *shape: int) -> Tensor:
        """Draw random numbers for the whole batch; return those of this process's samples, (count, *shape).

        `draw` is such as `RandomState.normal`, in the same state in every process.
        """
        return self.world.local_shard(draw(self.world.size * count, *shape))

    def full_precision(self) -> AbstractContextManager:
        """Switch half precision off within the block, for terms of a loss that need more digits."""
        return nullcontext() if self._half_dtype is None else torch.autocast(self.device.type, enabled=False)

    # ── the step ────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, real_a: Tensor, real_b: Tensor, *pair: Tensor) -> Losses:
        """Make one step on a batch of each contrast, (N, C, H, W) in [-1, 1], and return the losses, detached.

        Losses are of the middle channels. `pair` are two batches of registered slices for `paired_losses`, or none.
        If any loss is not a finite number the step is skipped: no weight, optimiser state, average, pooled image or
        count is changed. Random generators, torch's global one too, do advance, and so do the power iterations of
        discriminators with spectral norms. Gradients are not looked at, except by the loss scaler of fp16: where one is
        not finite though the loss is, the weights are lost, and the run ends at its last good checkpoint.
        """
        with nullcontext() if self._half_dtype is None else torch.autocast(self.device.type, self._half_dtype):
            losses_by_player = self.losses(real_a, real_b)
            if pair:
                losses_by_player[GENERATORS] = {**losses_by_player[GENERATORS], **self.paired_losses(*pair)}
        terms = {name: loss for losses in losses_by_player.values() for name, loss in losses.items()}
        losses = self.world.all_reduce_mean(terms)  # not finite in one process: all processes skip the step
        is_finite = finite(losses)
        if self.host_sync and not is_finite:
            return losses
        players = [player for player in self.optimisers if player in losses_by_player]
        # Compute all gradients before any weight moves, for those of the generators pass through the discriminators.
        # Between processes, gradients of one player are sent while those of the other are computed.
        waits = [self._backward(player, total([*losses_by_player[player].values()]), is_finite) for player in players]
        for player, wait in zip(players, waits, strict=True):
            wait()
            if not self.host_sync:
                # 1: a fused optimiser moves and counts nothing
                self.optimisers[player].found_inf = (~is_finite).float()  # type: ignore[attr-defined]  # torch's own
            self.scaler.step(self.optimisers[player])
        update_scaler(self.scaler, is_finite)
        if self.ema is not None and GENERATORS in losses_by_player:
            self.ema.update(self.generators, None if self.host_sync else is_finite)
        if self.structure is not None:
            self.structure.count_step(is_finite)
        self.on_step_end(is_finite)
        return losses

    def _backward(self, player: str, loss: Tensor, is_finite: Tensor) -> Callable[[], None]:
        """Compute the gradients of a player's weights; return a function that waits for their mean over processes."""
        optimiser = self.optimisers[player]
        optimiser.zero_grad(set_to_none=True)
        if self.scaler.is_enabled() and not self.host_sync:
            loss = loss * torch.where(is_finite, 1.0, torch.nan)  # the scaler skips updates by such gradients
        self.scaler.scale(loss).backward()
        return self.world.mean_gradients(optimiser.param_groups[0]["params"])  # before the scaler looks for overflows

    def set_learning_rate(self, factor: float, *, frozen: Collection[str] = ()) -> dict[str, float]:
        """Set every optimiser's rate to `factor` times its configured one, and return the rates by player.

        Players that are `frozen` have a rate of 0: their losses are computed, but their weights do not move.
        """
        rates = {player: 0.0 if player in frozen else self.rates[player] * factor for player in self.optimisers}
        for player, optimiser in self.optimisers.items():
            device_rate = self._device_rates.get(player)
            optimiser.param_groups[0]["lr"] = rates[player] if device_rate is None else device_rate.fill_(rates[player])
        return rates

    def disable_host_sync(self) -> None:
        """Keep rates, and whether a step is finite, on the device from now on; ValueError if `requires_host_sync`."""
        if self.requires_host_sync:
            raise ValueError("only Adam, moving both players by the same terms in every step, can do without the host")
        self._device_rates = {player: torch.tensor(rate, device=self.device) for player, rate in self.rates.items()}
        self.host_sync = False

    # ── networks and states ─────────────────────────────────────────────────────────────────────────────────

    def networks(self) -> dict[str, nn.Module]:
        """Return every trained network by name."""
        return {**dict(self.generators.items()), **dict(self.discriminators.items())}

    def evaluated_generators(self) -> nn.ModuleDict:
        """Return the generators for evaluation and translation: their moving average, if the method keeps one."""
        return self.generators if self.ema is None else self.ema.networks

    def translators(self) -> dict[str, nn.Module]:
        """Return, by target ("a" or "b"), the module (N, 1, H, W) → (N, 1, H, W) for evaluation and translation."""
        return self.translators_of(dict(self.evaluated_generators().items()))

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bitwise resume needs, as tensors and plain values."""
        states = {name: component.state_dict() for name, component in self._stateful_components().items()}
        return {**states, "averaged_steps": 0 if self.ema is None else int(self.ema.update_rate.count)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, component in self._stateful_components().items():
            component.load_state_dict(state[name])
        for optimiser in self.optimisers.values():
            restore_options(optimiser)
        if self.ema is not None:
            self.ema.update_rate.count.fill_(state["averaged_steps"])

    def transferable_components(self) -> dict[str, Stateful]:
        """Return the networks and other components that another run can begin from, by the names of `state_dict`."""
        return {**self.networks()}

    def load_pretrained(self, state: Mapping[str, Any]) -> None:
        """Load the transferable components of another run's state: no optimiser, pool, count or random generator.

        If that run kept no moving average of the generators, an average kept here begins with their weights.
        """
        for name, component in self.transferable_components().items():
            component.load_state_dict(state[name])
        if self.ema is not None:
            self.ema.networks.load_state_dict(state.get("averaged", self.generators.state_dict()))
            self.ema.update_rate.count.fill_(state["averaged_steps"])

    def load_translator(self, side: str, state: Mapping[str, Any]) -> None:
        """Load the translator of a target, "a" or "b", into the generators and, if one is kept, into their average."""
        for networks in (self.generators, self.evaluated_generators()):
            self.translators_of(dict(networks.items()))[side].load_state_dict(dict(state))

    def random_generators(self) -> list[torch.Generator]:
        """Return the method's own random generators."""
        states = [getattr(component, "random", component) for component in self.extra_state().values()]
        return [state.generator for state in states if isinstance(state, RandomState)]

    def _stateful_components(self) -> dict[str, Stateful]:
        components: dict[str, Stateful] = {**self.networks(), **self.extra_state(), "scaler": self.scaler}
        components |= {f"optimiser_{player}": optimiser for player, optimiser in self.optimisers.items()}
        components |= {} if self.structure is None else {"structure": self.structure.steps}
        return components if self.ema is None else {**components, "averaged": self.ema.networks}
