"""Initial weights from another run: located early, and checked against the networks to train."""

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.splits import CohortSplit
from pipeline.inference.model_address import BOX_FILE, checkpoint_at
from pipeline.runs.folder import RunFolder, differing_keys
from pipeline.utils.console import shortlist
from pipeline.utils.errors import UserError
from transforms.slice_chain import CHAIN_VERSION

if TYPE_CHECKING:  # the commands look for the weights before they import torch
    from pipeline.engines.base import Engine

logger = logging.getLogger(__name__)
NETWORK_SECTIONS = ("generator", "discriminator", "method")  # the sections that determine the networks
PREPROCESS_KEYS = ("axis", "spacing_mm", "size", "n4", "scaling", "percentiles")  # the keys that determine the slices
LONGEST_PROBLEM = 300  # characters
Settings = Mapping[str, Any]  # a run's whole configuration, in JSON's types


@dataclass(frozen=True)
class InitialWeights:
    """Weights of another run to begin from.

    `translators` holds a state by target, "a" or "b"; as `best.pt` has them, they may be of an earlier step.
    """

    weights: Mapping[str, Any]  # state of each network or other transferable component, by name, all of one step
    record: Mapping[str, Any]  # of the other run, as in `pipeline.training.resume`
    subjects: frozenset[str]  # that the weights were trained with
    translators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def load_into(self, engine: "Engine") -> None:
        """Load the weights into an engine of the same networks, and the translators that are of an earlier step.

        Of an engine whose translators share weights with each other (UNIT), all weights stay those of the one step.
        """
        import torch

        engine.load_pretrained(self.weights)
        generators = copy.deepcopy(engine.generators)  # as the other run's translators were made of them at that step
        generators.load_state_dict(self.weights.get("averaged", generators.state_dict()))
        newest = engine.translators_of(dict(generators.items()))
        if {*map(id, newest["a"].parameters())} & {*map(id, newest["b"].parameters())}:
            return
        for side, state in self.translators.items():
            best = copy.deepcopy(newest[side])
            best.load_state_dict(dict(state))
            if not all(map(torch.equal, best.parameters(), newest[side].parameters())):
                engine.load_translator(side, state)

    def with_overlap(self, split: CohortSplit) -> "InitialWeights":
        """Return a copy whose record counts the held-out subjects that the weights were trained with.

        Subjects are compared by name. If there are any, a warning is printed, for scores on them are too good.
        """
        held_out = {case.subject for case in (*split.validation, *split.test)}
        overlap = sorted(held_out & self.subjects)
        if not overlap:
            return self
        logger.warning(
            f"training.start_from: {self.record['run']} was trained with {len(overlap)} of {len(held_out)} "
            f"subjects that validate and test here, going by their names ({shortlist(overlap)}), so scores may flatter "
            "this run; give both one split (split.seed, or split.file with the other run's split.json)"
        )
        return replace(self, record={**self.record, "held_out_seen": len(overlap)})


def require_initial_weights(address: Path | None, folder: RunFolder) -> Path | None:
    """Return the path of the checkpoint to begin from; None if none is configured, or the run has a checkpoint.

    Args:
        address: `training.start_from`: the folder of another run, or one of its checkpoints.
        folder: Folder of the run.

    Raises:
        UserError: there is no checkpoint at the address.
    """
    if address is None or folder.has_checkpoint():  # the other run may be gone by now
        return None
    try:
        path = checkpoint_at(address)
    except UserError as error:
        raise UserError(
            f"training.start_from = {address}: no checkpoint there; give the folder of a run that has trained, or one "
            "of its checkpoints/*.pt"
        ) from error
    if path == BOX_FILE:
        raise UserError(f"training.start_from = {address}: set generator.start: box instead")
    return path


