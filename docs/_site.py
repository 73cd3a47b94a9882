"""Pages of the site that are made from files elsewhere in the project: a hook of MkDocs (`mkdocs.yml`)."""

import re
from pathlib import Path

from _notebook import NOTEBOOK, SCRIPT, page_of
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {  # page -> the file it is made from
    "index.md": "README.md",
    "speed.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
CONFIGURATIONS = "reference/configurations.md"
TUTORIAL = "tutorial/tutorial.md"
SHOWN_AS = {source: page for page, source in PAGES.items()} | {NOTEBOOK.relative_to(ROOT).as_posix(): TUTORIAL}
DOWNLOADS = """
This page as a <a href="tutorial.ipynb" download>notebook</a>, and as a <a href="tutorial.py" download>script</a>.
"""
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")  # [text](target#anchor)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made from other files, the tutorial's, and one that shows every shipped configuration."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, CONFIGURATIONS, content=_configurations()))
    title, text = page_of(SCRIPT.read_text(encoding="utf-8")).split("\n", 1)
    files.append(File.generated(config, TUTORIAL, content=f"{title}\n{DOWNLOADS}{text}"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside `docs/` to the pages that show them; files without a page lose their link."""
    source = Path(PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def site_link(match: re.Match) -> str:
        text, target, anchor = match[1], (ROOT / source.parent / match[2]).resolve(), match[3] or ""
        name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else match[2]
        if name.startswith("configs/"):
            name, anchor = CONFIGURATIONS, f"#{target.stem}"
        elif not name.startswith("docs/") and name not in SHOWN_AS:
            return text
        address = SHOWN_AS.get(name, name.removeprefix("docs/"))
        return f"[{text}]({'../' * page.file.src_uri.count('/')}{address}{anchor})"

    return LINK.sub(site_link, markdown)


def _configurations() -> str:
    """Return a page with the text of every shipped configuration."""
    sections = [
        f"## {path.stem}\n\n```yaml\n{path.read_text(encoding='utf-8')}```\n"
        for path in sorted((ROOT / "configs").glob("*.yaml"))
    ]
    heading = (
        "# Configurations\n\nThe shipped ones, by name: `python -m pipeline.run NAME`. Those with `base:` say how "
    )
    return f"{heading}they differ from another.\n\n" + "\n".join(sections)
