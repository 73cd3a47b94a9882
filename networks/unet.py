"""The modified U-Net generator of the pix2pix and CycleGAN tutorials (Isola et al. 2017, section 6.1.1)."""

import re
from collections import OrderedDict
from functools import partial

import torch
from monai.networks.blocks import ADN, Convolution
from torch import Tensor, nn

from networks.blocks import (
    Upsampling,
    current_names,
    initialise_normal,
    instance_norm,
    intermediate_features,
    require_size,
    upsample,
)
from networks.output import output_image

LEAKY, RELU = ("leakyrelu", {"negative_slope": 0.2, "inplace": True}), ("relu", {"inplace": True})
EARLIER_NAMES = re.compile(r"^(down|up)\.(\d+)\.([01])\.")  # of weights before the levels were MONAI's blocks
_four_by_four = partial(Convolution, 2, kernel_size=4, strides=2, padding=1, output_padding=0, bias=False)

OPEN_GATE_BIAS = 3.0  # σ(3) ≈ 0.95: training starts from nearly the plain skip


class AttentionGate(nn.Module):
    """The additive attention gate of Oktay et al. 2018 ("Attention U-Net", section 2.1).

    It weights each pixel of a skip by how well it agrees with the features of the coarser level: α = σ(ψ · ReLU(W_x x +
    W_g g) + b_ψ), and the skip becomes α x (equations 1 and 2, with both inputs on one grid). All of W and ψ are 1×1
    convolutions. MONAI's `AttentionBlock` follows each with batch norm, whose statistics mean little at a batch size of
    1 and differ between training and evaluation; here W_x and W_g have instance norm, and ψ has none: standardising a
    map of one channel would fix how much of each image passes.
    """

    def __init__(self, channels: int, gating_channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.skip = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), instance_norm(inner))
        self.gating = nn.Sequential(nn.Conv2d(gating_channels, inner, 1, bias=False), instance_norm(inner))
        self.weight = nn.Conv2d(inner, 1, 1)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Map a skip (N, channels, H, W) and features (N, gating_channels, H, W) to the weighted skip."""
        return skip * torch.sigmoid(self.weight(torch.relu(self.skip(skip) + self.gating(gating))))


class UNet(nn.Module):
    """A U-Net of 4×4 stride-2 convolutions with skips at every level and tanh at the end.

    At depth 8 and width 64 this is 256×256×1 → 1×1×512 → 256×256×1. The first layer has no norm, the innermost one
    neither (of a 1×1 map a norm would leave only the offset); dropout follows the innermost `depth - 5`
    up-convolutions, three at most, which is the only source of noise and is off in `eval` mode.

    Each level is MONAI's `Convolution` with its `ADN` (instance norm as group norm, see `blocks.instance_norm`).

    Args:
        depth: Number of halvings; the input's height and width must be multiples of `2**depth`.
        width: Channels of the first layer; they double per level up to 8 times this.
        dropout: Probability of dropping an activation.
        attention: Whether an attention gate weights each skip.
        upsampling: "transposed", or "nearest" against checkerboard; see `blocks.upsample`.
        in_channels: Channels of the image, which is one of several slices where there are more (`neighbours`).

    Attributes:
        stride: Height and width must be multiples of this, else `forward` raises a ValueError.
        feature_channels: Channels of what `features` returns.
    """

    def __init__(
        self,
        depth: int = 8,
        width: int = 64,
        dropout: float = 0.5,
        *,
        attention: bool = False,
        upsampling: Upsampling = "transposed",
        in_channels: int = 1,
    ):
        super().__init__()
        self.stride = 2**depth
        channels = [width * 2 ** min(level, 3) for level in range(depth)]
        self.down = nn.ModuleList(
            _down(in_channels if level == 0 else channels[level - 1], channels[level], norm=0 < level < depth - 1)
            for level in range(depth)
        )
        dropout_levels = min(3, max(0, depth - 5))
        self.up = nn.ModuleList(
            _up(
                channels[level] * (1 if level == depth - 1 else 2),
                channels[level - 1],
                dropout * (step < dropout_levels),
                upsampling,
            )
            for step, level in enumerate(range(depth - 1, 0, -1))
        )
        self.last = upsample(channels[0] * 2, 1, upsampling, kernel=4, bias=True)
        gates = [AttentionGate(size, size) for size in reversed(channels[:-1]) if attention]
        self.gates = nn.ModuleList(gates)
        self.taps = range(min(4, depth - 1))
        self.feature_channels = [in_channels, *(channels[level] for level in self.taps)]
        initialise_normal(self)
        for gate in gates:
            nn.init.constant_(gate.weight.get_parameter("bias"), OPEN_GATE_BIAS)
        self.register_load_state_dict_pre_hook(_rename_weights)

    def forward(self, image: Tensor, offset: Tensor | None = None) -> Tensor:
        """Translate (N, in_channels, H, W) in [-1, 1] to (N, 1, H, W) in that range; `offset` as in `output_image`."""
        self._require_size(image)
        skips = []
        features = image
        for down in self.down:
            features = down(features)
            skips.append(features)
        skips.pop()
        for index, up in enumerate(self.up):
            features, skip = up(features), skips.pop()
            if self.gates:
                skip = self.gates[index](skip, features)
            features = torch.cat([features, skip], dim=1)
        return output_image(features, self.last, offset)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the image and its encoding at strides 2, 4, 8 and 16, as PatchNCE compares them.

        Fewer where the network is shallow: never the innermost level, which may be a single pixel.
        """
        self._require_size(image)
        return intermediate_features(image, self.down, self.taps)

    @staticmethod
    def current_name(saved_name: str) -> str:
        """Return the present name of a weight: before the levels were MONAI's blocks, their layers had numbers."""
        blocks = {"0": "conv", "1": "adn.N"}
        return EARLIER_NAMES.sub(lambda match: f"{match[1]}.{match[2]}.{blocks[match[3]]}.", saved_name)

    def _require_size(self, image: Tensor) -> None:
        require_size(image, f"a U-Net of {len(self.down)} levels", self.stride)


def _down(in_channels: int, out_channels: int, *, norm: bool) -> Convolution:
    group_norm = ("group", {"num_groups": out_channels}) if norm else None
    return _four_by_four(in_channels, out_channels, adn_ordering="NA", act=LEAKY, norm=group_norm)


def _up(in_channels: int, out_channels: int, dropout: float, upsampling: Upsampling) -> nn.Sequential:
    norm, rate = ("group", {"num_groups": out_channels}), dropout or None
    if upsampling == "transposed":
        return _four_by_four(in_channels, out_channels, is_transposed=True, act=RELU, norm=norm, dropout=rate)
    adn = ADN("NDA", out_channels, RELU, norm, norm_dim=2, dropout=rate, dropout_dim=1)
    return nn.Sequential(OrderedDict(conv=upsample(in_channels, out_channels, upsampling, kernel=4), adn=adn))


def _rename_weights(network: nn.Module, weights: dict[str, Tensor], prefix: str, *_: object) -> None:
    renamed = current_names(network, weights, prefix)
    weights.clear()
    weights.update(renamed)