def read_initial_weights(
    address: Path | None, folder: RunFolder, settings: Settings, build: "Callable[[], Engine]"
) -> InitialWeights | None:
    """Read the weights to begin from, of the checkpoint that the other run evaluates; None if none are configured.

    A warning names preprocessing settings that differ.

    Args:
        address, folder: As in `require_initial_weights`.
        settings: The run's whole configuration, in JSON's types.
        build: Function that builds an engine of the run on torch's meta device, to try the weights on.

    Raises:
        UserError: there is no checkpoint, or its contrasts or networks are others; the message names the keys.
    """
    from pipeline.runs.checkpoint import load_checkpoint

    path = require_initial_weights(address, folder)
    if path is None:
        return None
    content = load_checkpoint(path)
    try:
        source = content["config"]
        # Refuse what does not fit.
        _require_contrasts(path, source["contrasts"], settings["contrasts"])
        _require_networks(path, content["engine"], source, settings, build())
        # Describe the other run for the history, and name its subjects.
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        record = {
            "run": source["name"],
            "path": str(path),
            "step": content["position"]["step"],
            "sha256": digest,
            "method": source["method"]["type"],
        }
        trained_with = [name for names in content["split"]["train"].values() for name in names]
        subjects = frozenset(name.partition("/")[0] for name in trained_with)  # of "subject/session"
        _warn_of_preprocessing(path, source, settings, content.get("chain_version", 1))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged, or of another version ({reason}); start from another run") from error
    states = content.get("translators", {})
    translators = {side: states[to] for side, to in zip("ab", settings["contrasts"], strict=True) if to in states}
    return InitialWeights(content["engine"], record, subjects, translators)


def _require_contrasts(path: Path, other_contrasts: list[str], contrasts: list[str]) -> None:
    """Refuse weights of other contrasts, or of the same ones in the opposite order."""
    if [*other_contrasts] == [*contrasts]:
        return
    first, second = other_contrasts
    message = f"contrasts = [{contrasts[0]}, {contrasts[1]}]: training.start_from has weights of {first} and {second}"
    if set(other_contrasts) == set(contrasts):
        raise UserError(f"{message}, in this order ({path}); set contrasts=[{first},{second}]")
    raise UserError(f"{message} ({path}); give the contrasts these names, in this order, or start from another run")


def _require_networks(
    path: Path, weights: Mapping[str, Any], source: Settings, settings: Settings, engine: "Engine"
) -> None:
    """Refuse weights that do not fit the networks to train, by name and shape."""
    if problems := [*_misfits(weights, engine)]:
        differences = [
            f"{key}: {other_value!r} there, {value!r} here"
            for key, other_value, value in differing_keys(_network_settings(source), _network_settings(settings))
        ]
        lines = [
            f"training.start_from: the networks of {path} are not those of this configuration; give it the same "
            "settings, or start from another run",
            *problems,
            "settings that differ:",
            *(differences or ["none, so the checkpoint is of another version"]),
        ]
        raise UserError("\n  ".join(lines))


def _misfits(weights: Mapping[str, Any], engine: "Engine") -> Iterator[str]:
    """Yield a line for each component that the weights lack or do not fit; load the others into the engine."""
    from torch import nn

    for name, component in engine.transferable_components().items():
        if name not in weights:
            yield f"{name}: not there"
        elif isinstance(component, nn.Module):  # others, such as a mean style, are of a size that follows from these
            try:  # a copy, for torch writes the wish to assign into the metadata of a state
                component.load_state_dict(dict(weights[name]), assign=True)
            except RuntimeError as error:
                yield f"{name}: {str(error).splitlines()[1].strip()[:LONGEST_PROBLEM]}"


def _network_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that may explain different networks."""
    # The size of slices determines a U-Net's depth, unless that is configured; neighbours are channels.
    preprocess = {"size": settings["preprocess"]["size"], "neighbours": settings["preprocess"].get("neighbours", 0)}
    return {**{name: settings[name] for name in NETWORK_SECTIONS}, "preprocess": preprocess}


def _warn_of_preprocessing(path: Path, source: Settings, settings: Settings, version: int) -> None:
    """Warn of settings, and of a version of the chain, by which the other run's slices were made otherwise."""
    # Keys that an older checkpoint lacks had no other value yet.
    source_values, own_values = source["preprocess"], settings["preprocess"]
    differences = [
        f"preprocess.{key} {source_values[key]!r} there, {own_values[key]!r} here"
        for key in PREPROCESS_KEYS
        if key in source_values and source_values[key] != own_values[key]
    ]
    if version != CHAIN_VERSION:
        differences.append(f"the chain's version {version} there, {CHAIN_VERSION} here")
    if differences:
        logger.warning(f"training.start_from: {path} was trained on slices made otherwise: {'; '.join(differences)}")
