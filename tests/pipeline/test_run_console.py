"""What a run prints where nobody looks at a terminal: enough to know what was done, and no more than a screen."""

import pytest
from small_run import TINY, workshop

from pipeline.run import main


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("console") / "run"
    shared = (f"data.folder={workshop() / 'phantom'}", f"preprocess.store={workshop() / 'store'}", f"output={folder}")
    return [str(workshop() / "phantom.yaml"), *TINY, *shared, "tracking.mlflow=false"]


def test_a_run_and_its_repetition_fit_on_a_screen_each(arguments, capsys):
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) <= 40
    assert len(said.err.splitlines()) <= 10  # warnings with their remedies; no bar
    assert "%|" not in said.err and "\r" not in said.err
    for kept in ("training phantom: cyclegan, 2 epochs of 4 steps", "histogram matching", "lookup", "report.html"):
        assert kept in said.out
    assert "The protocols of syndiff, selfrdb, reggan have their tables in report.html and scores.csv." in said.out
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) <= 40
    assert "training is complete; evaluating again" in said.out
    assert "nothing was left to train after step 8; evaluated and reported in " in said.out
