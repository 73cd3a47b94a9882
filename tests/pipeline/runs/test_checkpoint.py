import errno
import os
import pickle
import zipfile
from contextlib import suppress

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.runs.checkpoint import (
    CheckpointFolder,
    all_finite_weights,
    load_checkpoint,
    random_state,
    restore_random_state,
)


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path / "checkpoints")


def state(step):
    return {
        "weights": torch.full((3, 4), float(step)),
        "position": {"step": step, "best_score": float("-inf")},
        "empty": None,
        "nested": {"list": [1, 2.5, "text", torch.arange(step + 1)]},
    }


def step_of(path):
    return load_checkpoint(path)["position"]["step"]


def names(folder):
    return sorted(path.name for path in folder.folder.iterdir())


def shorten(path):
    content = path.read_bytes()
    path.unlink()  # its other names, if any, keep the whole content
    path.write_bytes(content[: len(content) // 2])


# ── saving ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_saved_comes_back(folder):
    folder.save(state(3), best=False)
    loaded = folder.load_newest()
    assert torch.equal(loaded["weights"], torch.full((3, 4), 3.0))
    assert loaded["position"] == {"step": 3, "best_score": float("-inf")} and loaded["empty"] is None
    assert loaded["nested"]["list"][:3] == [1, 2.5, "text"] and loaded["nested"]["list"][3].tolist() == [0, 1, 2, 3]


def test_a_folder_without_checkpoints_has_nothing_to_load(folder):
    assert folder.load_newest() is None
    folder.folder.mkdir()
    assert folder.load_newest() is None


def test_latest_previous_and_best_are_kept(folder):
    for step, best in enumerate([True, False, True, False, False]):
        folder.save(state(step), best=best)
        assert step_of(folder.latest) == step
        assert step_of(folder.best) == (0 if step < 2 else 2)
        if step:
            assert step_of(folder.previous) == step - 1
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]


def test_without_a_best_one_there_is_no_best_file(folder):
    folder.save(state(1), best=False)
    assert names(folder) == ["latest.pt"]


def test_a_saved_checkpoint_is_not_written_twice_for_being_the_best(folder):
    folder.save(state(1), best=True)
    assert folder.best.samefile(folder.latest)


def refuse_links(*_, **__):
    raise OSError(errno.EPERM, "no hard links here")


def test_without_hard_links_files_are_copied(folder, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_links)
    for step, best in enumerate([False, True, False]):
        folder.save(state(step), best=best)
    assert [step_of(path) for path in (folder.latest, folder.previous, folder.best)] == [2, 1, 1]
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]
    assert not folder.best.samefile(folder.previous)


def test_a_full_disk_leaves_the_earlier_checkpoints(folder, monkeypatch):
    folder.save(state(1), best=True)
    folder.save(state(2), best=False)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"latest\.pt: disk full"):
        folder.save(state(3), best=False)
    assert step_of(folder.latest) == 2 and step_of(folder.best) == 1
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("interrupted_at", range(1, 5))
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint_and_best_not_behind(
    best, interrupted_at, folder, monkeypatch
):
    folder.save(state(1), best=True)
    folder.save(state(2), best=False)
    moves = 0
    real = os.replace

    def killed(*arguments, **options):
        nonlocal moves
        moves += 1
        if moves == interrupted_at:
            raise KeyboardInterrupt
        real(*arguments, **options)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(os, "replace", killed)
        folder.save(state(3), best=best)
    newest = folder.load_newest()["position"]["step"]
    assert newest in (2, 3)
    if best and newest == 3:
        assert step_of(folder.best) == 3
    folder.save(state(4), best=False)
    assert step_of(folder.latest) == 4 and step_of(folder.previous) == newest
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]


def test_what_a_killed_run_left_half_written_is_cleared_away(folder):
    folder.save(state(1), best=False)
    (folder.folder / ".tmp-1-abc.pt").write_bytes(b"half")
    folder.save(state(2), best=False)
    assert names(folder) == ["latest.pt", "previous.pt"]


