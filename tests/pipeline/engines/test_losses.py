import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pipeline.engines.losses import (
    ADVERSARIAL,
    binary_cross_entropy,
    divergence_from_normal,
    finite,
    least_squares,
    structural_dissimilarity,
    wasserstein,
)


@pytest.mark.parametrize("real", [True, False])
def test_cross_entropy_is_pytorchs_and_stays_finite_far_out(real):
    logits = torch.tensor([-200.0, -3.0, 0.5, 200.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.full((4,), float(real)))
    torch.testing.assert_close(binary_cross_entropy(logits, real), expected)


def test_least_squares_by_hand():
    logits = torch.tensor([[0.5, 1.0], [-1.0, 3.0]])
    assert least_squares(logits, True).item() == pytest.approx((0.25 + 0 + 4 + 4) / 4)
    assert least_squares(logits, False).item() == pytest.approx((0.25 + 1 + 1 + 9) / 4)


def test_wasserstein_by_hand():
    logits = torch.tensor([[0.5, 1.0], [-1.0, 3.5]])
    assert wasserstein(logits, True).item() == -1.0
    assert wasserstein(logits, False).item() == 1.0


@pytest.mark.parametrize("loss", ADVERSARIAL.values())
def test_the_losses_of_several_scales_are_added(loss):
    coarse, fine = torch.tensor([[0.3]]), torch.tensor([[1.0, -2.0, 0.1]])
    assert loss([fine, coarse], True) == loss(fine, True) + loss(coarse, True)


@pytest.mark.parametrize("loss", ADVERSARIAL.values())
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_averaged_in_single_precision(loss, half):
    logits = torch.linspace(-2, 2, 900).to(half)
    value = loss(logits, True)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits.float(), True), rtol=1e-6, atol=0)
    assert loss(logits.double(), True).dtype == torch.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_loss_that_is_no_number_is_noticed_among_others(bad):
    assert finite({"one": torch.tensor(1.0), "two": torch.tensor(2.0, dtype=torch.bfloat16)})
    assert not finite({"one": torch.tensor(1.0), "two": torch.tensor(bad)})


def test_the_divergence_from_the_normal_distribution_is_half_the_mean_square():
    assert divergence_from_normal(torch.tensor([[1.0, -3.0], [0.0, 2.0]])).item() == pytest.approx((1 + 9 + 0 + 4) / 8)
    half = divergence_from_normal(torch.full((4000,), 0.1, dtype=torch.bfloat16))
    assert half.dtype == torch.float32 and half.item() == pytest.approx(0.005, rel=0.01)
    assert divergence_from_normal(torch.ones(2, dtype=torch.float64)).dtype == torch.float64


def test_the_dissimilarity_is_one_less_scikit_images_ssim_of_uniform_windows():
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 3, 1, 24, 20)))
    prediction, target = images[0], 0.6 * images[0] + 0.4 * images[1]
    options = {"win_size": 7, "data_range": 2.0, "use_sample_covariance": False}  # its mean leaves margins out, too
    slices = zip(prediction[:, 0].numpy(), target[:, 0].numpy(), strict=True)
    of_slices = [structural_similarity(p, t, **options) for p, t in slices]
    assert structural_dissimilarity(prediction, target).item() == pytest.approx(1 - np.mean(of_slices), abs=1e-9)
    assert structural_dissimilarity(target, target).item() == pytest.approx(0, abs=1e-9)
