"""The options of methods, as they are without a configuration."""

import typing
from dataclasses import fields
from importlib import import_module

import pytest

from pipeline.config.methods import AnyMethod


@pytest.mark.parametrize("section", typing.get_args(AnyMethod), ids=lambda section: section.__name__)
def test_the_defaults_of_a_methods_options_are_those_of_its_keys(section):
    keys = section()
    options = import_module(f"pipeline.engines.{keys.type}").OPTIONS()
    own = {item.name for item in fields(options)} - {"seed", "structure"}  # keys of their own, and a section
    expected = {name: getattr(keys, name) for name in own if hasattr(keys, name)}
    assert len(expected) > 3 and {name: getattr(options, name) for name in expected} == expected
    assert options.structure is None and options.seed == 0
