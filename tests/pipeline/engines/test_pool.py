import io

import pytest
import torch

from pipeline.engines.pool import ImagePool


def images(*values):
    """A batch (N, 1, 2, 2) of images, each of one value."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def values(batch):
    return [] if batch is None else batch[:, 0, 0, 0].tolist()


def shown(pool, *numbers):
    """One step: what the discriminator is shown, with the pool changed for good."""
    returned = values(pool.query(images(*numbers)))
    pool.commit()
    return returned


def test_a_pool_of_no_images_returns_the_batch_and_keeps_nothing():
    pool = ImagePool(0, seed=1)
    batch = images(1, 2)
    assert torch.equal(pool.query(batch), batch)
    pool.commit()
    assert pool.images is None


def test_while_it_fills_the_images_themselves_are_returned():
    pool = ImagePool(3, seed=1)
    assert shown(pool, 1, 2) == [1, 2]
    assert values(pool.images) == [1, 2]
    assert shown(pool, 3) == [3]
    assert values(pool.images) == [1, 2, 3]


def test_a_full_pool_exchanges_as_its_generator_says():
    pool = ImagePool(2, seed=5)
    shown(pool, 1, 2)
    random, kept, exchanged = torch.Generator().manual_seed(5), [1, 2], 0
    for number in range(3, 60):
        expected = number
        if torch.rand((), generator=random) < 0.5:
            slot = int(torch.randint(2, (), generator=random))
            expected, kept[slot] = kept[slot], number
            exchanged += 1
        assert shown(pool, number) == [expected]
        assert values(pool.images) == kept
    assert 15 < exchanged < 42


def test_half_of_what_is_shown_is_old_over_many_steps():
    pool = ImagePool(50, seed=0)
    shown(pool, *range(50))
    new = sum(shown(pool, number) == [number] for number in range(50, 2050))
    assert new == pytest.approx(1000, abs=100)


def test_no_image_is_lost_or_doubled_by_an_exchange():
    pool = ImagePool(5, seed=2)
    seen = []
    for number in range(200):
        seen += shown(pool, number)
    assert sorted(seen + values(pool.images)) == sorted([*range(200), *seen[:5]])  # the first five were only copied in


def test_a_batch_larger_than_the_pool_fills_it_and_passes():
    pool = ImagePool(2, seed=0)
    assert shown(pool, 1, 2, 3) == [1, 2, 3]
    assert values(pool.images) == [1, 2]


def test_a_batch_that_overfills_the_pool_draws_from_what_was_there_before():
    for seed in range(20):
        pool = ImagePool(3, seed=seed)
        shown(pool, 1, 2)
        returned = shown(pool, 3, 4)
        assert returned[0] == 3
        assert returned[1] in (4, 1, 2)
        assert len(pool.images) == 3


@pytest.mark.parametrize("first", [[1], [1, 2]])
def test_without_a_commit_the_pool_stays_as_it_was(first):
    pool = ImagePool(2, seed=3)
    shown(pool, *first)
    for number in range(3, 30):
        pool.query(images(number))
        assert values(pool.images) == first
    pool.query(images(99))  # and what an earlier, skipped step would have put in is forgotten
    pool.commit()
    assert set(values(pool.images)) <= {*first, 99}


def test_what_it_returns_carries_no_gradient_and_leaves_the_batch_alone():
    pool = ImagePool(1, seed=0)
    batch = images(1).requires_grad_()
    assert not pool.query(batch).requires_grad
    pool.commit()
    for number in range(2, 20):
        batch = images(number)
        pool.query(batch)
        assert values(batch) == [number]
        pool.commit()


def test_the_pools_draws_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    pool = ImagePool(1, seed=0)
    for number in range(10):
        shown(pool, number)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("steps_before", [0, 1, 10])
def test_a_restored_pool_goes_on_as_if_nothing_had_happened(steps_before):
    pool = ImagePool(3, seed=4)
    for number in range(steps_before):
        shown(pool, number)
    stream = io.BytesIO()
    torch.save(pool.state_dict(), stream)
    stream.seek(0)
    restored = ImagePool(3, seed=99)
    restored.load_state_dict(torch.load(stream, weights_only=True))
    for number in range(100, 130):
        assert shown(restored, number) == shown(pool, number)
    assert values(restored.images) == values(pool.images)


def test_loading_copies_the_images():
    pool, restored = ImagePool(1, seed=0), ImagePool(1, seed=0)
    shown(pool, 1)
    restored.load_state_dict(pool.state_dict())
    for number in range(2, 12):
        shown(pool, number)
    assert values(restored.images) == [1]
    assert values(pool.images) != [1]


@pytest.mark.parametrize("count", [1, 3])  # still filling, and full
def test_a_pool_restored_on_the_cpu_follows_the_engines_device(count):
    restored = ImagePool(3, seed=0)
    restored.load_state_dict({"images": images(*range(count)), "random": torch.Generator().get_state()})
    for _ in range(8):
        assert restored.query(images(7, 8).to("meta")).device.type == "meta"
        restored.commit()
    assert restored.images.device.type == "meta"
    assert len(restored.images) == 3
