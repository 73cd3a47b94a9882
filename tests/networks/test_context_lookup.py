"""The lookup in torch against the one in numpy, and generators that start from it."""

import numpy as np
import pytest
import torch
from network_probes import assert_same_one_by_one, random_image
from scipy.ndimage import gaussian_filter
from small_engine import SMALL_GENERATORS, config_of

from networks import context_lookup
from networks.context_lookup import ContextLookup
from networks.lookup_start import LookupStart, start_alone
from networks.neighbours import NeighbourGenerator
from networks.unet import UNet
from pipeline.engines.builders import build_generator
from transforms.context_lookup import (
    ACROSS_MM,
    ACROSS_WEIGHT,
    AIR_WIDTH,
    BLUR_MM,
    LEVELS,
    ContextTable,
    blurred,
    blurred_across,
)
from transforms.neighbours import Neighbours, neighbour_ends

BLUR = (1.5, 4.0)


def random_table(seed=0):
    values = np.random.default_rng(seed).uniform(-0.9, 0.9, LEVELS).astype(np.float32)
    return ContextTable(values, BLUR)


def with_table(module):
    table = random_table()
    module_of_start = module.network if isinstance(module, NeighbourGenerator) else module
    lookup = module_of_start.lookup if isinstance(module_of_start, LookupStart) else module_of_start
    lookup.set_table(torch.from_numpy(table.values), table.blur_pixels)
    return module


def smooth_image(*shape):
    """Random slices in [-1, 1] with large and small structures, and some air."""
    noise = np.random.default_rng(1).standard_normal(shape)
    image = sum(gaussian_filter(noise, (0, 0, sd, sd)) * sd for sd in (1, 6))
    return torch.from_numpy(np.clip(2 * image, -1, 1)).float()


def test_levels_are_those_of_the_fit():
    assert (context_lookup.LEVELS, context_lookup.AIR_WIDTH) == (LEVELS, AIR_WIDTH)
    assert (ACROSS_MM, ACROSS_WEIGHT) == (context_lookup.ACROSS_MM, context_lookup.ACROSS_WEIGHT)


def test_blurring_is_a_gaussian_with_air_beyond_the_border():
    slices = np.random.default_rng(0).uniform(-1, 1, (2, 30, 41)).astype(np.float32)
    expected = gaussian_filter(slices, (0, 2.5, 2.5), mode="constant", cval=-1.0, truncate=8)
    np.testing.assert_allclose(blurred(slices, 2.5), expected, atol=1e-5)
    np.testing.assert_allclose(blurred(slices, 2.5, step=3), expected[:, ::3, ::3], atol=1e-5)


def test_three_points_across_slices_stand_for_a_gaussian():
    """Of slices with a smooth course across, the mean of three is nearly the mean by a Gaussian."""
    course = np.sin(np.arange(120) / 15)[:, None, None] * np.ones((1, 2, 2))
    for sd, blurred_slices in zip(BLUR_MM, blurred_across(course.astype(np.float32), 2.0), strict=True):
        expected = gaussian_filter(course, (sd / 2, 0, 0), mode="nearest")
        np.testing.assert_allclose(blurred_slices[30:90], expected[30:90], atol=0.04)


def test_beyond_the_ends_there_is_air_or_what_the_ends_show():
    slices = np.full((4, 1, 1), 0.5, np.float32)
    np.testing.assert_array_equal(blurred_across(slices, 2.0), np.full((2, 4, 1, 1), 0.5))
    for air, expected in (((True, True), 0.0), ((False, True), 0.25)):  # all steps lead out of the stack
        np.testing.assert_allclose(blurred_across(slices, 2.0, air), np.full((2, 4, 1, 1), expected), atol=1e-6)


def test_the_network_computes_what_the_table_holds():
    slices, table = smooth_image(30, 1, 40, 56)[:, 0].numpy(), random_table()
    places = Neighbours(distances_mm=ACROSS_MM).indices(range(30), neighbour_ends(slices, 3.0), 3.0)
    looked_up = with_table(ContextLookup(in_volume=True))(torch.from_numpy(slices[places]))
    np.testing.assert_allclose(looked_up[:, 0].numpy(), table.look_up(slices, 3.0), atol=1e-5)


