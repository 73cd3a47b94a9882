"""A run whose work on the processors is done in this process, or divided among several."""

from small_run import QUICK, phantom_run, without_pictures

SETTINGS = (*QUICK, "split.test=2", "split.validation=2", "training.decay_epochs=0", "training.steps_per_epoch=1")
LEFT = ("scores.json", "scores_by_subject.csv", "uncertainty.json")


def left_by(folder):
    """What a run leaves of its test subjects."""
    files = [*(folder / name for name in LEFT), *(folder / "translated").iterdir(), *(folder / "mosaics").iterdir()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_a_run_ends_the_same_whatever_the_number_of_processes(tmp_path):
    for processes in ("1", "2"):
        store = f"preprocess.store={tmp_path / f'store{processes}'}"
        folder = tmp_path / processes / "run"  # of one name, for it stands in the volumes' headers
        with without_pictures():
            assert phantom_run(folder, *SETTINGS, store, f"preprocess.processes={processes}") == 0
    alone, divided = (left_by(tmp_path / processes / "run") for processes in ("1", "2"))
    assert alone.keys() == divided.keys() and len(alone) == 3 + 4 + 4
    assert [path for path in alone if alone[path] != divided[path]] == []
