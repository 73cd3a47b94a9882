import pytest
import torch
from small_engine import engine_of


@pytest.mark.parametrize(("optimiser", "kind"), [("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)])
def test_both_players_optimisers_are_as_configured(optimiser, kind):
    engine = engine_of(
        optimiser=optimiser, learning_rate=3e-3, discriminator_learning_rate=1e-3, beta1=0.3, weight_decay=0.02
    )
    for factor in (0.5, 1.0):  # of the configured rates, not of the last ones
        assert engine.set_learning_rate(factor) == {"generators": 3e-3 * factor, "discriminators": 1e-3 * factor}
    for player, rate in (("generators", 3e-3), ("discriminators", 1e-3)):
        optimiser = engine.optimisers[player]
        (group,) = optimiser.param_groups
        assert type(optimiser) is kind and (group["lr"], group["weight_decay"]) == (rate, 0.02)
        networks = getattr(engine, player)
        assert [id(weight) for weight in group["params"]] == [id(weight) for weight in networks.parameters()]
        if kind is torch.optim.Adam:
            assert group["betas"] == (0.3, 0.999)
        else:
            assert group["alpha"] == 0.9
