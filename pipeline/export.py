"""Writes one direction of a trained model in a format that other programs read.

python -m pipeline.export runs/ixi -o t1_to_t2.onnx --format onnx --to T2
"""

import argparse
import logging
from pathlib import Path
from pkgutil import resolve_name

from pipeline import __version__
from pipeline.inference.model_address import ADDRESSES_OF_MLFLOW, BOX
from pipeline.utils.arguments import path_argument, path_or_address
from pipeline.utils.console import cli_main, echo
from pipeline.utils.errors import EXIT_DONE, UserError
from pipeline.utils.files import require_writable

logger = logging.getLogger("pipeline.export")  # `__main__`, as which it runs, is not printed

EPILOG = """exit codes: 0 written, 2 bad arguments or a model that cannot be exported, 130/143 stopped, 1 our bug
pipeline.translate takes .onnx and .xml as --model. What a format lacks is printed. An earlier OUT is replaced, but for
a bundle's folder, which must be new or empty."""
FORMATS = {  # the suffix of OUT, "" for a folder, and the function that writes it
    "onnx": (".onnx", "pipeline.exporting.onnx:export_onnx"),
    "openvino": (".xml", "pipeline.exporting.onnx:export_openvino"),
    "bundle": ("", "pipeline.exporting.bundle:export_bundle"),
    "pt2": (".pt2", "pipeline.exporting.program:export_program"),
}


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    command = argparse.ArgumentParser(
        prog="python -m pipeline.export",
        description="Write one direction of a trained model in another format: for ONNX Runtime, OpenVINO, plain "
        "torch, or MONAI (a bundle). Not for clinical use.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument
    add("model", type=path_or_address, metavar="MODEL",
        help=f"a run folder, a checkpoint, {BOX} (shipped), {ADDRESSES_OF_MLFLOW} (MLflow)")  # fmt: skip
    suffixes = ", ".join(f"{suffix or 'a folder'} for {name}" for name, (suffix, _) in FORMATS.items())
    add("-o", "--output", type=path_argument, required=True, metavar="OUT", help=suffixes)
    add("--format", choices=tuple(FORMATS), required=True, help="what to write")
    add("--to", metavar="CONTRAST", help="the contrast to make, as T2; needed unless the model makes only one")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return command


@cli_main
def main(argv: list[str] | None = None) -> int:
    """Export a model; return the exit code."""
    arguments = parser().parse_args(argv)
    output: Path = arguments.output
    suffix, function = FORMATS[arguments.format]
    if suffix and output.suffix != suffix:
        raise UserError(f"{output}: --format {arguments.format} writes a file that ends in {suffix}; name it so")
    if suffix:
        require_writable(output)

    from pipeline.inference.model import load_model
    from pipeline.inference.runtimes import RuntimeNetwork

    model = load_model(arguments.model, "cpu")
    target = model.target(arguments.to)
    if isinstance(model.translators[target], RuntimeNetwork):
        raise UserError(f"{arguments.model}: exported already, and none is made of it; give the run's folder")
    for sentence in resolve_name(function)(model, target, output):
        logger.info(f"not in {output.name}: {sentence}")
    echo(f"wrote {output}: {model.source(target)} to {target}, {model.origin}; not for clinical use")
    return EXIT_DONE


if __name__ == "__main__":
    raise SystemExit(main())
