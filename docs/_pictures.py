"""Pictures for the documentation: screenshots of a run's report, an exploration, a comparison, and MLflow's pages.

    mlflow ui                            # beside it, in the same folder
    make pictures                        # of runs/phantom and of the sweep runs/sweep, or of FOLDER=… and SWEEP=…

Chromium makes them, without a window. They show phantoms only: a run on other data is refused.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import yaml

from pipeline import explore
from pipeline.utils.errors import EXIT_BAD_INPUT, EXIT_DONE, UserError, first_line, missing_package

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--hide-scrollbars", "--disable-background-networking")
SERVER = "http://127.0.0.1:5000"  # of `mlflow ui`
QUERY = "?workflowType=machine_learning"  # MLflow's pages of training, not of prompts
ASKED_MS, DRAWN_MS = 20_000, 3000  # patience with a page's questions and its drawing
# MLflow's own hints, which open on a first visit and cover the page:
HINTS = ("mlflow.assistant.fab.autoOpenedOnFirstLoad", "mlflow.detectIssues.guidanceShown")
QUIET = "".join(f"localStorage.setItem('{hint}{end}', 'true');" for hint in HINTS for end in ("", "_v1"))
WIDTH, QUALITY = 1500, 60  # in pixels; of JPEG, some 100 kB


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(prog="python docs/_pictures.py", description=__doc__.splitlines()[0])
    command.add_argument("run", type=Path, nargs="?", default=Path("runs/phantom"),
                         help="folder of a finished phantom run (default: runs/phantom, of `make demo`)")  # fmt: skip
    command.add_argument("--sweep", type=Path, default=Path("runs/sweep"),
                         help="folder of a sweep on phantoms (default: runs/sweep; left out if not there)")  # fmt: skip
    command.add_argument("-o", "--output", type=Path, default=DOCS, help="folder of the pictures (default: docs)")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pictures; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        require_phantom(arguments.run)
        with tempfile.TemporaryDirectory() as scratch, opened_browser() as page:
            shown = addresses(arguments.run, Path(scratch))
            if (arguments.sweep / "compare.json").is_file():
                shown["comparison_page"] = sweep_address(arguments.sweep)
            for name, (address, height) in shown.items():
                picture(page, address, height, arguments.output / f"{name}.jpg")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_DONE


def require_phantom(run: Path) -> None:
    """Refuse a run that is not finished or that shows people.

    Raises:
        UserError: See above.
    """
    if not (run / "report.html").is_file() or not (run / "config.yaml").is_file():
        raise UserError(f"{run}: holds no finished run; `make demo` does one")
    source = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]["source"]
    if source != "phantom":
        raise UserError(f"{run}: its data is {source}; pictures in the documentation show phantoms only")


def addresses(run: Path, scratch: Path) -> dict[str, tuple[str, int]]:
    """Return each picture's address and height in pixels; the exploration's page is made of the run's data.

    Raises:
        UserError: The data could not be explored.
    """
    if explore.main([str(run / "config.yaml"), "tracking.mlflow=false", "-o", str(scratch), "--quiet"]):
        raise UserError(f"{run}: its data could not be explored")
    model = next(iter(_json(run / "models.json").get("models", {}).values()), None)
    if model is None:
        raise UserError(f"{run}: MLflow has no model of it; `make demo` registers one")
    name = quote(model.removeprefix("models:/").partition("@")[0].partition("/")[0], safe="")
    page = f"{SERVER}/#/experiments/{experiment_of(run)}/runs/{_json(run / 'mlflow.json')['run_id']}"
    return {
        "report": ((run / "report.html").resolve().as_uri(), 1280),
        "exploration": ((scratch / "explore.html").as_uri(), 1500),
        "mlflow_model": (f"{SERVER}/#/models/{name}{QUERY}", 1200),
        "mlflow_run": (f"{page}{QUERY}", 1400),
    }


def sweep_address(sweep: Path) -> tuple[str, int]:
    """Return the address and height of a sweep's comparison.

    Raises:
        UserError: One of its runs is not finished, or shows people.
    """
    for entry in _json(sweep / "compare.json")["runs"]:
        require_phantom(Path(entry["folder"]))
    return (sweep / "compare.html").resolve().as_uri(), 1500


def experiment_of(run: Path) -> str:
    """Return the id of a run's experiment in MLflow.

    Raises:
        UserError: MLflow does not run, or does not know the run.
    """
    run_id = _json(run / "mlflow.json")["run_id"]
    try:
        with urlopen(f"{SERVER}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=ASKED_MS / 1000) as response:
            return str(json.load(response)["run"]["info"]["experiment_id"])
    except (URLError, KeyError, ValueError) as error:
        raise UserError(f"{SERVER} does not know {run} ({error}); start `mlflow ui` where its mlflow.db is") from error


def _json(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); the pictures of MLflow need it") from error


@contextmanager
def opened_browser() -> Iterator["Page"]:
    """Yield a page of a browser that runs without a window.

    Raises:
        UserError: There is none, or it cannot be driven.
    """
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise UserError("Chromium: not found, so no pictures can be made; install it (apt-get install chromium)")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise missing_package("make pictures", "test", error) from error
    with sync_playwright() as driver:
        try:
            page = driver.chromium.launch(executable_path=path, args=list(FLAGS)).new_page()
            page.set_default_timeout(4 * ASKED_MS)
            page.add_init_script(f"try {{ {QUIET} }} catch {{}}")  # about:blank has no storage
            yield page
        except Error as error:
            raise UserError(f"{path}: {first_line(error)}") from error


def picture(page: "Page", address: str, height: int, path: Path) -> None:
    """Keep what a page shows, its description unfolded, as a JPEG."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.goto("about:blank")  # or only what follows # would change, and the page be kept
    page.goto(address)
    _settle(page)
    if (more := page.get_by_text("Show more", exact=True)).count():
        more.first.click()
        _settle(page)
    page.screenshot(path=path, type="jpeg", quality=QUALITY)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def _settle(page: "Page") -> None:
    """Wait until a page has asked for all that it shows, and has drawn it."""
    from playwright.sync_api import TimeoutError as StillAsking

    with suppress(StillAsking):
        page.wait_for_load_state("networkidle", timeout=ASKED_MS)
    page.wait_for_timeout(DRAWN_MS)


if __name__ == "__main__":
    raise SystemExit(main())
