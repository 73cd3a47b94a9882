import json
from functools import partial

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.dry_run import _timed_engine
from pipeline.planning import durations as plan_time
from pipeline.planning.durations import duration, measured_pace, step_pace, time_text
from pipeline.runs.folder import RunFolder

BATCH = (1, 1, 32, 32)
CPU = torch.device("cpu")


def refused():
    raise AssertionError("nothing is to be timed")


def text_of(folder, *, steps, memory=0.0, pace=refused):
    return time_text(RunFolder(folder), steps=steps, memory=memory, free=1 << 30, pace=pace)


def config(**sections):
    base = {
        "name": "small",
        "data": {"source": "phantom"},
        "preprocess": {"size": 32},
        "generator": {"type": "resnet", "width": 2, "downs": 1, "blocks": 1},
        "discriminator": {"width": 2, "layers": 1},
    }
    return Config.model_validate(base | sections)


def test_the_pace_is_that_of_real_steps_and_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(plan_time, "ENOUGH_SECONDS", 0.0)
    clock = iter([0.0, 0.0, 5.0, 5.0, 7.0, 7.0])  # began; first step 5 s, second 2 s; and whether it is enough
    monkeypatch.setattr(plan_time.time, "perf_counter", lambda: next(clock))
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    pace = step_pace(partial(_timed_engine, config(), CPU), (8, 1, 32, 32), 1)
    assert pace == (2.0 * 8 / 4, "this CPU with 1 threads")
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("training", [{"precision": "fp16"}, {"precision": "bf16"}, {"cuda_graph": True}])
def test_what_is_meant_for_a_gpu_is_timed_on_the_cpu_as_it_can_be(training, monkeypatch):
    monkeypatch.setattr(plan_time, "ENOUGH_SECONDS", 0.0)
    each, _ = step_pace(partial(_timed_engine, config(training=training), CPU), BATCH, None)
    assert each > 0


def test_the_time_is_that_of_all_steps_at_the_measured_pace(tmp_path):
    assert text_of(tmp_path, steps=12_000, pace=lambda: (0.3, "this GPU")) == (
        "time       training on this GPU some 60 minutes, an estimate: 300 ms a step, timed just now"
    )


def records(folder, marks):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "latest.pt").touch()
    lines = [json.dumps({"step": step, "time": moment, name: 1.0}) for step, moment, name in marks]
    RunFolder(folder).metrics.write_text("\n".join(lines) + "\n")


def test_a_run_that_has_begun_tells_its_own_pace(tmp_path):
    """0.3 s a step in the median; the night between two sessions and the validation's records do not count."""
    marks = [(10, 100, "train/a"), (20, 103, "train/a"), (20, 140, "validation/score"), (30, 106, "train/a"),
             (40, 99_106, "train/a"), (50, 99_109, "train/a")]  # fmt: skip
    records(tmp_path / "run", marks)
    assert measured_pace(RunFolder(tmp_path / "run")) == (50, pytest.approx(0.3))
    text = "time       training 60 minutes for 12,000 steps to come, at 300 ms a step as measured so far"
    assert text_of(tmp_path / "run", steps=12_050) == text
    complete = "time       training complete after 50 steps, at 300 ms a step as measured so far"
    assert text_of(tmp_path / "run", steps=50) == complete


def test_a_run_without_records_tells_no_pace(tmp_path):
    assert measured_pace(RunFolder(tmp_path)) == (0, None)
    records(tmp_path / "run", [(10, 100, "train/a")])
    assert measured_pace(RunFolder(tmp_path / "run")) == (10, None)
    records(tmp_path / "unsaved", [(10, 100, "train/a"), (20, 103, "train/a")])
    (tmp_path / "unsaved" / "checkpoints" / "latest.pt").unlink()
    assert measured_pace(RunFolder(tmp_path / "unsaved")) == (0, None)


def test_the_last_steps_count_though_their_losses_were_not_due_to_be_logged(tmp_path):
    records(tmp_path / "run", [(10, 100, "train/a"), (20, 103, "train/a"), (25, 140, "validation/score")])
    assert text_of(tmp_path / "run", steps=25).startswith("time       training complete after 25 steps, ")


def test_nothing_is_timed_where_training_would_not_fit_the_memory(tmp_path):
    text = text_of(tmp_path, steps=100, memory=float(1 << 60))
    assert text == "time       training: not timed, for it takes 1048576.0 TiB, and 1.0 GiB are free"


@pytest.mark.parametrize(
    ("count", "text"),
    [(3, "1 minute"), (240, "4 minutes"), (5399, "90 minutes"), (19_080, "5.3 hours"), (412_500, "115 hours")],
)
def test_a_duration_reads_in_minutes_or_hours(count, text):
    assert duration(count) == text
