"""glibc told to keep what is freed, and the number of threads."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.utils.hardware import set_up

ROOT = Path(__file__).parents[3]
IS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")
glibc = pytest.mark.skipif(not IS_GLIBC, reason="an allocator of glibc's alone")
NEEDED = 39 * 10**6  # bytes, above glibc's largest threshold of 32 MiB


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
