"""What adversarial methods share: two players, their optimisers, precision, the averaged generators, states."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.config.schema import Config, Training
from pipeline.engines.builders import build_discriminator, build_generator
from pipeline.engines.ema import ExponentialMovingAverage
from pipeline.engines.losses import ADVERSARIAL, finite, total
from pipeline.utils.distributed import SINGLE_PROCESS, World

GENERATORS, DISCRIMINATORS = "generators", "discriminators"
Losses = dict[str, Tensor]


class AdversarialEngine(ABC):
    """An `Engine` of two players, generators and discriminators, that take turns at one batch.

    A method writes its losses in `losses`, and what it has besides the usual networks; the rest is here. All losses of
    a step are computed before any weight moves, so where one is not finite nothing moves (under fp16, gradients that
    overflow make the loss scaler leave out single updates).

    Whether all are finite, a CPU is asked. A GPU is not, for the answer would wait until it has done all its work:
    there what moves takes `is_finite`, a tensor (), into account (`disable_host_sync`).

    Where several processes train together (`world`, set by `build_engine`), each sees its block of the batch. Losses
    and gradients are averaged over them, and what is drawn or remembered is that of the whole batch, so that all hold
    the state that one process with the whole batch would.

    Args:
        config: Of the run; the method's own section becomes `self.method`.
        device: Where to compute.
        generators: The networks of the first player, by name; None: G from contrast a to b and F from b to a.
        discriminators: Those of the second; may be none. None: D_A of images of contrast a, and D_B.
    """

    world: World = SINGLE_PROCESS
    paired: ClassVar[bool] = False  # whether `step` wants the two contrasts of one slice, or any two slices

    def __init__(
        self,
        config: Config,
        device: torch.device,
        generators: Mapping[str, nn.Module] | None = None,
        discriminators: Mapping[str, nn.Module] | None = None,
    ):
        self.method, training = config.method, config.training
        if generators is None:
            generators = {name: build_generator(config) for name in ("G", "F")}
        if discriminators is None:
            discriminators = {name: build_discriminator(config) for name in ("D_A", "D_B")}
        self.generators = nn.ModuleDict(generators).to(device)
        self.discriminators = nn.ModuleDict(discriminators).to(device)
        self.ema = (
            ExponentialMovingAverage(self.generators, config.method.ema_decay, device)
            if config.method.ema_decay
            else None
        )
        self.adversarial = ADVERSARIAL[config.method.adversarial]
        self.rates = {
            GENERATORS: training.learning_rate,
            DISCRIMINATORS: training.discriminator_learning_rate or training.learning_rate,
        }
        self.optimisers = {
            player: _optimiser(networks, self.rates[player], training, device)
            for player, networks in self._players().items()
        }
        rhythm = getattr(config.method, "critic_steps", 1)  # who moves next depends on how many steps were sound
        self.requires_host_sync, self.host_sync = training.optimiser != "adam" or rhythm != 1, True
        self._present_rates: dict[str, Tensor] = {}
        if device.type == "cuda" and not self.requires_host_sync:
            self.disable_host_sync()
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)
        halves = low is not None and torch.amp.is_autocast_available(device.type)  # not on a plan's meta device
        self.autocast = (lambda: torch.autocast(device.type, low)) if halves else nullcontext
        # For the parts of a loss that half precision would spoil:
        self.full_precision = (lambda: torch.autocast(device.type, enabled=False)) if halves else nullcontext
        self.scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")

    @abstractmethod
    def losses(self, real_a: Tensor, real_b: Tensor) -> dict[str, Losses]:
        """Return, for each player that moves in this step, the weighted terms whose sum it makes smaller, by name."""

    def generator_adversarial_loss(self, judge: str, image: Tensor) -> Tensor:
        """Return the adversarial loss of whoever made an image that is to pass for real.

        It leaves no gradients in the discriminator named.
        """
        with self.frozen(self.discriminators[judge]):
            return self.adversarial(self.discriminators[judge](image), True)

    def discriminator_loss(self, judge: str, real: Tensor, fake: Tensor) -> Tensor:
        """Return the weighted loss of a discriminator on real images and on others, whose maker gets no gradients."""
        logits = self.discriminators[judge](torch.cat([real, fake.detach()]))  # in one pass, see `batched_forward`
        scales = [logits] if isinstance(logits, Tensor) else logits
        on_real, on_fake = zip(*(one.split([len(real), len(fake)]) for one in scales), strict=True)
        return self.method.discriminator_scale * (self.adversarial(on_real, True) + self.adversarial(on_fake, False))

    def sample_for_rank(self, draw: Callable[..., Tensor], count: int, *shape: int) -> Tensor:
        """Return `draw(count, *shape)` for this process's samples: drawn for the whole batch, it keeps its own.

        Args:
            draw: Such as `RandomState.normal`, in the same state in every process.
            count: Of this process's samples.
            shape: Of what is drawn for each.
        """
        return self.world.local_shard(draw(self.world.size * count, *shape))

    def translators(self) -> dict[str, nn.Module]:
        """See `Engine.translators`: F for "a" and G for "b"."""
        generators = self.best_generators()
        return {"a": generators["F"], "b": generators["G"]}

    def extra_state(self) -> dict[str, object]:
        """Return, by name, what else of the method has a state: `state_dict` and `load_state_dict`."""
        return {}

    def on_step_end(self, is_finite: Tensor) -> None:  # noqa: B027  (most methods have nothing to do here)
        """Called after weights have moved, if `is_finite` () is true; of a step that is skipped it may be left out."""

    @staticmethod
    def build_translators(config: Config) -> dict[str, nn.Module]:
        """Return fresh modules, by target ("a" or "b"), that the weights of `translators` fit."""
        return {"a": build_generator(config), "b": build_generator(config)}

    def step(self, real_a: Tensor, real_b: Tensor) -> Losses:
        """See `Engine.step`."""
        with self.autocast():
            by_player = self.losses(real_a, real_b)
        terms = {name: loss for losses in by_player.values() for name, loss in losses.items()}
        losses = self.world.all_reduce_mean(
            terms
        )  # not finite in one process: not finite in all, which skip the step together
        is_finite = finite(losses)
        if self.host_sync and not is_finite:
            return losses
        moving = [player for player in self.optimisers if player in by_player]
        # All gradients before any weight moves, for the generators' pass through the discriminators' weights;
        # between processes, the former travel while the latter are made.
        arrived = [self._gradients(player, total([*by_player[player].values()]), is_finite) for player in moving]
        for player, wait in zip(moving, arrived, strict=True):
            wait()
            self._move(self.optimisers[player], is_finite)
        self._scale_on(is_finite)
        if self.ema is not None and GENERATORS in by_player:
            self.ema.update(self.generators, None if self.host_sync else is_finite)
        self.on_step_end(is_finite)
        return losses

    @contextmanager
    def frozen(self, networks: nn.Module) -> Iterator[None]:
        """Leave out the gradients of some networks' weights: the other player's step needs none of them."""
        networks.requires_grad_(False)
        try:
            yield
        finally:
            networks.requires_grad_(True)

    def best_generators(self) -> nn.ModuleDict:
        """Return the generators that evaluate and translate: averaged where an average is kept."""
        return self.generators if self.ema is None else self.ema.networks

    def set_learning_rate(self, factor: float) -> dict[str, float]:
        """See `Engine.set_learning_rate`."""
        rates = {player: self.rates[player] * factor for player in self.optimisers}
        for player, optimiser in self.optimisers.items():
            present = self._present_rates.get(player)
            optimiser.param_groups[0]["lr"] = rates[player] if present is None else present.fill_(rates[player])
        return rates

    def disable_host_sync(self) -> None:
        """From now on let the device decide whether a step is sound, and look up the learning rates there.

        Raises:
            ValueError: the engine `requires_host_sync`: its optimiser cannot leave out a step, or the next step depends
                on it.
        """
        if self.requires_host_sync:
            raise ValueError("only Adam, moving both players in every step, can do without the host")
        device = next(self.generators.parameters()).device
        self._present_rates = {player: torch.tensor(rate, device=device) for player, rate in self.rates.items()}
        self.host_sync = False

    def networks(self) -> dict[str, nn.Module]:
        """See `Engine.networks`."""
        return {**dict(self.generators.items()), **dict(self.discriminators.items())}

    def state_dict(self) -> dict:
        """See `Engine.state_dict`."""
        parts = {name: part.state_dict() for name, part in self._stateful().items()}
        return {**parts, "averaged_steps": 0 if self.ema is None else int(self.ema.update_rate.count)}

    def load_state_dict(self, state: dict) -> None:
        """See `Engine.load_state_dict`."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        for optimiser in self.optimisers.values():
            _restore_form(optimiser)
        if self.ema is not None:
            self.ema.update_rate.count.fill_(state["averaged_steps"])

    def transferable_components(self) -> dict[str, object]:
        """Return, by the names of `state_dict`, what another run with the same networks can begin from."""
        return self.networks()

    def load_pretrained(self, state: dict) -> None:
        """Take over what another run learnt, of its state: no optimiser, pool, count or random stream.

        Where it kept no average of the generators, one that is kept here begins with their weights.
        """
        for name, part in self.transferable_components().items():
            part.load_state_dict(state[name])
        if self.ema is not None:
            self.ema.networks.load_state_dict(state.get("averaged", self.generators.state_dict()))
            self.ema.update_rate.count.fill_(state["averaged_steps"])

    def random_generators(self) -> list[torch.Generator]:
        """Return the method's own random generators."""
        return [part.generator for part in self.extra_state().values() if hasattr(part, "generator")]

    def _players(self) -> dict[str, nn.ModuleDict]:
        both = {GENERATORS: self.generators, DISCRIMINATORS: self.discriminators}
        return {player: networks for player, networks in both.items() if len(networks)}

    def _stateful(self) -> dict:
        parts = {**self.networks(), **self.extra_state(), "scaler": self.scaler}
        parts |= {f"optimiser_{player}": optimiser for player, optimiser in self.optimisers.items()}
        return parts if self.ema is None else {**parts, "averaged": self.ema.networks}

    def _gradients(self, player: str, loss: Tensor, is_finite: Tensor) -> Callable[[], None]:
        """Make the gradients of a player's weights; return what waits until they are the means of all processes."""
        optimiser = self.optimisers[player]
        optimiser.zero_grad(set_to_none=True)
        if self.scaler.is_enabled() and not self.host_sync:
            loss = loss * torch.where(is_finite, 1.0, torch.nan)  # the scaler leaves out what such gradients would move
        self.scaler.scale(loss).backward()
        return self.world.mean_gradients(optimiser.param_groups[0]["params"])  # before overflows are looked for

    def _move(self, optimiser: torch.optim.Optimizer, is_finite: Tensor) -> None:
        """Move a player's weights, if the step is sound."""
        if not self.host_sync:
            optimiser.found_inf = (
                ~is_finite
            ).float()  # a fused optimiser moves nothing, and counts nothing, where it is 1
        self.scaler.step(optimiser)

    def _scale_on(self, is_finite: Tensor) -> None:
        """Let the loss scaler learn from a step's overflows, unless the step was not sound by itself."""
        if not self.scaler.is_enabled():
            return
        known = self.scaler._scale, self.scaler._growth_tracker
        before = [one.clone() for one in known]
        self.scaler.update()
        for one, earlier in zip(known, before, strict=True):
            one.copy_(torch.where(is_finite, one, earlier))


