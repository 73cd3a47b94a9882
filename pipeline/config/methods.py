"""Configuration of networks and methods: every kind with its keys, their bounds and defaults."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.config.types import Number, Positive, PositiveFloat, Section, Whole

# ── networks ────────────────────────────────────────────────────────────────────────────────────────────────

UpSampling = Literal["transposed", "nearest"]  # nearest-neighbour and a convolution leaves no checkerboard
# What the network learns to correct: a lookup, fitted without pairs, or the mean of one and of the model in the box.
Start = Literal["lookup", "box"] | None


class UNetGenerator(Section):
    """The modified U-Net of the pix2pix and CycleGAN tutorials."""

    type: Literal["unet"] = "unet"
    start: Start = None
    width: Positive = 64
    depth: Annotated[Whole, Field(ge=2, le=10)] | None = None  # None: down to 1×1
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    attention: bool = False  # gates on the skips
    upsampling: UpSampling = "transposed"


class ResNetGenerator(Section):
    """CycleGAN's generator: downsampling, residual blocks, upsampling; nine blocks at 256 pixels, six at 128."""

    type: Literal["resnet"] = "resnet"
    start: Start = None
    width: Positive = 64
    downs: Annotated[Whole, Field(ge=1, le=6)] = 2
    blocks: Positive = 9
    upsampling: UpSampling = "transposed"


class ResidualConcatGenerator(Section):
    """Downsampling, blocks whose output is concatenated with their input, upsampling."""

    type: Literal["residual_concat"] = "residual_concat"
    start: Start = None
    width: Positive = 64
    downs: Annotated[Whole, Field(ge=1, le=6)] = 2
    blocks: Positive = 6
    upsampling: UpSampling = "transposed"


class SkipGenerator(Section):
    """Few halvings, scaled residual blocks, doublings to which the encoder's features are added: keeps detail."""

    type: Literal["skip"] = "skip"
    start: Start = None
    width: Positive = 16
    downs: Annotated[Whole, Field(ge=1, le=6)] = 2
    blocks: Positive = 4
    norm: Literal["instance", "none"] = "instance"  # none keeps grey levels, and needs a rate below 0.001


MonaiNetwork = Literal[
    "AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "FlexibleUNet", "SegResNet", "UNet", "VNet"
]  # as in networks/monai_networks.py


class MonaiGenerator(Section):
    """A network of monai.networks.nets with tanh at its end; with any method but cut, munit and unit."""

    type: Literal["monai"] = "monai"
    start: Start = None
    network: MonaiNetwork = "AttentionUnet"
    arguments: dict[str, Any] = Field(default_factory=dict)  # of its constructor; not the images' channels


class MunitGenerator(Section):
    """Content encoder, style encoder and decoder for each contrast; for method munit only."""

    type: Literal["munit"] = "munit"
    width: Positive = 64
    downs: Annotated[Whole, Field(ge=1, le=4)] = 2
    style_downs: Annotated[Whole, Field(ge=2, le=6)] = 4
    blocks: Positive = 4
    style_size: Positive = 8
    mlp_width: Positive = 256


class UnitGenerator(Section):
    """An encoder and a decoder for each contrast with a shared latent space; for method unit only."""

    type: Literal["unit"] = "unit"
    width: Positive = 64
    downs: Annotated[Whole, Field(ge=1, le=6)] = 2
    blocks: Positive = 4  # residual blocks of an encoder, and of a decoder
    shared_blocks: Annotated[Whole, Field(ge=0)] = 1  # of these, the ones next to the latent that both contrasts share
    upsampling: UpSampling = "transposed"


class PatchGanDiscriminator(Section):
    """PatchGAN discriminator; its receptive field is 70×70 pixels with three layers."""

    type: Literal["patchgan"] = "patchgan"
    width: Positive = 64
    layers: Annotated[Whole, Field(ge=1, le=5)] = 3
    norm: Literal["instance", "group", "none"] = "instance"
    spectral_norm: bool = False


class MultiScaleDiscriminator(Section):
    """PatchGAN discriminators without normalisation layers, on the image at several scales, as in MUNIT."""

    type: Literal["multiscale"] = "multiscale"
    width: Positive = 64
    layers: Annotated[Whole, Field(ge=1, le=5)] = 4
    scales: Annotated[Whole, Field(ge=1, le=5)] = 3
    spectral_norm: bool = False


Generator = (
    UNetGenerator
    | ResNetGenerator
    | ResidualConcatGenerator
    | SkipGenerator
    | MonaiGenerator
    | MunitGenerator
    | UnitGenerator
)
Discriminator = PatchGanDiscriminator | MultiScaleDiscriminator

# ── methods ─────────────────────────────────────────────────────────────────────────────────────────────────

Weight = Annotated[Number, Field(ge=0)]
Adversarial = Literal["bce", "least_squares"]


class Method(Section):
    """Keys of every method. Its `type` is the name of its module in `pipeline.engines`."""

    discriminator_scale: PositiveFloat = 0.5
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.0  # 0: evaluate and translate with the raw generators


