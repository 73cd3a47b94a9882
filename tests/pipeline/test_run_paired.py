import signal
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from small_run import QUICK, in_child, latest, signal_at, train_phantom, unlike

from pipeline.engines.base import Engine
from pipeline.engines.cyclegan import ENGINE

PAIRED = (*QUICK, "split.pairing=paired", "evaluation.translate=false")


@contextmanager
def watched(*, paired):
    """Have the usual method learn from pairs, or not, and yield a list that grows by the halves of each batch."""
    seen, make_step = [], Engine.step

    def noted(engine, real_a, real_b):
        seen.append((real_a.clone(), real_b.clone()))
        return make_step(engine, real_a, real_b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ENGINE, "paired", paired)
        patch.setattr(Engine, "step", noted)
        yield seen


def overlap(first, second):
    """How well the heads in two contrasts' slices coincide: of the pixels above air in either, those in both."""
    first, second = first > -0.9, second > -0.9
    return float((first & second).sum() / (first | second).sum())


def test_a_method_that_learns_from_pairs_is_shown_pairs(tmp_path):
    with watched(paired=True) as batches:
        assert train_phantom(tmp_path / "run", *PAIRED) == 0
    assert len(batches) == 8
    own = [overlap(*pair) for pair in batches]
    foreign = [overlap(first, second) for (first, _), (_, second) in pairwise(batches)]
    assert min(own) > 0.9 and np.mean(foreign) < 0.8
    named = [name for name in latest(tmp_path / "run")["data"] if " and " in name]
    assert len(named) == 4 and all(name.count("phantom-") == 2 for name in named)


def test_another_method_is_not_shown_pairs_by_a_paired_split(monkeypatch, tmp_path):
    with watched(paired=False) as batches, monkeypatch.context() as patch:
        signal_at(patch, signal.SIGTERM, 4)
        assert train_phantom(tmp_path / "run", *PAIRED) == 143
    assert min(overlap(*pair) for pair in batches) < 0.8
    assert not any(" and " in name for name in latest(tmp_path / "run")["data"])


# ── a few pairs beside unpaired training ────────────────────────────────────────────────────────────────────

BESIDE = (*QUICK, "split.pairs=1")


def test_a_run_with_a_pair_beside_is_shown_it_and_ends_bitwise_the_same_if_it_is_killed(monkeypatch, tmp_path):
    shown, make_step = [], Engine.step
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "step", lambda engine, *images: shown.append(images) or make_step(engine, *images))
        assert train_phantom(tmp_path / "whole", *BESIDE) == 0
    assert {len(images) for images in shown} == {4}
    assert min(overlap(*images[2:]) for images in shown) > 0.85 > 0.8 > min(overlap(*images[:2]) for images in shown)
    with monkeypatch.context() as patch:
        signal_at(patch, signal.SIGKILL, 7)
        assert in_child(lambda: train_phantom(tmp_path / "killed", *BESIDE)) == -signal.SIGKILL
    assert train_phantom(tmp_path / "killed", *BESIDE) == 0
    assert unlike(tmp_path / "whole", tmp_path / "killed") == set()

    # The subject is named in the split, the data, the history and the configuration's heading.
    whole, resumed = latest(tmp_path / "whole"), latest(tmp_path / "killed")
    (subject,) = whole["split"]["pairs"]
    assert all(subject in whole["split"]["train"][contrast] for contrast in ("T1", "T2"))
    assert whole["history"] == resumed["history"] == {"pairs": [subject]}
    assert len([name for name in whole["data"] if " and " in name]) == 1
    assert f"in both contrasts, as pairs: {subject}" in (tmp_path / "killed" / "config.yaml").read_text()
