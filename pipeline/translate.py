"""The door to translation: volumes in, translated volumes out, on the same grids.

python -m pipeline.translate -i data/ixi/IXI-T1 -o translated --model runs/ixi --to T2
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.console import guarded, say, warn
from pipeline.distributed import launched
from pipeline.translation.jobs import exit_code, plan, require_writable, summary, work_through
from pipeline.translation.shares import agreed, share

if TYPE_CHECKING:
    import nibabel as nib
    from nibabel.spatialimages import SpatialImage

    from pipeline.translation.model import TranslationModel

EXIT_INTERRUPTED = 130
EPILOG = """exit codes: 0 everything is there, 2 bad arguments or nothing worked, 3 some volumes failed, 130 interrupted
A folder's tree is mirrored in OUT and file names are kept. Where several IN would meet under one name, each is placed
by its path below their common folder. Volumes already in OUT are skipped, so a stopped command can be repeated."""


def translate(
    image: "str | Path | SpatialImage",
    model: "str | Path | TranslationModel",
    to: str | None = None,
    *,
    batch_size: int = 8,
    device: str = "auto",
    style: "str | Path | None" = None,
) -> "nib.Nifti1Image":
    """Translate one volume and return it as a nibabel image on the source's grid.

    Args:
        image: A NIfTI file or a nibabel image.
        model: A run folder, a checkpoint, `runs:/…`, `models:/name@alias`, or a model loaded by
            `pipeline.translation.model.load_model` (sooner, for many volumes).
        to: The contrast to make; may be left out where the model makes only one.
        batch_size: Slices that go through the network at once.
        device: "auto", "cpu", "cuda" or "mps"; a loaded model stays where it is.
        style: A volume of the contrast `to` whose style the result takes on, for MUNIT; a loaded model keeps it.

    Raises:
        UserError: the volume or the model cannot be used, or the model does not make that contrast.
    """
    from pipeline.translation.model import TranslationModel, load_model
    from pipeline.translation.translator import translate_volume

    loaded = model if isinstance(model, TranslationModel) else load_model(model, device)
    target = loaded.target(to)
    if style is not None:
        from pipeline.translation.style import use_style_of

        use_style_of(Path(style), loaded, target)
    return translate_volume(image, loaded, target, batch_size=batch_size)


def parser() -> argparse.ArgumentParser:
    """Return the command's argument parser."""
    door = argparse.ArgumentParser(
        prog="python -m pipeline.translate",
        description="Translate brain MRI volumes to another contrast, on their own grids. Not for clinical use.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    door.add_argument("-i", "--input", nargs="+", type=Path, required=True, metavar="IN", help="files or folders")
    door.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder; a .nii[.gz] for one file"
    )
    door.add_argument(
        "--model", required=True, help="a run folder, a checkpoint, runs:/…/… or models:/name@alias (MLflow)"
    )
    door.add_argument("--to", metavar="CONTRAST", help="what to make, as T2; needed unless the model makes only one")
    door.add_argument(
        "--style", type=Path, metavar="REF", help="take on this volume's style (MUNIT; REF is a CONTRAST)"
    )
    door.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    door.add_argument("--batch-size", type=_positive, default=8, metavar="N", help="slices at once (default: 8)")
    door.add_argument("--overwrite", action="store_true", help="translate again what OUT already holds")
    door.add_argument("--quiet", action="store_true", help="print nothing but failures")
    door.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return door


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return number


@guarded
def main(argv: list[str] | None = None) -> int:
    """Translate volumes; return the exit code."""
    arguments = parser().parse_args(argv)
    world = launched()
    jobs = share(plan(arguments.input, arguments.output), world)
    arguments.quiet = arguments.quiet or not world.first
    pending = [job for job in jobs if arguments.overwrite or not job.target.exists()]
    for job in jobs:
        job.status = "" if job in pending else "skipped"
    finished = True
    if pending:
        require_writable(arguments.output.parent if jobs[0].target == arguments.output else arguments.output)
        from pipeline.hardware import set_up
        from pipeline.translation.model import load_model

        set_up(threads=None)
        model = load_model(arguments.model, arguments.device)
        to = model.target(arguments.to)
        if arguments.style is not None:
            from pipeline.translation.style import use_style_of

            use_style_of(arguments.style, model, to)
        from pipeline.translation.translator import translate_volume
        from pipeline.translation.volume import write_volume

        def translate_one(source: Path, target: Path) -> None:
            write_volume(translate_volume(source, model, to, batch_size=arguments.batch_size), target)

        finished = work_through(pending, translate_one, quiet=arguments.quiet)
    for job in jobs:
        if job.status == "failed" and arguments.quiet:
            warn(f"error: {job.message}")
    if not arguments.quiet:
        say(summary(jobs))
    if not finished:
        warn("stopped: interrupted; run the same command again for the rest")
        return EXIT_INTERRUPTED
    return agreed(exit_code(jobs))


if __name__ == "__main__":
    raise SystemExit(main())
