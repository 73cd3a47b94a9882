"""Configuration of a run: every key with its type, bounds and default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from pipeline.config.methods import NATIVE, USUAL, AnyMethod, Discriminator, Generator
from pipeline.config.types import (
    Coverage,
    Name,
    Number,
    OnceEach,
    Percentiles,
    Portion,
    Positive,
    PositiveFloat,
    RegionName,
    Section,
    Share,
    Subfolder,
    UserPath,
    Whole,
)

REMOVED_KEYS = (("training", "loader_workers"),)  # of earlier releases: accepted, with a warning, and left out


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────


class PhantomData(Section):
    """A cohort of synthetic heads, computed on first use."""

    source: Literal["phantom"]
    folder: UserPath = Path("data/phantom")
    subjects: Annotated[Whole, Field(ge=1, le=10_000)] = 20
    spacing_mm: Annotated[Number, Field(ge=1, le=8)] = 2.0
    seed: Annotated[Whole, Field(ge=0)] = 0
    variety: Literal["standard", "randomised"] = "standard"  # one cohort at one scanner; or everything drawn anew


class IxiData(Section):
    """The unpacked IXI archives."""

    source: Literal["ixi"]
    folder: UserPath
    regions: dict[RegionName, str] = Field(default_factory=dict)  # masks or label maps, one pattern each, as for nifti


class NiftiData(Section):
    """A folder of NIfTI volumes: one glob pattern per contrast, with `{subject}` in it."""

    source: Literal["nifti"]
    folder: UserPath
    patterns: dict[str, str]
    regions: dict[RegionName, str] = Field(default_factory=dict)  # masks or label maps to score within, a pattern each


class ImagesData(Section):
    """Folders of 2D slices (PNG, JPEG, TIFF), one folder per contrast."""

    source: Literal["images"]
    folder: UserPath
    train: dict[str, Subfolder]
    test: dict[str, Subfolder] = Field(default_factory=dict)
    paired: bool = False  # whether equal file names in two contrasts mean the same slice of the same subject


DataSource = PhantomData | IxiData | NiftiData | ImagesData


class Split(Section):
    """Division of the subjects. A whole number counts subjects, a fraction is a share of them; the rest train."""

    file: UserPath | None = None
    seed: Whole = 0
    validation: Portion = 0.1
    test: Portion = 0.2
    pairing: Literal["unpaired", "paired"] = "unpaired"
    pairs: Annotated[Whole, Field(ge=0)] = 0  # training subjects shown in both contrasts, as pairs beside the others


class Spacing(Section):
    """Voxel spacing of the grid on which slices are cut, in millimetres."""

    in_plane: PositiveFloat
    through_plane: PositiveFloat


class Preprocess(Section):
    """Preprocessing from a volume to normalised slices."""

    axis: Literal["axial", "coronal", "sagittal"] = "axial"
    spacing_mm: Spacing | None = None  # None keeps each volume's own spacing
    size: Annotated[Whole, Field(ge=16, le=1024)] = 256
    n4: bool = False
    scaling: Literal["percentiles", "type_range"] = "percentiles"
    percentiles: Percentiles = (0.5, 99.5)
    min_foreground: Share = 0.05
    neighbours: Annotated[Whole, Field(ge=0, le=2)] = 0  # slices on either side that generators see, too
    coverage_mm: Coverage = "all"  # of the head along `axis`: "shared" is what both contrasts show; or mm from its end
    on_bad_volume: Literal["skip", "stop"] = "skip"
    store: UserPath = Path("data/store")
    processes: Positive | None = None  # None: one per core


class Augment(Section):
    """Random augmentation of the training slices, drawn anew each epoch; 0 (or 1 for `jitter`) switches one off."""

    horizontal_flip: Share = 0.5
    jitter: Annotated[Number, Field(ge=1, le=2)] = 1.0  # enlarge by this factor, then crop at random
    vertical_flip: Share = 0.0
    rotate90: Share = 0.0
    brightness: Share = 0.0  # largest shift, as a share of the intensity range
    contrast: Share = 0.0  # largest relative change of contrast
    # MONAI's random transforms after these, in order: [{RandGaussianNoised: {prob: 0.1, std: 0.05}}]
    monai: list[dict[str, dict[str, JsonValue] | None]] = Field(default_factory=list)


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────


class Training(Section):
    """Length of the training, optimiser, precision, and intervals of validation, samples and checkpoints."""

    start_from: UserPath | None = None  # a run's folder or checkpoint: begin from its weights; None: from random ones
    epochs: Positive = 100
    decay_epochs: Annotated[Whole, Field(ge=0)] = 100  # further epochs in which the learning rate falls linearly to 0
    steps_per_epoch: Positive | None = None  # None: one pass over the contrast with more slices
    batch_size: Positive = 1
    learning_rate: PositiveFloat = 2e-4
    discriminator_learning_rate: PositiveFloat | None = None  # None: the generators' rate
    discriminator_warmup: Annotated[Whole, Field(ge=0)] = 0  # first steps in which the discriminators alone move
    optimiser: Literal["adam", "rmsprop"] = "adam"
    beta1: Annotated[Number, Field(ge=0, lt=1)] = 0.5  # of adam
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    halve_every: Positive | None = None  # steps after which the learning rate is halved, again and again
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    tf32: bool = True  # a GPU may round factors of float32 to three digits, as torch lets convolutions
    cuda_graph: bool = False  # record a step once and replay it with one launch; needs a GPU and one process
    slices_on_device: bool = False  # keep all training slices in the memory of the GPU, uint16
    validate_every: Positive = 1  # epochs
    validation_slices: Positive = 200  # at most, spread evenly over the validation subjects
    sample_every: Positive = 1  # epochs
    sample_slices: Positive = 4
    log_every: Positive = 10  # steps
    checkpoint_minutes: PositiveFloat = 10.0  # besides the one at each epoch's end
    max_bad_steps: Positive = 20  # stop after this many non-finite losses in a row


class Evaluation(Section):
    """Measurements on the test subjects."""

    checkpoint: Literal["best", "latest"] = "best"
    # published ones, besides our own: their formulas, on our slices
    protocols: Annotated[list[Literal["syndiff", "selfrdb", "reggan"]], OnceEach] = Field(default_factory=list)
    register_pairs: bool = True  # rigidly, where a subject's contrasts lie on different grids
    translate: bool = True  # write the test subjects' translated volumes into the run's folder
    batch_size: Positive = 8
    uncertainty: bool = True  # calibrate `translate --uncertainty` on the validation subjects, and test it


class Tracking(Section):
    """Logging to MLflow; the run's metrics.jsonl is written in any case."""

    mlflow: bool = True
    experiment: str = "contrast-translation"
    run_name: str | None = None  # None: the run's name
    register_as: str | None = None  # registered model name, "-T1-to-T2" is appended; None: not registered


