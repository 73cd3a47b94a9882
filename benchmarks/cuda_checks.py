"""What `benchmarks.cuda` holds against the CPU and against eager steps, and its short training on synthetic slices."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.step import ROOF_IMAGES
from benchmarks.timing import duration_text

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engines.base import Engine

Job = Callable[[], list[str]]  # returns the cells of a row behind its name
EAGER_STEPS = 6  # of the comparison of steps made one by one and captured
TOLERANCES = {"float32": 5e-3, "tf32": 0.02, "bf16": 0.05}  # of losses, relative
DEVICES_TOLERANCE = 5e-3  # between a CPU, whose convolutions are minimal filters, and a GPU


@dataclass(frozen=True)
class Plan:
    """What is measured: rows of `benchmarks.step`, batches, seconds of each section and round, the roof's images."""

    rows: tuple[str, ...] = ("unet-256", "resnet-256")
    batches: tuple[int, ...] = (1, 4, 16)
    checked: tuple[str, ...] = ("unet-128", "resnet-128")
    trained: str = "resnet-128"
    training_steps: int = 600
    checks_s: float = 100
    steps_s: float = 310
    training_s: float = 60
    round_s: float = 0.5
    roof: tuple[int, int, int, int] = ROOF_IMAGES


SMOKE = Plan(("unet-32", "resnet-32"), (1,), ("resnet-32",), "resnet-32", 30, 60, 60, 60, 0.01, (1, 8, 32, 32))


class CheckFailed(Exception):
    """A difference was larger than it may be, or a loss did not fall."""


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def checks(plan: Plan, on: str) -> Iterator[tuple[str, Job]]:
    """Yield the comparisons: captured with eager steps, and the device with the CPU."""
    for row in plan.checked:
        for precision in TOLERANCES if on == "cuda" else ():
            yield f"{row}, {precision}: captured against eager steps", partial(captured_or_eager, row, precision, on)
        yield f"{row}, float32: {on} against CPU", partial(device_or_cpu, row, on)


def captured_or_eager(row: str, precision: str, on: str) -> list[str]:
    """Compare the losses of `EAGER_STEPS` steps; not weights, for Adam moves those without a gradient by its rounding.

    Raises:
        CheckFailed: They differ.
    """
    import torch

    from pipeline.engines.cuda_graph import CapturedStep

    results = []
    for is_captured in (False, True):
        engine = _engine(row, precision, on)
        step = CapturedStep(engine) if is_captured else engine.step
        torch.cuda.manual_seed(1)
        results.append([_numbers(step(*_images(row, 2, on, seed))) for seed in range(EAGER_STEPS)])
    losses = [_largest_difference(captured, eager) for eager, captured in zip(*results, strict=True)]
    return _judged({"losses": float(np.max(losses))}, TOLERANCES[precision])


def device_or_cpu(row: str, on: str) -> list[str]:
    """Compare a translation and the first step's losses on the device and on the CPU, with the same weights.

    Raises:
        CheckFailed: They differ.
    """
    import torch

    engines = [_engine(row, "float32", place) for place in ("cpu", on)]
    for name, network in engines[1].networks().items():
        network.load_state_dict(engines[0].networks()[name].state_dict())
    images = [_images(row, 2, place, 0) for place in ("cpu", on)]
    with torch.no_grad():
        here, there = (
            engine.translators()["b"](real_a).cpu() for engine, (real_a, _) in zip(engines, images, strict=True)
        )
    losses = [_numbers(engine.step(*real)) for engine, real in zip(engines, images, strict=True)]
    translation = float((here - there).abs().max())
    return _judged({"translations": translation, "losses": _largest_difference(*losses)}, DEVICES_TOLERANCE)


def _judged(differences: dict[str, float], tolerance: float) -> list[str]:
    text = ", ".join(f"{name} {difference:.2g}" for name, difference in differences.items())
    if not all(difference <= tolerance for difference in differences.values()):  # nor NaN
        raise CheckFailed(f"differences of {text}, above {tolerance:g}")
    return [text, f"{tolerance:g}"]


