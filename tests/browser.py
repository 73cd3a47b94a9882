"""A real Chromium without a window, driven through a page; tests that want one are skipped where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-quic",
)  # fmt: skip
SOFTWARE_WEBGL = (
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-angle-features=warmUpPipelineCacheAtLink",  # otherwise every shader is compiled, used or not: 30 s
)  # fmt: skip
NO_WEBGL = ("--disable-3d-apis",)


@contextmanager
def opened(path: Path, *flags: str, width: int = 900, dark: bool = False) -> Iterator:
    """Yield a file opened as a page, and the list of what it complained of and of what it asked from elsewhere.

    The list fills as the page lives: console errors, uncaught exceptions, requests beyond the file itself.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser test")
    browser_path = next(filter(None, map(shutil.which, NAMES)), None)
    if browser_path is None:
        pytest.skip("no Chromium is installed (apt-get install chromium): the report is not opened in a browser")
    complaints = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=[*FLAGS, *flags])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: _is_outside(request.url, path) and complaints.append(request.url))
        page.set_default_timeout(120_000)  # milliseconds: software WebGL on a busy machine
        page.goto(path.as_uri())
        yield page, complaints
        browser.close()


def _is_outside(url: str, path: Path) -> bool:
    return url != path.as_uri() and not url.startswith("data:")
