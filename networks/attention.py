"""The additive attention gate (Oktay et al. 2018, "Attention U-Net", section 2.1)."""

import torch
from torch import Tensor, nn

from networks.blocks import instance_norm

OPEN = 3.0  # σ(3) ≈ 0.95


class AttentionGate(nn.Module):
    """Weights each pixel of a skip by how well it agrees with the features of the coarser level.

    α = σ(ψ · ReLU(W_x x + W_g g) + b_ψ), and the skip becomes α x (equations 1 and 2, with both inputs on one grid).
    All of W and ψ are 1×1 convolutions. MONAI's `AttentionBlock` follows each with batch norm, whose statistics mean
    little at a batch size of 1 and differ between training and evaluation; here W_x and W_g have instance norm, and
    ψ has none: standardising a map of one channel would fix how much of each image passes.

    Args:
        channels: Channels of the skip.
        gating_channels: Channels of the features of the coarser level.
    """

    def __init__(self, channels: int, gating_channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.skip = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), instance_norm(inner))
        self.gating = nn.Sequential(nn.Conv2d(gating_channels, inner, 1, bias=False), instance_norm(inner))
        self.weight = nn.Conv2d(inner, 1, 1)

    def open(self) -> None:
        """Let nearly everything through, so that training starts from the plain skip."""
        nn.init.constant_(self.weight.get_parameter("bias"), OPEN)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Map a skip (N, channels, H, W) and features (N, gating_channels, H, W) to the weighted skip."""
        return skip * torch.sigmoid(self.weight(torch.relu(self.skip(skip) + self.gating(gating))))
