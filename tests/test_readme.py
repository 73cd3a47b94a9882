import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert "@@" not in text


def links_of(page: Path) -> set[Path]:
    """Return the pages of the documentation that one links to."""
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in links if not link.startswith("http")} & set(PAGES)


def test_every_page_of_the_docs_is_reached_from_the_readme_or_from_one_that_is():
    near = {PAGES[0], *links_of(PAGES[0])}
    reached = near.union(*map(links_of, near))
    assert [page.name for page in PAGES if page not in reached] == []


def test_the_readme_is_read_in_three_minutes():
    assert PAGES[0].stat().st_size <= 7_168


def test_every_module_is_named_where_the_house_is_drawn():
    drawn = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "reference" / "house.md").read_text(encoding="utf-8")))
    folders = (ROOT / "pipeline", ROOT / "networks", ROOT / "transforms")
    modules = {path.stem for folder in folders for path in folder.rglob("*.py") if "node_modules" not in path.parts}
    assert "slice_cache" in modules
    assert sorted(modules - drawn - {"__init__"}) == []
