"""Layers, residual block and initialisation that several networks share."""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrizations

Upsampling = Literal["transposed", "nearest"]


def instance_norm(channels: int) -> nn.GroupNorm:
    """Return instance normalisation with learned scale and offset (Ulyanov et al. 2016).

    It is group normalisation with one channel a group: the same arithmetic, faster on a CPU, and defined for a batch
    of 1×1 maps, where `nn.InstanceNorm2d` raises.
    """
    return nn.GroupNorm(channels, channels)


def as_group_norms(network: nn.Module) -> nn.Module:
    """Replace instance norms, and batch norms, by instance norm as group norm, with fresh weights; return the network.

    The statistics of a batch mean little at a batch size of 1, and would mix images that share a pass.
    """
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d | nn.BatchNorm2d | nn.SyncBatchNorm):
                channels = child.num_features
                setattr(module, name, nn.GroupNorm(channels, channels, child.eps, child.affine))
    return network


def reflect_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """Return a convolution that pads by reflection: an odd kernel keeps the size, 4×4 at stride 2 halves it.

    A reflected border continues the image; zeros, which are mid-grey in [-1, 1], would draw an edge around it.
    """
    return nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, bias=bias, padding_mode="reflect")


def upsample(
    in_channels: int, out_channels: int, upsampling: Upsampling, *, kernel: Literal[3, 4], bias: bool = False
) -> nn.Module:
    """Return a layer that doubles height and width.

    "transposed" is a stride-2 transposed convolution of the given kernel. "nearest" repeats every pixel twice and
    convolves with a 3×3 kernel: the transposed one visits neighbouring pixels unequally often (kernel 3) or with
    different weights (kernel 4), which shows as a checkerboard (Odena et al. 2016, "Deconvolution and checkerboard
    artifacts").
    """
    if upsampling == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, kernel, 2, 1, output_padding=kernel % 2, bias=bias)
    pixels_twice = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(pixels_twice, reflect_conv(in_channels, out_channels, 3, bias=bias))


def conv_norm_act(convolution: nn.Module, channels: int) -> nn.Sequential:
    """Return a convolution that gives `channels`, followed by instance norm and ReLU."""
    return nn.Sequential(convolution, instance_norm(channels), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with instance norm, ReLU between them, added to their input (Johnson et al. 2016)."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            reflect_conv(channels, channels, 3),
            instance_norm(channels),
            nn.ReLU(inplace=True),
            reflect_conv(channels, channels, 3),
            instance_norm(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape; H and W must be at least 2."""
        return features + self.layers(features)


def require_size(image: Tensor, network: str, stride: int = 1, minimum: int = 1) -> None:
    """Raise a ValueError unless height and width are multiples of `stride` and at least `minimum`.

    `network` is what the message calls the network, with its article; the image is (N, C, H, W).
    """
    height, width = image.shape[-2:]
    if height % stride or width % stride or height < minimum or width < minimum:
        multiples = f" to multiples of {stride}" if stride > 1 else ""
        smallest = f"{',' if multiples else ' to'} at least {minimum}" if minimum > stride else ""
        raise ValueError(f"slices of {height}×{width} pixels do not fit {network}; pad both sides{multiples}{smallest}")


def intermediate_features(image: Tensor, layers: Iterable[nn.Module], taps: Collection[int]) -> list[Tensor]:
    """Return the image and the outputs of the layers numbered in `taps`, which contrastive losses compare.

    The layers run one after the other; those after the last tap do not run.
    """
    outputs, features = [image], image
    for index, layer in enumerate(layers):
        if index > max(taps):
            break
        features = layer(features)
        if index in taps:
            outputs.append(features)
    return outputs


def current_names(network: nn.Module, weights: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Return weights, of which those that an earlier release saved under other names have their present names.

    A network with renamed layers has a method `current_name`, from a saved name to the present one.
    """
    current_name = getattr(network, "current_name", str)
    return {
        prefix + current_name(name.removeprefix(prefix)) if name.startswith(prefix) else name: weight
        for name, weight in weights.items()
    }


def saved_names(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Return the names in a checkpoint of weights that have others in the network now, by the present name.

    The name of what the checkpoint lacks, because an earlier release had no such buffer, is None.
    """
    names = dict(zip(current_names(network, weights), weights, strict=True))
    return {present: names.get(present) for present in network.state_dict() if names.get(present) != present}


def normalise_spectrally(network: nn.Module) -> nn.Module:
    """Divide the weight of every convolution by its largest singular value (Miyato et al. 2018).

    The value is estimated by one power iteration a forward pass in `train` mode. Call it after the weights are
    initialised, and after `cpu_kernels.accelerate`. Returns the network, for chaining.

    Besides instance norms, as in `PatchGAN` and SPADE (Park et al. 2019, section 3), it acts on the first and the last
    layer alone: an instance norm undoes any scaling of the convolution before it.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            parametrizations.spectral_norm(module)
    return network


def initialise_normal(network: nn.Module, deviation: float = 0.02) -> nn.Module:
    """Draw weights of convolutions and linear layers from N(0, deviation), of norms from N(1, deviation).

    All offsets become zero. Returns the network, for chaining (Radford et al. 2016, section 3; used by pix2pix,
    CycleGAN and CUT).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, deviation)
        elif isinstance(module, nn.GroupNorm | nn.InstanceNorm2d) and module.weight is not None:
            nn.init.normal_(module.weight, 1.0, deviation)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


def initialise_kaiming(network: nn.Module) -> nn.Module:
    """Draw weights of convolutions and linear layers from N(0, √(2 / fan-in)) and zero their offsets.

    Norms keep a scale of 1 and an offset of 0. Returns the network, for chaining (He et al. 2015; used by MUNIT).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
