"""Rates of translating slices in several ways, and differences of the results; or one volume, file to file.

python -m benchmarks.inference                       an untrained U-Net-256 of width 64 on noise
python -m benchmarks.inference --model runs/ixi --to T2 --volume IXI002-Guys-0828-T1.nii.gz      a trained one
python -m benchmarks.inference --backends ixi        torch, ONNX Runtime and OpenVINO; a volume and 20, from the start
python -m benchmarks.inference --file                a volume of 256×256×150, from its .nii.gz to the translation's

"File to file" is what `pipeline.translate` does for a volume; the functions that it calls are timed. The yardstick
translates one slice at a time, as public code does, with torch's layers, allocator and memory layout. Rates count
slices with foreground; the others are not translated.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from benchmarks.backends import BATCH_SIZE, NETWORKS, WAYS, compare_backends, configuration
from benchmarks.timing import Side, device, duration_text, machine, measure, peak_mib, table_rows, volume
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np

    from pipeline.inference.model import TranslationModel

WIDTH, SIZE = 64, 256  # of the untrained U-Net and its slices
PLAIN = "one by one, plain"
VARIANTS: dict[str, dict[str, Any]] = {  # options of `translation_work` by name
    PLAIN: {"batch_size": 1, "tuned": False},
    f"batch {BATCH_SIZE}, plain": {"tuned": False},
    f"batch {BATCH_SIZE}, as translate does": {},
    "the same, compiled": {"compiled": True},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compiled": True},
}
STAGES = {  # stages of a volume's translation: the function of each, in the module that calls it
    "read, prepare": "pipeline.inference.multi_view.open_volume",
    "network": "pipeline.inference.translator.OpenedVolume.run_network",
    "way back": "pipeline.inference.multi_view.on_source_grid",
    "write": "pipeline.inference.batch.batch.write_together",
}


def benchmark_model(
    uri: str | None, to: str | None, device: str, *, tuned: bool = True
) -> "tuple[TranslationModel, str]":
    """Return a model and its target contrast: a trained model, or an untrained U-Net down to one pixel.

    Without `tuned` it has torch's own layers and memory layout.
    """
    import torch

    from networks.cpu_kernels import accelerate, torch_layers
    from networks.unet import UNet
    from pipeline.data.statistics import ContrastStatistics
    from pipeline.inference.model import TranslationModel, is_large, load_model
    from pipeline.utils.hardware import choose_device
    from transforms.slice_chain import PreprocessSettings

    if uri is not None:
        model = load_model(uri, device)
        to = model.target(to)
    else:
        torch.manual_seed(0)
        torch_device = choose_device(device)
        network: Any = UNet(depth=SIZE.bit_length() - 1, width=WIDTH).to(torch_device).eval().requires_grad_(False)
        if tuned and torch_device.type == "cpu":  # as `load_model` does
            accelerate(network)
            if is_large(network, SIZE, network.stride):
                network.to(memory_format=torch.channels_last)
        settings = PreprocessSettings("axial", None, SIZE, n4=False, percentiles=(0.5, 99.5))
        contrasts, to = {"T2": ContrastStatistics(0.0, 1000.0, integer=True)}, "T2"
        model = TranslationModel(("T1", "T2"), {to: network}, settings, contrasts, network.stride, torch_device)
    if tuned:
        return model, to
    plain = {
        name: cast(Any, torch_layers(network)).to(memory_format=torch.contiguous_format)
        for name, network in model.translators.items()
    }
    return replace(model, translators=plain), to


def ellipsoid_volume(slices: int) -> "np.ndarray":
    """Return an uneven ellipsoid in noisy air, (`SIZE`, `SIZE`, slices) int16."""
    import numpy as np

    random = np.random.default_rng(0)
    axes = np.ogrid[-1.1 : 1.1 : SIZE * 1j, -1.1 : 1.1 : SIZE * 1j, -1.1 : 1.1 : slices * 1j]
    inside = np.sum([axis**2 for axis in np.broadcast_arrays(*axes)], axis=0) < 1
    return (random.integers(0, 20, inside.shape) + inside * random.integers(400, 1000, inside.shape)).astype(np.int16)


# ── rates and differences of slices ─────────────────────────────────────────────────────────────────────────


def translation_work(
    uri: str | None,
    to: str | None,
    slices: int,
    volume: Path | None,
    device: str,
    *,
    batch_size: int = BATCH_SIZE,
    tuned: bool = True,
    compiled: bool = False,
    precision: str = "float32",
) -> "Callable[[], np.ndarray]":
    """Return a function that translates the slices of a volume once: a side of the measurement."""
    import nibabel as nib
    import numpy as np

    from pipeline.inference.compile import CompiledForms
    from pipeline.inference.slice_translator import translate_slices
    from pipeline.inference.translator import open_volume
    from pipeline.utils.hardware import set_up

    if tuned:
        set_up(threads=None)
    model, to = benchmark_model(uri, to, device, tuned=tuned)
    model = replace(model, run=CompiledForms(batch_size)) if compiled else model
    source = volume or nib.Nifti1Image(ellipsoid_volume(slices), np.eye(4))
    opened = open_volume(source, model, to, compare=False)
    images = opened.slices[opened.foreground.any(axis=(1, 2))]  # (N, H, W) in [-1, 1]
    options: dict[str, Any] = {
        "device": model.device,
        "batch_size": batch_size,
        "precision": precision,
        "slice_mm": opened.slice_mm,
    }
    return lambda: translate_slices(
        images, model.translators[to], np.ones(len(images), bool), **options, run=model.run, name="it"
    )


def compare(common: dict[str, Any], rounds: int) -> None:
    """Print a row for each variant: rate, and difference of its result from that of the first, the yardstick."""
    import numpy as np

    from pipeline.metrics.similarity import DATA_RANGE, psnr

    yardstick = VARIANTS[PLAIN]  # where plain, without the settings of ours, which processes inherit
    reference = translation_work(**common, **yardstick)()
    sides = {name: Side(translation_work, common | options, len(reference)) for name, options in VARIANTS.items()}
    timings = measure(sides, rounds=rounds, title="slices")
    rows = []
    for row, (name, options) in zip(table_rows(timings, "slice"), VARIANTS.items(), strict=True):
        translation = translation_work(**common, **options)()
        ratio = psnr(translation, reference, DATA_RANGE, np.ones(reference.shape, bool))
        difference = f"{np.abs(translation - reference).max():.2g}"
        rows.append([*row, f"{timings[name].prepared:.1f} s", difference, f"{ratio:.1f}"])
    header = ["time a slice", "rate", "ratio", "peak memory", "set-up, first call"]
    echo(table(["", *header, "largest difference", "PSNR [dB]"], rows))
    echo("differences are to the first row, in [-1, 1]; PSNR at a data range of 2")


# ── one volume, file to file ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def timed_stages(seconds_by_stage: dict[str, float]) -> Iterator[None]:
    """Add the seconds that the stages take within the block to `seconds_by_stage`."""

    def timed(name: str, function: Callable) -> Callable:
        def run(*arguments: object, **options: object) -> object:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds_by_stage[name] += time.perf_counter() - started

        return run

    with ExitStack() as patches:
        for name, path in STAGES.items():
            patches.enter_context(patch(path, timed(name, resolve_name(path))))
        yield


def file_to_file(common: dict[str, Any], rounds: int) -> None:
    """Print the time of one volume, file to file, and of its stages, after a first translation as warm-up."""
    import nibabel as nib
    import numpy as np

    from pipeline.inference.batch.batch import JobTranslator
    from pipeline.inference.batch.jobs import Job
    from pipeline.inference.batch.provenance import Provenance
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.utils.hardware import set_up

    # The model, and the function with which the command translates a volume.
    set_up(threads=None)
    model, to = benchmark_model(common["uri"], common["to"], common["device"])
    seconds_by_stage: dict[str, list[float]] = {name: [] for name in (*STAGES, "all else", "all")}
    with tempfile.TemporaryDirectory() as folder:
        source, target = common["volume"] or Path(folder) / "source.nii.gz", Path(folder) / "target.nii.gz"
        if common["volume"] is None:
            nib.save(nib.Nifti1Image(ellipsoid_volume(common["slices"]), np.eye(4)), source)
        view = open_multi_view([str(common["uri"])], [model], to, None, uncertainty=False)
        translator = JobTranslator(view.compiled("no", 1, BATCH_SIZE), Provenance(to, "", ""), batch_size=BATCH_SIZE)

        # Translate the volume again and again, with the stages timed.
        for _ in range(rounds + 1):
            stage_seconds = dict.fromkeys(STAGES, 0.0)
            started = time.perf_counter()
            with timed_stages(stage_seconds):
                translator.translate(Job(source, target))
            total = time.perf_counter() - started
            stage_seconds |= {"all else": total - sum(stage_seconds.values()), "all": total}
            for name, duration in stage_seconds.items():
                seconds_by_stage[name].append(duration)
    medians = {name: statistics.median(durations[1:]) for name, durations in seconds_by_stage.items()}
    rows = [[name, duration_text(median), f"{median / medians['all']:.0%}"] for name, median in medians.items()]
    echo(table(["stage", "median", "share"], rows))
    echo(f"peak memory {peak_mib():,.0f} MiB")


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="URI", help="a trained model, instead of an untrained U-Net")
    parser.add_argument("--to", metavar="CONTRAST", help="with --model: what it is to make")
    parser.add_argument("--volume", type=volume, metavar="FILE", help="a scan, instead of an ellipsoid of noise")
    parser.add_argument("--slices", type=count, help="default: 32, with --file 150, with --backends 8")
    parser.add_argument("--device", default="auto", type=device)
    parser.add_argument("--rounds", type=count, default=5)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--file", action="store_true", help="one volume, file to file, by stages")
    backends_help = f"what else can compute networks, on the CPU: configurations, as {' '.join(NETWORKS)} (default)"
    modes.add_argument("--backends", nargs="*", type=configuration, metavar="CONFIG", help=backends_help)
    parser.add_argument("--precision", choices=tuple(WAYS), help="with --backends: this one alone")
    ways = [way for ways in WAYS.values() for way in ways]
    parser.add_argument(
        "--only", nargs="+", choices=ways, metavar="ROW", default=[], help="with --backends: these rows"
    )
    arguments = parser.parse_args(argv)
    if arguments.backends is None and (arguments.precision is not None or arguments.only):
        parser.error("--precision and --only go with --backends alone")
    if arguments.backends is not None and arguments.volume is not None:
        parser.error("--backends translates noise, which takes as long; leave --volume out")
    echo(machine())
    common = {name: getattr(arguments, name) for name in ("to", "volume", "device")}
    common |= {"uri": arguments.model, "slices": arguments.slices or (150 if arguments.file else 32)}
    if arguments.backends is not None:
        own = [] if arguments.model is None else [(arguments.model, True)]
        models = own or [(name, False) for name in arguments.backends or NETWORKS]
        for name, is_address in models:
            options = {"name": name, "is_address": is_address, "to": arguments.to}
            options["slices"] = arguments.slices or BATCH_SIZE
            precisions = (arguments.precision,) if arguments.precision else (*WAYS,)
            compare_backends(options, precisions, arguments.rounds, arguments.only)
    elif arguments.file:
        file_to_file(common, arguments.rounds)
    else:
        compare(common, arguments.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
