"""Translates volumes with a trained model and writes the translations on the sources' grids.

python -m pipeline.translate -i data/ixi/IXI-T1 -o translated --model runs/ixi --to T2
"""

import argparse
import os
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.inference.batch import summary
from pipeline.inference.batch.bids import BidsDerivative, bids_suffixes, dataset_jobs, open_dataset
from pipeline.inference.batch.existing import pending_jobs
from pipeline.inference.batch.jobs import NOT_DONE, SKIPPED, Job, exit_code, gather_jobs, shard
from pipeline.inference.batch.outputs import all_inputs, clear_leftovers, plan_jobs, plan_uncertainty_maps
from pipeline.inference.batch.provenance import CommandModel
from pipeline.inference.model_address import ADDRESSES_OF_MLFLOW, BOX
from pipeline.utils.arguments import count, path_argument, path_or_address
from pipeline.utils.callable_module import make_callable
from pipeline.utils.console import cli_main, echo
from pipeline.utils.distributed import World, world_from_env
from pipeline.utils.errors import EXIT_DONE, UserError
from pipeline.utils.files import is_folder, require_writable

if TYPE_CHECKING:
    from pipeline.inference.multi_view import MultiViewTranslator

AUTO = "auto"  # of --backend
EPILOG = """exit codes: 0 everything is there, 2 bad arguments or nothing worked, 3 some are missing, 130/143 stopped
What stands in OUT is left as it is, and counts as missing, where it is foreign (not made by this command), of another
model, stale (made before its source changed), or keeps text of its source's header that this command would drop;
--overwrite replaces it.
A folder's tree is mirrored in OUT and file names are kept; a folder with a DICOM series becomes FOLDER.nii.gz. Where
several IN would meet under one name, each is placed by its path below their common folder. Volumes that are whole in
OUT, and made by this model of this source, are skipped, so a stopped command can be repeated. OUT/summary.json says
what became of each; for one file as IN, it is written where --summary asks for it."""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of `python -m pipeline.translate`."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.translate",
        description="Translate brain MRI volumes to another contrast, on their own grids. Not for clinical use.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument

    # Inputs and output.
    input_help = "files, folders, DICOM series' folders"
    add("-i", "--input", action="extend", nargs="+", type=path_argument, default=[], metavar="IN", help=input_help)
    list_help = "more IN: a path a line, UTF-8, # comments; - is stdin"
    add("--input-list", type=path_or_address, metavar="FILE", help=list_help)
    output_help = "folder; a .nii[.gz] for one file"
    add("-o", "--output", type=path_argument, required=True, metavar="OUT", help=output_help)

    # Model and contrast.
    models = f"a run folder, a checkpoint, {BOX} (shipped), {ADDRESSES_OF_MLFLOW} (MLflow), an exported .onnx or .xml"
    add("--model", nargs="+", type=path_or_address, required=True, help=f"{models}; for --views one of each axis")
    add("--to", metavar="CONTRAST", help="what to make, as T2; needed unless the model makes only one")
    style_help = "take on this volume's style (MUNIT; REF is a CONTRAST)"
    add("--style", type=path_argument, metavar="REF", help=style_help)
    views_help = "average the models of several slicings: axial,coronal,sagittal"
    add("--views", type=lambda text: text.split(","), metavar="AXES", help=views_help)
    map_help = "write beside each volume a map of the absolute error to expect"
    add("--uncertainty", action="store_true", help=map_help)

    # Computation.
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add("--batch-size", type=count, default=8, metavar="N", help="slices at once (default: 8)")
    precision_help = "default: as trained; CPU float32"
    add("--precision", choices=("model", "float32", "bf16"), default="model", help=precision_help)
    backend_help = (
        "what computes the network, on the CPU but for torch; auto: OpenVINO where that pays for so many volumes "
        "(default: torch, or what MODEL was exported for)"
    )
    add("--backend", choices=(AUTO, "torch", "onnxruntime", "openvino"), help=backend_help)
    compile_help = "auto: in bf16 on the CPU, for twenty volumes or more"
    add("--compile", choices=("auto", "yes", "no"), default="auto", help=compile_help)

    # Existing and new files.
    add("--overwrite", action="store_true", help="replace what OUT already holds, be it foreign")
    add("--dry-run", action="store_true", help="say what would become what, and write nothing")
    add("--summary", type=path_argument, metavar="JSON", help="write the summary there, instead of in OUT")
    text_help = "keep descrip and header extensions, which may hold names"
    add("--keep-header-text", action="store_true", help=text_help)
    add("--strict", action="store_true", help="refuse volumes that are unlike the model's training data")

    # BIDS.
    add("--bids", action="store_true", help="IN is a BIDS data set; OUT becomes a derivative of it")
    suffix_help = "as T1w T2w, where the contrasts' names do not tell"
    add("--bids-suffix", nargs=2, metavar=("FROM", "TO"), help=suffix_help)
    stripped_help = "what BIDS sidecars say (default: the source's, or its zeros)"
    add("--skull-stripped", choices=("yes", "no"), help=stripped_help)

    # Console.
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("--quiet", action="store_true", help="print failures and warnings only")
    verbosity.add_argument("--verbose", action="store_true", help="print the model, and each volume when it is over")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Translate volumes; return the exit code."""
    # Read the options and plan the jobs.
    arguments = parser().parse_args(argv)
    started, world = time.time(), world_from_env()
    _check_options(arguments, world)
    if arguments.dry_run:  # which may be of a job for another machine
        arguments.device, arguments.backend = "cpu", None
    model = CommandModel(
        arguments.model,
        arguments.style,
        load=lambda: _load_translator(arguments),
        header_text=arguments.keep_header_text,
    )
    derivative, jobs = _plan(arguments, model)
    summary_path = _summary_path(arguments, jobs)
    quiet = arguments.quiet or not world.is_main
    if arguments.dry_run:
        pending_jobs(jobs, overwrite=arguments.overwrite, to=arguments.to, quiet=quiet, model=model)
        if any(job.status != SKIPPED for job in jobs):
            _ = model.views  # which refuses a model that is not there, or does not make what `--to` asks for
        if world.is_main:
            echo(summary.dry_run_table(jobs))
        return EXIT_DONE

    # Translate this process's jobs, and gather those of all processes.
    own_jobs, stopped = shard(jobs, world), 0
    pending: list[Job] = []
    _require_writable(own_jobs, overwrite=arguments.overwrite)
    try:
        pending = pending_jobs(own_jobs, overwrite=arguments.overwrite, to=arguments.to, quiet=quiet, model=model)
        if pending:
            views = _prepared_views(model.views, len(pending), arguments)
            _translate_pending(pending, views, model, derivative, arguments, world)
        jobs = gather_jobs(own_jobs, world)
    except KeyboardInterrupt as signalled:
        stopped = getattr(signalled, "exit_code", 128 + signal.SIGINT) - 128
        other_jobs = [job for index, job in enumerate(jobs) if index % world.size != world.rank]
        pending_jobs(other_jobs, overwrite=False, quiet=True)  # a stopped process learns their status from the disk

    # Report the outcome: first in the summary, then on the console.
    code = 128 + stopped if stopped else exit_code(jobs)
    if not world.is_main:
        return code
    if summary_path is not None and (pending or arguments.summary or is_folder(arguments.output)):
        info = asdict(model.info) if model.is_loaded else {}
        recorded = vars(arguments) | ({"model": arguments.model[0]} if len(arguments.model) == 1 else {})
        code = summary.write_summary(summary_path, jobs, arguments=recorded, model=info, code=code, started=started)
    summary.print_outcome(jobs, quiet=arguments.quiet, stopped=stopped, overwrite=arguments.overwrite)
    return code


def _check_options(arguments: argparse.Namespace, world: World) -> None:
    if arguments.style is not None and (arguments.uncertainty or arguments.views):
        raise UserError("--style goes neither with --views nor with --uncertainty, which knows the model's own style")
    if arguments.views is not None:
        from transforms.slices import AXES

        named = f"--views {','.join(arguments.views)}"
        if unknown := [axis for axis in arguments.views if axis not in AXES]:
            raise UserError(f"{named}: {unknown[0]!r} is not an axis; choose from {', '.join(sorted(AXES))}")
        if len(arguments.views) != len(arguments.model):
            raise UserError(f"{named} needs one --model for each axis, and was given {len(arguments.model)}")
    if arguments.uncertainty and arguments.backend not in (None, "torch", AUTO):
        raise UserError("--uncertainty needs the networks of torch; leave it out, or --backend")
    for option in ("bids_suffix", "skull_stripped"):
        if getattr(arguments, option) is not None and not arguments.bids:
            raise UserError(f"--{option.replace('_', '-')} goes with --bids alone; add that, or leave this out")
    if arguments.input_list == "-" and world.size > 1:
        world.refuse(f"--input-list -: {world.size} processes share one standard input; give the list as a file")


def _plan(arguments: argparse.Namespace, model: CommandModel) -> tuple[BidsDerivative | None, list[Job]]:
    """Return the BIDS derivative, where there is one, and the jobs with the paths of all their outputs."""
    inputs = all_inputs(arguments.input, arguments.input_list)
    derivative = None
    if arguments.bids:
        dataset = open_dataset(inputs, arguments.output)
        if not arguments.dry_run:
            require_writable(arguments.output / summary.SUMMARY)
        views = model.views
        contrasts = (views.models[0].source(views.to), views.to)
        is_stripped = None if arguments.skull_stripped is None else arguments.skull_stripped == "yes"
        derivative = BidsDerivative(dataset, arguments.output, contrasts, model.info, is_stripped)
        jobs = dataset_jobs(dataset, arguments.output, *bids_suffixes(derivative.contrasts, arguments.bids_suffix))
    else:
        jobs = plan_jobs(inputs, arguments.output)
    plan_uncertainty_maps(jobs, bids=arguments.bids, wanted=arguments.uncertainty)
    return derivative, jobs


def _summary_path(arguments: argparse.Namespace, jobs: list[Job]) -> Path | None:
    """Return the path of the summary; without `--summary`, None for a single file."""
    path: Path | None = arguments.summary
    if path is not None:
        summary.require_summary_path(path)
    else:
        is_single = not arguments.bids and arguments.input_list is None and arguments.input == [jobs[0].source]
        if is_single or (len(jobs) == 1 and jobs[0].target == arguments.output):
            return None
        path = arguments.output / summary.SUMMARY
    if not arguments.overwrite:
        summary.require_no_foreign_summary(path)
    return path


def _require_writable(jobs: list[Job], *, overwrite: bool) -> None:
    """Refuse to begin where the first new output could not be written."""
    targets = (job.target for job in jobs if job.status == NOT_DONE and not is_folder(job.target))
    if target := next((target for target in targets if overwrite or not os.path.lexists(target)), None):
        require_writable(target)


def _load_translator(arguments: argparse.Namespace) -> "MultiViewTranslator":
    from pipeline.inference.domain_shift import require_similarity
    from pipeline.inference.model import load_model
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.inference.runtimes import device_for
    from pipeline.inference.translator import use_style_of
    from pipeline.utils.hardware import set_up

    set_up(threads=None)
    device = device_for(arguments.backend, arguments.device)
    models = [load_model(address, device) for address in arguments.model]
    to = models[0].target(arguments.to)
    if arguments.strict:
        require_similarity(models[0], to)
    if arguments.style is not None:
        use_style_of(arguments.style, models[0], to)
    if arguments.backend not in (None, AUTO):
        from pipeline.exporting.backends import in_backend  # as slow to import as torch's exporter

        models = [in_backend(model, to, arguments.backend) for model in models]
    models = [model.in_precision(arguments.precision) for model in models]
    return open_multi_view(arguments.model, models, to, arguments.views, uncertainty=arguments.uncertainty)


def _prepared_views(views: "MultiViewTranslator", volumes: int, arguments: argparse.Namespace) -> "MultiViewTranslator":
    """Return the translator computed by another runtime, or compiled, where that is requested or pays."""
    if arguments.backend == AUTO and not arguments.uncertainty and arguments.compile != "yes":
        from pipeline.exporting.backends import automatic

        views = replace(views, models=tuple(automatic(model, views.to, volumes) for model in views.models))
    return views.compiled(arguments.compile, volumes, arguments.batch_size)


def _translate_pending(
    pending: list[Job],
    views: "MultiViewTranslator",
    model: CommandModel,
    derivative: BidsDerivative | None,
    arguments: argparse.Namespace,
    world: World,
) -> None:
    from pipeline.inference.batch.batch import JobTranslator, translate_jobs

    # Prepare the output folders.
    clear_leftovers(pending)
    if derivative is not None:
        derivative.write_description()

    # Say what translates.
    is_quiet = arguments.quiet or not world.is_main
    if arguments.verbose and world.is_main:
        echo(f"model: {model.info.origin}, weights {model.info.identity}, makes {model.info.to}")
        for uncertainty in views.uncertainty_models:
            echo(f"uncertainty from {', '.join(uncertainty.sources.names)}")
    if world.is_main and (arguments.verbose or (arguments.backend == AUTO and not arguments.quiet)):
        echo(f"computed by {views.computed_by}")

    # Translate.
    options = {name: getattr(arguments, name) for name in ("batch_size", "keep_header_text", "strict")}
    provenance = replace(model.provenance, computed_by=views.computed_by)
    translator = JobTranslator(views, provenance, derivative, **options)
    translate_jobs(pending, translator, quiet=is_quiet, verbose=arguments.verbose)


make_callable(__name__, "pipeline.inference.translator:translate")


if __name__ == "__main__":
    raise SystemExit(main())
