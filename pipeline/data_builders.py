"""From a configuration's sections to plain values: cases, split, training slices and schedule."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.load import load_config
from pipeline.config.schema import Config, ImagesData, IxiData, NiftiData, PhantomData, Training
from pipeline.data.case import Case
from pipeline.data.pair_cache import PairSettings
from pipeline.data.pairs import PairReader
from pipeline.data.regions import RegionFiles
from pipeline.data.slice_cache import CacheOptions
from pipeline.data.sources.listing import require_fetched
from pipeline.data.split_file import split_from_file
from pipeline.data.splits import CohortSplit, make_split
from pipeline.runs.contrasts import warn_of_ids, warn_unpaired
from pipeline.runs.prepare import PreparedData, chain_settings, prepare, registrations
from pipeline.training.schedule import Schedule
from pipeline.utils.errors import UserError
from transforms.context_lookup import ACROSS_MM
from transforms.neighbours import Neighbours
from transforms.slice_chain import CHAIN_VERSION, PreprocessSettings

if TYPE_CHECKING:
    from transforms.augmentation import Augmentation

logger = logging.getLogger(__name__)


def find_cases(config: Config, *, quiet: bool = False) -> list[Case]:
    """Return the cases of the configured source; a phantom that does not exist yet is made.

    Raises:
        UserError: There are no cases, or their files have not been fetched (git-annex, Git LFS).
    """
    data = config.data
    match data:
        case PhantomData():
            from pipeline.data.sources.phantom import phantom_cases

            return phantom_cases(
                data.folder, config.contrasts, subjects=data.subjects, spacing_mm=data.spacing_mm, seed=data.seed,
                variety=data.variety, processes=config.preprocess.processes, quiet=quiet,
            )  # fmt: skip
        case IxiData():
            from pipeline.data.sources.nifti_folder import ixi_cases

            cases = ixi_cases(data.folder, config.contrasts)
        case NiftiData():
            from pipeline.data.sources.nifti_folder import nifti_cases

            cases = nifti_cases(data.folder, data.patterns)
        case ImagesData():
            from pipeline.data.sources.image_folder import images_cases

            cases = images_cases(data.folder, data.train, data.test, data.paired)
    require_fetched([case for case in cases if case.contrast in config.contrasts])
    return cases


def find_regions(config: Config, cases: Sequence[Case]) -> RegionFiles:
    """Return the label maps and masks of the given cases' scans; a phantom's tissues are made where they are missing.

    Raises:
        UserError: a pattern matches nothing, or two files fit one scan alike.
    """
    data = config.data
    match data:
        case PhantomData() if data.variety == "standard":
            from pipeline.data.sources.phantom import phantom_tissues

            return phantom_tissues(cases, data.spacing_mm, data.seed, processes=config.preprocess.processes)
        case IxiData() | NiftiData() if data.regions:
            from pipeline.data.sources.region_files import region_files

            return region_files(data.folder, data.regions, cases)
    return {}


def find_splittable_cases(config: Config, saved_split: Path | None, *, quiet: bool) -> list[Case]:
    """Return the cases as `find_cases`; a phantom's split is checked before its heads are made.

    Raises:
        UserError: as `find_cases` and, of a phantom, `split_cases`.
    """
    if config.data.source == "phantom":
        split_cases(config, planned_cases(config), saved_split)
    return find_cases(config, quiet=quiet)


def planned_cases(config: Config) -> list[Case]:
    """Return the cases that the run would find; a phantom's images are listed but not made."""
    if config.data.source != "phantom":
        return find_cases(config)
    from pipeline.data.sources.phantom import planned_phantom

    data = config.data
    planned = planned_phantom(
        data.folder, config.contrasts, subjects=data.subjects, spacing_mm=data.spacing_mm, seed=data.seed,
        variety=data.variety,
    )  # fmt: skip
    return [case for subject_cases in planned.values() for case in subject_cases]


def planned_cases_of(config_file: Path) -> list[Case]:
    """Return the `planned_cases` of the configuration that a run saved."""
    return planned_cases(load_config(config_file, warn=False))


def split_cases(config: Config, cases: Sequence[Case], saved: Path | None = None) -> CohortSplit:
    """Return the split: the one that a resumed run saved, else that of the configured file, else a new random one.

    Raises:
        UserError: there are too few subjects, or none to test.
    """
    settings = config.split
    file = saved or settings.file
    if file is not None:
        split = split_from_file(file, cases, config.contrasts, pairing=settings.pairing, pairs_beside=settings.pairs)
    else:
        split = make_split(
            cases, config.contrasts, validation=settings.validation, test=settings.test, seed=settings.seed,
            pairing=settings.pairing, pairs_beside=settings.pairs,
        )  # fmt: skip
    if not split.test:  # refused before the data are prepared and hours are trained
        remedy = f"name some in split.file, {settings.file}" if settings.file else "set split.test to 1 or more"
        raise UserError(f"the split has no test subject; {remedy}")
    return split


