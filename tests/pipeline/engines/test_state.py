import io

import pytest
import torch

from pipeline.engines.state import RandomState, StepCount, Styles


def through_a_file(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


def test_a_count_goes_on_where_it_was():
    count, other = StepCount(), StepCount()
    count.made = 7
    other.load_state_dict(through_a_file(count.state_dict()))
    assert other.made == 7


def test_draws_go_on_where_they_were():
    random, other = RandomState(3), RandomState(4)
    random.normal(5)
    other.load_state_dict(through_a_file(random.state_dict()))
    for draw in (lambda one: one.uniform(2, 3), lambda one: one.normal(4), lambda one: one.choice(9, 5)):
        assert torch.equal(draw(other), draw(random))
    assert not torch.equal(RandomState(3).normal(5), RandomState(4).normal(5))


def test_draws_leave_torchs_own_generator_alone():
    before = torch.get_rng_state()
    random = RandomState(0)
    random.uniform(3), random.normal(3), random.choice(5, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_are_made_on_the_cpu_whatever_the_device():
    with torch.device("meta"):
        random = RandomState(3)
        draws = [random.uniform(2), random.normal(2), random.choice(9, 2)]
    assert {draw.device.type for draw in draws} == {"cpu"}
    assert torch.equal(draws[0], RandomState(3).uniform(2))


def test_draws_are_of_the_kinds_they_say():
    random = RandomState(0)
    uniform, normal = random.uniform(4000), random.normal(4000)
    assert uniform.min() >= 0 and uniform.max() < 1 and uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert normal.mean().item() == pytest.approx(0, abs=0.05) and normal.std().item() == pytest.approx(1, abs=0.05)
    assert sorted(random.choice(6, 6).tolist()) == list(range(6))
    assert len(set(random.choice(50, 20).tolist())) == 20
    assert sorted(random.choice(3, 256).tolist()) == [0, 1, 2]  # never more than there are


def test_the_mean_style_is_by_hand():
    styles = Styles(torch.zeros(2), decay=0.5)
    taken = [torch.tensor([4.0, 8.0]), torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0])]
    styles.take_in(taken[0])
    assert styles.mean.tolist() == [4.0, 8.0]  # the first replaces the zeros it began with
    styles.take_in(taken[1])
    expected = 3 / 12 * taken[0] + 9 / 12 * taken[1]  # the warm-up of the averaged generators
    torch.testing.assert_close(styles.mean, expected)
    styles.take_in(taken[2])
    torch.testing.assert_close(styles.mean, 4 / 13 * expected + 9 / 13 * taken[2])
    for _ in range(20):
        styles.take_in(taken[2])
    before = styles.mean
    styles.take_in(torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(styles.mean, (before + 3) / 2)  # the decay itself
    assert styles.count == 24


def test_what_early_encoders_made_is_soon_forgotten():
    styles = Styles(torch.zeros(1))
    for step in range(300):
        styles.take_in(torch.tensor([100.0 if step < 30 else 1.0]))
    assert styles.mean.item() == pytest.approx(1.0, abs=0.01)


def test_half_precision_styles_do_not_round_the_mean():
    styles = Styles(torch.zeros(1))
    styles.mean, styles.count = torch.tensor([1.0]), 100_000
    for _ in range(1000):
        styles.take_in(torch.tensor([1.5], dtype=torch.bfloat16))
    assert styles.mean.dtype == torch.float32
    assert styles.mean.item() == pytest.approx(1.5 - 0.5 * 0.999**1000, abs=1e-4)  # in bf16 no step would show


def test_styles_come_back_as_they_were():
    styles, other = Styles(torch.tensor([1.0, -2.0])), Styles(torch.zeros(2))
    styles.take_in(torch.tensor([0.25, 0.5]))
    state = through_a_file(styles.state_dict())
    other.load_state_dict(state)
    for one in (styles, other):
        one.take_in(torch.tensor([9.0, 9.0]))
    assert torch.equal(other.mean, styles.mean) and torch.equal(other.drawn, styles.drawn)
    assert other.count == styles.count == 2
    assert state["mean"].tolist() == [0.25, 0.5]  # what was loaded is a copy
