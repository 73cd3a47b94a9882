"""Beginning from the weights of another run: found early, checked against the networks to train, and taken over."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.schema import Config
from pipeline.data.splits import CohortSplit
from pipeline.inference.model_address import checkpoint_at
from pipeline.runs.folder import RunFolder, differing_keys
from pipeline.utils.console import warn
from pipeline.utils.errors import UserError

if TYPE_CHECKING:  # the doors look for the weights before torch is there
    from torch import Tensor

    from pipeline.engines.protocol import Engine

SHAPING = ("generator", "discriminator", "method")  # the sections that decide which networks there are
PREPARING = ("axis", "spacing_mm", "size", "n4", "scaling", "percentiles")  # what networks are shown
SHOWN = 5


@dataclass(frozen=True)
class Start:
    """Weights to begin from.

    Attributes:
        weights: By name of a network, or of another part that was learnt, its state.
        record: Whose they are, as `pipeline.training.history` keeps it.
        subjects: The names of the subjects that they were trained with.
    """

    weights: Mapping[str, Mapping]
    record: Mapping[str, object]
    subjects: frozenset[str]

    def beside(self, split: CohortSplit) -> "Start":
        """Return the same, with the held-out subjects of a split who bear the name of one trained with on record.

        They are warned of: what is measured on them flatters a run that begins from what has seen them.
        """
        from pipeline.runs.prepare import shortlist  # with it comes SciPy, for which a refusal need not wait

        held_out = {case.subject for case in (*split.validation, *split.test)}
        seen = sorted(held_out & self.subjects)
        if not seen:
            return self
        warn(
            f"warning: training.start_from: {self.record['run']} was trained with {len(seen)} of {len(held_out)} "
            f"subjects that validate and test here, going by their names ({shortlist(seen)}), so scores may flatter "
            "this run; give both one split (split.seed, or split.file with the other run's split.json)"
        )
        return replace(self, record={**self.record, "held_out_seen": len(seen)})


def require_start(config: Config) -> Path | None:
    """Return the checkpoint whose weights a run is to begin from; None where none is asked for, or it has begun.

    Raises:
        UserError: there is no checkpoint where the configuration says.
    """
    wanted = config.training.start_from
    if wanted is None or RunFolder(config.folder).has_checkpoint():  # the other run may be gone by now
        return None
    try:
        return checkpoint_at(wanted)
    except UserError as error:
        raise UserError(
            f"training.start_from = {wanted}: no checkpoint there; give the folder of a run that has trained, or one "
            "of its checkpoints/*.pt"
        ) from error


def read_start(config: Config) -> Start | None:
    """Read the weights that a run is to begin from, of the checkpoint that the other run evaluates; None without any.

    Preprocessing that differs is warned of.

    Raises:
        UserError: nothing is there, its contrasts are others, or its networks, naming the keys that differ.
    """
    from pipeline.runs.checkpoint import load_checkpoint

    path = require_start(config)
    if path is None:
        return None
    content = load_checkpoint(path)
    try:
        source = Config.model_validate(content["config"])
        _require_contrasts(path, source.contrasts, config.contrasts)
        _require_networks(path, content["engine"], source, config)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        record = {
            "run": source.name,
            "path": str(path),
            "step": content["position"]["step"],
            "sha256": digest,
            "method": source.method.type,
        }
        trained_with = [name for names in content["split"]["train"].values() for name in names]
        subjects = frozenset(name.partition("/")[0] for name in trained_with)  # of "subject/session"
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged, or of another version ({reason}); start from another run") from error
    _warn_of_preprocessing(path, source, config)
    return Start(content["engine"], record, subjects)


def _require_contrasts(path: Path, theirs: tuple[str, str], ours: tuple[str, str]) -> None:
    """Refuse weights of other contrasts: what translated T1 to T2 would be taken for the opposite."""
    if theirs == ours:
        return
    here = f"contrasts = [{ours[0]}, {ours[1]}]: training.start_from has weights of {theirs[0]} and {theirs[1]}"
    if set(theirs) == set(ours):
        raise UserError(f"{here}, in this order ({path}); set contrasts=[{theirs[0]},{theirs[1]}]")
    raise UserError(f"{here} ({path}); give the contrasts these names, in this order, or start from another run")


def _require_networks(path: Path, weights: Mapping, source: Config, config: Config) -> None:
    """Refuse weights that do not fit the networks to train, by name and shape."""
    import torch

    from pipeline.engines.registry import build_engine

    with torch.device("meta"):  # allocates nothing and draws no random number
        engine = build_engine(config, torch.device("meta"))
    problems = [*_misfits(weights, engine)]
    if not problems:
        return
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    keys = [f"{key}: {there!r} there, {here!r} here" for key, there, here in _shaping_keys(source, config)]
    raise UserError(
        "\n  ".join(
            [
                f"training.start_from: the networks of {path} are not those of this configuration; give it the same "
                "settings, or start from another run",
                *problems[:SHOWN],
                *more,
                "settings that differ:",
                *(keys or ["none, so the checkpoint is of another version"]),
            ]
        )
    )


def _misfits(weights: Mapping, engine: "Engine") -> Iterator[str]:
    """Yield what the networks need and the weights have not, or in another shape, and what only the weights have."""
    from torch import nn

    for name, part in engine.learnt().items():
        if name not in weights:
            yield f"{name}: not there"
            continue
        if not isinstance(part, nn.Module):  # such as a mean style, whose size is the networks'
            continue
        needed, given = _shapes(part.state_dict()), _shapes(weights[name])
        odd = [key for key in dict.fromkeys([*needed, *given]) if needed.get(key) != given.get(key)]
        if odd:
            first = odd[0]
            there, here = (str(shapes.get(first, "none")) for shapes in (given, needed))
            count = f"{len(odd)} of {len(needed)} weights"
            yield f"{name}: {count} are of other shapes, the first is {first}: {there} there, {here} here"


def _shapes(state: "Mapping[str, Tensor | object]") -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items() if hasattr(value, "shape")}


def _shaping_keys(source: Config, config: Config) -> list[tuple[str, object, object]]:
    """Return the settings by which the networks may differ."""
    sections = [{name: one.model_dump(mode="json")[name] for name in SHAPING} for one in (source, config)]
    keys = differing_keys(*sections)
    if source.preprocess.size != config.preprocess.size:  # a U-Net without a depth of its own takes it from there
        keys.append(("preprocess.size", source.preprocess.size, config.preprocess.size))
    return keys


def _warn_of_preprocessing(path: Path, source: Config, config: Config) -> None:
    there, here = (one.preprocess.model_dump(mode="json", include=set(PREPARING)) for one in (source, config))
    different = [f"preprocess.{key} {before!r} there, {now!r} here" for key, before, now in differing_keys(there, here)]
    if different:
        warn(f"warning: training.start_from: {path} was trained on slices made otherwise: {'; '.join(different)}")
