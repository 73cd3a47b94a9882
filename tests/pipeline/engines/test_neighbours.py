"""Slices with neighbours: generators alone see them, and all losses are of the middle slices."""

import pytest
import torch
from small_engine import batch, differences, engine_of

from networks.neighbours import middle_slice

METHODS = {
    "cyclegan": {"type": "cyclegan", "pool_size": 3, "ema_decay": 0.9},
    "cyclegan-pools-r1": {"type": "cyclegan", "discriminator_slices": 4, "r1_weight": 1.0, "r1_every": 2},
    "cyclegan-structure": {"type": "cyclegan", "structure": {"type": "mind"}},
    "dualgan": {"type": "dualgan"},
    "dualgan-penalty": {"type": "dualgan", "adversarial": "wasserstein", "gradient_penalty": 10.0, "critic_steps": 2},
    "dualgan-structure": {"type": "dualgan", "structure": {"type": "ngf"}},
    "cut": {"type": "cut", "patches": 20, "head_width": 8},
    "cut-structure": {"type": "cut", "patches": 20, "head_width": 8, "structure": {"type": "ngf"}},
    "pix2pix": {"type": "pix2pix"},
}
every_method = pytest.mark.parametrize("method", METHODS)


def engine(method, neighbours=1, **options):
    return engine_of(**METHODS[method] | options, preprocess={"neighbours": neighbours})


def stacks(index, dtype=torch.float32):
    """A batch of each contrast whose slices have neighbours."""
    return tuple(torch.cat([batch(10 * index + n, dtype=dtype)[side] for n in range(3)], 1) for side in (0, 1))


def look_at_the_middle(network, plain):
    """Give a network for three channels the weights of one for a single channel, and zeros for the neighbours."""
    for weight, source in zip(network.state_dict().values(), plain.state_dict().values(), strict=True):
        if source.shape == weight.shape:
            weight.copy_(source)
        else:  # (K, 3, …) and (K, 1, …)
            weight.zero_()
            weight[:, 1] = source[:, 0]


@every_method
def test_where_generators_ignore_the_neighbours_all_losses_are_those_of_single_slices(method):
    ours, plain = engine(method, dtype=torch.float64), engine(method, neighbours=0, dtype=torch.float64)
    for name, network in ours.networks().items():
        look_at_the_middle(network, plain.networks()[name])
    for index in range(3):
        real = stacks(index, torch.float64)
        losses, expected = ours.step(*real), plain.step(*map(middle_slice, real))
        assert losses.keys() == expected.keys()
        for name, loss in losses.items():
            torch.testing.assert_close(loss, expected[name], rtol=0, atol=1e-9, msg=f"{name} in step {index}")
        for name, network in ours.networks().items():
            look_at_the_middle(network, plain.networks()[name])


def test_pairs_beside_unpaired_slices_have_neighbours_too():
    ours, plain = (engine("cyclegan", count, dtype=torch.float64) for count in (1, 0))
    for name, network in ours.networks().items():
        look_at_the_middle(network, plain.networks()[name])
    images = stacks(0, torch.float64)
    losses, expected = ours.paired_losses(*images), plain.paired_losses(*map(middle_slice, images))
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=0, atol=1e-9, msg=name)


@every_method
def test_the_neighbours_matter(method):
    ours, others = engine(method), engine(method)
    real_a, real_b = stacks(0)
    for each, image in ((ours, real_a), (others, real_a.flip(1))):  # the same middle, its neighbours exchanged
        each.step(image, real_b)
        each.step(image, real_b)
    assert differences(ours.state_dict()["G"], others.state_dict()["G"])
