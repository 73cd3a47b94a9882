"""The yardstick of the benchmarks computes what the engines compute."""

import pytest
import torch
from small_engine import MUNIT, assert_equal_steps, config_of, engine_of, force_the_ways
from torch import nn

from benchmarks.reference import PLAIN, Pool
from networks.cpu_kernels.convolutions import Convolution, TransposedConvolution, UpsampleConvolution

METHODS = {
    "cyclegan": {},
    "cyclegan, resnet": {"generator": {"type": "resnet", "width": 2, "downs": 1, "blocks": 1}},
    "dualgan": {"type": "dualgan"},
    "munit": MUNIT,
    "munit with a cycle": MUNIT | {"cycle_weight": 2.0},
}


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_losses_and_weights_of_steps_are_the_engines(options, monkeypatch):
    force_the_ways(monkeypatch)  # which pay for large networks, and are taken by these, too
    engine, config = engine_of(dtype=torch.float64, **options), config_of(**options)
    plain = PLAIN[config.method.type](config, engine.networks())
    parts = {type(part) for network in plain.networks.values() for part in network.modules()}
    assert nn.InstanceNorm2d in parts and not parts & {Convolution, UpsampleConvolution, TransposedConvolution}
    assert_equal_steps(engine, plain, 3)


def test_the_plain_pool_keeps_so_many_images_and_returns_old_ones():
    pool = Pool(2)
    shown = [pool.query(torch.full((1, 1, 1, 1), float(index))).item() for index in range(40)]
    assert shown[:2] == [0, 1] and len(pool.images) == 2
    old = [index - value for index, value in enumerate(shown) if value != index]
    assert 5 < len(old) < 35 and min(old) > 0
    assert Pool(0).query(torch.ones(1, 1, 1, 1)).item() == 1
