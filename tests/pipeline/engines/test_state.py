import pytest
import torch

from pipeline.engines.state import RandomState, Styles

CPU = torch.device("cpu")
SOUND, SKIPPED = torch.tensor(True), torch.tensor(False)


def test_draws_are_made_on_the_cpu_but_for_cuda():
    with torch.device("meta"):
        random = RandomState(3, torch.device("meta"))
        draws = [random.uniform(2), random.normal(2), random.choice(9, 2)]
    assert {draw.device.type for draw in draws} == {"cpu"}
    assert torch.equal(draws[0], RandomState(3, CPU).uniform(2))
    assert sorted(RandomState(3, CPU).choice(3, 256).tolist()) == [0, 1, 2]  # never more than there are


def test_the_mean_style_is_by_hand():
    styles = Styles(torch.zeros(2), CPU, decay=0.5)
    style_values = [torch.tensor([4.0, 8.0]), torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0])]
    styles.update(style_values[0], SOUND)
    assert styles.mean.tolist() == [4.0, 8.0]  # the first replaces the zeros it began with
    styles.update(style_values[1], SOUND)
    expected = 3 / 12 * style_values[0] + 9 / 12 * style_values[1]  # the warm-up of the averaged generators
    torch.testing.assert_close(styles.mean, expected)
    styles.update(style_values[2], SOUND)
    torch.testing.assert_close(styles.mean, 4 / 13 * expected + 9 / 13 * style_values[2])
    for _ in range(20):
        styles.update(style_values[2], SOUND)
    before = styles.mean.clone()
    styles.update(torch.tensor([3.0, 3.0]), SOUND)
    torch.testing.assert_close(styles.mean, (before + 3) / 2)  # the decay itself
    assert styles.update_rate.count == 24


def test_half_precision_styles_do_not_round_the_mean():
    styles = Styles(torch.zeros(1), CPU)
    styles.mean.fill_(1.0), styles.update_rate.count.fill_(100_000)
    for _ in range(1000):
        styles.update(torch.tensor([1.5], dtype=torch.bfloat16), SOUND)
    assert styles.mean.dtype == torch.float32
    assert styles.mean.item() == pytest.approx(1.5 - 0.5 * 0.999**1000, abs=1e-4)  # in bf16 no step would show


def test_a_skipped_step_leaves_the_mean_style_alone():
    styles = Styles(torch.zeros(1), CPU)
    styles.update(torch.tensor([torch.nan]), SKIPPED)
    assert (styles.mean.tolist(), styles.update_rate.count) == ([0.0], 0)
    styles.update(torch.tensor([4.0]), SOUND)
    styles.update(torch.tensor([torch.nan]), SKIPPED)
    assert (styles.mean.tolist(), styles.update_rate.count) == ([4.0], 1)


def test_a_stream_of_another_kind_of_device_goes_on_with_one_that_follows_from_it():
    samples = []
    for state in (torch.zeros(16, dtype=torch.uint8), torch.zeros(16, dtype=torch.uint8), torch.ones(16).byte()):
        random = RandomState(5, CPU)
        random.load_state_dict({"generator": state, "place": "cuda"})
        samples.append(random.uniform(3).tolist())
    assert samples[0] == samples[1] != samples[2]
