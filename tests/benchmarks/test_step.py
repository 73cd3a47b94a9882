"""What the step's benchmark counts: its jobs, their operations, and the work that the roof is taken for."""

import pytest
import torch

from benchmarks import step
from benchmarks.reference import PLAIN


@pytest.mark.parametrize("row", step.ROWS)
def test_every_job_is_a_configuration_of_the_size_it_says(row):
    config = step.config_of(row, batch=4, precision="bf16")
    assert str(config.preprocess.size) == row.rpartition("-")[2]
    assert (config.training.batch_size, config.training.precision) == (4, "bf16")
    assert config.method.type in PLAIN


@pytest.mark.parametrize(("row", "most"), [("unet-256", 620), ("resnet-128", 700), ("dualgan-128", 520)])
def test_a_step_asks_for_few_kernels(row, most, monkeypatch):
    job = step.ROWS[row]
    small = {name: {**getattr(job, name), "width": 2} for name in ("generator", "discriminator")}
    monkeypatch.setitem(step.ROWS, row, step.Row(job.size, job.method, **small))  # their number knows no width
    monkeypatch.setattr("pipeline.utils.hardware.set_up", lambda threads: None)
    plain, ours = (
        step.count_operations(step.prepare(row, 1, kind, "cpu", foreach=True), warm_up=1)
        for kind in ("plain", "float32")
    )
    assert ours <= most < 0.4 * plain


def test_operations_are_counted_without_views_and_allocations():
    def work():
        image = torch.empty(2, 3).zero_()  # 1
        return (image.T.reshape(6) + 1).sum()  # a copy, the sum, the total

    assert step.count_operations(work) == 4


def test_the_work_of_a_step_is_that_of_the_public_networks():
    assert step.flop_of_step("unet-256", 1) == pytest.approx(313.5e9, rel=0.02)  # counted of the public code's step
    assert step.flop_of_step("unet-128", 4) == 4 * step.flop_of_step("unet-128", 1)
