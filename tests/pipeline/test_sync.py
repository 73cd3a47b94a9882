import mlflow_store
import pytest
from small_run import in_child
from tracked_run import unfollowed as log_unfollowed

from pipeline.runs.folder import RunFolder
from pipeline.sync import main


@pytest.fixture
def unfollowed(tmp_path):
    """Folders of two runs that no server followed."""
    for name in ("a", "b"):
        log_unfollowed(tmp_path / name, range(6))
    return [tmp_path / name / "run" for name in ("a", "b")]


def statuses(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return [run.info.status for run in client.search_runs([client.get_experiment_by_name("e").experiment_id])]


def test_each_run_is_sent_and_has_its_line(unfollowed, store, capsys):
    capsys.readouterr()
    assert main([str(folder) for folder in unfollowed]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert [line.partition(": ")[0] for line in output.out.splitlines()] == [str(folder) for folder in unfollowed]
    assert all(": FINISHED, MLflow run " in line and "6 points" in line for line in output.out.splitlines())
    assert statuses(store) == ["FINISHED"] * 2


def test_one_that_is_not_there_does_not_stop_the_others(unfollowed, store, capsys):
    assert main([str(unfollowed[0].with_name("gone")), *map(str, unfollowed)]) == 3
    assert "gone: no such folder; give the folder of a run" in capsys.readouterr().err
    assert statuses(store) == ["FINISHED"] * 2


def test_what_could_not_be_sent_makes_it_a_part(unfollowed, store, capsys):
    with (unfollowed[0] / "tracking.jsonl").open("a") as journal:
        print('{"kind": "artifact", "path": "gone.png", "folder": null}', file=journal)
    assert main([str(unfollowed[0])]) == 3
    assert "gone.png is not sent (it is not there any more)" in capsys.readouterr().err


def test_pictures_that_only_the_first_store_has_are_told_once_and_are_no_failure(unfollowed, store, capsys):
    for picture in (unfollowed[0] / "unsent").glob("*.png"):
        picture.unlink()
    capsys.readouterr()
    assert main([str(unfollowed[0])]) == 0
    output = f"warning: {unfollowed[0]}: 2 pictures are only in the store that got them first\n"
    assert capsys.readouterr().err == output


def test_a_dead_server_is_one_line_and_the_run_can_be_sent_later(unfollowed, store, monkeypatch, capsys):
    capsys.readouterr()
    with monkeypatch.context() as patch, mlflow_store.failing_server("error") as uri:
        patch.setenv("MLFLOW_TRACKING_URI", uri.replace("://", "://me:secret@"))
        assert main([str(unfollowed[0])]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and "secret" not in output
    assert output.startswith(f"error: {unfollowed[0]}: not sent to MLflow: ")
    assert main([str(unfollowed[0])]) == 0
    assert statuses(store) == ["FINISHED"]


def test_a_run_at_work_is_left_alone_and_named(unfollowed, store, capfd):
    with RunFolder(unfollowed[0]).lock():
        assert in_child(lambda: main([str(unfollowed[0])])) == 2
    assert not (unfollowed[0] / "mlflow.json").exists()
    assert f"error: {unfollowed[0]}: another process is at work on this run; wait for it" in capfd.readouterr().err


@pytest.mark.parametrize("content", [None, b"\x00\xff\n", b'{"kind": "about"', b"[]\n7\n"])
def test_a_folder_without_a_record_is_refused_and_stays_as_it_was(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "tracking.jsonl").write_bytes(content)
    before = list(tmp_path.iterdir())
    assert main([str(tmp_path)]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and f"error: {tmp_path}/tracking.jsonl: not there, or damaged" in output
    assert list(tmp_path.iterdir()) == before
