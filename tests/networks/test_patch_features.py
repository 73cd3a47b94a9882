import torch
from network_probes import full_size, parameters, random_image

from networks.patch_features import PatchFeatureHead


def test_the_parameters_are_those_counted_by_hand():
    head = full_size(PatchFeatureHead, [1, 128, 256, 256, 256])
    first = (1 + 128 + 3 * 256) * 256 + 5 * 256
    second = 5 * (256 * 256 + 256)
    assert parameters(head) == first + second


def test_each_layer_has_a_perceptron_of_two_layers_of_its_own():
    torch.manual_seed(0)
    head = PatchFeatureHead([3, 3], width=4)
    sample = random_image(1, 5, 3)
    vectors = head([sample, sample])
    assert not torch.allclose(*vectors)
    first, _, second = head.perceptrons[0]
    expected = torch.relu(sample @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(vectors[0], expected / expected.norm(dim=-1, keepdim=True))


def test_a_vector_of_zeros_gives_finite_numbers_and_gradients():
    head = PatchFeatureHead([2], width=4)
    (vectors,) = head([torch.zeros(1, 3, 2)])
    vectors.sum().backward()
    assert vectors.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in head.parameters())
