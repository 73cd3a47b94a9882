"""What computes a network on the CPU: torch's layers, ours, torch.compile, ONNX Runtime, OpenVINO; for `inference`.

Every way has a process of its own, they take turns, and the ratio of two is taken within a round (`timing`). The time
of a slice is measured with a few; a command's total is its set-up, from the imports on and with export or compilation,
and so many slices times that. With one thread (OMP_NUM_THREADS=1) times are the processor's, so that other load on the
machine does not lengthen a set-up; with several they are what passes.
"""

import os
import statistics
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from benchmarks.timing import ROOT, Side, Timing, duration_text, measure, processor_seconds
from pipeline.utils.console import echo

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np

    from pipeline.inference.model import TranslationModel

OURS = "torch, our kernels"  # the first of each table, in float32: as `translate` does
WAYS: dict[str, dict[str, dict[str, Any]]] = {  # options of `work` by precision and name
    "float32": {
        OURS: {},
        "torch, its own layers": {"kernels": False},
        "torch, compiled": {"compiled": True},
        "ONNX Runtime": {"backend": "onnxruntime"},
        "OpenVINO": {"backend": "openvino"},
    },
    "bf16": {
        OURS: {},
        "torch, bf16": {"precision": "bf16"},
        "torch, compiled, bf16": {"precision": "bf16", "compiled": True},
        "OpenVINO, bf16": {"backend": "openvino", "precision": "bf16"},
    },
}
NETWORKS = ("phantom", "ixi", "ixi_resnet")  # configurations: the demo's U-Net, the full-size U-Net and ResNet-9
BATCH_SIZE = 8
SLICES = 150  # of a volume that have foreground
VOLUMES = 1, 20  # translated by a command, whose set-up counts
HEADER = (
    *("", "time, ratio", "a slice", "set-up"),
    *(f"{count} volume{'s' * (count > 1)}" for count in VOLUMES),
    *("peak memory", "largest difference"),
)


def configuration(text: str) -> str:
    """Return the name of a shipped configuration, for `argparse`."""
    if not _path_of(text).is_file():
        raise ArgumentTypeError(f"{text}: no such file in configs; give others, as {' '.join(NETWORKS)}")
    return text


def _path_of(config_name: str) -> Path:
    return ROOT / "configs" / f"{config_name}.yaml"


def untrained(config_name: str) -> "tuple[TranslationModel, str]":
    """Return the model of a shipped configuration as a new checkpoint of it would be loaded, with random weights."""
    import torch

    from networks.lookup_start import start_of
    from pipeline.config.load import load_config
    from pipeline.data.statistics import ContrastStatistics
    from pipeline.engines.builders import build_translators
    from pipeline.inference.model import TranslationModel, is_large, stride_of
    from pipeline.runs.prepare import chain_settings

    config = load_config(_path_of(config_name), warn=False)
    torch.manual_seed(0)
    to, network = next(iter(build_translators(config).items()))
    if (start := start_of(network)) is not None:  # which is but a lookup before it has learned
        start.lookup.table.uniform_(-1, 1)
        for weight in start.network.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, 0.0, 0.02)
    settings = chain_settings(config.preprocess.model_dump(mode="json"), 2)
    network.eval().requires_grad_(False)
    if is_large(network, settings.size, stride_of(network)):
        cast(Any, network).to(memory_format=torch.channels_last)  # as `load_model` does
    contrasts = {name: ContrastStatistics(0.0, 1000.0, integer=True) for name in config.contrasts}
    device = torch.device("cpu")
    return TranslationModel(config.contrasts, {to: network}, settings, contrasts, stride_of(network), device), to


