import csv
import json
import signal

import numpy as np
import pytest
from small_engine import differences
from small_run import QUICK, latest, phantom_run, signal_at, train_phantom, without_pictures

SHORT = (*QUICK, "evaluation.uncertainty=false", "evaluation.translate=false")
STOP_AT = 10  # a step of the second seed: each has eight


@pytest.fixture(scope="module")
def stopped_and_finished(tmp_path_factory):
    """The folder of two seeds, stopped in the second and started again, and the exit codes."""
    folder = tmp_path_factory.mktemp("seeds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, signal.SIGTERM, STOP_AT)
        with without_pictures():
            stopped = phantom_run(folder, "seed=[3,1]", *SHORT)
    with without_pictures():
        return folder, (stopped, phantom_run(folder, "seed=[3,1]", *SHORT))


def test_a_stop_ends_with_the_signals_code_and_the_same_command_does_the_rest(stopped_and_finished):
    folder, codes = stopped_and_finished
    assert codes == (128 + signal.SIGTERM, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["seed-1", "seed-3", "seeds.csv", "seeds.json"]
    assert all((folder / name / "report.html").is_file() for name in ("seed-1", "seed-3"))


def test_each_seed_is_bitwise_the_run_of_that_seed_alone(stopped_and_finished, tmp_path):
    folder, _ = stopped_and_finished
    assert train_phantom(tmp_path / "alone", "seed=1", *SHORT) == 0
    alone, one_of_two = (latest(path)["engine"] for path in (tmp_path / "alone", folder / "seed-1"))
    assert differences(alone, one_of_two) == set()
    assert differences(alone, latest(folder / "seed-3")["engine"]) != set()


def test_the_summary_is_the_mean_and_sd_over_seeds_of_every_figure(stopped_and_finished):
    folder, _ = stopped_and_finished
    content = json.loads((folder / "seeds.json").read_text())
    assert content["seeds"] == [3, 1]
    by_seed = [json.loads((folder / f"seed-{seed}" / "scores.json").read_text())["summary"] for seed in (3, 1)]
    assert len(content["figures"]) == len(by_seed[0])
    figure = next(row for row in content["figures"] if (row["system"], row["metric"]) == ("model", "psnr"))
    means = [next(row["mean"] for row in rows if figure.items() >= keys_of(row).items()) for rows in by_seed]
    assert [figure["seed-3"], figure["seed-1"]] == means and means[0] != means[1]
    assert figure["mean"] == pytest.approx(np.mean(means)) and figure["sd"] == pytest.approx(np.std(means, ddof=1))
    with (folder / "seeds.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(content["figures"])


def keys_of(row):
    """What a figure is of."""
    return {key: row[key] for key in ("source", "target", "system", "protocol", "unit", "region", "metric")}


def test_what_is_finished_is_left_alone(stopped_and_finished, capsys):
    folder, _ = stopped_and_finished
    before = (folder / "seed-3" / "report.html").stat().st_mtime_ns
    assert phantom_run(folder, "seed=[3,1]", *SHORT) == 0
    assert "phantom-seed-3: finished before" in capsys.readouterr().out
    assert (folder / "seed-3" / "report.html").stat().st_mtime_ns == before


def test_a_folder_with_a_run_of_one_seed_is_refused(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0")
    assert phantom_run(tmp_path / "run", "seed=[0,1]") == 2
    assert "holds a run of one seed; choose another output" in capsys.readouterr().err
    assert phantom_run(tmp_path / "run", "seed=[0,1]", "--dry-run") == 2
