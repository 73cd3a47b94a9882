"""The configurations that come with the package, found by name from any folder."""

from pathlib import Path

_HERE = Path(__file__)
FOLDERS = (_HERE.parents[2] / "configs", _HERE.parents[1] / "configs")  # of a checkout, and of an installed package


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configurations by name, such as "phantom"."""
    folder = next((folder for folder in FOLDERS if (folder / "phantom.yaml").is_file()), FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def config_file(path: Path) -> Path:
    """Return the configuration that is meant: the file at a path, or the shipped one of that name where no file is."""
    named = shipped_configs().get(path.name) if path.name == str(path) else None
    return named if named is not None and not path.is_file() else path
