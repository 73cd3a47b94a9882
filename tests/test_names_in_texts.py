"""What messages, comments and pages call by its module or its path is there under that name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("pipeline", "networks", "transforms", "benchmarks")
    for path in (ROOT / package).rglob("*.py")
}
WRITTEN_BY_A_READER = {"pipeline/engines/NAME.py", "pipeline/data/sources/NAME.py", "pipeline/engines/gcgan.py"}
WRITTEN_BY_A_READER |= {"docs/README.md"}  # of a bundle
FILE = re.compile(r"\b(?:pipeline|transforms|networks|benchmarks|tests|docs|configs)/[\w/.-]+\.(?:py|md|yaml)\b")
DOTTED = re.compile(r"\b(?:pipeline|transforms|networks\.cpu_kernels|benchmarks)(?:\.[A-Za-z_]\w*)+")
TEXTS = [
    path
    for folder in ("pipeline", "networks", "transforms", "benchmarks", "configs", "docs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".yaml", ".jinja"} and "node_modules" not in path.parts
] + [path for path in sorted(ROOT.glob("*")) if path.suffix == ".md"]


def is_there(name: str) -> bool:
    """Whether a dotted name is a module's, or is a module's followed by a word that stands in it."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        module = SOURCES.get(".".join(words[:count]))
        if module is not None:
            text = module.read_text(encoding="utf-8")
            return count == len(words) or re.search(rf"\b{words[count]}\b", text) is not None
    return False


@pytest.mark.parametrize(
    ("name", "there"),
    [("pipeline.run", True), ("pipeline.utils.errors.UserError", True), ("pipeline.utils.errors.Gone", False),
     ("pipeline.gone", False), ("networks.cpu_kernels", True), ("benchmarks.data", True)],
)  # fmt: skip
def test_a_name_is_there_where_a_module_has_it(name, there):
    assert is_there(name) is there


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_and_file_that_a_text_names_is_there(path):
    text = path.read_text(encoding="utf-8")
    files = {name for name in FILE.findall(text) if not (ROOT / name).exists()}
    assert files - WRITTEN_BY_A_READER == set()
    assert {name for name in DOTTED.findall(text) if not is_there(name)} == set()
