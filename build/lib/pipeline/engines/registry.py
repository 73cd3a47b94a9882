"""Builds an engine from a configuration: a method's name is the name of its module."""

from importlib import import_module

import torch
from torch import nn

from pipeline.config.schema import Config
from pipeline.engines.base import AdversarialEngine
from pipeline.engines.protocol import Engine
from pipeline.utils.distributed import SINGLE_PROCESS, World


def engine_class(config: Config) -> type[AdversarialEngine]:
    """Return the configured method: `ENGINE` of the module in `pipeline.engines` of its name."""
    return import_module(f"pipeline.engines.{config.method.type}").ENGINE


def build_engine(config: Config, device: torch.device, world: World = SINGLE_PROCESS) -> Engine:
    """Return the configured method with fresh networks on `device`, for one of the processes that train together."""
    engine = engine_class(config)(config, device)
    engine.world = world
    return engine


def build_translators(config: Config) -> dict[str, nn.Module]:
    """Return, by target contrast, fresh modules for a checkpoint's translator weights, in `eval` mode on the CPU."""
    translators = engine_class(config).build_translators(config)
    return {contrast: translators[side].eval() for side, contrast in zip("ab", config.contrasts, strict=True)}