def test_a_single_slice_stands_for_those_about_it():
    image, table = smooth_image(1, 1, 40, 56), random_table()
    for lookup in (ContextLookup(), ContextLookup(in_volume=True)):
        looked_up = with_table(lookup)(image)[:, 0].numpy()
        np.testing.assert_allclose(looked_up, table.look_up(image[:, 0].numpy(), 1.0), atol=1e-5)


def test_weights_of_releases_that_blurred_within_slices_still_do():
    lookup, stack = with_table(ContextLookup(in_volume=True)), smooth_image(1, 5, 32, 32)
    saved = {name: value for name, value in lookup.state_dict().items() if name != "across_weight"}
    old = ContextLookup(in_volume=True)
    old.load_state_dict(saved)
    torch.testing.assert_close(old(stack), lookup(stack[:, 2:3]), rtol=0, atol=0)
    assert (lookup(stack) - old(stack)).abs().max() > 0.01


def test_gradients_reach_the_image():
    lookup = with_table(ContextLookup()).double()
    image = (0.77 * smooth_image(1, 1, 6, 7).double()).requires_grad_()
    assert torch.autograd.gradcheck(lookup, image, eps=1e-7, atol=1e-4)


def test_half_precision_does_not_round_it():
    image, lookup = smooth_image(1, 1, 32, 32), with_table(ContextLookup())
    with torch.autocast("cpu", torch.bfloat16):
        found = lookup(image)
    torch.testing.assert_close(found, lookup(image), rtol=0, atol=0)


@pytest.mark.parametrize("kind", sorted(SMALL_GENERATORS.keys() - {"munit", "unit", "monai-UNet"}))
def test_an_untrained_generator_is_the_lookup_and_learns(kind):
    torch.manual_seed(0)
    network = with_table(build_generator(config_of(generator=SMALL_GENERATORS[kind] | {"start": "lookup"})))
    image = smooth_image(1, 1, 2 * max(16, network.stride), 2 * max(16, network.stride))
    started = network(image)
    torch.testing.assert_close(started, start_alone(network, image), rtol=0, atol=1e-6)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        (network(image) - image).square().mean().backward()
        optimiser.step()
    assert (network(image) - started).abs().max() > 1e-4
    still = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not still or kind.startswith("monai")


def test_in_the_air_a_translation_is_the_lookups():
    torch.manual_seed(0)
    network = with_table(LookupStart(UNet(3, 4))).eval()
    network.correction_share.fill_(0.5)
    for weight in network.parameters():  # the last layer too
        torch.nn.init.normal_(weight, 0, 0.2)
    image = torch.full((1, 1, 64, 64), -1.0)
    image[..., :24] = 0.5
    difference = (network(image) - network.lookup(image)).abs()
    assert difference[..., :26].amax(dim=(0, 1, 2)).min() > 0.01 and not difference[..., 34:].any()
    corrected = network.train()(image)
    assert (corrected - network.lookup(image))[..., 34:].abs().max() > 0.01  # training tells it what it draws there


def test_a_batch_gives_what_its_images_give_one_by_one():
    assert_same_one_by_one(with_table(LookupStart(UNet(3, 4))), (3, 1, 16, 24))


def test_a_generator_with_neighbours_starts_from_the_middle_slices_lookup():
    section = SMALL_GENERATORS["skip"] | {"start": "lookup"}
    network = build_generator(config_of(generator=section, preprocess={"neighbours": 1}))
    assert (network.neighbours, network.neighbour_mm, network.channels) == (1, ACROSS_MM, 7)
    with_table(network.network)
    image = smooth_image(1, 7, 32, 32)
    others = image.clone()
    others[:, 2:5:2] = 0  # the slices next to it, which the lookup does not see
    torch.testing.assert_close(network(image), network.network.lookup(others), rtol=0, atol=1e-6)
    torch.nn.init.ones_(network.network.network.last.weight)
    assert (network(image) - network(others)).abs().max() > 1e-4  # but the network does


def test_features_are_the_networks():
    network = UNet(3, 4)
    start, image = LookupStart(network), random_image(1, 1, 16, 16)
    assert start.feature_channels == network.feature_channels and start.stride == 8
    for own, features in zip(start.features(image), network.features(image), strict=True):
        torch.testing.assert_close(own, features)


def test_an_image_that_is_no_number_gives_none_and_does_not_fail():
    image = smooth_image(2, 1, 16, 16)
    image[1, 0, 5, 5] = torch.nan
    output = with_table(ContextLookup())(image)
    assert output[0].isfinite().all() and output[1, 0, 5, 5].isnan()
