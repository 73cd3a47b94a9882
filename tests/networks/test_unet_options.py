"""The U-Net's options, which leave the plain network as it is."""

import pytest
import torch
from network_probes import full_size, parameters, random_image
from torch import nn

from networks.blocks import current_names, initialise_normal, instance_norm, saved_names
from networks.unet import AttentionGate, UNet


class PlainUNet(nn.Module):
    """The weights of a U-Net of three levels without any option, spelt out in the order in which they are drawn."""

    def __init__(self, width):
        super().__init__()
        down = [(1, width), (width, 2 * width), (2 * width, 4 * width)]
        up = [(4 * width, 2 * width), (4 * width, width)]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(*channels, 4, 2, 1, bias=False), *([instance_norm(channels[1])] * (level == 1)))
            for level, channels in enumerate(down)
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(*channels, 4, 2, 1, bias=False), instance_norm(channels[1]))
            for channels in up
        )
        self.last = nn.ConvTranspose2d(2 * width, 1, 4, 2, 1)
        initialise_normal(self)


def test_without_options_nothing_but_the_plain_networks_numbers_is_drawn():
    torch.manual_seed(0)
    expected = PlainUNet(4).state_dict()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    network = UNet(depth=3, width=4)
    weights = network.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in network.named_parameters()] == list(weights) == list(current_names(network, expected))
    assert all(torch.equal(*pair) for pair in zip(weights.values(), expected.values(), strict=True))


@pytest.mark.parametrize("options", [{}, {"upsampling": "nearest", "attention": True}], ids=str)
@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_earlier_versions_load(options, wrapped):
    network, other = (UNet(depth=3, width=2, **options) for _ in range(2))
    weights = network.state_dict()  # versions without MONAI's blocks numbered a level's convolution and norm
    names = {now: now.replace(".conv.", ".0.").replace(".adn.N.", ".1.") for now in weights}
    assert {"down.0.0.weight", "down.1.1.bias", "up.1.1.weight"} <= set(names.values())
    earlier = {name: weights[now] for now, name in names.items()}
    assert saved_names(network, earlier) == {now: name for now, name in names.items() if now != name}
    if wrapped:
        holder = nn.ModuleDict({"G": other})
        holder.load_state_dict({f"G.{name}": weight for name, weight in earlier.items()})
    else:
        other.load_state_dict(earlier)
    assert all(torch.equal(weight, weights[name]) for name, weight in other.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({name: weight for name, weight in earlier.items() if name != "down.1.1.bias"})


def test_the_gates_parameters_are_those_counted_by_hand():
    # For each skip of c channels: two 1×1 maps to c / 2 with a norm each, and one from there to the weight.
    gates = sum(2 * (c * c // 2 + 2 * (c // 2)) + c // 2 + 1 for c in (64, 128, 256, 512, 512, 512, 512))
    assert parameters(full_size(UNet, attention=True)) == 54_407_809 + gates


def test_gates_that_are_wide_open_leave_the_plain_network():
    torch.manual_seed(0)
    plain, gated = UNet(depth=3, width=4).eval(), UNet(depth=3, width=4, attention=True).eval()
    missing = gated.load_state_dict(plain.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert all(name.startswith("gates.") for name in missing.missing_keys)
    for gate in gated.gates:
        nn.init.constant_(gate.weight.bias, 100.0)
    image = random_image(2, 1, 16, 24)
    assert torch.equal(gated(image), plain(image))
    for gate in gated.gates:
        nn.init.constant_(gate.weight.bias, -100.0)
    assert not torch.allclose(gated(image), plain(image), atol=1e-3)


def test_gates_start_open():
    torch.manual_seed(0)
    network = UNet(depth=3, width=16, attention=True)
    skip, gating = random_image(2, 16, 8, 8), random_image(2, 16, 8, 8, seed=1)
    share = network.gates[-1](skip, gating) / skip
    assert share.min() > 0.9
    assert share.max() < 1


def test_a_gate_weighs_pixels_by_both_of_its_inputs():
    torch.manual_seed(0)
    gate = AttentionGate(4, 6).double()
    skip, gating = random_image(2, 4, 8, 6, dtype=torch.float64), random_image(2, 6, 8, 6, seed=1, dtype=torch.float64)

    def standardised(features):
        return (features - features.mean((2, 3), True)) / (features.var((2, 3), False, keepdim=True) + 1e-5).sqrt()

    mapped = [
        torch.einsum("oi,nihw->nohw", layers[0].weight[:, :, 0, 0], given)
        for layers, given in ((gate.skip, skip), (gate.gating, gating))
    ]
    agreement = torch.relu(standardised(mapped[0]) + standardised(mapped[1]))
    weight = torch.einsum("i,nihw->nhw", gate.weight.weight[0, :, 0, 0], agreement) + gate.weight.bias
    torch.testing.assert_close(gate(skip, gating), skip * torch.sigmoid(weight)[:, None])


def test_nearest_repeats_pixels_and_convolves_with_three_by_three():
    network = full_size(UNet, upsampling="nearest")
    up = 512 * 512 + 3 * 1024 * 512 + 1024 * 256 + 512 * 128 + 256 * 64 + 128 * 1
    assert parameters(network) == 54_407_809 - (4 * 4 - 3 * 3) * up
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(nn.Upsample) == 8
    assert nn.ConvTranspose2d not in kinds
