import fcntl

import pytest
from small_run import in_child

from pipeline.tracking.mlflow_run import KEY_LENGTH, clean_key
from pipeline.tracking.mlflow_settings import store_lock


def locked_for_another(path):
    """Whether a process of its own finds the lock taken."""

    def try_it():
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 1
        return 0

    return bool(in_child(try_it))


def test_one_process_at_a_time_opens_an_sqlite_store(tmp_path):
    lock = tmp_path / "mlflow.db.lock"
    with store_lock(f"sqlite:///{tmp_path / 'mlflow.db'}"):
        assert locked_for_another(lock)
    assert not locked_for_another(lock)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("test/T1_to_T2//runs/a/psnr", "test/T1_to_T2/runs/a/psnr"),  # a run's folder as its label
        ("/a/./b/../c/", "a/b/c"),
        ("größe [mm]", "gr__e _mm_"),
        ("//", "_"),
        ("a" * 300, "a" * KEY_LENGTH),
    ],
)
def test_a_name_becomes_a_key_that_mlflow_takes(name, key):
    from mlflow.utils.validation import _validate_metric_name

    assert clean_key(name) == key
    _validate_metric_name(key)
