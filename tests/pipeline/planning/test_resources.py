import shutil
from types import SimpleNamespace

import pytest
import torch
from small_engine import config_of, engine_of

from pipeline.data.case import Case
from pipeline.data.slice_cache import case_key
from pipeline.engines.builders import build_engine
from pipeline.planning import resources as plan_disk
from pipeline.planning.resources import DiskNeed, cache_files, disk_needs, disk_text, training_bytes, warn_of_full_disks
from pipeline.runs.folder import RunFolder
from transforms.slice_chain import PreprocessSettings

GIB = 1 << 30


def free(monkeypatch, room):
    """Let the disk that holds a folder have `room[its name]` bytes free and, by its name, be another file system."""
    real = plan_disk.nearest_folder

    def disk_of(path):
        return next((name for name in room if name in path.parts), "other")

    class Place(SimpleNamespace):
        def stat(self):
            return SimpleNamespace(st_dev=self.disk)

    monkeypatch.setattr(plan_disk, "nearest_folder", lambda folder: Place(disk=disk_of(folder), path=real(folder)))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=100 * GIB, free=room[place.disk]))


def test_file_systems_are_looked_at_one_by_one(tmp_path, monkeypatch, capsys):
    needs = [
        DiskNeed("slice store", tmp_path / "large" / "store", 30 * GIB),
        DiskNeed("checkpoints", tmp_path / "small" / "run" / "checkpoints", 4 * GIB),
        DiskNeed("translated volumes", tmp_path / "small" / "run" / "translated", 3 * GIB, 1 * GIB),
    ]
    free(monkeypatch, {"large": 40 * GIB, "small": 6 * GIB})
    warn_of_full_disks(needs)
    assert capsys.readouterr().err == ""  # 4 and 2 are still to come, and 6 are free
    free(monkeypatch, {"large": 29 * GIB, "small": 5 * GIB})
    warn_of_full_disks(needs)
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        f"warning: the disk of {tmp_path}/large/store has 29.0 GiB free, and some 30.0 GiB are to be written there "
        f"(slice store 30.0 GiB in {tmp_path}/large/store); free some, or set preprocess.store or output to another "
        "disk"
    )
    assert f"has 5.0 GiB free, and some 6.0 GiB are to be written there (checkpoints 4.0 GiB in {tmp_path}" in second
    assert "translated volumes 2.0 GiB in" in second


def test_what_is_no_disk_is_not_warned_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(total=0, free=0))  # as of /proc
    warn_of_full_disks([DiskNeed("slice store", tmp_path, GIB)])
    assert capsys.readouterr().err == ""


@pytest.fixture
def needs(tmp_path):
    """The needs of a run of two training images, of which one is in the store."""
    settings = PreprocessSettings("axial", None, 64, n4=False, percentiles=None), 0.05
    cases = [Case("a", "", kind, tmp_path / f"a_{kind}.nii") for kind in ("T1", "T2")]
    for case in cases:
        case.path.write_bytes(b"image")
    store = tmp_path / "store"
    store.mkdir()
    (store / f"{case_key(cases[0].path, *settings)}.npy").write_bytes(bytes(1000))

    def arguments(voxels=100):
        files = cache_files([*cases, Case("b", "", "T1", tmp_path / "missing.nii")], store, *settings)
        sizes = {"slice_bytes": 80_000, "checkpoint": 500, "voxels": voxels}
        return disk_needs(RunFolder(tmp_path / "run"), store, files, **sizes)

    return arguments


def test_what_is_written_is_counted_and_what_is_there_taken_off(needs, tmp_path):
    store, checkpoints, translated = needs()
    assert (store.size, store.present) == (80_000, 1000)
    assert (checkpoints.size, checkpoints.present, checkpoints.folder) == (1500, 0, tmp_path / "run" / "checkpoints")
    assert (translated.size, translated.present) == (pytest.approx(100 * 2 * 0.4), 0)


def test_a_run_that_has_begun_has_its_store_and_links_count_once(needs, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "latest.pt").write_bytes(bytes(500))
    (folder / "best.pt").hardlink_to(folder / "latest.pt")
    store, checkpoints, _ = needs()
    assert store.present == store.size and (checkpoints.size, checkpoints.present) == (1500, 500)


def test_volumes_that_are_not_written_take_no_room(needs):
    assert [need.name for need in needs(voxels=None)] == ["slice store", "checkpoints"]


def test_the_text_says_what_lies_where(tmp_path, monkeypatch):
    free(monkeypatch, {"store": 5 * GIB, "run": 7 * GIB})
    needs = [DiskNeed("slice store", tmp_path / "store", 2 * GIB, GIB), DiskNeed("checkpoints", tmp_path / "run", GIB)]
    assert disk_text(needs).splitlines() == [
        "disk       3.0 GiB in all",
        f"           2.0 GiB slice store, of which 1.0 GiB are there, in {tmp_path}/store (5.0 GiB free)",
        f"           1.0 GiB checkpoints, in {tmp_path}/run (7.0 GiB free)",
    ]


def test_pairs_beside_unpaired_slices_cost_what_their_passes_save_for_the_gradients():
    shape, images = (3, 1, 32, 32), torch.zeros(3, 1, 32, 32)
    with torch.device("meta"):
        engine = build_engine(config_of(paired_weight=2.0), torch.device("meta"))
    real, saved = engine_of(paired_weight=2.0), {}

    def record(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        losses = real.paired_losses(images, images)
    for known in real.generators.parameters():
        saved.pop(known.untyped_storage().data_ptr(), None)
    assert losses and sum(saved.values()) > 3 * images.nbytes
    more = training_bytes(engine, shape, pairs=True) - training_bytes(engine, shape)
    assert more == pytest.approx(sum(saved.values()), rel=0.01)
