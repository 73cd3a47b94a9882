import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert links, f"{page.name} links to nothing"
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert "@@" not in text


def test_every_configuration_a_page_names_is_there():
    named = {name for page in PAGES for name in re.findall(r"configs/\w+\.yaml", page.read_text(encoding="utf-8"))}
    assert "configs/phantom.yaml" in named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
