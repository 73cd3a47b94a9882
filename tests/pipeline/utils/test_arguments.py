"""Paths as people write them, in a configuration and on every command's line."""

import argparse
from pathlib import Path

import pytest

from pipeline import compare, download, explore, run, sweep, sync, translate
from pipeline.config.load import load_config
from pipeline.inference.batch import outputs as places
from pipeline.utils.arguments import cwd_hint, expanded, path_argument, path_or_address
from pipeline.utils.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name, value in {"HOME": "/home/reader", "SCRATCH": "/scratch/project"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOWHERE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "/home/reader"), ("~/runs", "/home/reader/runs"), ("$HOME/runs", "/home/reader/runs"),
        ("${SCRATCH}/a b", "/scratch/project/a b"), ("$SCRATCH/$HOME", "/scratch/project//home/reader"),
        ("runs/~", "runs/~"), ("./~/runs", "~/runs"), ("~nobody_at_all/x", "~nobody_at_all/x"), ("a$/b$ $", "a$/b$ $"),
        ("caf\udce9/$HOME", "caf\udce9//home/reader"),
    ],
)  # fmt: skip
def test_what_a_shell_would_replace_is_replaced(text, path):
    assert expanded(text) == Path(path)


def test_what_is_there_as_it_is_written_is_meant():
    Path("$SCRATCH.nii").touch()
    Path("~").mkdir()
    assert expanded("$SCRATCH.nii") == Path("$SCRATCH.nii")
    assert expanded("~") == Path("/home/reader")  # never the folder that a program made by mistake


def test_a_variable_that_is_not_set_is_named():
    with pytest.raises(ValueError, match=r"^the variable NOWHERE is not set$"):
        expanded("$HOME/${NOWHERE}/x")
    with pytest.raises(argparse.ArgumentTypeError, match=r"\$NOWHERE/x: the variable NOWHERE is not set; set it"):
        path_argument("$NOWHERE/x")


def test_addresses_of_mlflow_are_no_paths():
    assert path_or_address("models:/$HOME@best") == "models:/$HOME@best"
    assert path_or_address("runs/ixi/") == "runs/ixi/" and path_or_address("~/ixi") == "/home/reader/ixi"


def test_a_relative_path_says_where_it_leads(tmp_path):
    assert cwd_hint(Path("data/bids")) == f" (looked at {tmp_path}/data/bids)"
    assert cwd_hint(Path("/data/bids")) == ""


def test_every_path_of_a_configuration_is_expanded():
    overrides = "output=~/out data.folder=$SCRATCH/data preprocess.store=${SCRATCH}/store split.file=~/s.json"
    config = load_config(CONFIGS / "phantom.yaml", [*overrides.split(), "training.start_from=$HOME/runs/ixi"])
    assert config.folder == Path("/home/reader/out") and config.data.folder == Path("/scratch/project/data")
    assert (config.preprocess.store, config.split.file) == (Path("/scratch/project/store"), Path("/home/reader/s.json"))
    assert config.training.start_from == Path("/home/reader/runs/ixi")
    config = load_config(CONFIGS / "images.yaml", ["data.train={T1: ~/a, T2: $SCRATCH/b}", "data.test={}"])
    assert config.data.train == {"T1": "/home/reader/a", "T2": "/scratch/project/b"}


def test_a_variable_that_is_not_set_is_an_error_of_its_key():
    with pytest.raises(UserError) as caught:
        load_config(CONFIGS / "phantom.yaml", ["output=$NOWHERE/out", "data.folder="])
    assert str(caught.value).splitlines()[1:] == [
        "  output = '$NOWHERE/out': must be a path whose variables are set; the variable NOWHERE is not set",
        "  data.folder = None: must be a path",
    ]


@pytest.mark.parametrize("name", ["a #b", "a: b", "2024", "[x", "two\nlines", 'it\'s "x"', "caf\udce9", "{subject}"])
def test_an_override_takes_any_name_of_a_folder(name):
    config = load_config(CONFIGS / "nifti.yaml", [f"data.folder=/scans/{name}", f"output={name}",
                                                  f"data.patterns.T1={name}/{{subject}}"])  # fmt: skip
    assert (str(config.data.folder), str(config.output)) == (f"/scans/{name}", name)
    assert config.data.patterns["T1"] == f"{name}/{{subject}}"


@pytest.mark.parametrize(
    ("parser", "line", "name"),
    [
        (run.parser, ["~/c.yaml"], "config"),
        (explore.parser, ["~/c.yaml", "x=1"], "config"),
        (explore.parser, ["c.yaml", "x=1", "--output=~/c.yaml"], "output"),
        (compare.parser, ["~/c.yaml"], "runs"),
        (compare.parser, ["--output=~/c.yaml"], "output"),
        (compare.parser, ["--runs=~/c.yaml"], "runs_folder"),
        (sweep.parser, ["~/c.yaml"], "items"),
        (sweep.parser, ["c.yaml", "--output=~/c.yaml"], "output"),
        (sync.parser, ["~/c.yaml"], "runs"),
        (download._parser, ["ixi", "--output=~/c.yaml"], "output"),
        (translate.parser, ["-i", "~/c.yaml", "-o", "x", "--model", "m"], "input"),
        (translate.parser, ["--output=~/c.yaml", "--model", "m"], "output"),
        (translate.parser, ["--model", "~/c.yaml", "-o", "x"], "model"),
        (translate.parser, ["--model", "m", "-o", "x", "--style=~/c.yaml"], "style"),
        (translate.parser, ["--model", "m", "-o", "x", "--summary=~/c.yaml"], "summary"),
        (translate.parser, ["--model", "m", "-o", "x", "--input-list=~/c.yaml"], "input_list"),
    ],
)
def test_every_path_of_a_command_line_is_expanded(parser, line, name):
    value = getattr(parser().parse_args(line), name)
    assert [str(item) for item in (value if isinstance(value, list) else [value])] == ["/home/reader/c.yaml"]


def test_lines_of_a_list_are_expanded(monkeypatch):
    Path("list.txt").write_text("~/a.nii\n$SCRATCH/b.nii\n")
    assert places.all_inputs([], "list.txt") == [Path("/home/reader/a.nii"), Path("/scratch/project/b.nii")]
    (Path.cwd() / "a.nii").touch()
    Path("list.txt").write_text(" $HERE/a.nii \n")
    monkeypatch.setenv("HERE", str(Path.cwd()))
    assert places.all_inputs([], "list.txt") == [Path.cwd() / "a.nii"]  # the blanks are not the file's
    Path("list.txt").write_text("a.nii\n$NOWHERE/b.nii\n")
    with pytest.raises(UserError, match=r"^list.txt: the variable NOWHERE is not set; set it, or write"):
        places.all_inputs([], "list.txt")