def warn_of_other_split(config: Config, cases: Sequence[Case], saved: Path | None) -> None:
    """Warn where a run keeps its saved split although `split.file` names another one, or none that can be read."""
    if saved is None or config.split.file is None:
        return
    try:
        is_same = split_cases(config, cases) == split_cases(config, cases, saved)
    except UserError:
        is_same = False
    if not is_same:
        logger.warning(f"split.file = {config.split.file}: has no effect, for the run keeps the split of {saved}")


def prepare_data(
    config: Config,
    cases: Sequence[Case],
    saved_split: Path | None = None,
    *,
    saved_coverage: Path | None = None,
    paired: bool = False,
    quiet: bool = False,
    version: int = CHAIN_VERSION,
) -> PreparedData:
    """Split the cohort and prepare its training slices, and registered pairs if `paired`.

    A resumed run keeps its saved split, its saved range of the head, and the version of the slice chain.

    Raises:
        UserError: No data, too few subjects, or no usable image of a contrast, or no usable pair.
    """
    split = split_cases(config, cases, saved_split)
    warn_of_names(config, cases, split, paired=paired)
    preprocess, register = config.preprocess, config.evaluation.register_pairs
    settings = PairSettings(preprocess_settings(config, version), preprocess.min_foreground, register)
    cache = CacheOptions(preprocess.store, preprocess.processes, preprocess.on_bad_volume, quiet)
    return prepare(
        cases, split, settings, cache,
        coverage_mm=preprocess.coverage_mm, saved_coverage=saved_coverage, paired=paired,
        lookup=config.starts_from_lookup,
    )  # fmt: skip


def warn_of_names(config: Config, cases: Sequence[Case], split: CohortSplit, *, paired: bool) -> None:
    """Warn of subjects' names that nearly agree in the two contrasts and, for paired training, of unpaired images."""
    if names_mean_subjects(config):
        warn_of_ids(cases, config.contrasts, split)
    if paired and config.split.file is None:  # a file names all images explicitly
        warn_unpaired(cases, config.contrasts, split)


def slice_neighbours(config: Config) -> Neighbours:
    """Return which slices of a volume generators see with a slice: those configured, and those of a lookup."""
    return Neighbours(config.preprocess.neighbours, ACROSS_MM if config.lookup_in_volume else ())


def augmentation_of(config: Config) -> "Augmentation":
    """Return the augmentation of training slices; sagittal ones have no left and right to be mirrored."""
    from transforms.augmentation import Augmentation
    from transforms.monai_augmentation import MonaiAugmentation

    options = config.augment.model_dump(exclude={"monai"})
    if config.preprocess.axis == "sagittal":
        options["horizontal_flip"] = 0.0
    extra = MonaiAugmentation(config.augment.monai) if config.augment.monai else None
    return Augmentation(**options, extra=extra)


def names_mean_subjects(config: Config) -> bool:
    """Whether equal names mean equal subjects: not of a phantom, nor of pictures numbered contrast by contrast."""
    data = config.data
    return data.source != "phantom" and not (data.source == "images" and not data.paired)


def preprocess_settings(config: Config, version: int = CHAIN_VERSION) -> PreprocessSettings:
    """Return the settings of the slice chain, in a version of it."""
    return chain_settings(config.preprocess.model_dump(mode="json"), version)


def pair_reader(config: Config, version: int, stride: int) -> PairReader:
    """Return the reader of volumes and pairs, padded to multiples of `stride`, in a version of the slice chain."""
    return PairReader(
        preprocess_settings(config, version),
        stride,
        register=config.evaluation.register_pairs,
        registrations=registrations(config.preprocess.store),
    )


def schedule_of(training: Training, slices: int) -> Schedule:
    """Return the schedule of a training on as many slices of the contrast with more of them, or as many pairs."""
    return Schedule(
        steps_per_epoch=training.steps_per_epoch or -(-slices // training.batch_size),
        constant_epochs=training.epochs,
        decay_epochs=training.decay_epochs,
        batch_size=training.batch_size,
        log_every=training.log_every,
        validate_every_epochs=training.validate_every,
        sample_every_epochs=training.sample_every,
        checkpoint_seconds=60 * training.checkpoint_minutes,
        max_bad_steps=training.max_bad_steps,
        halve_every=training.halve_every,
        discriminator_warmup=training.discriminator_warmup,
    )
