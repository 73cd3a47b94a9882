"""Translates volumes with a trained model and writes the translations on the sources' grids.

python -m pipeline.translate -i data/ixi/IXI-T1 -o translated --model runs/ixi --to T2
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.inference.batch.batch import job_opener, job_translator, print_outcome, translate_jobs, write_summary
from pipeline.inference.batch.batch_summary import (
    default_summary_path,
    require_no_foreign_summary,
    require_summary_path,
    restore_skipped,
)
from pipeline.inference.batch.bids_dataset import BidsDerivative
from pipeline.inference.batch.bids_names import Dataset, bids_suffixes, dataset_jobs, open_dataset
from pipeline.inference.batch.early_checks import require_usable
from pipeline.inference.batch.existing import pending_jobs
from pipeline.inference.batch.jobs import NOT_DONE, Job, StopSignals, dry_run_table, exit_code
from pipeline.inference.batch.options import parser, without_two_dashes
from pipeline.inference.batch.outputs import all_inputs, clear_leftovers, plan_jobs, require_writable
from pipeline.inference.batch.prefetch import Prefetcher
from pipeline.inference.batch.provenance import CommandModel
from pipeline.inference.batch.sharding import gather_jobs, shard, update_other_jobs
from pipeline.inference.batch.uncertainty_maps import plan_uncertainty_maps
from pipeline.utils.console import cli_main, echo, warnings_as_lines
from pipeline.utils.distributed import World, world_from_env
from pipeline.utils.errors import EXIT_DONE, UserError
from pipeline.utils.files import is_file, is_folder

if TYPE_CHECKING:
    import nibabel as nib
    from nibabel.spatialimages import SpatialImage

    from pipeline.inference.model import TranslationModel
    from pipeline.inference.multi_view import MultiViewTranslator


def translate(
    image: "str | Path | SpatialImage",
    model: "str | Path | TranslationModel",
    to: str | None = None,
    *,
    batch_size: int = 8,
    device: str = "auto",
    precision: str = "model",
    style: "str | Path | None" = None,
    keep_header_text: bool = False,
    strict: bool = False,
) -> "nib.Nifti1Image":
    """Translate one volume and return it as a nibabel image on the source's grid.

    Args:
        image: A NIfTI file or a nibabel image.
        model: A run folder, a checkpoint, `runs:/RUN_ID/MODEL`, `models:/NAME@ALIAS`, or a model loaded by
            `pipeline.inference.model.load_model` (sooner, for many volumes).
        to: The contrast to make; may be left out where the model makes only one.
        batch_size: Slices in a batch.
        device: "auto", "cpu", "cuda" or "mps"; ignored for a loaded model, which stays on its device.
        precision: "float32", "bf16", or "model" for the training precision (on the CPU float32).
        style: A volume of the contrast `to` whose style the result takes on, for MUNIT; a loaded model keeps it.
        keep_header_text: Whether the source's free text and header extensions stay; they may hold names.
        strict: Whether a volume that is unlike the model's training cohort is refused; otherwise a warning names it.

    Raises:
        UserError: the volume or the model cannot be used, or the model does not make that contrast.
    """
    from pipeline.inference.model import TranslationModel, load_model
    from pipeline.inference.translator import translate_volume

    loaded = model if isinstance(model, TranslationModel) else load_model(model, device)
    loaded = loaded.in_precision(precision)
    target = loaded.target(to)
    if style is not None:
        from pipeline.inference.style import use_style_of

        use_style_of(Path(style), loaded, target)
    options = {"batch_size": batch_size, "keep_header_text": keep_header_text, "strict": strict}
    return translate_volume(image, loaded, target, **options)


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Translate volumes; return the exit code."""
    # Read the options and plan the jobs.
    arguments = parser().parse_args(without_two_dashes(sys.argv[1:] if argv is None else argv))
    started, world = time.time(), world_from_env()
    _check_options(arguments, world)
    model = _command_model(arguments)
    derivative, jobs = _plan(arguments, model)
    quiet = arguments.quiet or not world.is_main
    pending_options = {"overwrite": arguments.overwrite, "to": arguments.to, "quiet": quiet, "model": model}
    if arguments.dry_run:
        pending_jobs(jobs, **pending_options)
        if world.is_main:
            echo(dry_run_table(jobs))
        return EXIT_DONE

    # Translate this process's jobs, and gather those of all processes.
    own_jobs = shard(jobs, world)
    first_missing = next((job for job in own_jobs if job.status == NOT_DONE and not is_file(job.target)), None)
    if first_missing is not None:
        require_writable(first_missing.target.parent)  # before the model is loaded
    pending = pending_jobs(own_jobs, **pending_options)
    with StopSignals() as stop:
        if pending:
            require_writable(pending[0].target.parent)
            _translate_pending(pending, model, derivative, arguments, world, stop)
        jobs = gather_jobs(own_jobs, world)
    if stop.number and world.is_main:
        update_other_jobs(jobs, world)

    # Report the outcome.
    code = 128 + stop.number if stop.number else exit_code(jobs)
    if not world.is_main:
        return code
    info = model.info if model.is_loaded else {}
    code = _write_summary(jobs, arguments, info, code, started=started, worked=bool(pending))  # before the console
    print_outcome(jobs, quiet=arguments.quiet, stopped=stop.number, overwrite=arguments.overwrite)
    return code