def _largest_difference(losses: dict[str, float], others: dict[str, float]) -> float:
    """Return the largest difference, relative to the larger of the second loss and 0.1; NaN if one is."""
    return float(np.max([abs(losses[name] - others[name]) / max(abs(others[name]), 0.1) for name in others]))


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────


def trainings(plan: Plan, on: str) -> Iterator[tuple[str, Job]]:
    """Yield a short training as it is, and on a GPU one in bf16 with captured steps."""
    forms = (("float32", False), ("bf16", True)) if on == "cuda" else (("float32", False),)
    for precision, is_captured in forms:
        name = f"{plan.trained}, {precision}{', captured' if is_captured else ''}"
        yield name, partial(train, plan, precision, is_captured, on)


def train(plan: Plan, precision: str, is_captured: bool, on: str) -> list[str]:
    """Train on synthetic slices of two contrasts; return steps, seconds a step, and the cycle's loss before and after.

    Raises:
        CheckFailed: The cycle's loss did not fall by a quarter.
    """
    from pipeline.engines.cuda_graph import CapturedStep

    engine = _engine(plan.trained, precision, on)
    step = CapturedStep(engine) if is_captured else engine.step
    batches = [_images(plan.trained, 4, on, seed) for seed in range(16)]
    tenth, started = plan.training_steps // 10, time.monotonic()
    cycles, done = [], 0
    while done < plan.training_steps and time.monotonic() - started < plan.training_s / 2:
        losses = step(*batches[done % len(batches)])
        cycles.append((losses["cycle_a"] + losses["cycle_b"]).detach().clone())
        done += 1
    values = [float(cycle) for cycle in cycles]  # waits for the GPU
    step_s = (time.monotonic() - started) / done
    first, last = (statistics.mean(part) for part in (values[:tenth], values[-tenth:]))
    if not last < 0.75 * first:
        raise CheckFailed(f"the cycle's loss went from {first:.3g} to {last:.3g} in {done} steps")
    return [str(done), duration_text(step_s), f"{first:.3g}", f"{last:.3g}"]


# ── engines and images ──────────────────────────────────────────────────────────────────────────────────────────


def _engine(row: str, precision: str, on: str) -> "Engine":
    import torch

    from benchmarks.step import config_of
    from pipeline.engines.builders import build_engine
    from pipeline.utils.hardware import tune

    torch.manual_seed(0)
    tune(torch.device(on), tf32=precision == "tf32")
    return build_engine(config_of(row, 2, "bf16" if precision == "bf16" else "float32"), torch.device(on))


def _images(row: str, batch: int, on: str, seed: int) -> "tuple[Tensor, Tensor]":
    """Return synthetic slices (batch, 1, H, W) in [-1, 1] of two contrasts: heads whose core is dark, and bright."""
    import torch

    size = int(row.rpartition("-")[2])
    generator = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    contrasts = []
    for inner in (-0.4, 0.8):
        height, width, x, y = (torch.rand(4, batch, 1, 1, 1, generator=generator) - 0.5) * 0.3
        x, y = axis.view(1, 1, 1, -1) - x, axis.view(1, 1, -1, 1) - y
        head = (x / (0.7 + width)) ** 2 + (y / (0.8 + height)) ** 2 < 1
        core = (x / 0.3) ** 2 + (y / 0.4) ** 2 < 1
        images = torch.where(core, torch.tensor(inner), torch.where(head, torch.tensor(0.2), torch.tensor(-1.0)))
        contrasts.append((images + 0.02 * torch.randn(images.shape, generator=generator)).clamp(-1, 1).to(on))
    return contrasts[0], contrasts[1]


def _numbers(losses: "Mapping[str, Tensor]") -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}
