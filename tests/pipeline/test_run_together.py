"""A run that several processes train together: as with torchrun, but forked, so that nothing is imported twice."""

import json
import signal

import pytest
from processes import together
from small_engine import differences
from small_run import QUICK, in_child, latest, logged, phantom_run, signal_at, train_phantom, without_pictures

import pipeline.train
from pipeline import run_builders

BATCH = ("training.batch_size=2", "augment.jitter=1.1")


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run that one process did."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    with without_pictures():
        assert phantom_run(folder, *QUICK, *BATCH) == 0  # here: what it imports, the processes need not
    return folder


def pair(folder, log, monkeypatch, *, number=None, step=None, overrides=()):
    """Have two processes do the run, the second of which is sent a signal in a step; return their exit codes."""

    def work(rank):
        if rank == 1 and number is not None:
            signal_at(monkeypatch, number, step)
        with without_pictures():
            return phantom_run(folder, *QUICK, *BATCH, *overrides)

    return [code for code, _ in together(work, log)]


def test_two_processes_stopped_killed_and_restarted_end_as_one_undisturbed(alone, monkeypatch, tmp_path, capfd):
    folder, log = tmp_path / "run", tmp_path / "log"
    assert pair(folder, log, monkeypatch, number=signal.SIGTERM, step=2) == [143, 143]
    assert "stopped: SIGTERM after step 2; saved; the same command goes on from there" in capfd.readouterr().err
    assert latest(folder)["position"]["step"] == 2

    assert pair(folder, log, monkeypatch, number=signal.SIGKILL, step=4) == [2, -signal.SIGKILL]
    output = capfd.readouterr()
    assert output.out.count("continuing") == 1 and "Traceback" not in output.err
    assert "error: another process of this run ended, and this one with it; repeat the command" in output.err
    assert latest(folder)["position"]["step"] == 4  # the first epoch's end; step 6 was under way

    assert pair(folder, log, monkeypatch) == [0, 0]
    assert files(folder) == files(alone)  # one writer, and nothing left behind by the others
    assert json.loads((folder / "run.json").read_text())["processes"] == 2
    ours, theirs = logged(folder), logged(alone)
    assert [record.keys() for record in ours] == [record.keys() for record in theirs] and len(ours) > 10
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=2e-3, abs=2e-3)
    assert capfd.readouterr().out.count("steps and evaluated in") == 1


def test_another_number_of_processes_goes_on_with_a_run(alone, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    assert pair(folder, tmp_path / "log", monkeypatch, number=signal.SIGINT, step=3) == [130, 130]
    assert in_child(lambda: train_phantom(folder, *QUICK, *BATCH)) == 0
    last, expected = ([record for record in logged(run) if "validation/score" in record][-1] for run in (folder, alone))
    assert last == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_what_all_find_wrong_is_said_once(alone, monkeypatch, tmp_path, capfd):
    assert pair(tmp_path / "run", tmp_path / "log", monkeypatch, overrides=("training.batch_size=3",)) == [2, 2]
    message = capfd.readouterr().err
    assert message.count("error") == 1
    assert "error: training.batch_size = 3: cannot be divided among 2 processes" in message
    assert not (tmp_path / "run").exists()


def test_processes_that_see_other_data_are_refused(alone, monkeypatch, tmp_path, capfd):
    def work(rank):
        if rank == 1:  # as on a machine with another copy of the scans
            monkeypatch.setattr(pipeline.train, "training_data", lambda prepared: {"another": [1]})
        return phantom_run(tmp_path / "run", *QUICK, *BATCH)

    assert [code for code, _ in together(work, tmp_path / "log")] == [2, 2]
    assert "error: process 1 found other data, another checkpoint or other initial" in capfd.readouterr().err


def test_all_processes_start_from_what_the_first_fitted(tmp_path, monkeypatch):
    overrides = (*QUICK, *BATCH, "generator.start=box", "contrasts=[T2, T1]", "training.epochs=1")
    begun, fitted, fits = {}, run_builders._fit_starts, []  # of this process; each of two has a copy
    monkeypatch.setattr(run_builders, "_fit_starts", lambda *given: (fits.append(1), fitted(*given)))
    monkeypatch.setattr(pipeline.train, "require_alike", lambda *given: begun.update(tables_of(given[2])))

    def work(rank):
        assert train_phantom(tmp_path / "run", *overrides) == 0 and len(fits) == (rank == 0)
        return begun

    (_, first), (_, second) = together(work, tmp_path / "log")
    assert len(first) == 2 * 10 and differences(first, second) == set()
    assert all(first[f"{name}.{key}"].std() > 0.1 for name in "GF" for key in ("lookup.table", "box.lookup.table"))


def tables_of(engine):
    """What both generators start from, but for the box's weights."""
    return {
        f"{name}.{key}": value.clone()
        for name, network in engine.generators.items()
        for key, value in network.named_buffers()
    }
