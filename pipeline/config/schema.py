"""The configuration of a run: every key, its type, its bounds and its default."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

# A validator's message is the rule, worded to follow "must be".


def _no_yes(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _name(value: str) -> str:
    if not value or value in (".", "..") or set(value) & set("/\\\0\n\r"):
        raise ValueError("a name, not empty and without / or \\")
    return value


def _portion(value: object) -> int | float:
    """Accept a whole number of subjects, or a share of them in [0, 1)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not (0 <= number < 1 or (number >= 1 and number.is_integer())):
        raise ValueError("a whole number of subjects, or a share of them from 0 to below 1")
    return int(number) if isinstance(value, int) or number >= 1 else number


def _in_order(percentiles: tuple[float, float]) -> tuple[float, float]:
    if percentiles[0] >= percentiles[1]:
        raise ValueError("in order, the lower one first")
    return percentiles


Whole, Number = Annotated[int, BeforeValidator(_no_yes)], Annotated[float, BeforeValidator(_no_yes)]
Positive = Annotated[Whole, Field(ge=1)]
PositiveFloat = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Name = Annotated[str, AfterValidator(_name)]
Portion = Annotated[int | float, PlainValidator(_portion)]
Lower, Upper = Annotated[Number, Field(ge=0, lt=100)], Annotated[Number, Field(gt=0, le=100)]
Percentiles = Annotated[tuple[Lower, Upper], AfterValidator(_in_order)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, and nothing changes it once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────


class PhantomData(Section):
    """A cohort of synthetic heads made on the spot."""

    source: Literal["phantom"]
    folder: Path = Path("data/phantom")
    subjects: Annotated[Whole, Field(ge=1, le=10_000)] = 20
    spacing_mm: Annotated[Number, Field(ge=1, le=8)] = 2.0
    seed: Annotated[Whole, Field(ge=0)] = 0


class IxiData(Section):
    """The IXI archives as they unpack."""

    source: Literal["ixi"]
    folder: Path


class NiftiData(Section):
    """Any folder of NIfTI volumes: one glob per contrast, with `{subject}` in it."""

    source: Literal["nifti"]
    folder: Path
    patterns: dict[str, str]


class ImagesData(Section):
    """Folders of 2D slices (PNG, JPEG, TIFF), one folder per contrast."""

    source: Literal["images"]
    folder: Path
    train: dict[str, str]
    test: dict[str, str] = {}
    paired: bool = False  # whether equal file names in two contrasts mean the same slice of the same subject


DataSource = PhantomData | IxiData | NiftiData | ImagesData
SOURCES = tuple(get_args(source.model_fields["source"].annotation)[0] for source in get_args(DataSource))


class Split(Section):
    """How subjects are divided. A whole number counts subjects, a fraction is a share of them; the rest train."""

    file: Path | None = None
    seed: Whole = 0
    validation: Portion = 0.1
    test: Portion = 0.2
    pairing: Literal["unpaired", "paired"] = "unpaired"


class Spacing(Section):
    """The grid on which slices are cut, in millimetres."""

    in_plane: PositiveFloat
    through_plane: PositiveFloat


class Preprocess(Section):
    """From a volume to normalised slices."""

    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    spacing_mm: Spacing | None = None  # None keeps each volume's own spacing
    size: Annotated[Whole, Field(ge=16, le=1024)] = 256
    n4: bool = False
    scaling: Literal["percentiles", "type_range"] = "percentiles"
    percentiles: Percentiles = (0.5, 99.5)
    min_foreground: Share = 0.05
    on_bad_volume: Literal["skip", "stop"] = "skip"
    store: Path = Path("data/store")
    processes: Positive | None = None  # None: one per core


class Augment(Section):
    """Random changes of the training slices, drawn anew each epoch; 0 (or 1 for `jitter`) switches one off."""

    horizontal_flip: Share = 0.5
    jitter: Annotated[Number, Field(ge=1, le=2)] = 1.0  # enlarge by this factor, then crop at random
    vertical_flip: Share = 0.0
    rotate90: Share = 0.0
    brightness: Share = 0.0  # largest shift, as a share of the intensity range
    contrast: Share = 0.0  # largest relative change of contrast


# ── networks and method ─────────────────────────────────────────────────────────────────────────────────────


class UNetGenerator(Section):
    """The modified U-Net of the pix2pix and CycleGAN tutorials."""

    type: Literal["unet"] = "unet"
    width: Positive = 64
    depth: Annotated[Whole, Field(ge=2, le=10)] | None = None  # None: down to 1×1
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.5


class PatchGanDiscriminator(Section):
    """The 70×70 PatchGAN at three layers."""

    type: Literal["patchgan"] = "patchgan"
    width: Positive = 64
    layers: Annotated[Whole, Field(ge=1, le=5)] = 3


class CycleGan(Section):
    """CycleGAN (Zhu et al. 2017)."""

    type: Literal["cyclegan"] = "cyclegan"
    adversarial: Literal["bce", "least_squares"] = "least_squares"
    cycle_weight: Annotated[Number, Field(ge=0)] = 10.0
    identity_share: Annotated[Number, Field(ge=0)] = 0.5  # identity weight = this × cycle_weight
    discriminator_scale: PositiveFloat = 0.5
    pool_size: Annotated[Whole, Field(ge=0)] = 50
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.0  # 0: evaluate and translate with the raw generators


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────


class Training(Section):
    """How long, how fast, how often."""

    epochs: Positive = 100
    decay_epochs: Annotated[Whole, Field(ge=0)] = 100  # further epochs in which the learning rate falls linearly to 0
    steps_per_epoch: Positive | None = None  # None: one pass over the contrast with more slices
    batch_size: Positive = 1
    learning_rate: PositiveFloat = 2e-4
    discriminator_learning_rate: PositiveFloat | None = None  # None: the generators' rate
    beta1: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    loader_workers: Annotated[Whole, Field(ge=0)] = 0
    validate_every: Positive = 1  # epochs
    validation_slices: Positive = 200  # at most, spread evenly over the validation subjects
    sample_every: Positive = 1  # epochs
    sample_slices: Positive = 4
    log_every: Positive = 10  # steps
    checkpoint_minutes: PositiveFloat = 10.0  # besides the one at each epoch's end
    max_bad_steps: Positive = 20  # stop after this many non-finite losses in a row


class Evaluation(Section):
    """What is measured on the test subjects."""

    checkpoint: Literal["best", "latest"] = "best"
    protocols: list[Literal["syndiff", "selfrdb", "reggan"]] = []  # published ones, besides our own
    register_pairs: bool = True  # rigidly, where a subject's contrasts lie on different grids
    translate: bool = True  # write the test subjects' translated volumes into the run's folder
    batch_size: Positive = 8


class Tracking(Section):
    """MLflow; the run's own metrics.jsonl is always written."""

    mlflow: bool = True
    experiment: str = "contrast-translation"
    run_name: str | None = None  # None: the run's name
    register_as: str | None = None  # registered model name, "-T1-to-T2" is appended; None: not registered


class Config(Section):
    """One run."""

    name: Name
    output: Path | None = None  # None: runs/<name>
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Positive | None = None  # None: all cores
    contrasts: tuple[Name, Name] = ("T1", "T2")
    data: Annotated[DataSource, Field(discriminator="source")]
    split: Split = Split()
    preprocess: Preprocess = Preprocess()
    augment: Augment = Augment()
    generator: UNetGenerator = UNetGenerator()
    discriminator: PatchGanDiscriminator = PatchGanDiscriminator()
    method: CycleGan = CycleGan()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    @property
    def folder(self) -> Path:
        """The folder that holds everything the run makes."""
        return self.output or Path("runs") / self.name
