"""The feature network of contrastive unpaired translation (CUT; Park et al. 2020, section 3.2)."""

from typing import Protocol

from torch import Tensor, nn
from torch.nn.functional import normalize

from networks.blocks import initialise_normal


class FeatureGenerator(Protocol):
    """A generator whose layers can be compared."""

    feature_channels: list[int]  # of what `features` returns

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the image (N, 1, H, W), and the outputs (N, C, h, w) of layers of the encoder."""


class PatchFeatureHead(nn.Module):
    """H_l: a perceptron of two layers for each of the generator's tapped layers, onto the unit sphere.

    The perceptrons are made in the constructor, from the generator's `feature_channels`, so that optimiser, checkpoint
    and parameter count include them from the first step on. `width` is the length of the vectors that are compared.
    """

    def __init__(self, channels: list[int], width: int = 256):
        super().__init__()
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.Linear(size, width), nn.ReLU(inplace=True), nn.Linear(width, width)) for size in channels
        )
        initialise_normal(self)

    def forward(self, samples: list[Tensor]) -> list[Tensor]:
        """Map feature vectors (N, P, channels[l]) at P positions to vectors (N, P, width) of length 1, layer by
        layer.
        """
        return [
            normalize(perceptron(vectors), dim=-1)
            for perceptron, vectors in zip(self.perceptrons, samples, strict=True)
        ]
