import json
import os
import random
import time
from pathlib import Path

import mlflow_store
import numpy as np
import pytest
import torch
from tracked_run import client, eventually, history, lines, track, train

from pipeline.metrics.names import BASELINES, START
from pipeline.tracking.mlflow_run import artifact_address


def test_a_line_is_on_file_as_soon_as_it_is_logged(tmp_path):
    tracker = track(tmp_path, mlflow=False)
    tracker.log_metrics({"train/loss": torch.tensor(0.25), "lr": 2e-4}, 7)
    (record,) = lines(tmp_path)
    assert record.pop("time") == pytest.approx(time.time(), abs=5)
    assert record == {"step": 7, "train/loss": 0.25, "lr": 2e-4}


def test_every_line_is_json_and_numbers_that_are_none_come_back(tmp_path):
    numbers = {"a": float("nan"), "b": float("inf"), "c": float("-inf"), "d": 0.5}
    with track(tmp_path, mlflow=False) as tracker:
        tracker.log_metrics(numbers, 1)
    for _ in range(2):
        text = (tmp_path / "run" / "metrics.jsonl").read_text()
        plain = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
        assert [plain[name] for name in numbers] == [None, "inf", "-inf", 0.5]
        (record,) = lines(tmp_path)
        np.testing.assert_equal({name: record[name] for name in numbers}, numbers)
        track(tmp_path, mlflow=False, step=1).close()  # writes the kept lines anew


def test_another_evaluation_of_a_finished_run_supersedes_the_test_values_alone(tmp_path):
    nan = float("nan")
    for value in (20.0, 20.0, nan, nan, 21.0, 20.0):
        with track(tmp_path, mlflow=False, step=5) as tracker:
            tracker.log_metrics({"test/psnr": value, "loss": value}, 5)
    np.testing.assert_equal([record["test/psnr"] for record in lines(tmp_path)], [20.0, nan, 21.0, 20.0])
    assert [record["loss"] for record in lines(tmp_path) if "loss" in record] == [20.0]


def test_resuming_drops_the_lines_beyond_the_checkpoint_and_a_torn_one(tmp_path):
    with track(tmp_path, mlflow=False) as tracker:
        for step in range(1, 6):
            tracker.log_metrics({"loss": step}, step)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "ti')
    with track(tmp_path, mlflow=False, step=3) as tracker:
        tracker.log_metrics({"loss": 99, "psnr": 20}, 3)  # the loss of step 3 is there already
        tracker.log_metrics({"loss": 40}, 4)
    records = [{key: value for key, value in record.items() if key != "time"} for record in lines(tmp_path)]
    assert records == [*({"step": s, "loss": s} for s in (1, 2, 3)), {"step": 3, "psnr": 20}, {"step": 4, "loss": 40}]


def test_without_mlflow_nothing_else_is_written_or_waited_for(tmp_path):
    with track(tmp_path, mlflow=False) as tracker:
        tracker.log_image("samples", np.zeros((4, 4)), 0)
        assert tracker.call("nothing", lambda run: 1) is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]
    assert tracker.open_instructions() == f"{tmp_path}/run/metrics.jsonl (MLflow was off)"


def test_a_run_is_whole_in_the_store(tmp_path, store):
    (tmp_path / "split.json").write_text("{}")
    with track(tmp_path, tags={"purpose": "test"}) as tracker:
        for step in range(1500):
            tracker.log_metrics({"train/loss T2*": 1 / (step + 1)}, step)
        tracker.log_image("validation", np.full((8, 16, 3), 0.5), 3)
        tracker.log_image("validation", np.full((8, 16), np.nan), 4)
        tracker.log_artifact(tmp_path / "split.json", "inputs")
        tracker.log_dataset("T1", "train", "data/phantom", ["s1", "s2"], {"slices": 80})
        tracker.set_tags({"best": "12"})
        assert tracker.call("a question", lambda run: run.id) == tracker.run_id
    run = client(store).get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "r")
    assert {key: run.data.params[key] for key in ("training.epochs", "contrasts")} == {
        "training.epochs": "3",
        "contrasts": "['T1', 'T2*']",
    }
    assert len(run.data.params["note"]) == 6000
    assert (run.data.tags["purpose"], run.data.tags["best"]) == ("test", "12")
    assert history(store, tracker.run_id, "train/loss T2_") == [(step, 1 / (step + 1)) for step in range(1500)]
    assert "system/cpu_utilization_percentage" in run.data.metrics
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.tags[0].value) == ("T1", "train")
    assert json.loads(data.dataset.profile) == {"items": 2, "slices": 80}
    names = [file.path for file in client(store).list_artifacts(tracker.run_id, "images")]
    assert sum(name.startswith("images/validation+step+3+") and name.endswith(".png") for name in names) == 1
    assert sum(name.endswith("+compressed.webp") for name in names) == 2
    downloaded = client(store).download_artifacts(tracker.run_id, "inputs/split.json", str(tmp_path))
    assert Path(downloaded).read_text() == "{}"
    assert tracker.open_instructions().startswith(
        f"mlflow ui --backend-store-uri {store}, then http://127.0.0.1:5000/#/exp"
    )


