import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.utils.errors import UserError
from pipeline.utils.workers import WorkerPool, run_jobs

ROOT = Path(__file__).parents[3]
SLOW = ["transforms.monai_transforms"]  # the first pool of a process chooses for all, and other tests count on it
PARENT = """
import os, time
from pipeline.utils.workers import WorkerPool
pool = WorkerPool(2)
print(pool.submit(os.getpid)(), flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_worker_ends_when_the_process_that_started_it_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
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


@pytest.mark.parametrize("processes", [1, 2])
def test_each_job_yields_what_was_returned_or_why_not(processes):
    jobs = {"two": ("2",), "none": ("x",), "three": ("3",)}
    ended = {key: (result, reason) for key, result, reason in run_jobs(int, jobs, processes, preload=SLOW)}
    reason = "invalid literal for int() with base 10: 'x'"
    assert ended == {"two": (2, None), "three": (3, None), "none": (None, reason)}


@pytest.mark.parametrize(("end", "argument"), [(os._exit, 1), (signal.raise_signal, signal.SIGKILL)])
def test_a_worker_that_dies_is_said_to_have_died(end, argument):
    with pytest.raises(UserError) as caught:
        list(run_jobs(end, {1: (argument,), 2: (argument,)}, 2, preload=SLOW))
    assert str(caught.value) == (
        "a worker process died, perhaps out of memory; lower preprocess.processes (1 works without any). A script that "
        'calls pipeline.train needs `if __name__ == "__main__":` around it'
    )


def test_workers_leave_stop_signals_to_the_process_they_work_for():
    jobs = {number: (number,) for number in (signal.SIGINT, signal.SIGTERM)}
    assert {handler for _, handler, _ in run_jobs(signal.getsignal, jobs, 2, preload=SLOW)} == {signal.SIG_IGN}


@pytest.mark.parametrize("processes", [1, 3])
def test_a_pool_gives_results_in_the_callers_order_however_long_each_takes(processes):
    with WorkerPool(processes, preload=SLOW) as workers:
        waited = list(workers.imap(wait_and_return, [(0.2, "slow"), (0, "quick"), (0, "last")], 2))
        later = [workers.submit(int, text) for text in "123"]
        assert waited == ["slow", "quick", "last"]
        assert [result() for result in later] == [1, 2, 3]


def wait_and_return(seconds, value):
    time.sleep(seconds)
    return value


def test_no_more_jobs_are_taken_ahead_than_asked_for():
    numbers = []

    def jobs():
        for number in range(6):
            numbers.append(number)
            yield (number,)

    with WorkerPool(2, preload=SLOW) as workers:
        results = workers.imap(int, jobs(), 2)
        assert next(results) == 0 and numbers == [0, 1, 2]
        assert next(results) == 1 and numbers == [0, 1, 2, 3]


def test_a_single_process_starts_no_worker_and_takes_one_job_at_a_time():
    with WorkerPool(8, jobs=1) as workers:
        assert workers.processes == 1
        assert next(workers.imap(lambda number: (number, os.getpid()), iter([(1,)]), 5)) == (1, os.getpid())


def test_what_a_job_raises_comes_to_the_caller_and_a_dead_worker_is_named():
    with pytest.raises(ValueError, match="invalid literal"), WorkerPool(2, preload=SLOW) as workers:
        workers.submit(int, "x")()
    with pytest.raises(UserError, match="a worker process died"), WorkerPool(2, preload=SLOW) as workers:
        workers.submit(os._exit, 1)()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_when_the_block_is_left_by_a_signal_no_job_is_waited_for():
    with pytest.raises(KeyboardInterrupt), WorkerPool(2, preload=SLOW) as workers:
        worker = workers.submit(os.getpid)()
        endless = [workers.submit(time.sleep, 600) for _ in range(4)]
        assert runs(worker) and endless
        raise KeyboardInterrupt
    assert not runs(worker)
