"""The benchmarks at a size that takes no time."""

import time

import pytest

from benchmarks import data, inference, step
from benchmarks.timing import Timing


@pytest.fixture(autouse=True)
def at_once(monkeypatch, tmp_path):
    """The benchmarks' clock with every side in this process, called once; no setting of this process changes."""

    def measure(sides, *, rounds=1, **_):
        timings = {}
        for name, side in sides.items():
            work = side.prepare(**side.options)
            started = time.perf_counter()
            work()
            seconds = time.perf_counter() - started
            timings[name] = Timing((seconds / side.units,) * rounds, 100.0, seconds)
        return timings

    for module in (data, inference, step):
        monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr("pipeline.utils.hardware.set_up", lambda threads: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for threads in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(threads, "1")
