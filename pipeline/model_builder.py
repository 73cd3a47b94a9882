"""From a checkpoint's saved configuration to networks and plain values, so that translation needs no configuration."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from networks.blocks import saved_names as saved_names  # for `inference`, which knows no networks
from pipeline.config.schema import Config
from pipeline.engines.builders import build_translators
from pipeline.runs.prepare import chain_settings
from transforms.slice_chain import PreprocessSettings


@dataclass(frozen=True)
class SavedModel:
    """What a saved configuration says of its networks."""

    contrasts: tuple[str, str]
    translators: dict[str, nn.Module]  # by target contrast; without trained weights, in evaluation mode on the CPU
    settings: PreprocessSettings
    precision: str  # of training: "float32", "bf16" or "fp16"
    tf32: bool  # whether training rounded products to TF32
    origin: str  # method and name of the run
    config_hash: str  # twelve digits of the configuration's SHA-256


def build_saved_model(saved_config: Mapping[str, Any], chain_version: int) -> SavedModel:
    """Return the networks of a saved configuration; raises ValueError where it is of another version."""
    config = Config.model_validate(saved_config)
    text = json.dumps(saved_config, sort_keys=True)  # as it was saved: the schema of a later release has other keys
    return SavedModel(
        contrasts=config.contrasts,
        translators=build_translators(config),
        settings=chain_settings(config.preprocess.model_dump(mode="json"), chain_version),
        precision=config.training.precision,
        tf32=config.training.tf32,
        origin=f"{config.method.type} {config.name}",
        config_hash=hashlib.sha256(text.encode()).hexdigest()[:12],
    )