def test_the_store_shows_the_values_of_the_latest_evaluation(tmp_path, store):
    run_id = None
    for value in (30.0, 20.0, 20.0, 25.0):
        with track(tmp_path, step=5, run_id=run_id) as tracker:
            tracker.log_metrics({"test/psnr": value, "loss": value}, 5)
        run_id = tracker.run_id
        assert client(store).get_run(run_id).data.metrics["test/psnr"] == value
    assert sorted(history(store, run_id, "test/psnr")) == [(5, 20.0), (5, 25.0), (5, 30.0)]
    assert history(store, run_id, "loss") == [(5, 30.0)]


def test_the_store_shows_the_steps_of_a_resumed_run_as_they_were_made_anew(tmp_path, store):
    with track(tmp_path) as tracker:
        for step, value in ((10, 1.0), (20, 2.0), (30, 3.0)):
            tracker.log_metrics({"loss": value}, step)
    with track(tmp_path, step=10, run_id=tracker.run_id) as tracker:
        for step, value in ((20, 2.0), (30, 5.0)):
            tracker.log_metrics({"loss": value}, step)
    assert client(store).get_run(tracker.run_id).data.metrics["loss"] == 5.0
    assert sorted(history(store, tracker.run_id, "loss")) == [(10, 1.0), (20, 2.0), (30, 3.0), (30, 5.0)]


def test_no_random_number_is_drawn(tmp_path, store):
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    with track(tmp_path) as tracker:
        train(tracker, range(20))
        tracker.call("sync", lambda run: run.id)
    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def test_processes_forked_while_it_works_end(tmp_path, store, quick):
    with track(tmp_path) as tracker:
        for step in range(4):
            train(tracker, range(step * 5, step * 5 + 5))
            child = os.fork()
            if child == 0:
                json.dumps([np.zeros(10).tolist()])
                os._exit(0)
            eventually(lambda child=child: os.waitpid(child, os.WNOHANG)[0] == child)


def test_the_default_store_is_made_quietly_and_an_exit_without_close_does_not_hang(store):
    first_use = mlflow_store.first_use()
    assert (first_use / "err").read_text() == ""
    assert (first_use / "out").read_text().startswith("mlflow ui, then http://127.0.0.1:5000/#/experiments/1/runs/")
    (run,) = client(store).search_runs(["1"], "attributes.status = 'FINISHED'")
    assert run.data.metrics["loss"] == 1


def test_what_warnings_rest_on_and_baselines_come_last_in_mlflow_and_keep_their_names_on_disk(tmp_path, store):
    values = {"detectors/T1_to_T2/gain": 1.5, "validation/T1_to_T2/psnr": 9.0, "train/cycle": 2.0}
    values |= {f"test/T1_to_T2/{system.replace(' ', '_')}/own/psnr": 3.0 for system in ("model", START, *BASELINES)}
    with track(tmp_path) as tracker:
        tracker.log_metrics(values, 4)
    names = [key for key in client(store).get_run(tracker.run_id).data.metrics if not key.startswith("system/")]
    groups = [name.partition("/")[0] for name in sorted(names)]
    assert groups == ["test", "train", "validation", "warnings", *["without_training"] * (1 + len(BASELINES))]
    assert "test/T1_to_T2/model/own/psnr" in names
    assert values.items() <= lines(tmp_path)[0].items()


def test_a_table_is_one_that_mlflow_loads_and_a_second_one_replaces_it(tmp_path, store):
    with track(tmp_path) as tracker:
        tracker.log_table("scores.json", ["subject", "PSNR"], [["a", 1.0], ["b", None]])
        tracker.log_table("scores.json", ["subject", "PSNR"], [["a", 2.5]])
        tracker.log_table("others.json", ["subject"], [["c"]])
        tracker.set_description(f"# Result\n\n![good]({artifact_address('a b.png')})")
    experiment_id = client(store).get_run(tracker.run_id).info.experiment_id
    loaded = client(store).load_table(experiment_id, "scores.json", [tracker.run_id])
    assert loaded.to_dict("list") == {"subject": ["a"], "PSNR": [2.5]}
    tags = client(store).get_run(tracker.run_id).data.tags
    assert [table["path"] for table in json.loads(tags["mlflow.loggedArtifacts"])] == ["scores.json", "others.json"]
    address = f"get-artifact?path=a%20b.png&run_uuid={tracker.run_id}"
    assert tags["mlflow.note.content"] == f"# Result\n\n![good]({address})"
