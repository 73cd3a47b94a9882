import errno
import fcntl
import multiprocessing
import os
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import yaml

from pipeline.config.load import load_config, resolved_yaml
from pipeline.config.schema import Config
from pipeline.run_config import fingerprint, is_finished, open_run_folder, save_config
from pipeline.runs.folder import RunFolder, json_text
from pipeline.utils.errors import UserError

BASE = {"name": "small", "data": {"source": "phantom"}, "preprocess": {"size": 64}}


def config(tmp_path, **changes):
    return Config.model_validate({**BASE, "output": tmp_path / "run", **changes})


def started(tmp_path, **changes):
    """Return the folder of a run that has trained."""
    folder = open_run_folder(config(tmp_path, **changes))
    save_config(folder, config(tmp_path, **changes))
    checkpoint = tmp_path / "run" / "checkpoints" / "latest.pt"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.touch()
    return folder


def refusal(tmp_path, **changes):
    with pytest.raises(UserError) as caught:
        open_run_folder(config(tmp_path, **changes))
    return str(caught.value)


def test_opening_makes_nothing(tmp_path):
    folder = open_run_folder(config(tmp_path))
    assert folder.path == tmp_path / "run" and not folder.path.exists()
    folder.path.mkdir()
    assert open_run_folder(config(tmp_path)).path == folder.path  # an empty folder will do


def test_a_configuration_with_every_kind_of_value_continues(tmp_path):
    changes = {
        "contrasts": ["T1", "größe: *&!"],
        "split": {"validation": 0.15, "test": 3},
        "training": {"learning_rate": 1e-5, "steps_per_epoch": None},
        "preprocess": {"size": 64, "spacing_mm": {"in_plane": 1, "through_plane": 1.2}, "percentiles": [1, 99]},
        "evaluation": {"protocols": ["syndiff"]},
    }
    started(tmp_path, **changes)
    open_run_folder(config(tmp_path, **changes))


def test_the_saved_configuration_is_complete_and_runs_the_same_again(tmp_path):
    folder = started(tmp_path, training={"epochs": 7})
    text = folder.config.read_text(encoding="utf-8")
    assert text.startswith("# ") and f"python -m pipeline.run {folder.config}" in text.splitlines()[0]
    assert load_config(folder.config) == config(tmp_path, training={"epochs": 7})
    assert set(yaml.safe_load(text)) == set(Config.model_fields)
    assert "discriminator_learning_rate: null" in text


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    started(tmp_path)
    assert refusal(
        tmp_path, seed=1, training={"epochs": 5, "beta1": 0.9}, data={"source": "ixi", "folder": "x"}, device="cpu"
    ).splitlines() == [
        f"{tmp_path / 'run'}: holds a run of another configuration; set output=… (there "
        f"training.start_from={tmp_path / 'run'} begins from its weights), or move it away",
        "  seed: 0 there, 1 now",
        "  data.source: 'phantom' there, 'ixi' now",
        "  data.folder: 'data/phantom' there, 'x' now",
        "  data.subjects: 20 there, None now",
        "  data.spacing_mm: 2.0 there, None now",
        "  data.seed: 0 there, None now",
        "  data.variety: 'standard' there, None now",
        "  training.beta1: 0.5 there, 0.9 now",
    ]


def test_regions_to_score_within_may_be_named_later(tmp_path):
    data = {"source": "nifti", "folder": "x", "patterns": {"T1": "{subject}_1.nii", "T2": "{subject}_2.nii"}}
    started(tmp_path, data=data)
    open_run_folder(config(tmp_path, data={**data, "regions": {"lesion": "{subject}_l.nii"}}))


def test_a_moved_run_continues_where_it_lies_now(tmp_path):
    started(tmp_path)
    (tmp_path / "run").rename(tmp_path / "moved")
    open_run_folder(config(tmp_path, output=tmp_path / "moved"))


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("precious")
    assert refusal(tmp_path) == (
        f"{tmp_path / 'run'}: holds files that are not of a run; choose another output, or empty it"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.doc"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("a file")
    assert refusal(tmp_path) == f"{tmp_path / 'run'}: is a file; choose another output"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: b: c", "cannot be read; move the run's folder away to start anew"),
        (b"\xff\xfe\x00", "cannot be read; move the run's folder away to start anew"),
        (b"!!python/object/apply:os.getcwd []", "cannot be read; move the run's folder away to start anew"),
        (b"- list", "not a run's configuration; move the run's folder away to start anew"),
    ],
)
def test_a_damaged_saved_configuration_is_one_line(content, reason, tmp_path):
    folder = started(tmp_path)
    folder.config.write_bytes(content)
    assert refusal(tmp_path) == f"{folder.config}: {reason}"


def test_a_second_process_is_kept_out_while_one_is_at_work(tmp_path):
    def try_to_enter(answers):
        try:
            with RunFolder(tmp_path / "run").lock():
                answers.put("entered")
        except UserError as error:
            answers.put(str(error))

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    output = []
    for held in (True, False):
        with RunFolder(tmp_path / "run").lock() if held else nullcontext():
            other = context.Process(target=try_to_enter, args=(answers,))
            other.start()
            output.append(answers.get(timeout=20))
            other.join()
    assert output == [f"{tmp_path / 'run'}: another process is at work on this run; wait for it, or stop it", "entered"]


def test_a_disk_without_file_locks_is_warned_of_and_other_errors_of_locking_are_one_line(tmp_path, monkeypatch, caplog):
    folder = RunFolder(tmp_path / "run")

    def lock_with(number):
        monkeypatch.setattr(fcntl, "lockf", Mock(side_effect=OSError(number, os.strerror(number))))
        with folder.lock():
            assert list(folder.path.iterdir()) == []

    for number in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
        lock_with(number)
    warning = f"{folder.path}: this disk has no file locks: start no second process on this run"
    assert caplog.messages == [warning] * 3
    with pytest.raises(UserError, match=rf"^{folder.path}: cannot be written \(Input/output error\); choose another"):
        lock_with(errno.EIO)


