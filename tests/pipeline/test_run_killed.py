"""Runs killed at any moment: each rerun goes on in a state of the undisturbed run, and ends in its weights."""

import os
import shutil
import signal
import time
from itertools import count

import pytest
from crash_points import POINTS
from full_disk import fill, limit_files
from killed_runs import METHODS, Moment, Victim, attempt, strayed
from small_engine import differences
from small_run import latest, logged

import pipeline.train
from pipeline.engines.base import Engine
from pipeline.runs.checkpoint import CheckpointFolder
from pipeline.utils.console import table

KEPT = ("engine", "translators", "random", "facts", "split", "data")
SHORT, LONG = 8, 16  # steps an epoch, of three epochs


def unlike(folder, other):
    """Where the last checkpoints of two runs differ, what is logged included."""
    first, second = latest(folder), latest(other)
    found = differences({key: first[key] for key in KEPT}, {key: second[key] for key in KEPT})
    return found | ({"/metrics"} if logged(folder) != logged(other) else set())


def left_alone(method, folder, steps, *, whole=False):
    undisturbed = attempt(method, folder, steps=steps, whole=whole)
    assert undisturbed.code == 0 and strayed(undisturbed, [undisturbed]) == []
    assert len({event.state for event in undisturbed.states}) > 3 * steps  # each is told from all others
    return undisturbed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, left_alone("cyclegan", folder, SHORT)


def strike(victim):
    """Kill a run at each of the points, each time in another checkpoint."""
    for name, crash in POINTS.items():
        one = victim.go_on(prepare=crash().install)
        assert one.killed, name
        assert one.events[-1].name == "save", name


def test_a_run_killed_at_random_moments_ends_bitwise_as_if_nothing_had_been(undisturbed, tmp_path):
    folder, whole = undisturbed
    victim = Victim("cyclegan", tmp_path / "run", whole, SHORT)
    victim.take(kills=10, seed=1)
    assert len(victim.kills) >= 8 and victim.in_a_write >= 3 and victim.resumed == len(victim.kills)
    assert victim.attempts[-1].code == 0
    assert strayed(whole, victim.attempts) == []
    assert unlike(tmp_path / "run", folder) == set()


def test_a_run_killed_at_each_point_of_a_save_ends_bitwise_as_if_nothing_had_been(undisturbed, tmp_path):
    folder, whole = undisturbed
    victim = Victim("cyclegan", tmp_path / "run", whole, SHORT)
    strike(victim)
    assert victim.go_on().code == 0
    assert strayed(whole, victim.attempts) == []
    assert sum(len(one.states) > 0 for one in victim.attempts) == len(POINTS) + 1
    assert unlike(tmp_path / "run", folder) == set()
    left = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert left == {"latest.pt", "previous.pt", "best.pt"}


