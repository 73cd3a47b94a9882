"""Read a configuration: from YAML and command-line overrides to a checked `Config`, or to all errors at once."""

import copy
import difflib
import logging
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.checks import conflicts
from pipeline.config.schema import REMOVED_KEYS, Config
from pipeline.config.yaml_file import KINDS, config_file, parse_yaml, read_values
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)
LONGEST_VALUE = 80  # characters of a value that an error shows
SEEDS_RULE = "must be one number, or a list of two different ones or more"


def load_config(path: Path, overrides: Sequence[str] = (), *, warn: bool = True) -> Config:
    """Read a YAML file over its `base`, apply `key.sub=value` overrides, and check the result.

    `path` may also be the name of a configuration that comes with the package, such as "phantom". With `warn`, keys of
    earlier releases are named; a finished run's own file may hold them.

    Raises:
        UserError: Names the file and all errors at once: for each, the key, its value, the rule, and for an unknown key
            the nearest valid one.
    """
    path = config_file(path)
    values, problems = _with_overrides(path, overrides)
    if isinstance(values.get("seed"), list):
        problems.append(
            f"seed = {values.pop('seed')}: must be one number here, as in seed=0; several are for pipeline.run alone"
        )
    return _checked(path, values, problems, warn=warn)


def load_seeds(path: Path, overrides: Sequence[str] = ()) -> list[Config]:
    """Read a configuration as `load_config`; where `seed` is a list, one for each seed: NAME-seed-S in OUTPUT/seed-S.

    Raises:
        UserError: as `load_config`, or the seeds are not two different numbers or more.
    """
    path = config_file(path)
    values, problems = _with_overrides(path, overrides)
    seeds = values.get("seed")
    if not isinstance(seeds, list):
        return [_checked(path, values, problems)]
    if len(seeds) < 2 or len({repr(seed) for seed in seeds}) < len(seeds):
        problems.append(f"seed = {seeds}: {SEEDS_RULE}")
        seeds = [0]
    configs = [_checked(path, values | {"seed": seed}, problems, warn=not index) for index, seed in enumerate(seeds)]
    if len({config.seed for config in configs}) < len(configs):  # 1 and 1.0
        raise UserError(f"{path}: 1 error\n  seed = {seeds}: {SEEDS_RULE}")
    return [
        config.model_copy(
            update={"name": f"{config.name}-seed-{config.seed}", "output": config.folder / f"seed-{config.seed}"}
        )
        for config in configs
    ]


def _with_overrides(path: Path, overrides: Sequence[str]) -> tuple[dict, list[str]]:
    """Return a file's values with the overrides, and a line for each override that could not be applied."""
    values = read_values(path)
    kinds_first = sorted(overrides, key=lambda text: text.partition("=")[0].rpartition(".")[2] not in KINDS)
    return values, [problem for text in kinds_first if (problem := _override(values, text))]


def _checked(path: Path, values: dict, problems: Sequence[str], *, warn: bool = True) -> Config:
    """Return the checked configuration; raise UserError with the given problems and all others."""
    problems = list(problems)
    for section, key in REMOVED_KEYS:
        if warn and isinstance(values.get(section), dict) and key in values[section]:
            logger.warning(f"{path}: {section}.{key} has no effect any more; remove the line")
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += [_error_line(problem) for problem in error.errors()]
        problems += _conflicts_of_the_rest(values, [_location(problem) for problem in error.errors()])
    else:
        problems += list(conflicts(config))
    if problems:
        count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        raise UserError("\n  ".join([f"{path}: {count}", *problems]))
    return config


def _conflicts_of_the_rest(values: dict, wrong_keys: Sequence[Sequence[str]]) -> list[str]:
    """Return the conflicts between settings that are valid, where those at `wrong_keys` have their defaults instead."""
    remaining = copy.deepcopy(values)
    for keys in wrong_keys:
        section = remaining
        for key in keys:
            if key != keys[-1] and isinstance(section.get(key), dict):
                section = section[key]
            else:  # the last of the keys, or one whose value is a list
                section.pop(key, None)
                break
    try:
        config = Config.model_validate(remaining)
    except ValidationError:
        return []
    names = [".".join(key) for key in wrong_keys]
    return [line for line in conflicts(config) if not any(name in line for name in names)]


def load_settings(path: Path) -> dict[str, typing.Any]:
    """Return the configuration that a run saved as plain values, in JSON's types: section -> key -> value."""
    return load_config(path, warn=False).model_dump(mode="json")


