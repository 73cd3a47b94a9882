from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from small_slices import EVERYTHING, batches, store_volumes

from pipeline.data.loader import AIR, PAIRS_STREAM, PairedSlices, ShuffledSampler, SliceBank, UnpairedSlices
from pipeline.data.stored_slices import decode
from pipeline.utils.errors import UserError
from transforms.augmentation import Augmentation, enlarge
from transforms.neighbours import Neighbours


@pytest.fixture
def slices(tmp_path):
    """Return a maker of datasets with 11 and 7 slices."""
    first, second = store_volumes(tmp_path / "a", [5, 1, 5]), store_volumes(tmp_path / "b", [3, 4])
    return lambda seed=0, augmentation=EVERYTHING: UnpairedSlices(
        SliceBank(first), SliceBank(second), augmentation, seed
    )


def equal(first, second):
    first, second = ([side for batch in result for side in batch] for result in (first, second))
    return len(first) == len(second) and all(map(torch.equal, first, second))


def test_an_epoch_is_the_same_from_any_batch_on(slices):
    full_epoch = batches(slices(), epoch=3)
    for first_batch in (0, 1, 5, 6):
        remaining = batches(slices(), epoch=3, first_batch=first_batch)
        assert equal(remaining, full_epoch[first_batch:])


def test_pairs_beside_leave_the_contrasts_as_they_are_and_have_an_order_of_their_own(tmp_path, slices):
    stored = store_volumes(tmp_path / "p", [2, 3])
    pairs = PairedSlices(SliceBank(stored), SliceBank(stored), EVERYTHING, 0, PAIRS_STREAM)
    plain, beside = slices(), slices()
    beside.pairs = pairs
    found, alone = batches(beside, epoch=2), batches(plain, epoch=2)
    assert equal([batch[:2] for batch in found], alone)
    assert all(torch.equal(first, second) for _, _, first, second in found)  # both are of one file: augmented alike
    expected = [plain_batch(stored, [(2, 2 * number), (2, 2 * number + 1)], EVERYTHING, 0, 2) for number in range(6)]
    assert equal([batch[2:3] for batch in found], [(images,) for images in expected])
    assert equal(batches(beside, epoch=2, first_batch=4), found[4:])


# ── pairs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pairs_come_in_one_order_with_one_change_each_once_an_epoch(tmp_path):
    bank = SliceBank(store_volumes(tmp_path / "a", [5, 1, 7]))
    twins, unpaired = PairedSlices(bank, bank, EVERYTHING, seed=0), UnpairedSlices(bank, bank, EVERYTHING, seed=0)
    assert len(twins) == 13
    for paired_batch, unpaired_batch in zip(batches(twins), batches(unpaired), strict=True):
        assert torch.equal(*paired_batch) and torch.equal(paired_batch[0], unpaired_batch[0])
        assert not torch.equal(*unpaired_batch)


def test_unequal_numbers_of_slices_are_no_pairs(tmp_path):
    first, second = (SliceBank(store_volumes(tmp_path / name, counts)) for name, counts in (("a", [5, 8]), ("b", [6])))
    with pytest.raises(ValueError, match="13 and 6 slices are not pairs"):
        PairedSlices(first, second, Augmentation(), seed=0)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bank_of_many_volumes_keeps_no_file_open_and_gathers_the_same(tmp_path):
    stored = store_volumes(tmp_path / "a", [2] * 9, constant=True)
    slice_indices = [17, 0, 8, 3, 11, 17, 5]
    bank = SliceBank(stored)
    initial = psutil.Process().num_fds()
    result = bank.gather(slice_indices)
    assert torch.equal(result[:, 0, 0, 0], torch.from_numpy(decode(100 * np.array(slice_indices, dtype=np.uint16))))
    assert psutil.Process().num_fds() == initial


def test_a_file_that_lost_its_end_is_said_so(tmp_path):
    [stored] = store_volumes(tmp_path / "a", [3])
    bank = SliceBank([stored])
    bank.gather([2])
    stored.path.write_bytes(stored.path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"0\.npy: not the stored slices \(its end is missing\); the same command"):
        bank.gather([2])


# ── the fast way against the plain one ────────────────────────────────────────────────────────────────────────


def plain_batch(stored, keys, augmentation, seed, stream):
    """A side's batch the slow way: whole files, one draw and one change of a slice after the other."""
    slices = np.concatenate([np.load(entry.path) for entry in stored])
    batch = []
    for epoch, position in keys:
        lap, index = divmod(position, len(slices))
        order = np.random.default_rng([seed, stream, 0, epoch, lap]).permutation(len(slices))
        change = augmentation.draw(np.random.default_rng([seed, stream, 1, epoch, position]))
        image = slices[order[index]].astype(np.float32) * np.float32(2 / 65535) - np.float32(1)
        image = enlarge(torch.from_numpy(image)[None, None], augmentation.jitter)[0]
        top, left = (int(start * (image.shape[-1] - 8 + 1)) for start in change.crop)
        image = image[:, top : top + 8, left : left + 8]
        flips = [axis for axis, on in ((1, change.flip_left_right), (2, change.flip_front_back)) if on]
        image = image.flip(flips) if flips else image  # a mean's last bit depends on how an image lies in memory
        image = torch.rot90(image, change.quarter_turns, (1, 2)) if change.quarter_turns else image
        if change.brightness or change.contrast != 1:
            mean = image.mean()
            image = ((image - mean) * change.contrast + mean + change.brightness).clamp(-1, 1)
        batch.append(image)
    return torch.stack(batch)


