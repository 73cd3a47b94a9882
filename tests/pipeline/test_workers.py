import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
