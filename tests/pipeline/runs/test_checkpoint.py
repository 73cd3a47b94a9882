import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from small_checkpoints import names, state, step_of, translators_of
from torch import nn

from pipeline.runs.checkpoint import all_finite_weights, random_state, restore_random_state
from pipeline.utils.errors import UserError

BOTH = ("T1", "T2")

# ── saving ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_saved_comes_back(folder):
    folder.save(state(3))
    loaded = folder.load_newest()
    assert torch.equal(loaded["weights"], torch.full((3, 4), 3.0))
    assert loaded["position"] == {"step": 3, "best_score": float("-inf")} and loaded["empty"] is None
    assert loaded["nested"]["list"][:3] == [1, 2.5, "text"] and loaded["nested"]["list"][3].tolist() == [0, 1, 2, 3]


def test_a_folder_without_checkpoints_has_nothing_to_load(folder):
    assert folder.load_newest() is None
    folder.folder.mkdir()
    assert folder.load_newest() is None


def test_latest_previous_and_best_are_kept(folder):
    for step, best in enumerate([BOTH, (), BOTH, (), ()]):
        folder.save(state(step), best=best)
        assert step_of(folder.latest) == step
        assert step_of(folder.best) == (0 if step < 2 else 2)
        if step:
            assert step_of(folder.previous) == step - 1
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]


def test_the_best_holds_each_translator_as_it_was_when_it_was_best(folder):
    for step, best in enumerate([BOTH, ("T2",), (), ("T1",), BOTH]):
        folder.save(state(step), best=best)
        expected = [(0, 0), (0, 1), (0, 1), (3, 1), (4, 4)][step]
        assert translators_of(folder.best) == dict(zip(BOTH, expected, strict=True))
        assert translators_of(folder.latest) == {"T1": step, "T2": step}
    assert folder.best.samefile(folder.latest)


@pytest.mark.parametrize(("best", "expected"), [((), (0, 0)), (("T2",), (0, 1)), (BOTH, (1, 1))])
def test_what_training_began_with_is_the_best_until_there_are_better_translators(best, expected, folder):
    folder.save(state(1), best=best, start=state(0)["translators"])
    assert translators_of(folder.best) == dict(zip(BOTH, expected, strict=True))
    assert translators_of(folder.latest) == {"T1": 1, "T2": 1}
    folder.save(state(2), best=("T1",), start=state(0)["translators"])  # it is known no more
    assert translators_of(folder.best) == {"T1": 2, "T2": expected[1]}


def test_where_the_best_is_damaged_newer_translators_take_its_place(folder, capsys):
    folder.save(state(1), best=BOTH)
    folder.save(state(2))
    folder.best.write_bytes(b"damaged")
    folder.save(state(3), best=("T2",))
    assert translators_of(folder.best) == {"T1": 3, "T2": 3}
    assert "its translators cannot be kept" in capsys.readouterr().err


def refuse_links(*_, **__):
    raise OSError(errno.EPERM, "no hard links here")


def test_without_hard_links_files_are_copied(folder, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_links)
    for step, best in enumerate([(), BOTH, ()]):
        folder.save(state(step), best=best)
    assert [step_of(path) for path in (folder.latest, folder.previous, folder.best)] == [2, 1, 1]
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]
    assert not folder.best.samefile(folder.previous)


@pytest.mark.parametrize("part", ["unlink", "replace", "open"])
def test_a_disk_that_is_gone_is_one_line_and_leaves_the_earlier_checkpoint(folder, monkeypatch, part):
    folder.save(state(1))
    (folder.folder / ".tmp-left-by-a-kill").touch()

    def gone(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, part, gone)
        with pytest.raises(UserError, match=r"\.pt: cannot be written \(Input/output error\)"):
            folder.save(state(2))
    assert step_of(folder.latest) == 1


@pytest.mark.parametrize("best", [(), BOTH, ("T1",)])
@pytest.mark.parametrize("interrupted_at", range(1, 5))
def test_a_kill_at_any_moment_of_saving_leaves_a_whole_checkpoint_and_best_not_behind(
    best, interrupted_at, folder, monkeypatch
):
    folder.save(state(1), best=BOTH)
    folder.save(state(2))
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
    folder.save(state(4))
    assert step_of(folder.latest) == 4 and step_of(folder.previous) == newest
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]


def test_what_a_killed_run_left_half_written_is_cleared_away(folder):
    folder.save(state(1))
    (folder.folder / ".tmp-1-abc.pt").write_bytes(b"half")
    folder.save(state(2))
    assert names(folder) == ["latest.pt", "previous.pt"]


def test_a_loaded_checkpoint_survives_the_saving_of_the_next(folder):
    folder.save(state(1))
    loaded = folder.load_newest()
    for step in (2, 3, 4):
        folder.save(state(step))
    assert torch.equal(loaded["weights"], torch.full((3, 4), 1.0))
    folder.load_newest()["weights"].fill_(7)  # changes no file
    assert torch.equal(folder.load_newest()["weights"], torch.full((3, 4), 4.0))


# ── randomness ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_random_state_goes_through_a_checkpoint(folder):
    torch.manual_seed(5)
    torch.rand(3)
    folder.save({"random": random_state()})
    expected = torch.rand(4)
    torch.manual_seed(6)
    restore_random_state(folder.load_newest()["random"])
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_a_finite_number_is_found(spoilt):
    network = nn.Linear(2, 2)
    assert all_finite_weights([nn.Linear(3, 1), network])
    with torch.no_grad():
        network.weight[1, 1] = spoilt
    assert not all_finite_weights([nn.Linear(3, 1), network])
