"""The whole check, `.ci/run`, with a `make` that does nothing but what a test wants of it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[1] / ".ci" / "run"
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="the check asks git")


def checked(folder, *, demo="", test=""):
    """Run the check on a new repository whose `make demo` and `make test` are these shell lines."""
    programs, tree = folder / "programs", folder / "tree"
    (tree / ".ci").mkdir(parents=True)
    programs.mkdir()
    shutil.copy(CHECK, tree / ".ci")
    (tree / ".gitignore").write_text("/runs/\n")
    make = f'#!/bin/sh\nset -e\necho "make $1"\nif [ "$1" = demo ]; then :; {demo}\nelse :; {test}\nfi\n'
    for name, text in {"make": make, "chromium": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tree, check=True, capture_output=True)
    return subprocess.run([tree / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60)


def test_the_demo_comes_first_and_the_tests_summary_last(tmp_path):
    ended = checked(tmp_path, demo="mkdir runs && touch runs/ignored", test="echo 3 passed")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == ["make demo", "make test", "3 passed"]


@pytest.mark.parametrize("step", ["demo", "test"])
@pytest.mark.parametrize("change", ["touch left_behind", "echo more >> .gitignore"])
def test_what_either_leaves_or_changes_is_named(tmp_path, step, change):
    ended = checked(tmp_path, **{step: change})
    assert ended.returncode == 1
    assert f"make {step} left something behind" in ended.stderr and change.split()[-1] in ended.stderr
    assert ("make test" in ended.stdout) == (step == "test")


@pytest.mark.parametrize("step", ["demo", "test"])
def test_a_failure_is_the_checks_own(tmp_path, step):
    ended = checked(tmp_path, **{step: "exit 7"})
    assert ended.returncode == 7 and "left something" not in ended.stderr
