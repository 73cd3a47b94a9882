"""The documentation's site: every page and docstring renders, and every link and anchor leads somewhere."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(folder: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "-f", str(config), "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_the_site_is_built_without_a_warning_and_shows_what_lies_elsewhere(tmp_path):
    built = build(tmp_path)
    assert built.returncode == 0 and "WARNING" not in built.stderr, built.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="reference/configurations.html#nifti"' in home and 'href="speed.html"' in home
    assert "Translate one volume" in (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'src="http' not in text and 'rel="stylesheet" href="http' not in text, page


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[x](nowhere.md)")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[0]
    lines = [line for line in settings.splitlines() if not line.startswith(("hooks:", "exclude_docs:"))]
    (tmp_path / "mkdocs.yml").write_text("\n".join(lines))
    broken = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert broken.returncode != 0 and "nowhere.md" in broken.stderr
