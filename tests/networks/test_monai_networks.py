"""Networks of MONAI as generators: norms, sizes and what is wrong with their arguments."""

import typing

import pytest
import torch
from small_engine import SMALL_GENERATORS
from torch import nn

from networks.monai_networks import NETWORKS, MonaiGenerator, argument_problems
from pipeline.config.methods import MonaiNetwork

SMALL = {
    section["network"]: section["arguments"] for section in SMALL_GENERATORS.values() if section["type"] == "monai"
}
every_network = pytest.mark.parametrize("network", NETWORKS)


def small(network):
    torch.manual_seed(0)
    return MonaiGenerator(network, SMALL[network])


def test_the_configuration_and_the_small_ones_know_every_network():
    assert set(typing.get_args(MonaiNetwork)) == set(NETWORKS) == set(SMALL)


@every_network
def test_no_statistics_of_a_batch_are_kept(network):
    generator = small(network)
    assert not list(generator.buffers())
    assert not any(isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d) for module in generator.modules())


@every_network
def test_the_defaults_suit_every_network(network):
    with torch.device("meta"):
        assert not list(argument_problems(network, {}, 5 * MonaiGenerator(network).stride))


@pytest.mark.parametrize(
    ("network", "arguments", "size", "expected"),
    [
        ("UNet", {"channles": [2, 4]}, 64, [("channles", "not an argument of UNet; the nearest is channels")]),
        (
            "BasicUNet",
            {"in_channels": 3, "qqq": 1},
            64,
            [("in_channels", "is always 1; leave it out"), ("qqq", "not an argument of BasicUNet")],
        ),
        ("FlexibleUNet", {"pretrained": True}, 64, [("pretrained", "is always False; leave it out")]),
        ("BasicUNet", {}, 72, [("", "preprocess.size = 72 must be a multiple of 16 for this BasicUNet")]),
        ("UNet", {"channels": [4]}, 64, [("", "UNet does not take them (the length of `channels` should be no less")]),
        ("FlexibleUNet", {"backbone": "nothing"}, 64, [("", "FlexibleUNet does not take them (invalid model_name")]),
        ("SegResNet", {"use_conv_final": False}, 64, [("", "SegResNet makes (1, 32, 64, 64) of slices")]),
        ("AttentionUnet", {"channels": "wide"}, 64, [("", "AttentionUnet does not take them (")]),
    ],
)
def test_what_is_wrong_with_arguments_is_told_by_name_or_in_the_networks_words(network, arguments, size, expected):
    problems = list(argument_problems(network, arguments, size))
    assert [name for name, _ in problems] == [name for name, _ in expected]
    for (_, rule), (_, beginning) in zip(problems, expected, strict=True):
        assert rule.startswith(beginning) and "\n" not in rule