def batched_forward(network: nn.Module, *batches: Tensor) -> tuple[Tensor, ...]:
    """Return what a network makes of each batch (N, C, H, W), all sent through it together.

    The same as one after the other, for norms are per sample and do not mix them; but a pass reads every weight once,
    and the way back makes every weight's gradient once: at batch 1 that is most of the work of a U-Net's inner levels.
    """
    return network(torch.cat(batches)).split([len(batch) for batch in batches])


def _optimiser(networks: nn.ModuleDict, rate: float, training: Training, device: torch.device) -> torch.optim.Optimizer:
    """Return one optimiser for all networks of a player."""
    if training.optimiser == "rmsprop":
        return torch.optim.RMSprop(networks.parameters(), lr=rate, alpha=0.9, weight_decay=training.weight_decay)
    return torch.optim.Adam(
        networks.parameters(),
        lr=rate,
        betas=(training.beta1, 0.999),
        weight_decay=training.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


def _restore_form(optimiser: torch.optim.Optimizer) -> None:
    """Give an optimiser, after it has loaded a state, back what is its own: states name the form of who saved them."""
    for group in optimiser.param_groups:
        group |= {name: optimiser.defaults[name] for name in ("fused", "capturable") if name in optimiser.defaults}
        for weight in group["params"]:
            state = optimiser.state.get(weight, {})
            if group.get("fused") and "step" in state:
                state["step"] = state["step"].to(weight.device)