def test_a_loaded_checkpoint_survives_the_saving_of_the_next(folder):
    folder.save(state(1), best=False)
    loaded = folder.load_newest()
    for step in (2, 3, 4):
        folder.save(state(step), best=False)
    assert torch.equal(loaded["weights"], torch.full((3, 4), 1.0))


def test_changing_what_was_loaded_does_not_change_the_file(folder):
    folder.save(state(1), best=False)
    folder.load_newest()["weights"].fill_(7)
    assert torch.equal(folder.load_newest()["weights"], torch.full((3, 4), 1.0))


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────

DAMAGE = {
    "cut short": shorten,
    "emptied": lambda path: path.write_bytes(b""),
    "of other content": lambda path: path.write_bytes(b"no checkpoint " * 500),
    "an archive of something else": lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "b"),
    "another dictionary": lambda path: torch.save({"weights": torch.zeros(1)}, path),
    "a tensor": lambda path: torch.save(torch.zeros(1), path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_latest_is_named_and_the_one_before_taken(damage, folder, capsys):
    folder.save(state(1), best=False)
    folder.save(state(2), best=False)
    if damage != "cut short":
        folder.latest.unlink()
    DAMAGE[damage](folder.latest)
    assert folder.load_newest()["position"]["step"] == 1
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {folder.latest}: ") and warning.count("\n") == 1


def test_a_damaged_latest_never_takes_the_place_of_the_whole_one_before(folder, capsys):
    folder.save(state(1), best=False)
    folder.save(state(2), best=False)
    shorten(folder.latest)
    folder.load_newest()
    folder.save(state(2), best=False)
    assert (step_of(folder.latest), step_of(folder.previous)) == (2, 1)


def test_a_missing_latest_means_the_one_before(folder, capsys):
    folder.save(state(1), best=False)
    folder.save(state(2), best=False)
    folder.latest.unlink()
    assert folder.load_newest()["position"]["step"] == 1
    assert capsys.readouterr().err == ""


def test_when_all_are_damaged_that_is_an_error_and_they_stay(folder, capsys):
    folder.save(state(1), best=False)
    folder.save(state(2), best=False)
    shorten(folder.latest)
    shorten(folder.previous)
    with pytest.raises(UserError) as caught:
        folder.load_newest()
    assert str(caught.value) == (
        f"{folder.folder}: no checkpoint there can be read; move the run's folder away to start anew"
    )
    assert capsys.readouterr().err.count("warning: ") == 2
    assert names(folder) == ["latest.pt", "previous.pt"]


def test_a_missing_file_says_what_to_give(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        assert str(caught.value) == f"{path}: no such checkpoint; give a run's folder or one of its checkpoints/*.pt"


def test_another_format_names_both(folder):
    folder.save({"format": 99}, best=False)
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder.latest)
    assert str(caught.value) == (
        f"{folder.latest}: written in checkpoint format 99, this version reads 1; use the version that wrote it"
    )


class Attack:
    """When unpickled without care, makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_checkpoint_is_refused_in_one_line_and_not_run(write, tmp_path):
    path = tmp_path / "attack.pt"
    write({"format": 1, "attack": Attack(tmp_path / "made")}, path)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == f"{path}: damaged, or not a checkpoint; use another one of the run"
    assert not (tmp_path / "made").exists()


def test_flipped_bytes_are_refused_in_one_line_or_harmless(folder):
    folder.save(state(1), best=False)
    content = folder.latest.read_bytes()
    for place in range(0, len(content), 7):
        folder.latest.unlink()
        folder.latest.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        try:
            load_checkpoint(folder.latest)
        except UserError as error:
            assert "\n" not in str(error)


# ── randomness ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_random_state_goes_through_a_checkpoint(folder):
    torch.manual_seed(5)
    torch.rand(3)
    folder.save({"random": random_state()}, best=False)
    expected = torch.rand(4)
    torch.manual_seed(6)
    restore_random_state(folder.load_newest()["random"])
    assert torch.equal(torch.rand(4), expected)


def test_a_weight_that_is_not_a_number_is_found():
    network = nn.Linear(2, 2)
    assert all_finite_weights([nn.Linear(3, 1), network])
    with torch.no_grad():
        network.weight[1, 1] = float("nan")
    assert not all_finite_weights([nn.Linear(3, 1), network])