class Structure(Section):
    """A loss that ties a translation's local structure to its source's; see pipeline/engines/structure.py."""

    type: Literal["none", "mind", "ngf", "lncc"] = "none"
    weight: Weight = 1.0  # of the loss of each direction
    ramp_steps: Annotated[Whole, Field(ge=0)] = 0  # over which the weight grows from 0


class UnpairedMethod(Method):
    """Keys of every method that learns without pairs."""

    structure: Structure = Structure()
    lookup_weight: Weight = 0.0  # of the L1 distance to the lookup that generators start from
    discriminator_slices: Annotated[Whole, Field(ge=2, le=256)] | None = None  # a step, of each kind; None: the batch
    r1_weight: Weight = 0.0  # γ of the discriminators' R1 penalty
    r1_every: Positive = 16  # steps of which one has the penalty, with that many times its weight


class CycleGan(UnpairedMethod):
    """CycleGAN (Zhu et al. 2017)."""

    type: Literal["cyclegan"] = "cyclegan"
    adversarial: Adversarial = "least_squares"
    cycle_weight: Weight = 10.0
    identity_share: Weight = 0.5  # identity weight = this × cycle_weight
    pool_size: Annotated[Whole, Field(ge=0)] = 50
    paired_weight: PositiveFloat = 10.0  # of the L1 loss on the pairs that split.pairs asks for


class DualGan(UnpairedMethod):
    """DualGAN (Yi et al. 2017), by default with least squares and L1 reconstruction."""

    type: Literal["dualgan"] = "dualgan"
    adversarial: Literal["bce", "least_squares", "wasserstein"] = "least_squares"
    reconstruction_weight: Weight = 10.0
    clip: PositiveFloat | None = None  # wasserstein: bound on the critics' weights
    gradient_penalty: Weight = 0.0  # wasserstein: γ of WGAN-GP
    critic_steps: Positive = 1  # critic updates to one of the generators


class Munit(UnpairedMethod):
    """MUNIT (Huang et al. 2018): content shared, style per contrast."""

    type: Literal["munit"] = "munit"
    adversarial: Adversarial = "least_squares"
    discriminator_scale: PositiveFloat = 1.0
    adversarial_weight: Weight = 1.0
    image_weight: Weight = 10.0  # reconstruction of an image from its own content and style
    content_weight: Weight = 1.0
    style_weight: Weight = 1.0
    cycle_weight: Weight = 0.0  # explicit cycle
    translate_with: Literal["mean", "random"] = "mean"  # the training cohort's mean style, or one drawn at random


class Unit(UnpairedMethod):
    """UNIT (Liu et al. 2017): variational auto-encoders with one latent space, weighted as its authors' code has it."""

    type: Literal["unit"] = "unit"
    adversarial: Adversarial = "least_squares"
    discriminator_scale: PositiveFloat = 1.0
    adversarial_weight: Weight = 1.0
    image_weight: Weight = 10.0  # reconstruction of an image from its own latent
    kl_weight: Weight = 0.02  # of its latent's divergence from N(0, 1); the code's 0.01, which leaves out a half
    cycle_weight: Weight = 10.0  # reconstruction by way of the other contrast
    cycle_kl_weight: Weight = 0.02  # of the translation's latent


class Pix2Pix(Method):
    """pix2pix (Isola et al. 2017) on registered pairs: the bound that unpaired methods are measured against."""

    type: Literal["pix2pix"] = "pix2pix"
    adversarial: Adversarial = "bce"
    adversarial_weight: Weight = 1.0  # 0: plain regression, without discriminators
    l1_weight: PositiveFloat = 100.0
    ssim_weight: Weight = 0.0  # of 1 - SSIM beside it, which keeps detail that an L1 distance alone blurs


class Cut(UnpairedMethod):
    """CUT (Park et al. 2020): one-sided, patches of the output must resemble their own place in the input."""

    type: Literal["cut"] = "cut"
    adversarial: Adversarial = "least_squares"
    nce_weight: Weight = 1.0  # of each term, as in the paper's equation 5; its authors' code has 0.5 with identity
    identity: bool = True  # the same loss between a target image and its translation to itself
    temperature: PositiveFloat = 0.07
    patches: Positive = 256  # a layer and image
    head_width: Positive = 256


AnyMethod = CycleGan | DualGan | Munit | Unit | Pix2Pix | Cut
PAIRED = ("pix2pix",)  # methods that learn from both contrasts of one slice
ADMIT_PAIRS = ("cyclegan",)  # methods that can learn from a few pairs beside unpaired slices
NATIVE = {  # networks of methods that need their own kinds
    "munit": {"generator": "munit", "discriminator": "multiscale"},
    "unit": {"generator": "unit", "discriminator": "multiscale"},
}
SUITABLE_GENERATORS = {
    "munit": ("munit",),
    "unit": ("unit",),
    "cut": ("unet", "resnet", "residual_concat", "skip"),  # those with features to compare
    "any other": ("unet", "resnet", "residual_concat", "skip", "monai"),
}
USUAL = {"generator": "unet", "discriminator": "patchgan", "method": "cyclegan"}
