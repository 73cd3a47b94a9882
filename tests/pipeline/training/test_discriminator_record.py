import json
import math

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.engines.losses import ADVERSARIAL, CHANCE
from pipeline.run_builders import _discriminator_record
from pipeline.training.discriminator_record import (
    LOGGED,
    DiscriminatorRecord,
    check_discriminators,
    gaining_directions,
    scores_by_direction,
)
from pipeline.training.failure_monitor import FailureMonitor

DIRECTIONS = {"discriminator_A": "b_to_a", "discriminator_B": "a_to_b"}
METRIC = "detectors/b_to_a/discriminator_loss"


def filled(*losses, chance_loss=0.5):
    record = DiscriminatorRecord(chance_loss, DIRECTIONS)
    for loss in losses:
        record.record({"train/discriminator_A": loss, "train/cycle_a": 9.0})
    return record


def test_the_mean_of_the_latest_logged_losses_is_a_share_of_that_by_chance():
    assert filled(*[0.4] * (LOGGED - 1)).metrics() == {}
    record = filled(9.0, *[0.3] * (LOGGED // 2), math.nan, *[0.5] * (LOGGED // 2))
    assert record.metrics() == {METRIC: pytest.approx(0.8)}  # of D_A alone: D_B's losses were never logged


def watch(tmp_path, record=None):
    """A monitor of 20 epochs that goes on by the metrics on record."""
    return FailureMonitor(
        tmp_path / "metrics.jsonl", epochs=20, validate_every=1, held_near_start=False,
        discriminators=record or filled(), tag={}.update,
    )  # fmt: skip


def triggered(value):
    return {result.name for result in check_discriminators({METRIC: value, "epoch": 3}) if result.triggered}


def scored(*scores, loss=1.0):
    """The metrics of validations, one an epoch, with these scores of one direction, and a loss at chance."""
    return [{METRIC: loss, "validation/b_to_a/psnr": score, "validation/b_to_a/ssim": 0.0} for score in scores]


@pytest.mark.parametrize(
    ("scores", "gaining"),
    [
        ((10.0, 11.0, 10.5, 10.9), True),  # the best is one of the last three
        ((10.0, 11.0, 10.5, 10.9, 10.8), False),
        ((10.0, 11.0, 10.5, 10.9, 11.1), True),
        ((11.0, math.nan, math.nan, math.nan), False),
        ((math.nan,), False),
    ],
)
def test_a_direction_gains_while_its_best_score_is_recent(scores, gaining):
    history = {epoch: scores_by_direction(metrics) for epoch, metrics in enumerate(scored(*scores))}
    assert gaining_directions(history) == ({"b_to_a"} if gaining else set())


def test_scores_without_pairs_count_and_ssim_does():
    metrics = {"validation/a_to_b/cycle_error": 0.2, "validation/a_to_b/intensity_distance": 0.1}
    paired = {"validation/b_to_a/psnr": 12.0, "validation/b_to_a/ssim": 0.3, "validation/score": 1.0}
    assert scores_by_direction(metrics | paired) == pytest.approx({"a_to_b": -0.3, "b_to_a": 15.0})


def test_a_discriminator_at_chance_is_blind_only_while_its_translation_gains_nothing(tmp_path):
    rising, falling = scored(*range(10, 16)), scored(*range(15, 9, -1))
    for validations, triggered in ((rising, set()), (falling, {("blind_discriminator", "b_to_a")})):
        monitor = watch(tmp_path)
        for epoch, metrics in enumerate(validations, start=1):
            monitor(metrics, epoch)
        assert monitor.warnings.keys() == triggered
    (warning,) = monitor.warnings.values()
    assert str(warning) == (
        "blind discriminator, b → a: 1.00 (no new best score in 3 validations) after epoch 4, above 0.95"
    )
    monitor(scored(16.0)[0], 7)
    assert warning != monitor.warnings["blind_discriminator", "b_to_a"] and "cleared after epoch 7" in str(
        monitor.warnings["blind_discriminator", "b_to_a"]
    )


def test_a_resumed_run_knows_when_its_translation_last_gained(tmp_path):
    metrics = dict(enumerate(scored(15, 14, 13, 12), start=1))
    lines = [{"step": epoch, "time": 1.0, "epoch": epoch, **values} for epoch, values in metrics.items()]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monitor = watch(tmp_path)
    key, stands = ("blind_discriminator", "b_to_a"), []
    for epoch in (3, 4):  # after an earlier checkpoint they are validated again
        stands.append(monitor.warnings[key].cleared_epoch is None)
        monitor(metrics[epoch], epoch)
    stands.append(monitor.warnings[key].cleared_epoch is None)
    assert stands == [True, False, True]


def test_only_chance_and_certainty_trigger():
    gaining = check_discriminators({METRIC: 0.01}, {"b_to_a"})
    assert [result.name for result in gaining if result.triggered] == ["unerring_discriminator"]  # gaining or not
    assert [triggered(value) for value in (1.2, 0.96, 0.94, 0.06, 0.04)] == [
        {"blind_discriminator"}, {"blind_discriminator"}, set(), set(), {"unerring_discriminator"},
    ]  # fmt: skip
    assert {result.direction for result in check_discriminators({METRIC: 1.0})} == {"b_to_a"}


@pytest.mark.parametrize(
    ("sections", "chance_loss"),
    [
        ({"method": {"adversarial": "bce", "discriminator_scale": 0.5}}, math.log(2)),
        ({"method": {"adversarial": "least_squares", "discriminator_scale": 0.5}}, 0.25),
        ({"method": {"type": "munit"}, "discriminator": {"scales": 2}}, 2 * 2 * 0.25),
        ({"method": {"type": "dualgan", "adversarial": "wasserstein", "clip": 0.01}}, None),
        ({"method": {"type": "pix2pix"}, "split": {"pairing": "paired"}}, None),
    ],
)
def test_chance_is_that_of_the_configured_loss(sections, chance_loss):
    config = Config.model_validate({"name": "a", "data": {"source": "phantom"}, **sections})
    record = _discriminator_record(config)
    directions = {"discriminator_A": "T2_to_T1", "discriminator_B": "T1_to_T2"}
    assert record.directions == ({} if chance_loss is None else directions)
    assert chance_loss is None or record.chance_loss == pytest.approx(chance_loss)


def test_chance_is_the_best_that_blind_logits_reach():
    blind = torch.linspace(-2, 2, 401).double()
    for name, chance in CHANCE.items():
        losses = [(ADVERSARIAL[name](logit, True) + ADVERSARIAL[name](logit, False)).item() for logit in blind]
        assert min(losses) == pytest.approx(2 * chance)


def test_the_monitor_warns_of_a_blind_discriminator_and_a_resumed_run_has_its_losses(tmp_path, capsys):
    lines = [{"step": step, "time": 1.0, "train/discriminator_A": 0.5} for step in range(LOGGED - 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = DiscriminatorRecord(0.5, DIRECTIONS)
    monitor = watch(tmp_path, record)
    assert record.metrics() == {}
    record.record({"train/discriminator_A": 0.5})
    assert record.metrics() == {METRIC: 1.0}
    monitor(record.metrics(), 1)
    assert monitor.warnings == {}  # the first validation never counts
    monitor(record.metrics(), 2)
    assert capsys.readouterr().err.startswith(
        "warning: blind discriminator, b → a: 1.00 (no new best score in 3 validations) after epoch 2, above 0.95: the "
        "translation is told from real slices no better than by chance and gains no more in validation: it is very "
        "good, or its discriminator does not learn; look at the sample pictures; "
    )
