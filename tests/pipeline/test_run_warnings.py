import shutil
from types import SimpleNamespace

from small_run import QUICK, train_phantom


def test_a_run_warns_of_its_disk_and_of_a_lost_learning_rate_before_it_trains(tmp_path, monkeypatch, capsys):
    def little(path):
        return SimpleNamespace(total=2000, free=1000)

    monkeypatch.setattr(shutil, "disk_usage", little)
    schedule = ("training.steps_per_epoch=20", "training.decay_epochs=0", "training.halve_every=1")
    assert train_phantom(tmp_path / "run", *QUICK, *schedule) == 0
    lines = capsys.readouterr().err.splitlines()
    (disk,) = [line for line in lines if line.startswith("warning: the disk of ")]
    assert "has 1000 B free" in disk and "checkpoints" in disk and f"in {tmp_path / 'run' / 'translated'}" in disk
    (rate,) = [line for line in lines if line.startswith("warning: the learning rate ")]
    assert "after step 10 of 20; the other 50%" in rate
