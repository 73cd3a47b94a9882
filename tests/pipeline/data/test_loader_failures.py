"""What becomes of a loader whose workers die, or cannot pass on what they made: one line, and nothing hangs."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from pipeline.data.case import Case
from pipeline.data.loader import SliceBank, UnpairedSlices, epoch_loader
from pipeline.data.loader_workers import explaining_workers
from pipeline.data.slice_cache import StoredSlices
from pipeline.utils.errors import UserError
from transforms.augmentation import Augmentation

REMEDY = (
    "; training.loader_workers=0 works without workers and without shared memory; the same command with it goes on "
    "from the last checkpoint"
)


class Failing(UnpairedSlices):
    """Comes to grief in whatever worker makes the third batch."""

    grief = staticmethod(lambda: None)

    def __getitems__(self, keys):
        if keys[0] == (0, 4) and get_worker_info() is not None:
            self.grief()
        return super().__getitems__(keys)


def batches_of(folder, grief, workers):
    np.save(folder / "slices.npy", np.zeros((9, 64, 64), np.uint16))
    bank = SliceBank([StoredSlices(Case("s", "", "T1", Path("x")), folder / "slices.npy", range(9))])
    dataset = Failing(bank, bank, Augmentation(), 0)
    dataset.grief = grief
    return epoch_loader(dataset, epoch=0, batches=4, batch_size=2, first_batch=0, workers=workers, pin_memory=False)


def load(folder, grief, workers):
    with explaining_workers(workers):
        return list(batches_of(folder, grief, workers))


def small_shared_memory():
    """Have the system refuse files, those of shared memory too, of more than a kilobyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def fail():
    raise RuntimeError("an error of our own")


GRIEFS = {
    "a loader's worker was killed, perhaps for want of memory": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "a loader's worker died": lambda: os._exit(1),
    "shared memory (/dev/shm) is too small": lambda: os.kill(os.getpid(), signal.SIGBUS),
}


@pytest.mark.parametrize("reason", GRIEFS)
def test_a_workers_death_is_one_line_that_says_what_works(reason, tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path, GRIEFS[reason], 2)
    assert str(caught.value) == reason + REMEDY
    assert len(load(tmp_path, GRIEFS[reason], 0)) == 4


def test_a_dead_worker_is_forgotten_once_it_is_told(tmp_path):
    with pytest.raises(UserError):
        load(tmp_path, GRIEFS["a loader's worker died"], 2)
    for _ in range(3):  # of each child that ends, torch asks whether it was a worker, and whether another one died
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.01)


def test_an_interpreter_that_exits_with_workers_alive_does_not_wait_for_them(tmp_path):
    program = """
import sys
from pathlib import Path
sys.path[:0] = ["tests", "tests/pipeline/data"]
from test_loader_failures import batches_of
batches = iter(batches_of(Path(sys.argv[1]), lambda: None, 1))
next(batches)
batches.forgotten = batches  # as a traceback would, it keeps them from being collected
sys.exit(3)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[3], timeout=60, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (3, "")


def test_shared_memory_that_cannot_be_had_is_said_instead_of_waited_for(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path, small_shared_memory, 2)
    assert str(caught.value) == "shared memory (/dev/shm) is too small" + REMEDY


def test_an_error_of_our_own_in_a_worker_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="an error of our own"):
        load(tmp_path, fail, 2)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("unable to write to file </torch_1_2_0>: No space left on device (28)"), "shared memory"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: Success (0)"), "shared memory"),
        (RuntimeError("received 0 items of ancdata"), "too many open files"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "there is no room for a loader's workers (Cannot allocate"),
        (OSError(errno.ENOSPC, "No space left on device"), "there is no room for a loader's workers (No space left"),
    ],
)
def test_what_torch_and_the_system_say_of_too_little_room_is_understood(error, reason):
    with pytest.raises(UserError) as caught, explaining_workers(1):
        raise error
    assert str(caught.value).startswith(reason) and str(caught.value).endswith(REMEDY)
    with pytest.raises(type(error)), explaining_workers(0):  # then it is about something else
        raise error


def test_other_errors_pass_as_they_are():
    for error in (RuntimeError("shapes do not fit"), OSError(errno.EIO, "I/O error"), UserError("a line")):
        with pytest.raises(type(error), match=str(error.args[-1])), explaining_workers(2):
            raise error


def test_batches_of_workers_may_be_changed_and_kept(tmp_path):
    first, second = load(tmp_path, lambda: None, 2), load(tmp_path, lambda: None, 0)
    for first_slices, second_slices in zip(first, second, strict=True):
        assert all(torch.equal(*sides) for sides in zip(first_slices, second_slices, strict=True))
        first_slices[0].add_(1)
