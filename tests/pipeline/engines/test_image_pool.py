import pytest
import torch
from small_engine import saved

from pipeline.engines.state import ImagePool, RandomState

CPU = torch.device("cpu")
SOUND, SKIPPED = torch.tensor(True), torch.tensor(False)


def images(*values):
    """A batch (N, 1, 2, 2) of images, each of one value."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def values(batch):
    return [] if batch is None else batch[:, 0, 0, 0].tolist()


def shown(pool, *numbers):
    """One step: what the discriminator is shown, with the pool changed for good."""
    returned = values(pool.query(images(*numbers)))
    pool.commit(SOUND)
    return returned


def test_a_pool_of_no_images_returns_the_batch_and_keeps_nothing():
    pool = ImagePool(0, 1, CPU)
    batch = images(1, 2)
    assert torch.equal(pool.query(batch), batch)
    pool.commit(SOUND)
    assert pool.images is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_it_is_the_plain_pool_of_images_that_come_one_after_the_other(batch_size):
    pool, random, stored, exchanged, replaced = ImagePool(4, 5, CPU), torch.Generator().manual_seed(5), [], 0, 0
    for first in range(0, 30 * batch_size, batch_size):
        coins = torch.rand(batch_size, generator=random).tolist()
        choices = torch.randint(4, (batch_size,), generator=random).tolist()
        expected = []
        for number, coin, choice in zip(range(first, first + batch_size), coins, choices, strict=True):
            if len(stored) < 4:
                stored.append(number)
                expected.append(number)
            elif coin < 0.5:
                replaced += stored[choice] >= first  # one of the same batch comes back
                expected.append(stored[choice])
                stored[choice] = number
                exchanged += 1
            else:
                expected.append(number)
        assert shown(pool, *range(first, first + batch_size)) == expected
        assert values(pool.images) == stored
    assert 0.35 < exchanged / (30 * batch_size - 4) < 0.65
    assert (replaced > 0) == (batch_size > 1)


@pytest.mark.parametrize("first", [[1], [1, 2]])
def test_without_a_commit_the_pool_stays_as_it_was(first):
    pool = ImagePool(2, 3, CPU)
    shown(pool, *first)
    for number in range(3, 30):
        pool.query(images(number))
        assert values(pool.images) == first
        pool.commit(SKIPPED)
        assert values(pool.images) == first
    pool.query(images(99))  # and what an earlier, skipped step would have put in is forgotten
    pool.commit(SOUND)
    assert set(values(pool.images)) <= {*first, 99}


def test_what_it_returns_carries_no_gradient_and_leaves_the_batch_alone():
    pool = ImagePool(1, 0, CPU)
    batch = images(1).requires_grad_()
    assert not pool.query(batch).requires_grad
    pool.commit(SOUND)
    for number in range(2, 20):
        batch = images(number)
        pool.query(batch)
        assert values(batch) == [number]
        pool.commit(SOUND)


def test_a_sample_is_the_batch_and_different_stored_images_or_what_there_is_again():
    pool, drawn = ImagePool(6, 5, CPU), []
    for first in range(0, 60, 2):
        stored = values(pool.images)
        sample = values(pool.sample(images(first, first + 1), 6))
        pool.commit(SOUND)
        assert sample[:2] == [first, first + 1]
        if first == 0:
            assert sample[2:] == [0, 1, 0, 1]
        else:
            assert set(sample[2:]) <= set(stored) and len(set(sample[2:])) == min(4, len(stored))
        drawn.append(tuple(sample[2:]))
    assert drawn[1] in ((0, 1, 0, 1), (1, 0, 1, 0))
    assert len(values(pool.images)) == 6 and len(set(drawn[10:])) == 20  # in random order, of changing images


@pytest.mark.parametrize("steps_before", [0, 1, 10])
def test_a_restored_pool_goes_on_as_if_nothing_had_happened(steps_before):
    pool = ImagePool(3, 4, CPU)
    for number in range(steps_before):
        shown(pool, number)
    restored = ImagePool(3, 99, CPU)
    restored.load_state_dict(saved(pool))
    for number in range(100, 130):
        assert shown(restored, number) == shown(pool, number)
    for number in range(130, 140):
        samples = [values(instance.sample(images(number), 3)) for instance in (pool, restored)]
        assert samples[0] == samples[1]
    assert values(restored.images) == values(pool.images)


@pytest.mark.parametrize("count", [1, 3])  # still filling, and full
def test_a_pool_restored_on_the_cpu_follows_the_engines_device(count):
    restored = ImagePool(3, 0, torch.device("meta"))
    restored.load_state_dict({"images": images(*range(count)), "random": RandomState(0, CPU).state_dict()})
    for _ in range(8):  # and nothing there asks the device for a number, which this one could not give
        assert restored.query(images(7, 8).to("meta")).device.type == "meta"
        restored.commit(SOUND.to("meta"))


def test_a_pool_of_earlier_versions_is_taken_over():
    restored, other = (ImagePool(3, seed, CPU) for seed in (1, 2))
    for pool in (restored, other):
        pool.load_state_dict({"images": images(1, 2), "random": torch.Generator().manual_seed(9).get_state()})
    assert values(restored.images) == [1, 2]
    assert [shown(restored, number) for number in range(9)] == [shown(other, number) for number in range(9)]
