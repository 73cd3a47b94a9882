"""Whole runs that are killed again and again, beside one that nobody disturbs and whose states are written down.

Everything is imported once: an attempt is a fork of this process. It tells what it is about to do, and what state it
is in, through a pipe, and is killed from outside at a moment after one of these events.
"""

import hashlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch._dynamo  # which an optimiser imports in each process anew, and that takes seconds
from crash_points import die_at_byte
from small_engine import leaves
from small_run import CONFIGS, QUICK, TINY, command, workshop

import pipeline.train
from pipeline.engines.base import Engine
from pipeline.runs.checkpoint import CheckpointFolder, random_state

SHARED = tuple(text for text in TINY if not text.startswith(("generator.", "discriminator.")))
EVERY_STEP = (
    "training.checkpoint_minutes=0.0000001", "training.validation_slices=2", "training.sample_slices=1",
    "evaluation.translate=false",
)  # fmt: skip
# 64 pixels and six levels are the least that has a layer with dropout, which draws from torch's global generator.
UNET = ("preprocess.size=64", "generator.depth=6", "generator.width=1", "generator.dropout=0.5")
PATCHGAN = ("discriminator.layers=2", "discriminator.width=2")
AUGMENTED = (  # which draws random numbers by the step
    "augment.jitter=1.1", "augment.rotate90=0.3", "augment.brightness=0.1",
    "augment.monai=[{RandGaussianNoised: {prob: 0.5}}, {RandAffined: {prob: 0.5, rotate_range: 0.2}}]",
)  # fmt: skip
AUTO_ENCODER = (*PATCHGAN, "generator.width=2", "generator.downs=1")
WASSERSTEIN = ("method.adversarial=wasserstein", "training.optimiser=rmsprop")
METHODS = {  # name -> one of the shipped configurations, and how it is made small
    "cyclegan": ("phantom", (*UNET, *PATCHGAN, *AUGMENTED, "method.pool_size=3")),
    "dualgan": ("phantom_dualgan", (*UNET, *PATCHGAN)),
    "dualgan, clipped": (
        "phantom_dualgan",
        (*UNET, *PATCHGAN, *WASSERSTEIN, "method.clip=0.02", "method.critic_steps=2"),
    ),
    "dualgan, penalty": (
        "phantom_dualgan",
        (*UNET, *PATCHGAN, *WASSERSTEIN, "method.gradient_penalty=10", "method.critic_steps=3"),
    ),
    "munit": (
        "phantom_munit",
        (*AUTO_ENCODER, "generator.blocks=1", "generator.style_downs=2", "generator.mlp_width=4"),
    ),
    "unit": ("phantom_unit", (*AUTO_ENCODER, "generator.blocks=2", "generator.shared_blocks=1")),
    "cut": ("phantom_cut", (*UNET, *PATCHGAN, "method.patches=20", "method.head_width=8")),
    "pix2pix": ("phantom_pix2pix", (*UNET, *PATCHGAN)),
}


class Event(NamedTuple):
    """What a run was about to do, or had done: "start", "begin" (to train), "step", "save", "saved" or "finish"."""

    name: str
    step: int
    state: str
    time: float


@dataclass(frozen=True)
class Attempt:
    """One process that worked on a run: how it ended, and what it said until then."""

    code: int
    events: list[Event]

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def states(self) -> list[Event]:
        """The events that say in which state training was: taken up, or saved."""
        return [event for event in self.events if event.state]


class Moment(NamedTuple):
    """When to kill: so many seconds after the first event of that name at that step or a later one."""

    event: str
    step: int
    seconds: float


def digest(engine: dict, randomness: dict, position: dict) -> str:
    """A short name of all that decides on how training goes on; of the position all but the clock."""
    position = {name: value for name, value in position.items() if name != "seconds"}
    found = hashlib.sha256()
    for place, leaf in sorted(leaves({"engine": engine, "random": randomness, "position": position}).items()):
        content = leaf.detach().contiguous().numpy().tobytes() if isinstance(leaf, torch.Tensor) else b""
        metadata = (leaf.dtype, tuple(leaf.shape)) if isinstance(leaf, torch.Tensor) else leaf
        found.update(f"{place} {metadata!r} ".encode() + content)
    return found.hexdigest()[:20]


