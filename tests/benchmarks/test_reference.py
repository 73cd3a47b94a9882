"""The yardstick of the benchmarks computes what the engines compute."""

import pytest
import torch
from small_engine import MUNIT, batch, config_of, engine_of, force_the_ways
from torch import nn

from benchmarks.reference import PLAIN, Pool
from networks.cpu_kernels.convolutions import Convolution, TransposedConvolution, UpsampleConvolution

METHODS = {
    "cyclegan": {},
    "cyclegan, a pool that is soon full": {"pool_size": 3},
    "cyclegan, resnet": {"generator": {"type": "resnet", "width": 2, "downs": 1, "blocks": 1}},
    "dualgan": {"type": "dualgan"},
    "munit": MUNIT,
    "munit with a cycle": MUNIT | {"cycle_weight": 2.0},
}


def draw_alike(plain, engine, count):
    """Have a plain engine's pools draw what the engine's draw for batches of so many images."""
    for pool, other in zip(plain.pools, engine.pools.values(), strict=True):
        generator = torch.Generator().set_state(other.random.generator.get_state())

        def draws(generator=generator, size=pool.size):
            while True:
                coins = torch.rand(count, generator=generator) < 0.5
                yield from zip(coins.tolist(), torch.randint(size, (count,), generator=generator).tolist(), strict=True)

        pool.drawn, query = draws(), pool.query
        pool.draw = pool.drawn.__next__

        def query_all(images, pool=pool, query=query):
            filling = min(len(images), pool.size - len(pool.images))
            for _ in range(filling):
                next(pool.drawn)  # the engine draws for those too
            return query(images)

        pool.query = query_all


@pytest.fixture(params=["as they are", "forced"])
def ways(request, monkeypatch):
    """Layers take the cheaper ways where these pay, which small networks' do not, or wherever they can."""
    if request.param == "forced":
        force_the_ways(monkeypatch)


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
def test_losses_gradients_and_weights_of_steps_are_the_engines(options, ways):
    engine, count = engine_of(dtype=torch.float64, **options), 2 if options.get("pool_size") is None else 4
    config = config_of(**options)
    plain = PLAIN[config.method.type](config, engine.networks())
    parts = {type(part) for item in plain.networks.values() for part in item.modules()}
    sped_up = {Convolution, UpsampleConvolution, TransposedConvolution}
    assert nn.InstanceNorm2d in parts and not parts & sped_up
    if config.method.type == "cyclegan":
        draw_alike(plain, engine, count)
    for index in range(6 if options.get("pool_size") else 3):
        real = batch(index, count, dtype=torch.float64)
        losses, expected = engine.step(*real), plain.step(*real)
        assert losses.keys() == expected.keys()
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name].detach(), rtol=0, atol=1e-10, msg=f"{name} {index}")
        for name, network in engine.networks().items():
            others = dict(plain.networks[name].named_parameters())
            for key, weight in network.named_parameters():
                torch.testing.assert_close(weight, others[key], rtol=0, atol=1e-10, msg=f"{name}.{key} {index}")
                if weight.grad is not None:
                    torch.testing.assert_close(weight.grad, others[key].grad, rtol=0, atol=1e-10)


def test_the_plain_pool_keeps_so_many_images_and_returns_old_ones():
    pool = Pool(2)
    shown = [pool.query(torch.full((1, 1, 1, 1), float(index))).item() for index in range(40)]
    assert shown[:2] == [0, 1] and len(pool.images) == 2
    old = [index - value for index, value in enumerate(shown) if value != index]
    assert 5 < len(old) < 35 and min(old) > 0
    assert Pool(0).query(torch.ones(1, 1, 1, 1)).item() == 1
