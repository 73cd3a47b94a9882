"""YAML files of configurations: found by path or name, parsed safely, and merged over the file named as `base`."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from pipeline.utils.arguments import cwd_hint
from pipeline.utils.errors import UserError
from pipeline.utils.files import decoded

_HERE = Path(__file__)
FOLDERS = (_HERE.parents[2] / "configs", _HERE.parents[1] / "configs")  # of a checkout, and of an installed package
KINDS = ("type", "source")  # keys that decide which further keys a section has
PER_CONTRAST = ("patterns", "train", "test")  # of `data`: their keys are contrasts, of which a base has others
MOST_BASES = 20  # one over another
OWN_KEYS = ("name", "output")  # what tells runs apart: never taken over from a base


def shipped_configs() -> dict[str, Path]:
    """Return the configurations that come with the package by name, such as "phantom"."""
    folder = next((folder for folder in FOLDERS if (folder / "phantom.yaml").is_file()), FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config_file(path: Path) -> Path:
    """Return the configuration that is meant: the file at a path, or the shipped one of that name where no file is."""
    shipped = shipped_configs().get(path.name) if path.name == str(path) else None
    return shipped if shipped is not None and not path.is_file() else path


def config_text(path: Path) -> str:
    """Return the text of a YAML file, or of the configuration of that name that comes with the package.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    path = config_file(path)
    try:
        return decoded(path.read_bytes(), str(path), "a YAML configuration")
    except OSError as error:
        reason = f"{error.strerror or error}{cwd_hint(path)}"
        remedy = f"give the path of a YAML configuration, or a shipped one: {', '.join(shipped_configs())}"
        raise UserError(f"{path}: {reason}; {remedy}") from error


def read_values(path: Path, overlays: tuple[Path, ...] = ()) -> dict:
    """Return the keys and values of a YAML file, merged over those of the file that its `base` names, if any.

    Sections are merged key by key. A section whose `type` or `source` differs from the base's takes its place, and so
    do patterns and folders per contrast. The base's `name` and `output` are left out. A `base` is the path of another
    file, relative to the file's folder, or a shipped one's name; `overlays` are files whose bases led here.

    Raises:
        UserError: a file cannot be read or holds no keys, or the bases lead in a circle.
    """
    values = _mapping(path)
    if "base" not in values:
        return values
    base = values.pop("base")
    if not isinstance(base, str) or not base or "\0" in base:
        raise UserError(f"{path}: base = {base!r}: must be the path of another YAML file, or a shipped one's name")
    base_path = _base_path(path, base)
    chain = (*overlays, path)
    if base_path.resolve() in {overlay.resolve() for overlay in chain}:
        raise UserError(f"{path}: base = {base}: leads back to {base_path}, whose base it is; leave one of them out")
    if len(chain) > MOST_BASES:
        raise UserError(f"{path}: base = {base}: more than {MOST_BASES} files, each the next one's base; merge some")
    try:
        inherited = {key: value for key, value in read_values(base_path, chain).items() if key not in OWN_KEYS}
    except UserError as error:
        raise error if overlays else UserError(f"{path}: base = {base}: {error}") from error
    return merged(inherited, values)


def merged(base: Mapping, overlay: Mapping) -> dict:
    """Return the values of `overlay` over those of `base`; see `read_values`."""
    result = dict(base)
    for key, value in overlay.items():
        base_value = base.get(key)
        result[key] = value
        if isinstance(value, Mapping) and isinstance(base_value, Mapping):
            of_other_kind = any(kind in value and value[kind] != base_value.get(kind) for kind in KINDS)
            result[key] = dict(value) if of_other_kind or key in PER_CONTRAST else merged(base_value, value)
    return result


def _base_path(path: Path, base: str) -> Path:
    """Return the file that a base names: beside the overlay, else the shipped one of that name."""
    sibling = path.parent / base
    shipped = shipped_configs().get(Path(base).stem) if Path(base).name == base else None
    return shipped if shipped is not None and not sibling.is_file() else sibling


def _mapping(path: Path) -> dict:
    """Return the content of a YAML file that holds keys."""
    try:
        values = parse_yaml(config_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {_reason(error)}; correct it there") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no `key: value` lines; start from one of the files in configs/")
    return values


def _reason(error: yaml.YAMLError) -> str:
    """Return what is wrong with a YAML file, and where if that is known, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return " ".join(f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})".split())


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        keys = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                reason = f"the key {key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, reason, key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> object:
    """Return the content of a YAML text; raises `yaml.YAMLError`, also for values like 2001-13-45 that crash PyYAML."""
    try:
        return _UniqueKeyLoader(text).get_single_data()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise yaml.YAMLError(str(error)) from error