def work(
    name: str,
    result: str,
    *,
    is_address: bool = False,
    to: str | None = None,
    slices: int = BATCH_SIZE,
    kernels: bool = True,
    compiled: bool = False,
    precision: str = "float32",
    backend: str = "torch",
) -> "Callable[[], np.ndarray]":
    """Return a function that translates slices once: a side of the measurement.

    `name` is a shipped configuration, or with `is_address` a trained model's address. The first output is kept in the
    .npy file `result`. Without `kernels` torch uses none of our convolutions (`networks.cpu_kernels`).
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # processes of its own would not be counted
    import numpy as np
    import torch

    from networks.cpu_kernels import torch_layers
    from pipeline.exporting.backends import in_backend
    from pipeline.inference.compile import CompiledForms
    from pipeline.inference.model import load_model
    from pipeline.inference.slice_translator import forward_eagerly, neighbours_of, translate_slices
    from pipeline.utils.hardware import set_up

    set_up(threads=None)
    model, to = (load_model(name, "cpu"), to) if is_address else untrained(name)
    to = model.target(to)
    if not kernels:
        torch_layers(model.translators[to])
    network = in_backend(model, to, backend).in_precision(precision).translators[to]
    batch_size = min(BATCH_SIZE, slices)  # a form is compiled for full batches alone
    run = CompiledForms(batch_size) if compiled else forward_eagerly
    side = -(-model.settings.size // model.stride) * model.stride
    shape = (slices, neighbours_of(network).channels, side, side)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    options: dict[str, Any] = {"device": torch.device("cpu"), "batch_size": batch_size, "precision": precision}

    def translate() -> "np.ndarray":
        occupied = np.ones(slices, bool)
        translated = translate_slices(images, network, occupied, **options, slice_mm=None, run=run, name="it")
        if not Path(result).exists():
            np.save(result, translated)
        return translated

    return translate


def compare_backends(
    common: Mapping[str, Any], precisions: tuple[str, ...], rounds: int, only: Collection[str] = ()
) -> None:
    """Print a Markdown table for each precision: a row for each way, or for the first and `only` those.

    `common` are options of `work`.
    """
    import torch

    clock = processor_seconds if torch.get_num_threads() == 1 else time.perf_counter
    for precision in precisions:
        ways = {way: options for way, options in WAYS[precision].items() if not only or way in (OURS, *only)}
        with tempfile.TemporaryDirectory() as folder:
            results = {way: str(Path(folder) / f"{number}.npy") for number, way in enumerate(ways)}
            sides = {
                way: Side(work, {**common, **options, "result": results[way]}, common["slices"])
                for way, options in ways.items()
            }
            timings = measure(sides, rounds=rounds, title=precision, warm_up=1, clock=clock)
            rows = list(table_rows(timings, results, common["slices"]))
        title = f"**{common['name']}**, {precision}, {common['slices']} slices, {rounds} rounds"
        echo("\n".join(["", title, "", *markdown([list(HEADER), *rows])]))


def table_rows(timings: Mapping[str, Timing], results: Mapping[str, str], slices: int) -> Iterator[list[str]]:
    """Yield a row for each way: ratio to the first way's time and its range, times, and the largest difference."""
    import numpy as np

    first = next(iter(timings))
    for way, timing in timings.items():
        ratios = [ours / theirs for ours, theirs in zip(timing.rounds, timings[first].rounds, strict=True)]
        span = f" ({min(ratios):.2f} to {max(ratios):.2f})" if way != first else ""
        set_up = max(timing.prepared - slices * timing.seconds, 0.0)  # the first call is in it
        totals = (set_up, *(set_up + count * SLICES * timing.seconds for count in VOLUMES))
        own, other = (np.load(results[name], allow_pickle=False) for name in (way, first))
        difference = np.abs(own - other).max()
        ratio = f"{statistics.median(ratios):.2f}{span}"
        durations = [duration_text(timing.seconds), *(f"{total:,.1f} s" for total in totals)]
        yield [way, ratio, *durations, f"{timing.peak_mib:,.0f} MiB", f"{difference:.1g}"]


def markdown(rows: list[list[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; the first row is the header."""
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield f"|{' --- |' * len(row)}"
