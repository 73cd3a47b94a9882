from pathlib import Path

import pytest
from sweep_runs import config, did

from pipeline.config.load import takes_text
from pipeline.sweep import main
from pipeline.sweeping.grid import combinations
from pipeline.utils.errors import UserError


def labels(*overrides):
    return [kept.label for kept in combinations(overrides, takes_text)]


def test_every_combination_has_a_label_of_what_differs():
    made = combinations(("method.cycle_weight=2,5", "device=cpu", "seed=0..2"), takes_text)
    assert [kept.label for kept in made] == [
        f"cycle_weight-{weight}_seed-{seed}" for weight in (2, 5) for seed in (0, 1, 2)
    ]
    assert made[4].overrides == ("method.cycle_weight=5", "device=cpu", "seed=1")


@pytest.mark.parametrize(
    "text",
    [
        "seed=[0,1,2]", "augment.monai={a: 1, b: [2, 3]}", "name='a,b'", "seed=0", "seed=3..3", "data.folder=a,b",
        "data.patterns.T1={subject}_T1,T2.nii", "data.folder=../0..2",
    ],
)  # fmt: skip
def test_what_yaml_reads_as_one_value_and_a_path_are_one(text):
    (kept,) = combinations([text], takes_text)
    assert kept.label == "" and kept.overrides == ("seed=3" if text == "seed=3..3" else text,)


def test_lists_and_names_with_quotes_are_values_of_a_list():
    assert labels("a.widths=[1,2],[3,4]") == ["widths-1_2", "widths-3_4"]
    assert labels("a.title='x, y',z") == ["title-x_y", "title-z"]
    assert labels("a.title=it's,b") == ["title-it_s", "title-b"]
    assert labels("seed=-1..0,7") == ["seed--1", "seed-0", "seed-7"]
    assert labels("generator.width=8,16", "discriminator.width=4,8")[0] == "generator.width-8_discriminator.width-4"


def test_all_that_is_wrong_is_said():
    with pytest.raises(UserError) as raised:
        combinations(["a=1,,2", "b=2..0", "c=0.1..0.5", "d=1,2,1", "seed=0,1", "seed=2"], takes_text)
    for message in (
        "a = 1,,2: a value is missing", "b = 2..0: 2..0 runs backwards", "c = 0.1..0.5: 0.1..0.5: a range is one of",
        "d = 1,2,1: has 1 more than once", "seed: is given 2 times",
    ):  # fmt: skip
        assert message in str(raised.value)
    with pytest.raises(UserError, match="seed × a: 1002 combinations; a sweep takes up to 1000"):
        combinations(["seed=0..500", "a=1,2"], takes_text)
    with pytest.raises(UserError, match="takes up to 1000"):
        combinations(["seed=0..999999999999"], takes_text)


def test_a_grid_is_a_run_each_below_the_folder_of_its_configuration(workspace, capsys):
    assert main([config("one"), "seed=0..1", "training.epochs=3,4"]) == 3  # there is nothing to compare
    began = [line for line in did() if "began" in line]
    assert len(began) == 4
    name = "one-seed-0_epochs-3"
    assert f"began seed=0 training.epochs=3 name='{name}' output='runs/one/seed-0_epochs-3' --quiet" in began[0]
    assert Path(f"runs/sweep/logs/{name}.log").exists()
    assert "4 of 4 runs are done" in capsys.readouterr().out


def test_with_an_output_they_lie_there(workspace):
    main([config("one"), "seed=0,1", "-o", "there"])
    assert "name='one-seed-1' output='there/one/seed-1'" in [line for line in did() if "began" in line][1]


def test_a_grid_within_a_run_is_refused(workspace, capsys):
    Path("runs/one").mkdir(parents=True)
    Path("runs/one/config.yaml").write_text("name: one")
    assert main([config("one"), "seed=0,1", "training.epochs=0,3"]) == 2
    output = capsys.readouterr().err
    assert output.count("runs/one: holds a run of its own; choose another output (-o) for several") == 1
    assert "training.epochs = 0" in output and did() == []
