import json

import pytest
from tracked_run import NOBODY, client, images, track, train, unfollowed

from pipeline.tracking.event_log import NAME, EventLog, read_event_log
from pipeline.tracking.mlflow_run import RunInfo
from pipeline.tracking.mlflow_sync import MlflowSync
from pipeline.utils.errors import Stopped


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