def test_a_latest_checkpoint_with_one_bit_flipped_is_named_and_the_one_before_taken(undisturbed, tmp_path, capfd):
    folder, whole = undisturbed
    victim = Victim("cyclegan", tmp_path / "run", whole, SHORT)
    assert victim.go_on(Moment("step", 6, 0)).killed
    checkpoints = CheckpointFolder(tmp_path / "run" / "checkpoints")
    content = bytearray(checkpoints.latest.read_bytes())
    before = checkpoints.latest.stat()
    content[len(content) // 2] ^= 1  # within a tensor: most of the file is
    checkpoints.latest.write_bytes(content)
    os.utime(checkpoints.latest, ns=(before.st_atime_ns, before.st_mtime_ns))
    one = victim.go_on()
    said = capfd.readouterr().err
    assert f"warning: {checkpoints.latest}: damaged" in said
    assert one.code == 0 and one.states[0].step == victim.attempts[0].states[-2].step
    assert strayed(whole, victim.attempts) == []
    assert unlike(tmp_path / "run", folder) == set()


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


ENDS = {
    "disk full": (full_disk, (), 2, "best.pt: disk full, "),
    "file too large": (small_files, (), 2, ": larger than a file may be here; raise the limit (ulimit -f)"),
    "ctrl-c": (interrupted_group, (), 130, "stopped: SIGINT after step 3; saved"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_cannot_go_on_says_why_and_what_is_saved_goes_on_later(end, undisturbed, tmp_path, capfd):
    folder, whole = undisturbed
    prepare, overrides, code, line = ENDS[end]
    victim = Victim("cyclegan", tmp_path / "run", whole, SHORT)
    ended = victim.go_on(prepare=prepare, overrides=overrides)
    said = capfd.readouterr().err
    assert ended.code == code and line in said and "Traceback" not in said
    assert not list((tmp_path / "run").rglob(".tmp-*"))
    assert victim.go_on().code == 0
    assert strayed(whole, victim.attempts) == []
    assert unlike(tmp_path / "run", folder) == set()


# ── the comparison itself ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def killed(undisturbed, tmp_path_factory):
    """A run that is to be resumed, and its first attempt."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    return folder, attempt("cyclegan", folder, kill=Moment("step", 15, 0), steps=SHORT)


def forget(part):
    """Have this process resume without a part of the state."""
    if part == "random":
        pipeline.train.restore_random_state = lambda _: None
        return
    load = Engine.load_state_dict

    def forgetful(engine, state):
        load(engine, {**state, part: engine.state_dict()[part]})

    Engine.load_state_dict = forgetful


@pytest.mark.parametrize("part", [None, "optimiser_generators", "pool_b", "random"])
def test_what_a_resume_forgets_is_noticed_at_once_and_in_the_final_weights(part, undisturbed, killed, tmp_path):
    folder, whole = undisturbed
    assert killed[1].killed and strayed(whole, [killed[1]]) == []
    shutil.copytree(killed[0], tmp_path / "run")
    victim = Victim("cyclegan", tmp_path / "run", whole, SHORT)
    resumed = victim.go_on(prepare=lambda: part and forget(part))
    assert resumed.code == 0 and resumed.events[1].name == "begin" and 13 <= resumed.events[1].step <= 16
    wrong, different = strayed(whole, [resumed]), unlike(tmp_path / "run", folder)
    if part is None:
        assert (wrong, different) == ([], set())
        return
    assert ("begin", resumed.events[1].step) in wrong
    assert any(place.startswith("/engine/G/") for place in different)
    assert "/metrics" in different


# ── at length ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def rows(request):
    """The table of the long form, printed when all of it is done."""
    found = []
    yield found
    header = ("method", "kills", "inside a checkpoint write", "resumed", "bitwise equal", "crash points", "seconds")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n\n{table(header, found)}")


@pytest.mark.faults
@pytest.mark.parametrize("method", METHODS)
def test_fifty_kills_of_every_method(method, rows, tmp_path):
    started = time.monotonic()
    whole = left_alone(method, tmp_path / "whole", LONG, whole=True)
    victim = Victim(method, tmp_path / "run", whole, LONG, whole=True)
    victim.take(kills=50, seed=list(METHODS).index(method))
    crashed = Victim(method, tmp_path / "crashed", whole, LONG, whole=True)
    strike(crashed)
    assert crashed.go_on().code == 0
    equal = sum(strayed(whole, [one]) == [] for one in victim.attempts[1:])
    ends = [unlike(folder, tmp_path / "whole") for folder in (tmp_path / "run", tmp_path / "crashed")]
    rows.append(
        (method, len(victim.kills), victim.in_a_write, victim.resumed, f"{equal} of {len(victim.attempts) - 1}"
         + (", and the end" if not any(ends) else ", not the end"), len(crashed.kills),
         round(time.monotonic() - started))
    )  # fmt: skip
    assert len(victim.kills) >= 50 and victim.in_a_write >= 15
    assert victim.resumed == len(victim.kills) and victim.attempts[-1].code == 0
    assert strayed(whole, [*victim.attempts, *crashed.attempts]) == []
    assert len(crashed.kills) == len(POINTS) and ends == [set(), set()]
    assert all(one.code in (0, -signal.SIGKILL) for one in victim.attempts)
