import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import in_child

from pipeline.data import phantom
from pipeline.errors import UserError
from pipeline.workers import attempt, work_off

ROOT = Path(__file__).parents[2]
SLOW = ["transforms.presets"]  # the first pool of a process chooses for all, and other tests count on it
PARENT = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from {module} import {initializer}
pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer={initializer})
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("module", "initializer"), [("pipeline.data.phantom", "prepare_worker"), ("pipeline.workers", "end_with_parent")]
)
def test_a_worker_ends_when_the_process_that_started_it_is_killed(module, initializer):
    program = PARENT.format(module=module, initializer=initializer)
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        try:
            worker = int(parent.stdout.readline())
            assert runs(worker)
        finally:
            parent.send_signal(signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 10
        while runs(worker) and time.monotonic() < end:
            time.sleep(0.05)
        assert not runs(worker)


def test_an_error_without_a_text_is_named_by_its_kind():
    def fail():
        raise MemoryError

    assert attempt(fail, ()) == (None, "MemoryError")


@pytest.mark.parametrize("processes", [1, 2])
def test_each_job_yields_what_was_returned_or_why_not(processes):
    jobs = {"two": ("2",), "none": ("x",), "three": ("3",)}
    ended = {key: (result, reason) for key, result, reason in work_off(int, jobs, processes, preload=SLOW)}
    reason = "invalid literal for int() with base 10: 'x'"
    assert ended == {"two": (2, None), "three": (3, None), "none": (None, reason)}


@pytest.mark.parametrize(("end", "argument"), [(os._exit, 1), (signal.raise_signal, signal.SIGKILL)])
def test_a_worker_that_dies_is_said_to_have_died(end, argument):
    with pytest.raises(UserError) as caught:
        list(work_off(end, {1: (argument,), 2: (argument,)}, 2, preload=SLOW))
    assert str(caught.value) == (
        "a worker process died, perhaps out of memory; lower preprocess.processes (1 works without any)"
    )


def test_workers_leave_stop_signals_to_the_process_they_work_for():
    jobs = {number: (number,) for number in (signal.SIGINT, signal.SIGTERM)}
    assert {handler for _, handler, _ in work_off(signal.getsignal, jobs, 2, preload=SLOW)} == {signal.SIG_IGN}


def test_workers_that_make_phantoms_leave_stop_signals_too(monkeypatch):
    monkeypatch.setattr(phantom, "end_with_parent", lambda: None)

    def handlers():
        phantom.prepare_worker()
        return sum(signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM))

    assert in_child(handlers) == 2
