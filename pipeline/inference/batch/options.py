"""The command-line options of `python -m pipeline.translate`."""

import argparse

from pipeline import __version__
from pipeline.inference.model_address import ADDRESSES_OF_MLFLOW
from pipeline.utils.arguments import count, path_argument, path_or_address

AXES = ("axial", "coronal", "sagittal")
EPILOG = """exit codes: 0 everything is there, 2 bad arguments or nothing worked, 3 some are missing, 130/143 stopped
What stands in OUT is left as it is, and counts as missing, where it is foreign (not made by this command), of another
model, or stale (made before its source changed); --overwrite replaces it.
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

    # Inputs and output.
    input_options = {"action": "extend", "nargs": "+", "type": path_argument, "default": [], "metavar": "IN"}
    parser.add_argument("-i", "--input", **input_options, help="files, folders, DICOM series' folders")
    parser.add_argument(
        "--input-list",
        type=path_or_address,
        metavar="FILE",
        help="more IN: a path a line, UTF-8, # comments; - is stdin",
    )
    parser.add_argument(
        "-o", "--output", type=path_argument, required=True, metavar="OUT", help="folder; a .nii[.gz] for one file"
    )

    # Model and contrast.
    parser.add_argument(
        "--model",
        nargs="+",
        type=path_or_address,
        required=True,
        help=f"a run folder, a checkpoint, {ADDRESSES_OF_MLFLOW} (MLflow); for --views one of each axis",
    )
    parser.add_argument("--to", metavar="CONTRAST", help="what to make, as T2; needed unless the model makes only one")
    parser.add_argument(
        "--style", type=path_argument, metavar="REF", help="take on this volume's style (MUNIT; REF is a CONTRAST)"
    )
    parser.add_argument(
        "--views", type=_axes, metavar="AXES", help="average the models of several slicings: axial,coronal,sagittal"
    )
    parser.add_argument(
        "--uncertainty", action="store_true", help="write beside each volume a map of the absolute error to expect"
    )

    # Computation.
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--batch-size", type=count, default=8, metavar="N", help="slices at once (default: 8)")
    parser.add_argument(
        "--precision", choices=("model", "float32", "bf16"), default="model", help="default: as trained; CPU float32"
    )
    parser.add_argument(
        "--compile", choices=("auto", "yes", "no"), default="auto", help="auto: on the CPU, for twenty volumes or more"
    )

    # Existing and new files.
    parser.add_argument("--overwrite", action="store_true", help="replace what OUT already holds, be it foreign")
    parser.add_argument("--dry-run", action="store_true", help="say what would become what, and write nothing")
    parser.add_argument(
        "--summary", type=path_argument, metavar="FILE", help="write the summary there, instead of in OUT"
    )
    parser.add_argument(
        "--keep-header-text", action="store_true", help="keep descrip and header extensions, which may hold names"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse volumes that are unlike the model's training data"
    )

    # BIDS.
    parser.add_argument("--bids", action="store_true", help="IN is a BIDS data set; OUT becomes a derivative of it")
    parser.add_argument(
        "--bids-suffix", nargs=2, metavar=("FROM", "TO"), help="as T1w T2w, where the contrasts' names do not tell"
    )
    parser.add_argument(
        "--skull-stripped", choices=("yes", "no"), help="what BIDS sidecars say (default: the source's, or its zeros)"
    )

    # Console.
    verbosity = parser.add_mutually_exclusive_group()
    verbosity.add_argument("--quiet", action="store_true", help="print failures and warnings only")
    verbosity.add_argument("--verbose", action="store_true", help="print the model, and each volume when it is over")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _axes(text: str) -> list[str]:
    axes = text.split(",")
    if len(set(axes)) < len(axes) or not set(axes) <= set(AXES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different ones of {', '.join(AXES)}")
    return axes


def without_two_dashes(argv: list[str]) -> list[str]:
    """Return arguments in which `-i -- -x.nii` names a file with a leading dash, as ./-x.nii; argparse refuses it.

    The names after "--" are values of the option right before it, or of `-i` where "--" follows a value.
    """
    if "--" not in argv:
        return argv
    index = argv.index("--")
    names = [f"./{name}" if name.startswith("-") else name for name in argv[index + 1 :]]
    option = ["-i"] if names and index and not argv[index - 1].startswith("-") else []
    return [*argv[:index], *option, *names]