@pytest.mark.parametrize("settings", [
    {}, {"horizontal_flip": 0.5}, {"horizontal_flip": 0.5, "vertical_flip": 0.5, "rotate90": 0.5},
    {"horizontal_flip": 0.5, "brightness": 0.2, "contrast": 0.3}, {"horizontal_flip": 0.5, "jitter": 1.25}, None,
])  # fmt: skip
def test_batches_are_those_of_the_plain_way_to_the_bit(settings, tmp_path):
    augmentation = EVERYTHING if settings is None else Augmentation(**settings)
    stored = store_volumes(tmp_path / "a", [5, 1, 5]), store_volumes(tmp_path / "b", [3, 4])
    dataset = UnpairedSlices(*map(SliceBank, stored), augmentation, seed=3)
    for number, sides_found in enumerate(batches(dataset, epoch=2, count=4, batch_size=5)):
        keys = [(2, 5 * number + slot) for slot in range(5)]
        for stream, result in enumerate(sides_found):
            assert torch.equal(result, plain_batch(stored[stream], keys, augmentation, 3, stream))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros((3, 16, 16), np.uint16), r"3 arrays of shape \(16, 16\) and type uint16"),
        (np.zeros((3, 8, 8), np.float64), r"3 arrays of shape \(8, 8\) and type float64"),
        (np.zeros((4, 8, 8), np.uint16), r"4 arrays of shape \(8, 8\)"),
        (np.asfortranarray(np.zeros((3, 8, 8), np.uint16)), r"3 arrays"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, other, message):
    bank = SliceBank(store_volumes(tmp_path, [2, 3]))
    np.save(bank.entries[1].path, other)
    with pytest.raises(UserError, match=rf"1\.npy: not the stored slices \({message}.*; the same command makes them"):
        bank.gather([0, 3])


def test_a_small_contrast_that_has_many_turns_keeps_no_order_of_them():
    draws = ShuffledSampler(4, Augmentation(), seed=0, stream=1)
    result = draws.indices([(0, position) for position in range(4000)])
    assert all(sorted(result[lap : lap + 4]) == [0, 1, 2, 3] for lap in range(0, 4000, 4))
    assert len(draws._orders) == 2
    assert draws.indices([(0, position) for position in range(8)]) == result[:8]  # what is over can be drawn again


# ── neighbours ────────────────────────────────────────────────────────────────────────────────────────────────


def test_neighbours_stay_within_their_volume(tmp_path):
    stored = store_volumes(tmp_path / "a", [3, 1, 4])
    assert SliceBank(stored, Neighbours(1)).slice_numbers([0, 1, 2, 3, 4, 7]).tolist() == [
        [0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 3], [4, 4, 5], [6, 7, 7],
    ]  # fmt: skip
    assert SliceBank(stored, Neighbours(2)).slice_numbers([5, 2]).tolist() == [[4, 4, 5, 6, 7], [0, 1, 2, 2, 2]]
    assert SliceBank(stored).slice_numbers([5, 2]).tolist() == [[5], [2]]


def test_neighbours_at_a_distance_are_counted_by_each_volumes_own_slices(tmp_path):
    thin, thick = store_volumes(tmp_path / "a", [9, 5])
    bank = SliceBank([replace(thin, slice_mm=1.0), replace(thick, slice_mm=2.5)], Neighbours(1, (3.2, 4.9)))
    assert bank.slice_numbers([4, 11]).tolist() == [[0, 1, 3, 4, 5, 7, 8], [9, 10, 10, 11, 12, 12, 13]]


def test_neighbours_lie_in_the_file_beyond_the_slices_used_and_are_air_beyond_the_head(tmp_path):
    (stored,) = store_volumes(tmp_path / "a", [8])
    used = replace(stored, positions=range(2, 5), first=2, stored=8, air_beyond=(True, False))
    bank = SliceBank([used, *store_volumes(tmp_path / "b", [2])], Neighbours(distances_mm=(1.0, 3.0)))
    assert bank.slice_numbers([0, 2, 3]).tolist() == [[AIR, 1, 2, 3, 5], [1, 3, 4, 5, 7], [8, 8, 8, 9, 9]]
    stacks, whole = bank.gather([0]), SliceBank([stored]).gather(range(8))[:, 0]
    assert torch.equal(stacks[0, 0], torch.full((8, 8), -1.0))
    assert torch.equal(stacks[0, 1:], whole[[1, 2, 3, 5]])


def test_a_slice_comes_with_its_neighbours_and_all_are_changed_alike(tmp_path):
    stored = store_volumes(tmp_path / "a", [3, 1, 4])
    single, bank = SliceBank(stored), SliceBank(stored, Neighbours(1))
    indices = [0, 2, 3, 5, 7]
    stacks = bank.gather(indices)
    assert stacks.shape == (5, 3, 8, 8)
    for channel, neighbours in enumerate(bank.slice_numbers(indices).T.tolist()):
        assert torch.equal(stacks[:, channel], single.gather(neighbours)[:, 0])

    geometry = Augmentation(horizontal_flip=0.5, jitter=1.25, vertical_flip=0.5, rotate90=0.5)
    for augmentation in (geometry, replace(geometry, jitter=1.0)):  # which flips while it reads
        changes = [augmentation.draw(np.random.default_rng(index)) for index in indices]
        augmented = bank.augmented(augmentation, indices, changes)
        for channel, neighbours in enumerate(bank.slice_numbers(indices).T.tolist()):
            expected = single.augmented(augmentation, neighbours, changes)[:, 0]
            torch.testing.assert_close(augmented[:, channel], expected, rtol=0, atol=1e-6)
