"""The commands that a page of the documentation shows, run in the folder where a test works."""

import importlib
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs" / "how-to"
NOT_SHELL = re.compile(r"[\w\[\], .]+:(\s|$)|>>> ")  # first lines of blocks in YAML, or of Python's examples

Action = Callable[[list[str]], object]


def text_of(page: str, section: str | None = None) -> str:
    """Return a page's text, or that below one of its headings up to the next of the same level."""
    text = (PAGES / page).read_text(encoding="utf-8")
    if section is None:
        return text
    _, heading, rest = text.partition(f"## {section}\n")
    assert heading, f"{page} has no section {section}"
    return rest.partition("\n## ")[0]


def fenced(text: str, language: str) -> list[str]:
    """Return the blocks between fences that name a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shown_commands(text: str) -> list[str]:
    """Return the command lines of a text's indented blocks; continued lines are joined."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"(?<=\n\n)((?: {4}.*\n?)+)", f"\n\n{text}")
    shell = [block for block in blocks if not NOT_SHELL.match(block.strip())]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def run_commands(
    commands: Sequence[str],
    *,
    appended: Mapping[str, Sequence[str]] | None = None,
    instead: Mapping[str, Action] | None = None,
    codes: Mapping[str, int] | None = None,
) -> None:
    """Run command lines one after the other: the package's own in this process, others by bash.

    Args:
        commands: Lines of `shown_commands`.
        appended: Words that make a module's command small, by the module's name.
        instead: What is done with the words of a command instead, by the module's name or the first word.
        codes: Exit codes other than 0, by command line.
    """
    for command in commands:
        words = shlex.split(command, comments=True)
        is_module = words[:2] == ["python", "-m"]
        name = words[2] if is_module else words[0]
        if instead and name in instead:
            instead[name](words)
            continue
        if is_module:
            code = importlib.import_module(name).main([*words[3:], *(appended or {}).get(name, ())])
        else:
            code = subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=False).returncode
        assert code == (codes or {}).get(command, 0), f"{command}: exit code {code}"
