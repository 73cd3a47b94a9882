import json

import numpy as np
import pytest
from tracked_run import NOBODY, client, history, images, track, train

from pipeline.tracking.event_log import NAME, EventLog, read_event_log
from pipeline.tracking.mlflow_run import RunInfo
from pipeline.tracking.mlflow_sync import MlflowSync
from pipeline.utils.errors import Stopped


def live(folder, steps=range(12), **options):
    """A run as a training leaves it."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    (folder / "run" / "split.json").write_text("{}")
    with track(folder, tags={"purpose": "test"}, **options) as tracker:
        tracker.log_artifact(folder / "run" / "split.json", "inputs")
        train(tracker, steps)
        tracker.log_metrics({"test/psnr": 20.0, "loss": float("nan")}, steps[-1] + 1)
        tracker.log_image("other", np.arange(16, dtype=np.uint8).reshape(4, 4), 3)
        tracker.set_tags({"warning.x": "seen"})
        tracker.log_table("subjects.json", ["subject"], [["a"]])
    return tracker


def unfollowed(folder, **options):
    """The same run while no server answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOBODY)
        live(folder, **options)


def contents(uri, run_id):
    """All that a store has of a run, but for what the machine and the moment decide."""
    run = client(uri).get_run(run_id)
    keys = [key for key in run.data.metrics if not key.startswith("system/")]
    points = {key: [(m.step, str(m.value)) for m in client(uri).get_metric_history(run_id, key)] for key in keys}
    files = {
        file.path: [inner.path for inner in client(uri).list_artifacts(run_id, file.path)]
        for file in client(uri).list_artifacts(run_id)
        if file.path != "images"
    }
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    pictures = sorted(file.path.split("+timestamp")[0] for file in client(uri).list_artifacts(run_id, "images"))
    data = [(item.dataset.name, item.dataset.digest, item.tags[0].value) for item in run.inputs.dataset_inputs]
    return run.info.status, run.info.run_name, run.data.params, tags, points, files, pictures, data


def sent_id(folder):
    return json.loads((folder / "run" / "mlflow.json").read_text())["run_id"]


def test_what_no_server_saw_is_sent_later_as_if_it_had(tmp_path, store, capsys):
    followed = live(tmp_path / "a")
    unfollowed(tmp_path / "b")
    assert f"`python -m pipeline.sync {tmp_path}/b/run` sends it later" in capsys.readouterr().err
    assert len(list((tmp_path / "b" / "run" / "unsent").iterdir())) == 4
    output = MlflowSync(tmp_path / "b" / "run").send()
    assert sent_id(tmp_path / "b") in output and "FINISHED" in output
    assert contents(store, sent_id(tmp_path / "b")) == contents(store, followed.run_id)
    assert history(store, sent_id(tmp_path / "b"), "test/psnr") == [(12, 20.0)]
    assert {path.name for path in (tmp_path / "b" / "run").iterdir()} == {
        "metrics.jsonl", "mlflow.json", "split.json", "tracking.jsonl",
    }  # fmt: skip


@pytest.mark.parametrize("dead", [True, False])
def test_sending_again_changes_nothing(tmp_path, store, dead):
    if dead:
        unfollowed(tmp_path)
        MlflowSync(tmp_path / "run").send()
    else:
        live(tmp_path)
    run = client(store).get_run(sent_id(tmp_path))
    before = contents(store, run.info.run_id)
    for _ in range(2):
        assert ": 0 points" in MlflowSync(tmp_path / "run").send()
    assert contents(store, run.info.run_id) == before
    repeated = client(store).get_run(run.info.run_id).info
    assert repeated.start_time == run.info.start_time
    assert len(client(store).search_runs([run.info.experiment_id])) == 1


def test_a_sitting_that_mlflow_follows_sends_the_pictures_and_tags_of_the_one_it_missed(tmp_path, store):
    unfollowed(tmp_path, steps=range(11))
    with track(tmp_path, step=7) as tracker:  # the pictures of step 10 will come again
        pass
    assert images(store, tracker.run_id) == [0, 3, 5]
    assert client(store).get_run(tracker.run_id).data.tags["warning.x"] == "seen"
    assert not (tmp_path / "run" / "unsent").exists()


@pytest.mark.parametrize(("error", "status"), [(ValueError(), "FAILED"), (Stopped(15, ""), "KILLED")])
def test_the_run_ends_as_the_training_did(tmp_path, store, error, status):
    with pytest.raises(type(error)), track(tmp_path) as tracker:
        raise error
    assert client(store).get_run(tracker.run_id).info.status == status
    client(store).update_run(tracker.run_id, status="RUNNING")
    assert f": {status}, " in MlflowSync(tmp_path / "run").send()
    assert client(store).get_run(tracker.run_id).info.status == status


def test_a_run_that_was_killed_without_a_word_is_killed(tmp_path, store):
    unfollowed(tmp_path)
    journal = tmp_path / "run" / "tracking.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:-1]) + whole[-1][:10])  # torn
    ends = []
    for _ in range(2):
        MlflowSync(tmp_path / "run").send()
        ends.append(client(store).get_run(sent_id(tmp_path)).info)
    assert [info.status for info in ends] == ["KILLED", "KILLED"]
    assert ends[0].end_time == ends[1].end_time


