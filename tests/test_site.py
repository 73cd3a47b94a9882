"""The documentation's site: every page and docstring renders, and every link and anchor leads somewhere."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_site_is_built_without_a_warning_and_shows_what_lies_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(ROOT / "mkdocs.yml"), "-d", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="reference/configurations.html#nifti"' in home and 'href="speed.html"' in home
    assert "Translate one volume" in (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text and 'rel="stylesheet" href="http' not in text, page


def test_a_link_that_leads_nowhere_is_an_error():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["strict"] and settings["validation"]["links"]["not_found"] == "warn"  # which `strict` makes errors