def test_a_folder_that_was_made_for_nothing_goes_again_and_no_other(tmp_path):
    for made, left in ((False, False), (True, True)):
        folder = tmp_path / f"run{made}"
        if made:
            folder.mkdir()
        with pytest.raises(UserError), RunFolder(folder).lock():
            raise UserError("refused")
        assert folder.exists() is left
    with RunFolder(tmp_path / "run").lock():
        (tmp_path / "run" / "config.yaml").touch()
    assert (tmp_path / "run" / "config.yaml").exists()


def test_the_lock_alone_does_not_make_a_folder_look_like_something_else(tmp_path):
    with RunFolder(tmp_path / "run").lock():
        assert open_run_folder(config(tmp_path)).path == tmp_path / "run"


@pytest.mark.parametrize(
    ("wanted", "there", "evaluated"),
    [("best", ["latest", "best"], "best"), ("latest", ["latest", "best"], "latest"), ("best", ["latest"], "latest")],
)
def test_the_checkpoint_that_is_evaluated_is_the_one_asked_for_where_there_is_one(tmp_path, wanted, there, evaluated):
    (tmp_path / "checkpoints").mkdir()
    for name in there:
        (tmp_path / "checkpoints" / f"{name}.pt").write_bytes(b"")
    assert RunFolder(tmp_path).evaluated_checkpoint(wanted).name == f"{evaluated}.pt"


def test_a_run_of_before_a_key_came_continues_where_the_key_stands_at_its_default(tmp_path):
    folder = started(tmp_path)
    earlier = yaml.safe_load(folder.config.read_text())
    del earlier["generator"]["attention"], earlier["training"]["halve_every"]
    folder.config.write_text(yaml.safe_dump(earlier))
    assert open_run_folder(config(tmp_path)).path == folder.path
    assert "generator.attention: False there, True now" in refusal(tmp_path, generator={"attention": True})


def test_how_pairs_are_registered_is_fixed_where_they_are_trained_on(tmp_path):
    started(tmp_path, split={"pairing": "paired"})
    changed = {"split": {"pairing": "paired"}, "evaluation": {"register_pairs": False}}
    assert "evaluation.register_pairs: True there, False now" in refusal(tmp_path, **changed)


# ── nothing is trained yet ──────────────────────────────────────────────────────────────────────────────────


def begun(tmp_path):
    """Return the folder of a run that has saved nothing but its configuration."""
    folder = open_run_folder(config(tmp_path))
    save_config(folder, config(tmp_path))
    return folder


def test_where_nothing_is_trained_yet_every_setting_may_change(tmp_path):
    folder = begun(tmp_path)
    changed = {"seed": 1, "training": {"learning_rate": 1e-5}, "split": {"seed": 3}, "generator": {"width": 8}}
    assert open_run_folder(config(tmp_path, **changed)).path == folder.path and not folder.has_trained()
    folder.scores.write_text("{}")  # the checkpoints were thrown away, the results were not
    assert folder.has_trained() and not folder.has_checkpoint()
    assert "seed: 0 there, 1 now" in refusal(tmp_path, **changed)
    assert "training.start_from" not in refusal(tmp_path, **changed)


def test_a_configuration_that_no_run_wrote_is_not_taken_for_a_run_without_training(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(resolved_yaml(config(tmp_path)))  # the user's own
    assert "seed: 0 there, 1 now" in refusal(tmp_path, seed=1)


def test_notes_stand_as_comments_in_the_saved_configuration(tmp_path):
    folder = begun(tmp_path)
    save_config(folder, config(tmp_path), ["started from: a\nb"])
    assert folder.config.read_text().splitlines()[1] == "# started from: a\\nb"
    assert load_config(folder.config) == config(tmp_path)


# ── finished ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def finished(tmp_path):
    """The folder of a run that is finished."""
    folder = started(tmp_path)
    folder.record.write_text(json_text({"configuration": fingerprint(config(tmp_path))}))
    folder.scores.write_text("{}")
    folder.report.write_text("a page")
    return folder


def test_a_run_is_finished_with_its_own_configuration_wherever_it_lies(tmp_path, finished):
    assert is_finished(finished, config(tmp_path))
    assert is_finished(finished, config(tmp_path, output="elsewhere"))
    assert not is_finished(finished, config(tmp_path, evaluation={"protocols": ["syndiff"]}))
    assert not is_finished(finished, config(tmp_path, seed=1))


def test_a_key_of_an_earlier_release_leaves_a_finished_run_finished(tmp_path, finished):
    saved = yaml.safe_load(finished.config.read_text())
    saved["training"]["loader_workers"] = 2
    finished.config.write_text(yaml.safe_dump(saved))
    finished.record.write_text(json_text({"configuration": fingerprint(config(tmp_path), saved)}))
    assert fingerprint(config(tmp_path), saved) != fingerprint(config(tmp_path))
    assert is_finished(finished, config(tmp_path)) and not is_finished(finished, config(tmp_path, seed=1))


@pytest.mark.parametrize("lacking", ["record", "scores", "report"])
def test_a_run_that_lacks_what_a_finished_one_has_is_not_finished(tmp_path, finished, lacking):
    getattr(finished, lacking).unlink()
    assert not is_finished(finished, config(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"configuration": null}'])
def test_a_record_that_is_damaged_or_does_not_say_so_is_of_no_finished_run(tmp_path, finished, content):
    finished.record.write_text(content)
    assert not is_finished(finished, config(tmp_path))
