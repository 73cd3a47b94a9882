"""run.json: what a finished run took, and on what; `pipeline.compare` sets it beside the scores."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from pipeline import __version__
from pipeline.config.schema import Config
from pipeline.engines.protocol import Engine
from pipeline.runs.folder import fingerprint, json_text
from pipeline.training.trainer_state import TrainerState
from pipeline.utils.distributed import world_from_env
from pipeline.utils.files import atomic_text

# What trained; what evaluates anew may be another:
MACHINE = ("device", "machine", "threads", "processes", "precision", "version", "torch")


def write_run_record(
    path: Path,
    config: Config,
    engine: Engine,
    position: TrainerState,
    device: torch.device,
    *,
    warnings: Sequence[str] = (),
    history: Mapping[str, object] | None = None,
) -> None:
    """Write steps, seconds, numbers of parameters and the machine, and that all of the run is done: the last thing.

    `seconds` counts the training steps of all sittings, without loading, validation and pictures.
    `translator_parameters` counts the weights that a translation of either direction uses as it is made by default,
    weights that the two share once: not MUNIT's style encoders, which only a style of the user's own needs.
    `parameters` counts each trained network whole. The machine is that of the last sitting that trained: evaluating
    anew elsewhere does not change it. `configuration` is what `RunFolder.is_finished` looks for, `warnings` what
    training warned of that still stood at its end. What `pipeline.training.history` keeps stands there too.
    """
    seconds = round(position.seconds, 3)
    content = {
        "method": config.method.type,
        "steps": position.step,
        "bad_steps": position.bad_steps,
        "batch_size": config.training.batch_size,
        "seconds": seconds,
        "seconds_per_step": position.seconds / position.step if position.step else None,
        "translator_parameters": _count(map(_translating, engine.translators().values())),
        "parameters": {name: _count([network.parameters()]) for name, network in engine.networks().items()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "processes": world_from_env().size,
        "precision": config.training.precision,
        "version": __version__,
        "torch": torch.__version__,
        "warnings": list(warnings),
        "configuration": fingerprint(config),
        **(history or {}),
    }
    earlier = _earlier(path)
    if (earlier.get("steps"), earlier.get("seconds")) == (position.step, seconds):
        content |= {key: earlier[key] for key in MACHINE if key in earlier}
    atomic_text(path, json_text(content))


def mark_unfinished(path: Path, *, trains: bool = False) -> None:
    """Let a record no longer say that all of the run is done, for some of it is about to be done anew.

    Args:
        path: Of the record; where none is, none is made.
        trains: Whether the networks themselves change, so that scores beside the record are those of earlier ones.
    """
    earlier = _earlier(path)
    if earlier.pop("configuration", None) is not None or (trains and earlier):
        atomic_text(path, json_text({**earlier, **({"scores_outdated": True} if trains else {})}))


def _earlier(path: Path) -> dict:
    """Return the record that is there; empty where none is, or none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _translating(network: nn.Module) -> Iterable[nn.Parameter]:
    """Return the weights that a translation by default uses; a network that has others besides says which."""
    return network.translating_parameters() if hasattr(network, "translating_parameters") else network.parameters()


def _count(groups: Iterable[Iterable[nn.Parameter]]) -> int:
    """Return the number of weights, those that several groups have counted once."""
    weights = {id(weight): weight for weight in chain.from_iterable(groups)}
    return sum(weight.numel() for weight in weights.values())