def _override(values: dict, text: str) -> str | None:
    """Apply one `key.sub=value` in place; return an error line, or None."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        return f"{text}: an override is written key.sub=value"
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            return f"{key}: {parent} holds a value, not keys of its own"
    if last in KINDS and section.get(last, value) != value:
        section.clear()  # another kind has other keys, and its own defaults
    if takes_text(key) and value not in ("", "null") and value[0] not in "\"'":
        section[last] = value  # YAML would read some names as comments, numbers or two lines
        return None
    try:
        section[last] = parse_yaml(value)
    except yaml.YAMLError:
        return f"{key} = {value}: not valid YAML; quote it"
    return None


def takes_text(key: str) -> bool:
    """Whether a key's value is a path or a pattern, including those given per contrast."""
    parent = key.rpartition(".")[0]
    types_by_key = schema_keys()
    parent_type = types_by_key.get(parent)
    holds_texts = typing.get_origin(parent_type) is dict and typing.Any not in typing.get_args(parent_type)
    return "Path" in str(types_by_key.get(key)) or holds_texts


def _error_line(problem: Mapping) -> str:
    """Return one of pydantic's errors as a line: key, value, rule, nearest valid key."""
    location = _location(problem)
    kinds = _kinds().get(location[0], {}) if location else {}
    kind = problem["loc"][1] if len(location) < len(problem["loc"]) else None
    key, value = ".".join(location), _shortened_repr(problem["input"])
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        if kind and key in schema_keys():
            return f"{key} = {value}: not a key of {location[0]} {kind}; leave it out"
        nearest = _nearest_key(key, location[0], kind)
        return f"{key} = {value}: unknown key" + (f"; the nearest valid key is {nearest}" if nearest else "")
    if problem["type"] == "missing":
        return f"{key}: missing; it must be set"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{key} = {value}: must hold keys of its own, as in configs/phantom.yaml"
    if problem["type"].startswith("union_tag"):
        rule = f"must be one of {', '.join(kinds)}"
        name, tag = problem["ctx"]["discriminator"].strip("'"), problem["ctx"].get("tag")
        return f"{key}.{name} = {tag!r}: {rule}" if tag else f"{key}.{name}: missing; it {rule}"
    rule = problem["msg"].replace("Input should be ", "must be ").replace("Value error, ", "must be ")
    return f"{key} = {value}: {rule}"


def _location(problem: Mapping) -> list[str]:
    """Return where one of pydantic's errors lies: section, key and so on; a union member's name is no key."""
    location = [str(key_part) for key_part in problem["loc"]]
    if location[1:2] and location[1] in _kinds().get(location[0], {}):
        del location[1]
    return location


def _shortened_repr(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _nearest_key(key: str, section: str, kind: str | None) -> str | None:
    """Return the valid key closest to an unknown one, by its last part and then as a whole; none of other kinds."""
    other_kinds = {model for name, model in _kinds().get(section, {}).items() if kind and name != kind}
    keys = schema_keys(without=other_kinds)
    parent, _, last = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in keys if name.rpartition(".")[0] == parent}
    hits = difflib.get_close_matches(last, siblings, n=1, cutoff=0.6)
    if hits:
        return siblings[hits[0]]
    by_last = {name.rpartition(".")[2]: name for name in keys}
    hits = difflib.get_close_matches(last, by_last, n=1, cutoff=0.75) or difflib.get_close_matches(key, keys, n=1)
    return by_last.get(hits[0], hits[0]) if hits else None


def _kinds() -> dict[str, dict[str, type[BaseModel]]]:
    """Return section -> kind -> model, for sections with several kinds (`data.source`, `method.type`, …)."""
    kinds = {}
    for name, field in Config.model_fields.items():
        if isinstance(field.discriminator, str):
            members = _sections(field.annotation)
            kinds[name] = {
                typing.get_args(member.model_fields[field.discriminator].annotation)[0]: member for member in members
            }
    return kinds


def schema_keys(
    model: type[BaseModel] = Config, prefix: str = "", without: Collection[type[BaseModel]] = ()
) -> dict[str, object]:
    """Return the type of every dotted key of the schema, except those of the section models in `without`."""
    keys: dict[str, object] = {}
    for name, field in model.model_fields.items():
        keys[prefix + name] = field.annotation
        for section in _sections(field.annotation):
            if section not in without:
                keys |= schema_keys(section, f"{prefix}{name}.", without)
    return keys


def _sections(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) in (typing.Union, typing.Annotated):
        return [section for member in typing.get_args(annotation) for section in _sections(member)]
    return []


def resolved_yaml(config: Config) -> str:
    """Return the whole configuration, defaults included, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
