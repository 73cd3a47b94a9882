"""Runs of a sweep without training: a script stands in for `pipeline.run`, and notes what it did."""

import sys
from pathlib import Path

from small_run import CONFIGS

from pipeline.sweeping import sweep_jobs

# Stands in for pipeline.run: does what the run's name says, and notes in `did` that it did.
ACTOR = """
import os, signal, sys, time
from pathlib import Path
import yaml
config, *rest = sys.argv[1:]
name = yaml.safe_load(Path(config).read_text())["name"]
did = Path("did")
def note(text):
    with did.open("a") as file:
        file.write(f"{name} {text}\\n")
note("began " + " ".join(rest))
if name.startswith("bad"):
    print("something odd", "error: no such data", sep="\\n", file=sys.stderr)
    sys.exit(2)
if name.startswith("device"):
    note("saw " + os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
if name.startswith("nested"):
    note("below " + os.environ.get("MRI_PARENT_RUN", "none"))
if name.startswith("together"):
    while did.read_text().count("began") < 2:
        time.sleep(0.01)
if name.startswith("long"):
    def stop(number, _):
        note(f"saved {number}")
        time.sleep(0.5)  # in which a second signal would be noted too
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, stop)
    note("ready")
    time.sleep(60)
note("done")
"""


def stand_in(folder: Path, monkeypatch) -> Path:
    """Work in a folder, where the script stands in for `pipeline.run`; return the folder."""
    monkeypatch.chdir(folder)
    (folder / "actor.py").write_text(ACTOR)
    monkeypatch.setattr(sweep_jobs, "COMMAND", (sys.executable, str(folder / "actor.py")))
    return folder


def config(name, output=None, *, mlflow=False):
    """Write a configuration; return its file."""
    text = (CONFIGS / "phantom.yaml").read_text().replace("  mlflow: true ", f"  mlflow: {str(mlflow).lower()} ")
    text = text.replace("name: phantom ", f"name: {name} ").replace(
        "output: runs/phantom", f"output: runs/{output or name}"
    )
    Path(f"{name}.yaml").write_text(text)
    return f"{name}.yaml"


def did():
    return Path("did").read_text().splitlines() if Path("did").exists() else []