class Config(Section):
    """Configuration of one run."""

    name: Name
    output: UserPath | None = None  # None: runs/<name>
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None  # None: as many as torch chooses
    contrasts: tuple[Name, Name] = ("T1", "T2")
    data: Annotated[DataSource, Field(discriminator="source")]
    split: Split = Split()
    preprocess: Preprocess = Preprocess()
    augment: Augment = Augment()
    generator: Annotated[Generator, Field(discriminator="type")]
    discriminator: Annotated[Discriminator, Field(discriminator="type")]
    method: Annotated[AnyMethod, Field(discriminator="type")]
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, values: object) -> object:
        """Leave out keys of earlier releases, which old checkpoints hold, and fill in the usual `type` of sections."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for section, key in REMOVED_KEYS:
            if isinstance(filled.get(section), Mapping):
                filled[section] = {name: value for name, value in filled[section].items() if name != key}
        method = values.get("method")
        kind = method.get("type") if isinstance(method, Mapping) else None
        native = NATIVE.get(kind, {}) if isinstance(kind, str) else {}
        for key, usual in (USUAL | native).items():
            section = values.get(key, {})
            if isinstance(section, Mapping):
                filled[key] = {"type": usual, **section}
        return filled

    @property
    def folder(self) -> Path:
        """Folder of everything that the run writes."""
        return self.output or Path("runs") / self.name

    @property
    def starts_from_lookup(self) -> bool:
        """Whether generators start from a lookup that is fitted to the training slices, alone or with the box."""
        return getattr(self.generator, "start", None) is not None

    @property
    def starts_from_box(self) -> bool:
        """Whether the model in the box takes part in that start."""
        return getattr(self.generator, "start", None) == "box"

    @property
    def lookup_in_volume(self) -> bool:
        """Whether that lookup sees slices on either side, too: pictures have none."""
        return self.starts_from_lookup and self.data.source != "images"