def attempt(
    method: str,
    folder: Path,
    *,
    kill: Moment | None = None,
    prepare: Callable[[], object] = lambda: None,
    steps: int = 8,
    whole: bool = False,
) -> Attempt:
    """Begin or take up the run in a folder, in a process of its own, and kill it at a moment, if one is given.

    Args:
        method: A row of METHODS.
        folder: Of the run.
        kill: When.
        prepare: Called in that process first; what it changes there is changed nowhere else.
        steps: Of each of the three epochs.
        whole: Whether evaluation and report follow the training.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            _report_events(writing, whole)
            prepare()
            code = command(_arguments(method, folder, steps))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    events = []
    with os.fdopen(reading) as lines:
        for line in lines:
            name, step, state, moment = line.rstrip("\n").split(" ")
            events.append(Event(name, int(step), state, float(moment)))
            if kill is not None and name == kill.event and int(step) >= kill.step:
                time.sleep(kill.seconds)
                os.kill(child, signal.SIGKILL)
                kill = None
    return Attempt(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), events)


def _arguments(method: str, folder: Path, steps: int) -> list[str]:
    config, small = METHODS[method]
    shared = (f"data.folder={workshop() / 'phantom'}", f"preprocess.store={workshop() / 'store'}", f"output={folder}")
    long = ("training.epochs=2", f"training.steps_per_epoch={steps}")
    return [
        str(CONFIGS / f"{config}.yaml"), *SHARED, *QUICK, *EVERY_STEP, *small, *long, *shared, "--quiet"
    ]  # fmt: skip


def _report_events(pipe: int, whole: bool) -> None:
    """Have this process tell of its run through a pipe."""
    steps_made = 0

    def report(name: str, state: str = "") -> None:
        os.write(pipe, f"{name} {steps_made} {state} {time.monotonic()}\n".encode())

    train, finish, step, save = (pipeline.train.train, pipeline.train.finish, Engine.step, CheckpointFolder.save)

    def recorded_train(engine, slices, schedule, position, *arguments, **options):
        nonlocal steps_made
        steps_made = position.step
        report("begin", digest(engine.state_dict(), random_state(), vars(position)))
        train(engine, slices, schedule, position, *arguments, **options)

    def recorded_step(engine, *batch):
        nonlocal steps_made
        steps_made += 1
        report("step")
        return step(engine, *batch)

    def recorded_save(folder, state, *, best=(), start=None):
        report("save", digest(state["engine"], state["random"], state["position"]))
        save(folder, state, best=best, start=start)
        report("saved")

    def recorded_finish(*arguments):
        report("finish")
        if whole:
            finish(*arguments)

    if not whole:
        pipeline.train.closing_lines = lambda *_, **__: "trained"
    pipeline.train.train, pipeline.train.finish = recorded_train, recorded_finish
    Engine.step, CheckpointFolder.save = recorded_step, recorded_save
    report("start")


def deviations(uninterrupted: Attempt, attempts: Iterable[Attempt]) -> list[tuple[str, int]]:
    """Where, in (event, step), the state of a run was none that the undisturbed one was in after as many steps."""
    known_states = {(event.step, event.state) for event in uninterrupted.states}
    states = [event for item in attempts for event in item.states]
    return [(event.name, event.step) for event in states if (event.step, event.state) not in known_states]


@dataclass
class KilledRun:
    """One run that takes many kills."""

    method: str
    folder: Path
    uninterrupted: Attempt
    steps: int
    whole: bool = False
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def kills(self) -> list[Attempt]:
        return [item for item in self.attempts if item.killed]

    @property
    def in_a_write(self) -> int:
        """How many of the kills came between the beginning and the end of the saving of a checkpoint."""
        return sum(item.events[-1].name == "save" for item in self.kills)

    @property
    def resumed(self) -> int:
        """How many of the attempts after a kill came to training, or found it done, and had no error."""
        after = [later for item, later in pairwise(self.attempts) if item.killed]
        return sum(later.code in (0, -signal.SIGKILL) for later in after)

    def go_on(self, kill: Moment | None = None, **options) -> Attempt:
        """Let the run go on, until it ends or is killed."""
        item = attempt(self.method, self.folder, kill=kill, steps=self.steps, whole=self.whole, **options)
        self.attempts.append(item)
        return item

    def take(self, kills: int, seed: int) -> None:
        """Be killed so many times at least, or somewhat less often where nothing follows training, and be left to end.

        Of the kills one in ten comes before training and one in ten after it. Of the others two in five strike within
        the writing of a checkpoint, at a byte drawn at random; as many come at a random time within a step, and the
        rest at a random time after a save has begun.
        """
        generator, target_count = random.Random(seed), kills - 2 * (kills // 10)
        write, step = (self._seconds(*pair) for pair in (("save", "saved"), ("step", "save")))
        for number, place in enumerate(sorted(generator.uniform(0, 3 * self.steps) for _ in range(target_count))):
            event = ("step", "byte", "save", "byte", "step")[number % 5]
            if event == "byte":
                item = self.go_on(prepare=partial(die_at_byte, 1 + int(place), generator.random()))
            else:
                item = self.go_on(
                    Moment(event, 1 + int(place), generator.uniform(0, write if event == "save" else step))
                )
            if number % 8 == 4:
                self.go_on(Moment("start", 0, generator.uniform(0, self._seconds("start", "begin"))))
            if not item.killed:  # trained to the end
                break
        for _ in range(kills if self.whole else 0):
            if len(self.kills) >= kills:
                break
            self.go_on(Moment("finish", 0, generator.uniform(0, 0.5)))
        self.go_on()

    def _seconds(self, first: str, second: str) -> float:
        """How long it usually takes from one event to the other: in this run or, at first, the undisturbed."""
        pairs = [pair for item in self.attempts or [self.uninterrupted] for pair in pairwise(item.events)]
        return median(later.time - item.time for item, later in pairs if (item.name, later.name) == (first, second))
