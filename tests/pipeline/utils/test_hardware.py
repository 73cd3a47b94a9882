"""glibc told to keep what is freed: it does, and nothing that is computed changes."""

import ctypes
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import together
from small_engine import batch, engine_of

from pipeline.utils.hardware import set_up

ROOT = Path(__file__).parents[3]
IS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
glibc = pytest.mark.skipif(not IS_GLIBC, reason="an allocator of glibc's alone")
NEEDED = 39 * 10**6  # bytes, above glibc's largest threshold of 32 MiB


def results(folder, action):
    """What `action` returns in a process with glibc's own settings, and in one that was set up."""

    def item(rank):
        if rank == 1:
            set_up(1)
        elif IS_GLIBC:  # this process, of which they are forks, may have been set up by another test
            ctypes.CDLL(None).mallopt(M_MMAP_MAX, 65536)
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**17)
            ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**17)
        if IS_GLIBC:
            ctypes.CDLL(None).malloc_trim(0)  # of what the tests before left
        return action()

    ended = together(item, folder)
    assert [code for code, _ in ended] == [0, 0]
    return [result for _, result in ended]


def test_losses_and_weights_of_steps_are_bitwise_the_same(tmp_path):
    options = {"width": 24, "depth": 3}  # with weights beyond glibc's mmap threshold of 128 KiB
    assert max(weight.nbytes for weight in engine_of(**options).networks()["G"].parameters()) > 2**17

    def digest():
        engine, actual = engine_of(**options), hashlib.sha256()
        for index in range(3):
            losses = engine.step(*batch(index))
            actual.update(repr(sorted((name, float(loss)) for name, loss in losses.items())).encode())
        for network in engine.networks().values():
            for weight in network.parameters():
                actual.update(weight.detach().numpy().tobytes())
        return {"digest": actual.hexdigest()}

    plain, output = results(tmp_path, digest)
    assert plain == output


KEPT = f"""
import numpy as np, psutil
from pipeline.utils.hardware import set_up
def kept_bytes():
    before = psutil.Process().memory_info().rss
    block = np.ones({NEEDED} // 8)
    assert psutil.Process().memory_info().rss - before > 0.9 * {NEEDED}
    del block
    return psutil.Process().memory_info().rss - before
plain = kept_bytes()
set_up(1)
print(plain, kept_bytes())
"""


@glibc
def test_freed_blocks_are_kept():
    # In a process of its own, for the heap of this one is as earlier tests have left it.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", KEPT], env=environment, capture_output=True, check=True, timeout=120)
    plain, kept = map(int, ended.stdout.split())
    assert plain < 0.1 * NEEDED and kept > 0.9 * NEEDED


def test_the_number_of_threads_is_set_or_left():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        set_up(None)
        assert torch.get_num_threads() == 2
        set_up(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