def _plan(arguments: argparse.Namespace, model: CommandModel) -> tuple[BidsDerivative | None, list[Job]]:
    """Return the BIDS derivative, where there is one, and the jobs with the paths of all their outputs."""
    inputs = all_inputs(arguments.input, arguments.input_list)
    derivative = None
    if arguments.bids:
        with warnings_as_lines():
            dataset = open_dataset(inputs, arguments.output)
        if not arguments.dry_run and not is_folder(arguments.output):
            require_writable(arguments.output)
        derivative = _derivative(dataset, model.views, arguments)
        jobs = _dataset_jobs(derivative, arguments)
    else:
        jobs = plan_jobs(inputs, arguments.output)
    plan_uncertainty_maps(jobs, bids=arguments.bids, wanted=arguments.uncertainty)
    require_summary_path(arguments.summary, jobs, arguments.input_list)
    if arguments.summary is None:
        require_no_foreign_summary(_summary_path(arguments, jobs), overwrite=arguments.overwrite)
    return derivative, jobs


def _write_summary(
    jobs: list[Job], arguments: argparse.Namespace, info: dict[str, str], code: int, *, started: float, worked: bool
) -> int:
    """Write the summary where one is due; return the exit code, changed where writing fails.

    Args:
        jobs: All jobs.
        arguments: The command's arguments.
        info: The model's info; empty where none was loaded.
        code: The exit code so far.
        started: Start of the command, in seconds since the epoch.
        worked: Whether there was anything to do.
    """
    path = _summary_path(arguments, jobs)
    if path is None or not (worked or arguments.summary or is_folder(arguments.output)):
        return code
    earlier_info = restore_skipped(path, arguments.output, jobs)
    models = arguments.model if len(arguments.model) > 1 else arguments.model[0]
    recorded_arguments = vars(arguments) | {"model": models}
    return write_summary(
        path, jobs, arguments=recorded_arguments, model=info or earlier_info, code=code, started=started
    )


def _summary_path(arguments: argparse.Namespace, jobs: list[Job]) -> Path | None:
    """Return the path of the summary; None for no summary."""
    single = not arguments.bids and arguments.input_list is None and arguments.input == [jobs[0].source]
    return arguments.summary or default_summary_path(arguments.output, jobs, single=single)


def _check_options(arguments: argparse.Namespace, world: World) -> None:
    if arguments.style is not None and (arguments.uncertainty or arguments.views):
        raise UserError("--style goes neither with --views nor with --uncertainty, which knows the model's own style")
    for option in ("bids_suffix", "skull_stripped"):
        if getattr(arguments, option) is not None and not arguments.bids:
            raise UserError(f"--{option.replace('_', '-')} goes with --bids alone; add that, or leave this out")
    if arguments.input_list == "-" and world.size > 1:
        world.refuse(f"--input-list -: {world.size} processes share one standard input; give the list as a file")


def _translate_pending(
    pending: list[Job],
    model: CommandModel,
    derivative: BidsDerivative | None,
    arguments: argparse.Namespace,
    world: World,
    stop: StopSignals,
) -> None:
    # Load the model and prepare the output folders.
    views = model.views
    clear_leftovers(pending)
    if derivative is not None:
        derivative.write_description()
    if arguments.verbose and world.is_main:
        info = model.info
        echo(f"model: {info['origin']}, weights {info['identity']}, makes {info['to']}")
        for uncertainty in views.uncertainty_models:
            echo(f"uncertainty from {', '.join(uncertainty.sources.names)}")

    # Compile the networks where that pays, and translate.
    views = views.compiled(arguments.compile, len(pending), arguments.batch_size)
    options = {name: getattr(arguments, name) for name in ("batch_size", "keep_header_text")}
    quiet = arguments.quiet or not world.is_main
    open_job = job_opener(views, strict=arguments.strict, provenance=model.provenance)
    if views.models[0].device.type == "cuda":  # the processor is free to read the next volume meanwhile
        open_job = Prefetcher(open_job, pending)
    translate_job = job_translator(views, derivative, open_job, **options)
    translate_jobs(pending, translate_job, quiet=quiet, verbose=arguments.verbose, stop=stop)


def _command_model(arguments: argparse.Namespace) -> CommandModel:
    """Return the command's model, not loaded yet."""
    return CommandModel(
        arguments.model,
        arguments.style,
        check=lambda: require_usable(arguments.model, arguments.to, arguments.device),
        load=lambda: _load_translator(arguments),
    )


def _load_translator(arguments: argparse.Namespace) -> "MultiViewTranslator":
    """Load the command's models and return their translator."""
    from pipeline.inference.model import load_model
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.utils.hardware import set_up

    set_up(threads=None)
    models = [load_model(uri, arguments.device).in_precision(arguments.precision) for uri in arguments.model]
    to = models[0].target(arguments.to)
    if arguments.strict:
        from pipeline.inference.domain_shift import require_similarity

        require_similarity(models[0], to)
    if arguments.style is not None:
        from pipeline.inference.style import use_style_of

        use_style_of(arguments.style, models[0], to)
    return open_multi_view(arguments.model, models, to, arguments.views, uncertainty=arguments.uncertainty)


def _derivative(dataset: Dataset, views: "MultiViewTranslator", arguments: argparse.Namespace) -> BidsDerivative:
    is_stripped = None if arguments.skull_stripped is None else arguments.skull_stripped == "yes"
    return BidsDerivative(
        dataset, arguments.output, (views.models[0].source(views.to), views.to), views.info(), is_stripped
    )


def _dataset_jobs(derivative: BidsDerivative, arguments: argparse.Namespace) -> list[Job]:
    from_suffix, to_suffix = bids_suffixes(derivative.contrasts, arguments.bids_suffix)
    return dataset_jobs(derivative.dataset, arguments.output, from_suffix, to_suffix)


if __name__ == "__main__":
    raise SystemExit(main())
