import os
import pickle

import pytest
import torch
from full_disk import fill, limit_files
from small_checkpoints import names, state, step_of
from small_engine import differences
from small_run import in_child

from pipeline.runs.checkpoint import load_checkpoint
from pipeline.utils.errors import DiskFull, UserError
from pipeline.utils.files import free_space


def shorten(path):
    content = path.read_bytes()
    path.unlink()  # its other names, if any, keep the whole content
    path.write_bytes(content[: len(content) // 2])


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────

DAMAGE = {
    "cut short": shorten,
    "missing": lambda path: None,
    "of other content": lambda path: path.write_bytes(b"no checkpoint " * 500),
    "another dictionary": lambda path: torch.save({"weights": torch.zeros(1)}, path),
    "a tensor": lambda path: torch.save(torch.zeros(1), path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_latest_is_named_and_the_one_before_taken(damage, folder, capsys):
    folder.save(state(1))
    folder.save(state(2))
    if damage != "cut short":
        folder.latest.unlink()
    DAMAGE[damage](folder.latest)
    assert folder.load_newest()["position"]["step"] == 1
    warning = capsys.readouterr().err
    assert (warning == "") is (damage == "missing") and warning.count("\n") == (damage != "missing")
    assert not warning or warning.startswith(f"warning: {folder.latest}: ")


@pytest.mark.filterwarnings("error::UserWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_bundles_torchscript_is_told_from_a_damaged_checkpoint(tmp_path):
    path = tmp_path / "model.ts"
    torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    with pytest.raises(UserError, match=r"model\.ts: is TorchScript, .*; give the run's folder, or .* as \.onnx"):
        load_checkpoint(path)


def test_a_damaged_latest_never_takes_the_place_of_the_whole_one_before(folder, capsys):
    folder.save(state(1))
    folder.save(state(2))
    shorten(folder.latest)
    folder.load_newest()
    folder.save(state(2))
    assert (step_of(folder.latest), step_of(folder.previous)) == (2, 1)


def test_a_damaged_latest_stays_where_a_folder_is_only_looked_at(folder):
    folder.save(state(1))
    folder.save(state(2))
    shorten(folder.latest)
    before = folder.latest.read_bytes()
    assert folder.load_newest(read_only=True)["position"]["step"] == 1
    assert folder.latest.read_bytes() == before


def test_when_all_are_damaged_that_is_an_error_and_they_stay(folder, capsys):
    folder.save(state(1))
    folder.save(state(2))
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
    folder.save({"format": 99})
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


@pytest.mark.parametrize(("flip", "first"), [(0x5A, 0), (0x01, 3)])
def test_flipped_bytes_are_refused_in_one_line_or_change_nothing(flip, first, folder):
    folder.save(state(1))
    content, refused, whole = folder.latest.read_bytes(), 0, {"format": 1, **state(1)}
    for place in range(first, len(content), 7):
        folder.latest.unlink()
        folder.latest.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        try:
            assert differences(load_checkpoint(folder.latest), whole) == set(), place
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20


def test_one_bit_within_a_tensor_is_noticed_and_the_checkpoint_before_taken(folder, capsys):
    folder.save(state(1))
    folder.save({**state(2), "weights": torch.zeros(10_000)})
    content = bytearray(folder.latest.read_bytes())
    content[len(content) // 2] ^= 1
    folder.latest.unlink()
    folder.latest.write_bytes(content)
    assert torch.load(folder.latest)["weights"].count_nonzero() == 1  # torch itself reads on
    assert folder.load_newest()["position"]["step"] == 1
    output = f"warning: {folder.latest}: damaged, or not a checkpoint; use another one of the run\n"
    assert capsys.readouterr().err == output


# ── a full disk ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("best", [(), ("T1", "T2"), ("T2",)])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_a_disk_that_fills_at_any_byte_leaves_what_was_there(share, best, folder, monkeypatch):
    folder.save(state(1), best=("T1", "T2"))
    folder.save(state(2))
    large = {**state(3), "weights": torch.zeros(100_000)}  # of several writes: torch has its own error for the second
    with monkeypatch.context() as patch:
        fill(patch, int(share * 4 * 100_000))
        with pytest.raises(DiskFull) as caught:
            folder.save(large, best=best)
    line = f"{folder.best if best else folder.latest}: disk full, {free_space(folder.folder)[:2]}"
    assert str(caught.value).startswith(line) and str(caught.value).endswith(" left; free some space and run again")
    assert (step_of(folder.latest), step_of(folder.best)) == (2, 1)
    assert names(folder) == ["best.pt", "latest.pt", "previous.pt"]
    folder.save(state(3), best=best)
    assert (step_of(folder.latest), step_of(folder.previous)) == (3, 2)


def test_a_checkpoint_larger_than_files_may_be_leaves_what_was_there(folder):
    folder.save(state(1))

    def save():
        limit_files(1000)
        with pytest.raises(UserError, match=r"latest\.pt: larger than a file may be here; raise the limit"):
            folder.save(state(2))
        return 0

    assert in_child(save) == 0
    assert step_of(folder.latest) == 1 and names(folder) == ["latest.pt", "previous.pt"]
