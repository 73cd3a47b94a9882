"""Runs killed at any moment: each rerun goes on in a state of the undisturbed run, and ends in its weights."""

import os
import signal
import time
from itertools import count

import pytest
from crash_points import POINTS
from full_disk import fill, limit_files
from killed_runs import METHODS, KilledRun, Moment, attempt, deviations
from small_run import logged, unlike

import pipeline.train
from pipeline.engines.base import Engine
from pipeline.runs.checkpoint import CheckpointFolder, load_checkpoint
from pipeline.utils.console import table

SHORT, LONG = 8, 16  # steps an epoch, of three epochs


def unlike_or_logged(folder, other):
    """Where two runs differ, what is logged included."""
    return unlike(folder, other) | ({"/metrics"} if logged(folder) != logged(other) else set())


def left_alone(method, folder, steps, *, whole=False):
    uninterrupted = attempt(method, folder, steps=steps, whole=whole)
    assert uninterrupted.code == 0 and deviations(uninterrupted, [uninterrupted]) == []
    assert len({event.state for event in uninterrupted.states}) > 3 * steps  # each is told from all others
    return uninterrupted


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, left_alone("cyclegan", folder, SHORT)


def strike(killed_run):
    """Kill a run at each of the points, each time in another checkpoint."""
    for name, crash in POINTS.items():
        item = killed_run.go_on(prepare=crash().install)
        assert item.killed, name
        assert item.events[-1].name == "save", name


def test_a_run_killed_at_random_moments_ends_bitwise_as_if_nothing_had_been(uninterrupted, tmp_path):
    folder, whole = uninterrupted
    killed_run = KilledRun("cyclegan", tmp_path / "run", whole, SHORT)
    killed_run.take(kills=3, seed=3)  # within a step, at a byte of a checkpoint, and after the beginning of a save
    assert len(killed_run.kills) == 3 and killed_run.in_a_write >= 1 and killed_run.resumed == 3
    assert killed_run.attempts[-1].code == 0
    assert deviations(whole, killed_run.attempts) == []
    assert unlike_or_logged(tmp_path / "run", folder) == set()


def flip_a_bit(path):
    """Damage a file in its middle, within a tensor, as neither its size nor its time shows."""
    content, before = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_run_killed_at_each_point_of_a_save_and_damaged_ends_bitwise_as_if_nothing_had_been(
    uninterrupted, tmp_path, capfd
):
    folder, whole = uninterrupted
    killed_run = KilledRun("cyclegan", tmp_path / "run", whole, SHORT)
    strike(killed_run)
    checkpoints = CheckpointFolder(tmp_path / "run" / "checkpoints")
    flip_a_bit(checkpoints.latest)
    before = load_checkpoint(checkpoints.previous)["position"]["step"]
    capfd.readouterr()
    item = killed_run.go_on()
    assert f"warning: {checkpoints.latest}: damaged" in capfd.readouterr().err
    assert item.code == 0 and item.states[0].step == before
    assert deviations(whole, killed_run.attempts) == []
    assert sum(len(item.states) > 0 for item in killed_run.attempts) == len(POINTS) + 1
    assert unlike_or_logged(tmp_path / "run", folder) == set()
    left = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert left == {"latest.pt", "previous.pt", "best.pt", "latest.damaged"}


# ── what else may end a run ─────────────────────────────────────────────────────────────────────────────────


def small_files():
    limit_files(300_000)  # pictures and checkpoints are larger


def full_disk():
    fill(pytest.MonkeyPatch(), 100_000, ".pt")


def interrupted_group():
    """Have Ctrl-C come in the third step, to the whole process group, as a terminal sends it."""
    os.setpgid(0, 0)
    step, steps = Engine.step, count(1)

    def then_stop(engine, *real):
        if next(steps) == 3:
            os.killpg(0, signal.SIGINT)
        return step(engine, *real)

    Engine.step = then_stop


def test_a_run_that_cannot_go_on_says_why_and_what_is_saved_goes_on_later(uninterrupted, tmp_path, capfd):
    folder, whole = uninterrupted
    killed_run = KilledRun("cyclegan", tmp_path / "run", whole, SHORT)
    for prepare, code, line in (
        (full_disk, 2, "best.pt: disk full, "),
        (small_files, 2, ": larger than a file may be here; raise the limit (ulimit -f)"),
        (interrupted_group, 130, "stopped: SIGINT after step 3; saved"),
    ):
        ended, message = killed_run.go_on(prepare=prepare), capfd.readouterr().err
        assert ended.code == code and line in message and "Traceback" not in message
        assert not list((tmp_path / "run").rglob(".tmp-*"))
    assert killed_run.go_on().code == 0
    assert deviations(whole, killed_run.attempts) == []
    assert unlike_or_logged(tmp_path / "run", folder) == set()


# ── the comparison itself ───────────────────────────────────────────────────────────────────────────────────


def forget_random_state():
    """Have this process resume without a part of the state."""
    pipeline.train.restore_random_state = lambda _: None


def test_what_a_resume_forgets_is_noticed_at_once_and_in_the_final_weights(uninterrupted, tmp_path):
    folder, whole = uninterrupted
    killed_run = KilledRun("cyclegan", tmp_path / "run", whole, SHORT)
    first = killed_run.go_on(Moment("step", 15, 0))
    assert first.killed and deviations(whole, [first]) == []
    resumed = killed_run.go_on(prepare=forget_random_state)
    assert resumed.code == 0 and resumed.events[1].name == "begin" and 13 <= resumed.events[1].step <= 16
    wrong, different = deviations(whole, [resumed]), unlike_or_logged(tmp_path / "run", folder)
    assert ("begin", resumed.events[1].step) in wrong
    assert any(key.startswith("/engine/G/") for key in different)
    assert "/metrics" in different


# ── at length ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def rows(request):
    """The table of the long form, printed when all of it is done."""
    collected = []
    yield collected
    header = ("method", "kills", "inside a checkpoint write", "resumed", "bitwise equal", "crash points", "seconds")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{table(header, collected)}")


@pytest.mark.faults
@pytest.mark.parametrize("method", METHODS)
def test_fifty_kills_of_every_method(method, rows, tmp_path):
    started = time.monotonic()
    whole = left_alone(method, tmp_path / "whole", LONG, whole=True)
    killed_run = KilledRun(method, tmp_path / "run", whole, LONG, whole=True)
    killed_run.take(kills=50, seed=list(METHODS).index(method))
    crashed = KilledRun(method, tmp_path / "crashed", whole, LONG, whole=True)
    strike(crashed)
    assert crashed.go_on().code == 0
    equal = sum(deviations(whole, [item]) == [] for item in killed_run.attempts[1:])
    ends = [unlike_or_logged(folder, tmp_path / "whole") for folder in (tmp_path / "run", tmp_path / "crashed")]
    rows.append(
        (method, len(killed_run.kills), killed_run.in_a_write, killed_run.resumed,
         f"{equal} of {len(killed_run.attempts) - 1}" + (", and the end" if not any(ends) else ", not the end"),
         len(crashed.kills),
         round(time.monotonic() - started))
    )  # fmt: skip
    assert len(killed_run.kills) >= 50 and killed_run.in_a_write >= 15
    assert killed_run.resumed == len(killed_run.kills) and killed_run.attempts[-1].code == 0
    assert deviations(whole, [*killed_run.attempts, *crashed.attempts]) == []
    assert len(crashed.kills) == len(POINTS) and ends == [set(), set()]
    assert all(item.code in (0, -signal.SIGKILL) for item in killed_run.attempts)
