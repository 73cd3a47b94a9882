from pathlib import Path

import numpy as np
import pytest
import torch
from small_slices import EVERYTHING, batches

from pipeline.data.case import Case
from pipeline.data.loader import PairedSlices, SliceBank, UnpairedSlices
from pipeline.data.stored_slices import StoredSlices, encode
from transforms.augmentation import Augmentation


def store(folder, volumes):
    """Store volumes as they are, and return their bank."""
    folder.mkdir()
    stored = []
    for number, slices in enumerate(volumes):
        np.save(folder / f"{number}.npy", encode(slices))
        stored.append(
            StoredSlices(Case(f"s{number}", "", "T1", Path("x")), folder / f"{number}.npy", range(len(slices)))
        )
    return SliceBank(stored)


@pytest.fixture
def volumes():
    random = np.random.default_rng(0)
    return [random.uniform(-0.8, 0.8, (count, 8, 8)).astype(np.float32) for count in (5, 1, 7)]


@pytest.fixture
def slices(tmp_path, volumes):
    """Return a maker of datasets whose second contrast is the first, turned to its negative: exactly, in the store."""
    first, second = store(tmp_path / "a", volumes), store(tmp_path / "b", [-volume for volume in volumes])
    return lambda seed=0, augmentation=EVERYTHING: PairedSlices(first, second, augmentation, seed)


def side(result, number):
    return torch.cat([batch[number] for batch in result])


def equal(image, other_image):
    return len(image) == len(other_image) and all(
        torch.equal(side(image, number), side(other_image, number)) for number in (0, 1)
    )


def test_both_contrasts_come_in_one_order_and_with_one_change(slices):
    in_space = Augmentation(horizontal_flip=0.5, jitter=1.25, vertical_flip=0.5, rotate90=0.5)
    result = batches(slices(augmentation=in_space), count=20)
    first, second = side(result, 0), side(result, 1)
    assert first.shape == second.shape == (40, 1, 8, 8)
    assert torch.allclose(first, -second, atol=1e-4)
    unchanged = side(batches(slices(augmentation=Augmentation()), count=20), 0)
    assert sum(not torch.equal(image, other_image) for image, other_image in zip(first, unchanged, strict=True)) > 30


def test_brightness_and_contrast_are_drawn_once_for_both(tmp_path, volumes):
    bank, twin = store(tmp_path / "a", volumes), store(tmp_path / "b", volumes)
    result = batches(PairedSlices(bank, twin, EVERYTHING, seed=0))
    assert torch.equal(side(result, 0), side(result, 1))


def test_an_epoch_shows_every_pair_once_and_the_next_in_another_order(slices, volumes):
    dataset = slices(augmentation=Augmentation())
    assert len(dataset) == 13
    orders = [side(batches(dataset, epoch, 13, 1), 0)[:, 0, 0, 0].tolist() for epoch in (0, 1)]
    expected = sorted(value for volume in volumes for value in volume[:, 0, 0].tolist())
    assert sorted(orders[0]) == pytest.approx(expected, abs=1e-4)
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_the_first_contrast_is_drawn_as_in_unpaired_training(slices):
    dataset = slices()
    unpaired = UnpairedSlices(*dataset.banks, EVERYTHING, seed=0)
    assert torch.equal(side(batches(dataset), 0), side(batches(unpaired), 0))


def test_unequal_numbers_of_slices_are_no_pairs(tmp_path, volumes):
    first, second = store(tmp_path / "a", volumes), store(tmp_path / "b", volumes[:2])
    with pytest.raises(ValueError, match="13 and 6 slices are not pairs"):
        PairedSlices(first, second, Augmentation(), seed=0)
