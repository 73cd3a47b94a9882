"""Unpaired translation of brain MRI between contrasts: from NIfTI volumes to NIfTI volumes.

From Python: `from pipeline import box, load_model, train, translate` (docs/reference/python.md).
"""

import os
import re
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before anything imports mlflow, as MONAI does

_HOME = Path(__file__).parents[1]  # of this package, of `networks` and of `transforms`
# So arguments read while `python -m pipeline.run` looks for its module, and while another package does that imports us.
_IS_COMMAND = sys.argv[:1] == ["-m"] and any(
    re.fullmatch(r"(?:-\w*m)?pipeline(?:\.\w+)+", word) for word in sys.orig_argv
)


def __getattr__(name: str) -> object:
    """Import the Python functions when they are first used, for they bring torch and MLflow."""
    if name in ("box", "load_model", "train"):
        import_module("pipeline.tracking.mlflow_settings").configure_mlflow()  # before anything imports MLflow
    if name in ("box", "load_model"):
        return getattr(import_module("pipeline.inference.model"), name)
    if name in ("train", "translate"):
        return import_module(f"pipeline.{name}")  # a module that can be called
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _leave_working_folder() -> None:
    """Have a command import nothing from the folder it is started in, which may hold a `networks.py` or a `random.py`.

    `python -m` puts that folder before all others. Processes that the command starts leave it out by themselves.
    """
    if not sys.flags.safe_path:
        with suppress(OSError):  # a folder that is no longer there is not ours either
            if _HOME.samefile(sys.path[0] or "."):
                return
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"


def _require_own_packages() -> None:
    """Refuse to work with other modules of our packages' names, which a script's folder or PYTHONPATH may hold.

    Raises:
        ImportError: names the file in the way; for a command a line and exit code 2 instead.
    """
    for name in ("networks", "transforms"):
        own, spec = _HOME / name / "__init__.py", find_spec(name)
        if spec is None or not own.is_file():
            continue
        origin = spec.origin or next(iter(spec.submodule_search_locations or []), "")
        if origin and not (os.path.exists(origin) and own.samefile(origin)):  # noqa: PTH110
            problem = f"{origin}: is in the way of this project's {name}; rename it, or take its folder out of the path"
            if not _IS_COMMAND:
                raise ImportError(problem)
            print(f"error: {ascii(problem)[1:-1]}", file=sys.stderr)
            raise SystemExit(2)


if _IS_COMMAND:
    _leave_working_folder()
_require_own_packages()
