"""run.json: what a finished run took, and on what; `pipeline.compare` sets it beside the scores."""

import json
import platform
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from pipeline import __version__
from pipeline.config.schema import Config
from pipeline.distributed import launched
from pipeline.engines.protocol import Engine
from pipeline.files import atomic_text
from pipeline.runs.folder import json_text
from pipeline.training.loop import Position


def write_run_record(path: Path, config: Config, engine: Engine, position: Position, device: torch.device) -> None:
    """Write steps, seconds, numbers of parameters and the machine; a record of the same training stays as it is.

    `seconds` counts the training steps of all sittings, without loading, validation and pictures.
    `translator_parameters` counts the networks that translate, both directions, each weight once; `parameters` every
    trained network. The machine is that of the last sitting that trained: evaluating anew elsewhere changes nothing.
    """
    seconds = round(position.seconds, 3)
    if _training_of(path) == (position.step, seconds):
        return
    content = {
        "method": config.method.type,
        "steps": position.step,
        "bad_steps": position.bad_steps,
        "batch_size": config.training.batch_size,
        "seconds": seconds,
        "seconds_per_step": position.seconds / position.step if position.step else None,
        "translator_parameters": _count(engine.translators().values()),
        "parameters": {name: _count([network]) for name, network in engine.networks().items()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": launched().size,
        "precision": config.training.precision,
        "version": __version__,
        "torch": torch.__version__,
    }
    atomic_text(path, json_text(content))


def _training_of(path: Path) -> tuple[int, float] | None:
    """Return the steps and seconds of the record that is there, if one is."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        return earlier["steps"], earlier["seconds"]
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged
        return None


def _count(networks: Iterable[nn.Module]) -> int:
    """Return the number of weights, those that networks share counted once."""
    weights = {id(weight): weight for weight in chain.from_iterable(one.parameters() for one in networks)}
    return sum(weight.numel() for weight in weights.values())
