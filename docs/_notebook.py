"""The tutorial's notebook and page, made of its script: Python with a line "# %%" before each cell.

python docs/_notebook.py         # writes docs/tutorial/tutorial.ipynb anew from docs/tutorial/tutorial.py
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

SCRIPT = Path(__file__).parent / "tutorial" / "tutorial.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)  # Jupytext's percent format
COMMENT = re.compile(r"^# ?", re.MULTILINE)


class Cell(NamedTuple):
    """A cell: its text, and whether that is Markdown or code."""

    is_markdown: bool
    text: str


def cells_of(script: str) -> list[Cell]:
    """Return the cells of a script; what stands before the first one is left out."""
    _, *parts = CELL.split(script)
    texts = zip(parts[::2], (text.strip() for text in parts[1::2]), strict=True)
    return [Cell(bool(mark), COMMENT.sub("", text) if mark else text) for mark, text in texts]


def notebook_of(script: str) -> dict[str, Any]:
    """Return the script as a notebook of format 4.5 without outputs."""
    return {
        "cells": [
            {"cell_type": "markdown" if cell.is_markdown else "code", "id": f"cell-{number}", "metadata": {}}
            | ({} if cell.is_markdown else {"execution_count": None, "outputs": []})
            | {"source": cell.text.splitlines(keepends=True)}
            for number, cell in enumerate(cells_of(script))
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def page_of(script: str) -> str:
    """Return the script as a page of Markdown."""
    shown = (cell.text if cell.is_markdown else f"```python\n{cell.text}\n```" for cell in cells_of(script))
    return "\n\n".join(shown) + "\n"


if __name__ == "__main__":
    content = notebook_of(SCRIPT.read_text(encoding="utf-8"))
    NOTEBOOK.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
