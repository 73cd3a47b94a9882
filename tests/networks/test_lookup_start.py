"""Starts that the model in the box takes part in."""

import numpy as np
import pytest
import torch
from network_probes import random_image
from torch.nn.functional import avg_pool2d, interpolate

from networks.lookup_start import LARGEST, BoxTranslation, LookupStart
from networks.unet import UNet


def with_tables(*lookups):
    for number, lookup in enumerate(lookups):
        values = np.random.default_rng(number).uniform(-0.9, 0.9, lookup.table.shape)
        lookup.set_table(torch.from_numpy(values), (1.5, 4.0))


def random_box(pixel_mm, side=1000):
    torch.manual_seed(0)
    box = BoxTranslation()
    for weight in box.network.parameters():
        torch.nn.init.normal_(weight, 0, 0.1)
    box.fit_to_slices(pixel_mm, side)
    with_tables(box.lookup)
    return box


def test_it_is_the_mean_of_the_models_translation_and_of_that_looked_up():
    box, image = random_box(2.0), random_image(2, 1, 32, 48)
    translation = box.network(image)
    assert translation.std() > 0.05
    torch.testing.assert_close(box(image), (translation + box.lookup(translation)) / 2)


@pytest.mark.parametrize(("pixel_mm", "averaged"), [(0.5, 4), (0.94, 2), (1.0, 2), (1.4, 1), (3.0, 1)])
def test_small_pixels_are_averaged_to_those_of_its_training(pixel_mm, averaged):
    box, image = random_box(pixel_mm), random_image(1, 1, 64, 128)
    coarse = box.network(avg_pool2d(image, averaged))
    expected = interpolate(coarse, scale_factor=float(averaged), mode="bilinear", align_corners=False)
    torch.testing.assert_close(box.translate(image), expected)
    other = BoxTranslation()
    other.load_state_dict(box.state_dict())  # and a checkpoint knows it
    torch.testing.assert_close(other.translate(image), expected)


def test_small_slices_are_surrounded_by_air():
    box, image = random_box(1.0, side=96), random_image(1, 1, 96, 96)
    surrounded = torch.full((1, 1, 224, 224), -1.0)
    surrounded[..., 64:160, 64:160] = image
    wide = random_box(1.0)
    torch.testing.assert_close(box.translate(image), wide.translate(surrounded)[..., 64:160, 64:160])
    other = BoxTranslation()
    other.load_state_dict(box.state_dict())
    torch.testing.assert_close(other.translate(image), box.translate(image))


def test_slices_of_any_size_are_extended_by_air():
    box, image = random_box(1.0), random_image(1, 1, 37, 50)
    extended = torch.full((1, 1, 64, 64), -1.0)
    extended[..., :37, :50] = image
    torch.testing.assert_close(box.translate(image), box.translate(extended)[..., :37, :50])


def test_a_generator_begins_as_the_mean_of_lookup_and_box_and_trains_itself_alone():
    torch.manual_seed(0)
    start = LookupStart(UNet(2, 4), with_box=True)
    start.box, image = random_box(1.0), random_image(1, 1, 32, 32)
    with_tables(start.lookup)
    start.box_share.fill_(0.3)
    mean = torch.lerp(start.lookup(image), start.box(image), 0.3)
    torch.testing.assert_close(start.train()(image), mean.clamp(-LARGEST, LARGEST), rtol=0, atol=1e-6)
    start(image).square().mean().backward()
    trained = {name.split(".")[0] for name, weight in start.named_parameters() if weight.grad is not None}
    assert trained == {"network"}
    air = torch.full((1, 1, 64, 64), -1.0)
    torch.testing.assert_close(start.eval()(air), start.lookup(air), rtol=0, atol=0)
