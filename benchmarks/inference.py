"""Rates of translating slices in several ways, and differences of the results; or one volume, file to file.

python -m benchmarks.inference                       the untrained U-Net-256 of configs/ixi.yaml, on noise
python -m benchmarks.inference --model runs/ixi --to T2 --volume IXI002-Guys-0828-T1.nii.gz      a trained one
python -m benchmarks.inference --backends ixi        torch, ONNX Runtime and OpenVINO; a volume and 20, from the start
python -m benchmarks.inference --file                a volume of 256×256×150, from its .nii.gz to the translation's

"File to file" is what `pipeline.translate` does for a volume; the functions that it calls are timed. The yardstick of
the first table translates one slice at a time, as public code does, with torch's layers, allocator and memory layout.
The total of volumes is their slices' time and the set-up, from the imports on, export and compilation included. With
--backends and OMP_NUM_THREADS=1 times are the processor's, so that other load on the machine lengthens no set-up.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

from benchmarks.timing import (
    ROOT,
    Clock,
    Side,
    benchmark_parser,
    device,
    duration_text,
    machine,
    measure,
    peak_mib,
    processor_seconds,
    table_rows,
)
from pipeline.utils.arguments import count, path_argument
from pipeline.utils.console import cli_main, echo, table

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np
    from nibabel import Nifti1Image

    from pipeline.inference.model import TranslationModel
    from transforms.slice_chain import PreprocessSettings

BATCH_SIZE = 8
OURS = "torch, our kernels"  # as `translate` does
COMPILED, BF16 = {"compiled": True}, {"precision": "bf16"}
WAYS: dict[str, dict[str, dict[str, Any]]] = {  # options of `work`, by table and row; a table's first is its yardstick
    "torch": {
        "one by one, plain": {"batch_size": 1, "tuned": False},
        f"batch {BATCH_SIZE}, plain": {"tuned": False},
        OURS: {},
        "the same, compiled": COMPILED,
        "bf16": BF16,
        "bf16, compiled": BF16 | COMPILED,
    },
    "runtimes, float32": {
        OURS: {},
        "torch, its own layers": {"kernels": False},
        "torch, compiled": COMPILED,
        "ONNX Runtime": {"backend": "onnxruntime"},
        "OpenVINO": {"backend": "openvino"},
    },
    "runtimes, bf16": {
        OURS: {},
        "torch, bf16": BF16,
        "torch, compiled, bf16": BF16 | COMPILED,
        "OpenVINO, bf16": {"backend": "openvino"} | BF16,
    },
}
NETWORKS = ("phantom", "ixi", "ixi_resnet")  # configurations: the demo's U-Net, the full-size U-Net and ResNet-9
SLICES = 150  # of a volume that have foreground
VOLUMES = 1, 20  # translated by a command, whose set-up counts
STAGES = {  # stages of a volume's translation: the function of each, in the module that calls it
    "read, prepare": "pipeline.inference.multi_view.open_volume",
    "network": "pipeline.inference.translator.OpenedVolume.run_network",
    "way back": "pipeline.inference.multi_view.on_source_grid",
    "write": "pipeline.inference.batch.batch.write_together",
}


def benchmark_model(name: str, to: str | None, is_address: bool, device: str) -> "tuple[TranslationModel, str]":
    """Return a model and its target: by its address, or of a shipped configuration, as new with random weights."""
    import torch

    from networks.lookup_start import start_of
    from pipeline.config.load import load_config
    from pipeline.data.statistics import ContrastStatistics
    from pipeline.engines.builders import build_translators
    from pipeline.inference.model import TranslationModel, is_large, load_model, stride_of
    from pipeline.runs.prepare import chain_settings

    if is_address:
        model = load_model(name, device)
        return model, model.target(to)
    config = load_config(ROOT / "configs" / f"{name}.yaml", warn=False)
    torch.manual_seed(0)
    to, network = next(iter(build_translators(config).items()))
    if (start := start_of(network)) is not None:  # which is but a lookup before it has learned
        start.lookup.table.uniform_(-1, 1)
        for weight in start.network.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, 0.0, 0.02)
    settings = chain_settings(config.preprocess.model_dump(mode="json"), 2)
    network.to(device).eval().requires_grad_(False)
    if device == "cpu" and is_large(network, settings.size, stride_of(network)):
        cast(Any, network).to(memory_format=torch.channels_last)  # as `load_model` does
    contrasts = {name: ContrastStatistics(0.0, 1000.0, integer=True) for name in config.contrasts}
    translators, torch_device = {to: network}, torch.device(device)
    return TranslationModel(config.contrasts, translators, settings, contrasts, stride_of(network), torch_device), to


def work(
    model: Mapping[str, Any],
    result: str,
    slices: int,
    volume: Path | None = None,
    *,
    batch_size: int = BATCH_SIZE,
    tuned: bool = True,
    kernels: bool = True,
    compiled: bool = False,
    precision: str = "float32",
    backend: str = "torch",
) -> "Callable[[], np.ndarray]":
    """Return a function that translates so many slices once, of noise or with foreground of a volume.

    `model` are options of `benchmark_model`; the .npy file `result` keeps the first output. Without `kernels` torch
    uses none of our convolutions (`networks.cpu_kernels`), and if not `tuned` no memory layout or setting of ours.
    """
    import numpy as np
    import torch

    from networks.cpu_kernels import torch_layers
    from pipeline.exporting.backends import in_backend
    from pipeline.inference.compile import CompiledForms
    from pipeline.inference.slice_translator import forward_eagerly, neighbours_of, translate_slices, with_neighbours
    from pipeline.inference.translator import open_volume
    from pipeline.utils.hardware import set_up

    if tuned:
        set_up(threads=None)
    loaded, to = benchmark_model(**model)
    network: Any = loaded.translators[to]
    if volume is None:
        side = -(-loaded.settings.size // loaded.stride) * loaded.stride
        shape = (slices, neighbours_of(network).channels, side, side)
        images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    else:
        opened = open_volume(volume, loaded, to, compare=False)
        occupied = np.flatnonzero(opened.foreground.any(axis=(1, 2)))
        images = with_neighbours(opened.slices, np.resize(occupied, slices), network, opened.slice_mm)
    if not (tuned and kernels):
        torch_layers(network)
    if not tuned:
        network.to(memory_format=torch.contiguous_format)
    network = in_backend(loaded, to, backend).in_precision(precision).translators[to]
    batch_size = min(batch_size, slices)  # a form is compiled for full batches alone
    run = CompiledForms(batch_size) if compiled else forward_eagerly
    options: dict[str, Any] = {"device": loaded.device, "batch_size": batch_size, "precision": precision}

    def translate() -> "np.ndarray":
        translated = translate_slices(images, network, **options, run=run, name="it")
        if not Path(result).exists():
            np.save(result, translated)
        return translated

    return translate


def compare(title: str, common: Mapping[str, Any], rounds: int, clock: Clock) -> None:
    """Print a row for each way of a table; `common` are options of `work`."""
    import numpy as np

    from pipeline.metrics.similarity import DATA_RANGE, psnr

    slices = common["slices"]
    with tempfile.TemporaryDirectory() as folder:
        results = {way: str(Path(folder) / f"{number}.npy") for number, way in enumerate(WAYS[title])}
        sides = {
            way: Side(work, {**common, **options, "result": results[way]}, slices)
            for way, options in WAYS[title].items()
        }
        timings = measure(sides, rounds=rounds, title=title, warm_up=1, clock=clock)
        translations = [np.load(path, allow_pickle=False) for path in results.values()]
    rows = []
    for row, timing, translation in zip(table_rows(timings, "slice"), timings.values(), translations, strict=True):
        set_up = max(timing.prepared - slices * timing.seconds, 0.0)  # the first call is in it
        totals = (set_up, *(set_up + volumes * SLICES * timing.seconds for volumes in VOLUMES))
        difference = f"{np.abs(translation - translations[0]).max():.2g}"
        ratio = psnr(translation, translations[0], DATA_RANGE, np.ones(translation.shape, bool))
        rows.append([*row, *(f"{total:,.1f} s" for total in totals), difference, f"{ratio:.1f}"])
    totals_header = ["set-up", *(f"{number} volume{'s' * (number > 1)}" for number in VOLUMES)]
    header = ["time a slice", "rate", "ratio", "peak memory", *totals_header, "largest difference", "PSNR [dB]"]
    echo(f"\n{common['model']['name']}, {title}, {slices} slices; differences are to the first row, in [-1, 1]")
    echo(table(["", *header], rows))


def ellipsoid(settings: "PreprocessSettings", slices: int) -> "Nifti1Image":
    """Return an uneven ellipsoid in noisy air, int16, on the grid that a model takes."""
    import nibabel as nib
    import numpy as np

    random, size = np.random.default_rng(0), settings.size
    z, y, x = np.meshgrid(*(np.linspace(-1.1, 1.1, number) for number in (size, size, slices)), indexing="ij")
    inside = x**2 + y**2 + z**2 < 1
    voxels = random.integers(0, 20, inside.shape) + inside * random.integers(400, 1000, inside.shape)
    in_plane_mm, between_mm = settings.spacing_mm or (1.0, 1.0)
    return nib.Nifti1Image(voxels.astype(np.int16), np.diag([in_plane_mm, in_plane_mm, between_mm, 1.0]))


def file_to_file(model_options: Mapping[str, Any], volume: Path | None, slices: int, rounds: int) -> None:
    """Print the time of one volume, file to file, and of its stages, after a first translation as warm-up."""
    import nibabel as nib

    from pipeline.inference.batch.batch import JobTranslator
    from pipeline.inference.batch.jobs import Job
    from pipeline.inference.batch.provenance import Provenance
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.utils.hardware import set_up

    def timed(stage: str, function: Callable) -> Callable:
        def run(*arguments: object, **options: object) -> object:
            started = time.perf_counter()
            returned = function(*arguments, **options)
            seconds_by_stage[stage][-1] += time.perf_counter() - started
            return returned

        return run

    # The model, and the function with which the command translates a volume.
    set_up(threads=None)
    model, to = benchmark_model(**model_options)
    seconds_by_stage: dict[str, list[float]] = {stage: [] for stage in (*STAGES, "all else", "all")}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        source, target = volume or Path(folder) / "source.nii.gz", Path(folder) / "target.nii.gz"
        if volume is None:
            nib.save(ellipsoid(model.settings, slices), source)
        view = open_multi_view([str(model_options["name"])], [model], to, None, uncertainty=False)
        translator = JobTranslator(view.compiled("no", 1, BATCH_SIZE), Provenance(to, "", ""), batch_size=BATCH_SIZE)

        # Translate the volume again and again, with the stages timed.
        for stage, path in STAGES.items():
            patches.enter_context(patch(path, timed(stage, resolve_name(path))))
        for _ in range(rounds + 1):
            for durations in seconds_by_stage.values():
                durations.append(0.0)
            started = time.perf_counter()
            translator.translate(Job(source, target))
            total = time.perf_counter() - started
            seconds_by_stage["all else"][-1] = total - sum(seconds_by_stage[stage][-1] for stage in STAGES)
            seconds_by_stage["all"][-1] = total
    medians = {name: statistics.median(durations[1:]) for name, durations in seconds_by_stage.items()}
    rows = [[name, duration_text(median), f"{median / medians['all']:.0%}"] for name, median in medians.items()]
    echo(table(["stage", "median", "share"], rows))
    echo(f"peak memory {peak_mib():,.0f} MiB")


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = benchmark_parser("inference", __doc__)
    parser.add_argument("--model", metavar="URI", help="a trained model, instead of an untrained U-Net")
    parser.add_argument("--to", metavar="CONTRAST", help="with --model: what it is to make")
    parser.add_argument("--volume", type=path_argument, metavar="FILE", help="a scan, instead of noise")
    parser.add_argument("--slices", type=count, help="default: 32, with --file 150, with --backends 8")
    parser.add_argument("--device", default="auto", type=device, help="of all but --backends")
    parser.add_argument("--rounds", type=count, default=5)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--file", action="store_true", help="one volume, file to file, by stages")
    backends_help = f"what else can compute networks, on the CPU: configurations, as {' '.join(NETWORKS)} (default)"
    modes.add_argument("--backends", nargs="*", metavar="CONFIG", help=backends_help)
    arguments = parser.parse_args(argv)
    echo(machine())
    model = {"name": arguments.model or "ixi", "is_address": bool(arguments.model), "to": arguments.to}
    model["device"] = arguments.device if arguments.backends is None else "cpu"
    if arguments.file:
        file_to_file(model, arguments.volume, arguments.slices or SLICES, arguments.rounds)
        return 0
    common = {"model": model, "volume": arguments.volume, "slices": arguments.slices or 32}
    if arguments.backends is None:
        compare("torch", common, arguments.rounds, time.perf_counter)
        return 0
    clock: Clock = time.perf_counter
    if os.environ.get("OMP_NUM_THREADS") == "1":
        clock = processor_seconds
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # processes of its own would not be counted
    common["slices"] = arguments.slices or BATCH_SIZE
    for name in [arguments.model] if arguments.model else arguments.backends or NETWORKS:
        common["model"] = model | {"name": name}
        for title in ("runtimes, float32", "runtimes, bf16"):
            compare(title, common, arguments.rounds, clock)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
