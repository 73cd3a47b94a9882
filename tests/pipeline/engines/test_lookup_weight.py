"""The loss that holds translations near the lookup that their generators start from."""

import pytest
import torch
from small_engine import batch, config_of, engine_of

from networks.lookup_start import start_alone
from pipeline.config.checks import conflicts
from pipeline.engines.losses import mean_absolute

START = {"type": "skip", "width": 4, "downs": 1, "blocks": 1, "start": "lookup"}


@pytest.mark.parametrize("method", ["cyclegan", "dualgan", "cut"])
def test_the_loss_is_the_distance_to_the_lookup_and_starts_at_none(method):
    engine = engine_of(type=method, generator=START, lookup_weight=2.0)
    first = engine.step(*batch(0))
    assert float(first["lookup_G"]) == pytest.approx(0, abs=1e-5)  # a lookup without a table gives 0, as the start does
    for index in range(1, 4):
        engine.step(*batch(index))
    real_a, real_b = batch(4)
    with torch.no_grad():
        translated = engine.generators["G"](real_a)
        expected = 2.0 * mean_absolute(translated, start_alone(engine.generators["G"], real_a))
    assert float(expected) > 1e-4
    assert float(engine.losses(real_a, real_b)["generators"]["lookup_G"]) == pytest.approx(float(expected), rel=1e-5)


def test_it_needs_generators_that_start_from_a_lookup():
    problems = list(conflicts(config_of(type="cyclegan", lookup_weight=1.0)))
    assert [problem for problem in problems if "generator.start: lookup" in problem]
