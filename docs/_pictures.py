"""Pictures for the documentation: screenshots of a run's report, an exploration, and MLflow's page of a model.

    make pictures                        # of runs/phantom, or of FOLDER=…
    python docs/_pictures.py runs/phantom

Chromium makes them, without a window. They show phantoms only: a run on other data is refused. MLflow shows the
store of the folder where this is started, on a port of this machine for the time being.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.request import urlopen

import yaml
from PIL import Image

from pipeline.utils.errors import EXIT_BAD_INPUT, EXIT_DONE, UserError, first_line, missing_package

if TYPE_CHECKING:
    from playwright.sync_api import Page

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--hide-scrollbars", "--disable-background-networking")
SERVER_S, ASKED_MS, DRAWN_MS = 120, 20_000, 3000  # patience with the server's start, a page's questions, its drawing
# MLflow's own hints, which open on a first visit and cover the page:
HINTS = ("mlflow.assistant.fab.autoOpenedOnFirstLoad", "mlflow.detectIssues.guidanceShown")
QUIET = "".join(f"localStorage.setItem('{hint}{end}', 'true');" for hint in HINTS for end in ("", "_v1"))
QUIET = f"try {{ {QUIET} }} catch {{}}"  # about:blank has no storage
WIDTH = 1500  # pixels
MOST_BYTES = 150_000
QUALITIES = range(85, 20, -10)  # of JPEG, best first
QUERY = "?workflowType=machine_learning"  # MLflow's pages of training, not of prompts


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(prog="python docs/_pictures.py", description=__doc__.splitlines()[0])
    command.add_argument("run", type=Path, nargs="?", default=Path("runs/phantom"),
                         help="folder of a finished phantom run (default: runs/phantom, of `make demo`)")  # fmt: skip
    command.add_argument("-o", "--output", type=Path, default=DOCS, help="folder of the pictures (default: docs)")
    command.add_argument("--browser", help="the browser's command (default: the Chromium that is installed)")
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Make the pictures; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        path = find_browser(arguments.browser)
        require_phantom(arguments.run)
        with tempfile.TemporaryDirectory() as scratch, opened_browser(path) as page:
            report, explored = (arguments.run / "report.html").resolve(), explore(arguments.run, Path(scratch))
            picture(page, report.as_uri(), 1280, arguments.output / "report.jpg")
            picture(page, explored.as_uri(), 1500, arguments.output / "exploration.jpg")
            with mlflow_server(arguments.run) as server:
                picture(page, model_page(server, arguments.run), 1200, arguments.output / "mlflow_model.jpg")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return EXIT_DONE


def find_browser(command: str | None) -> str:
    """Return the path of the browser.

    Raises:
        UserError: There is none.
    """
    path = next(filter(None, map(shutil.which, [command] if command else BROWSERS)), None)
    if path is None:
        missing = command or "Chromium"
        raise UserError(f"{missing}: not found, so no pictures can be made; install it (apt-get install chromium)")
    return path


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


def explore(run: Path, folder: Path) -> Path:
    """Explore the data of a run; return the page.

    Raises:
        UserError: This failed.
    """
    command = [sys.executable, "-m", "pipeline.explore", str(run / "config.yaml"), "tracking.mlflow=false"]
    explored = subprocess.run([*command, "-o", str(folder), "--quiet"], capture_output=True, text=True, check=False)
    if explored.returncode:
        raise UserError(f"{run}: its data could not be explored: {explored.stderr.strip()}")
    return folder / "explore.html"


def model_page(server: str, run: Path) -> str:
    """Return the address of MLflow's page of a model that the run registered."""
    address = next(iter(_json(run / "models.json")["models"].values()))
    name = address.removeprefix("models:/").partition("@")[0].partition("/")[0]
    return f"{server}/#/models/{quote(name, safe='')}{QUERY}"


def _json(path: Path) -> dict:
    try:
        content: dict = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); MLflow's pages need it") from error
    return content


@contextmanager
def mlflow_server(run: Path) -> Iterator[str]:
    """Yield the address of a run's MLflow server, or of `mlflow ui`, started here on a free port."""
    store = os.environ.get("MLFLOW_TRACKING_URI") or _json(run / "mlflow.json")["uri"]
    if store.startswith("http"):
        yield store.rstrip("/")
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    store_option = ["--backend-store-uri", store] if "MLFLOW_TRACKING_URI" in os.environ else []  # else mlflow.db here
    process = subprocess.Popen(
        [*command, *store_option], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(SERVER_S)


def _wait_for(server: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + SERVER_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with urlopen(f"{server}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise UserError("`mlflow ui` does not start; type it to see why")


@contextmanager
def opened_browser(path: str) -> Iterator["Page"]:
    """Yield a page of a browser that runs without a window.

    Raises:
        UserError: It cannot be driven.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise missing_package("make pictures", "test", error) from error
    with sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
            page = browser.new_page()
            page.add_init_script(QUIET)
            yield page
        except Error as error:
            raise UserError(f"{path}: {first_line(error)}") from error


def picture(page: "Page", address: str, height: int, path: Path) -> None:
    """Open a page, unfold its description, and keep what it shows as a JPEG of modest size."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.goto(address)
    _settle(page)
    more = page.get_by_text("Show more", exact=True)
    if more.count():
        more.first.click()
        _settle(page)
    with Image.open(BytesIO(page.screenshot())) as image:
        size_bytes = save_jpeg(image.convert("RGB"), path)
    print(f"{path}: {size_bytes / 1000:.0f} kB")


def _settle(page: "Page") -> None:
    """Wait until a page has asked for all that it shows, and has drawn it."""
    from playwright.sync_api import TimeoutError as StillAsking

    with suppress(StillAsking):
        page.wait_for_load_state("networkidle", timeout=ASKED_MS)
    page.wait_for_timeout(DRAWN_MS)


def save_jpeg(image: Image.Image, path: Path) -> int:
    """Write a picture in the best quality in which it has less than `MOST_BYTES`; return its bytes."""
    for quality in QUALITIES:
        image.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size < MOST_BYTES:
            break
    return path.stat().st_size


if __name__ == "__main__":
    raise SystemExit(main())
