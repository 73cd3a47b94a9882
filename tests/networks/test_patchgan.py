import pytest
import torch
from torch import nn

from networks.patchgan import PatchGAN, receptive_field


def without_norms(network):
    """A norm looks at the whole image; what is left looks at patches."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    return network


def seen_by_a_central_logit(layers, size):
    """The rows and columns of the image on which one logit depends, by its gradient."""
    torch.manual_seed(0)
    network = without_norms(PatchGAN(width=2, layers=layers)).double()
    image = torch.rand(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    seen = image.grad[0, 0] != 0
    return seen.any(dim=1).nonzero().ravel(), seen.any(dim=0).nonzero().ravel()


def test_a_256_image_has_30_by_30_logits():
    with torch.no_grad():
        assert PatchGAN()(torch.zeros(2, 1, 256, 256)).shape == (2, 1, 30, 30)


@pytest.mark.parametrize(("layers", "side"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_the_receptive_field_is_that_of_the_formula(layers, side):
    # Outwards from a logit, each 4×4 convolution turns r into (r - 1) · stride + 4: 1, 4, 7, 16, 34, 70, 142.
    assert receptive_field(layers) == side


@pytest.mark.parametrize(("layers", "size"), [(1, 48), (2, 96), (3, 192)])
def test_a_logit_depends_on_exactly_its_receptive_field(layers, size):
    for lines in seen_by_a_central_logit(layers, size):
        assert len(lines) == receptive_field(layers)
        assert lines[-1] - lines[0] + 1 == receptive_field(layers)
        assert lines[0] > 0  # the image is larger, so nothing was cut off
        assert lines[-1] < size - 1


def test_the_parameters_are_those_counted_by_hand():
    kernel = 4 * 4
    convolutions = kernel * (1 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 1)
    norms = 2 * (128 + 256 + 512)
    tutorial = convolutions + norms + 1  # a bias on the last convolution
    assert tutorial == 2_763_521
    assert sum(weight.numel() for weight in PatchGAN().parameters()) == tutorial + 64  # MONAI: on the first one too


def test_weights_are_drawn_as_the_papers_do():
    torch.manual_seed(0)
    network = PatchGAN()
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in network.modules() if isinstance(module, nn.InstanceNorm2d)]
    assert (len(convolutions), len(norms)) == (5, 3)
    for convolution in convolutions:
        assert convolution.weight.mean().item() == pytest.approx(0, abs=0.003)
        assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert convolution.bias is None or not convolution.bias.any()
    scales = torch.cat([norm.weight for norm in norms])
    assert scales.mean().item() == pytest.approx(1, abs=0.003)
    assert scales.std().item() == pytest.approx(0.02, rel=0.1)


def test_logits_are_not_squashed():
    network = PatchGAN(width=2, layers=1)
    nn.init.constant_(network.network.final_conv.conv.bias, -7.0)
    assert network(torch.zeros(1, 1, 32, 32)).max() < -6.5


def test_width_and_layers_are_options():
    network = PatchGAN(width=8, layers=2)
    channels = [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]
    strides = [module.stride[0] for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert channels == [8, 16, 32, 1]
    assert strides == [2, 2, 1, 1]


def test_a_batch_gives_what_its_images_give_one_by_one():
    torch.manual_seed(0)
    network = PatchGAN(width=2).double()
    images = torch.rand(3, 1, 64, 48, dtype=torch.float64)
    singly = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), singly, rtol=0, atol=1e-12)