def test_a_folder_from_elsewhere_makes_us_upload_and_remove_nothing_else(tmp_path, store, capsys):
    place = tmp_path / "theirs" / "runs"
    unfollowed(place)
    for name in ("secret.txt", "ours.png"):
        (tmp_path / name).write_text("ours")
    (place / "run" / "secret_link").symlink_to(tmp_path / "secret.txt")
    (place / "run" / "products").mkdir()
    (place / "run" / "products" / "secret_inside.txt").symlink_to(tmp_path / "secret.txt")
    (place / "run" / "unsent").mkdir(exist_ok=True)
    (place / "run" / "unsent" / "secret_picture.png").symlink_to(tmp_path / "ours.png")
    (place / "run.csv").write_text("ours")  # beside a run, not beside a comparison's record
    with (place / "run" / "tracking.jsonl").open("a") as journal:
        outside = (str(tmp_path / "secret.txt"), "../../../secret.txt", "..", "secret_link", "products")
        for path in (*outside, "../run.csv", "a\0b"):
            print(json.dumps({"kind": "artifact", "path": path, "folder": None}), file=journal)
        entry = {"kind": "image", "key": "other", "step": 3, "file": "../../../../ours.png"}
        print(json.dumps(entry), file=journal)
        print(json.dumps(entry | {"key": "linked", "file": "secret_picture.png"}), file=journal)
    sender = MlflowSync(place / "run")
    sender.send()
    assert sender.refused == 8 and "outside the run's folder" in capsys.readouterr().err
    assert (tmp_path / "ours.png").exists()
    assert not list((tmp_path / "mlruns").rglob("secret*")) and not list((tmp_path / "mlruns").rglob("run.csv"))


def test_a_new_run_in_the_folder_has_nothing_of_the_one_before(tmp_path, store):
    unfollowed(tmp_path)
    track(tmp_path, mlflow=False).close()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"metrics.jsonl", "split.json"}


def test_of_what_lies_beside_a_comparisons_record_only_the_comparisons_own_files_are_sent(tmp_path, store):
    unfollowed(tmp_path)
    record = (tmp_path / "run").rename(tmp_path / "both_record")
    with (record / "tracking.jsonl").open("a") as journal:
        for name in ("both.csv", "both_slices.png", "both.txt", "other.csv"):
            (tmp_path / name).write_text("x")
            print(json.dumps({"kind": "artifact", "path": f"../{name}", "folder": "beside"}), file=journal)
    sender = MlflowSync(record)
    sender.send()
    files = client(store).list_artifacts(sender.run.id, "beside")
    assert [file.path for file in files] == ["beside/both.csv", "beside/both_slices.png"]
    assert sender.refused == 2


def test_a_warning_that_stands_again_stands_in_the_store_too(tmp_path, store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", NOBODY)
        with track(tmp_path) as tracker:
            for state in ("stands", "cleared", "stands"):
                tracker.set_tags({"warning.x": state})
    for _ in range(2):
        sender = MlflowSync(tmp_path / "run")
        sender.send()
        assert client(store).get_run(sender.run.id).data.tags["warning.x"] == "stands"
    with track(tmp_path, step=0) as tracker:  # what an earlier sitting may not have told
        assert [entry["tags"]["warning.x"] for entry in tracker._event_log.pending] == ["cleared", "stands"]


def test_a_setting_that_is_as_it_was_first_is_told_so(tmp_path, store):
    for a, step in ((1, None), (2, 3), (1, 4), (1, 5)):
        unfollowed(tmp_path, params={"a": a}, step=step)
    for _ in range(2):
        sender = MlflowSync(tmp_path / "run")
        sender.send()
        run = client(store).get_run(sender.run.id)
        assert (run.data.params["a"], run.data.tags["changed.a"]) == ("1", "1")


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "end"}', '{"kind": "image"}', '{"kind": "about"}', '{"kind": "artifact", "folder": null}',
        '{"kind": "?"}', '{"kind": "tags", "ta', "7",
    ],
)  # fmt: skip
def test_a_damaged_line_counts_as_torn_for_sending_and_for_resuming(tmp_path, line):
    run = tmp_path / "run"
    metadata = {"kind": "about", "experiment": "e", "name": "r", "params": {}, "tags": {}, "time": 5.0}
    end = {"kind": "end", "status": "FINISHED", "time": 6.0}
    run.mkdir()
    (run / NAME).write_text("".join(f"{text}\n" for text in (json.dumps(metadata), json.dumps(end), line)))
    assert MlflowSync(run).status == "FINISHED"
    assert read_event_log(run) == [metadata, end]
    EventLog(run, RunInfo("e", "r", {}, {}), 3).close("FINISHED")
    assert [entry["kind"] for entry in read_event_log(run)] == ["about", "about", "end"]  # each start has its own


def test_a_sitting_without_mlflow_goes_on_with_the_journal_so_that_its_end_is_the_runs(tmp_path, store, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setenv("MLFLOW_TRACKING_URI", NOBODY)
        with track(tmp_path) as tracker:
            train(tracker, range(6))
            raise Stopped(15, "")
    with track(tmp_path, step=5, mlflow=False) as tracker:
        train(tracker, range(6, 11))
    sender = MlflowSync(tmp_path / "run")
    assert ": FINISHED, " in sender.send()
    assert images(store, sender.run.id) == [0, 5, 10] and sender.refused == 0
