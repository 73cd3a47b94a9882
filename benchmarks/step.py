"""A training step against the plain one of research code (`benchmarks.reference`): same networks, losses and batch.

python -m benchmarks.step                       # every row of the table that this machine can do
python -m benchmarks.step unet-128 --batch 1 8
python -m benchmarks.step unet-256 resnet-256 --device cuda --batch 1 4 16

Rows are networks and sizes as in CycleGAN's code (U-Net and ResNet at 256², width 64; "128": 128², width 16);
sides the plain step, ours, and ours in half precision. On a GPU "float32" multiplies without TF32, as the plain step
there does; `--graph` adds ours as one CUDA graph. `--roof` adds the plain step's arithmetic over each side's time, as a
share of the rate of a large plain convolution in the better of two layouts; what needs fewer multiplications can pass
100 %. `--operations` counts the operations of a step below autograd, on the CPU, with the Adam that the plain step has
on a GPU.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.timing import Side, Work, benchmark_parser, device, machine, measure, table_rows
from pipeline.config.schema import Config
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table


@dataclass(frozen=True)
class Row:
    """A row of the table: side of an image in pixels, and sections of the configuration."""

    size: int
    method: Mapping[str, Any]
    generator: Mapping[str, Any]
    discriminator: Mapping[str, Any]


CYCLEGAN: dict[str, Any] = {"type": "cyclegan"}
DUALGAN: dict[str, Any] = {"type": "dualgan"}
MUNIT: dict[str, Any] = {"type": "munit", "cycle_weight": 2.0}
UNET: dict[str, Any] = {"type": "unet", "dropout": 0.0}
RESNET: dict[str, Any] = {"type": "resnet"}
PRECISIONS = ("float32", "tf32", "bf16")
SECONDS = 2.0  # that a side works in each round
LAYOUTS = ("contiguous_format", "channels_last")
ROOF_IMAGES = (4, 256, 128, 128)
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
VIEWS = ("detach", "_unsafe_view", "_reshape_alias")  # besides those that torch marks
ROWS = {
    "unet-256": Row(256, CYCLEGAN, UNET | {"width": 64}, {"width": 64}),
    "unet-128": Row(128, CYCLEGAN, UNET | {"width": 16}, {"width": 16}),
    "resnet-256": Row(256, CYCLEGAN, RESNET | {"width": 64, "blocks": 9}, {"width": 64}),
    "resnet-128": Row(128, CYCLEGAN, RESNET | {"width": 16, "blocks": 6}, {"width": 16}),
    "dualgan-256": Row(256, DUALGAN, UNET | {"width": 64}, {"width": 64}),
    "dualgan-128": Row(128, DUALGAN, UNET | {"width": 16}, {"width": 16}),
    "munit-128": Row(
        128, MUNIT, {"type": "munit", "width": 16, "mlp_width": 64}, {"type": "multiscale", "width": 16, "layers": 3}
    ),
}
SMALL = {  # whether a benchmark runs, not how fast
    "unet-32": Row(32, CYCLEGAN, UNET | {"width": 4}, {"width": 4, "layers": 2}),
    "resnet-32": Row(32, CYCLEGAN, RESNET | {"width": 4, "blocks": 1}, {"width": 4, "layers": 2}),
}


def config_of(row: str, batch: int, precision: str = "float32") -> Config:
    """Return the configuration of a row, or of a `SMALL` one; the keys that a step does not read are the usual ones."""
    job = (ROWS | SMALL)[row]
    sections = {"method": job.method, "generator": job.generator, "discriminator": job.discriminator}
    training = {"batch_size": batch, "precision": precision}
    base = {"name": row, "data": {"source": "phantom"}, "preprocess": {"size": job.size}, "training": training}
    return Config.model_validate(base | {name: dict(section) for name, section in sections.items()})


def prepare(row: str, batch: int, kind: str, device: str, foreach: bool | None = None) -> Work:
    """Return a training step of a row.

    `kind` is "plain", or the precision of our step, followed by " graph" for a CUDA graph; for `foreach` see
    `benchmarks.reference.Plain`.
    """
    import torch

    from benchmarks.reference import PLAIN
    from pipeline.engines.builders import build_engine
    from pipeline.engines.cuda_graph import CapturedStep
    from pipeline.utils.hardware import set_up, tune

    # Settings of the process: the plain step has those of torch.
    if kind != "plain":
        set_up(None)
    precision, _, form = kind.partition(" ")
    config = config_of(row, batch, "bf16" if precision == "bf16" else "float32")
    torch.manual_seed(0)
    torch_device = torch.device(device)
    tune(torch_device, tf32=precision == "tf32")

    # Engine and batch, and the step on them.
    engine = build_engine(config, torch_device)
    size = config.preprocess.size
    images = (torch.rand(2, batch, 1, size, size) * 2 - 1).to(torch_device)
    if kind == "plain":
        plain = PLAIN[config.method.type](config, engine.networks(), foreach)
        del engine
        return lambda: plain.step(*images)
    step = CapturedStep(engine) if form else engine.step
    return lambda: step(*images)


def convolution(device: str, kind: str, layout: str, shape: tuple[int, int, int, int] = ROOF_IMAGES) -> Work:
    """Return the roof's work: a large 3×3 convolution in a side's precision and a memory layout."""
    import torch

    from pipeline.utils.hardware import set_up, tune

    set_up(None)
    tune(torch.device(device), tf32=kind == "tf32")
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    channels, memory_format = shape[1], getattr(torch, layout)
    images = torch.randn(shape, device=device, dtype=dtype).to(memory_format=memory_format)
    weights = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype).to(memory_format=memory_format)
    return torch.inference_mode()(lambda: torch.nn.functional.conv2d(images, weights, padding=1))


def roof_flop(shape: tuple[int, int, int, int] = ROOF_IMAGES) -> int:
    """Return the floating-point operations of the roof's work, usually 77.3 billion."""
    images, channels, height, width = shape
    return 2 * images * height * width * channels**2 * 9


def flop_of_step(row: str, batch: int) -> int:
    """Count a plain step's floating-point operations (convolutions and matrix products), on torch's meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.reference import PLAIN
    from pipeline.engines.builders import build_engine

    config = config_of(row, batch)
    with torch.device("meta"):
        engine = build_engine(config, torch.device("meta"))
        plain = PLAIN[config.method.type](config, engine.networks())
        images = torch.zeros(2, batch, 1, config.preprocess.size, config.preprocess.size)
        with FlopCounterMode(display=False) as counter:
            plain.step(*images)
    return counter.get_total_flops()


def time_row(row: str, batch: int, arguments: Namespace) -> list[list[str]]:
    """Measure the sides of a row at a batch size; return their table rows."""
    graphs = [f"{precision} graph" for precision in arguments.precision] if arguments.graph else []
    kinds = ["plain", *arguments.precision, *graphs]
    common = {"device": arguments.device}
    sides = {kind: Side(prepare, {"row": row, "batch": batch, "kind": kind} | common) for kind in kinds}
    roofs = {
        f"{kind} {layout}": Side(convolution, {"kind": kind, "layout": layout} | common)
        for kind in (arguments.precision if arguments.roof else ())
        for layout in LAYOUTS
    }
    timings = measure(sides | roofs, rounds=arguments.rounds, seconds=SECONDS, title=f"{row}, batch {batch}")
    flop = flop_of_step(row, batch) if arguments.roof else 0
    rows = []
    for kind, cells in zip(kinds, table_rows({kind: timings[kind] for kind in kinds}, "step"), strict=True):
        share = "–"
        if arguments.roof:
            precision = "float32" if kind == "plain" else kind.split()[0]
            quickest = min(timings[f"{precision} {layout}"].seconds for layout in LAYOUTS)
            share = f"{flop / timings[kind].seconds / (roof_flop() / quickest):.0%}"
        rows.append([row, str(batch), *cells, share])
    return rows


def count_operations(work: Work, warm_up: int = 2) -> int:
    """Return the number of a call's operations that launch a kernel on a GPU: below autograd, without views."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from networks.cpu_kernels import twice_differentiable

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name = function.overloadpacket.__name__
            is_bookkeeping = function.is_view or function.namespace == "profiler" or name in (*ALLOCATIONS, *VIEWS)
            self.count += not is_bookkeeping
            return function(*args, **(kwargs or {}))

    with twice_differentiable():
        for _ in range(warm_up):
            work()
        with Counter() as counter:
            work()
    return counter.count


def operations(row: str, batch: int) -> list[str]:
    """Return a table row with the numbers of operations of a plain step and of ours."""
    counts = [count_operations(prepare(row, batch, kind, "cpu", foreach=True)) for kind in ("plain", "float32")]
    return [row, str(batch), *(f"{count:,}" for count in counts), f"{counts[1] / counts[0]:.3f}"]


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = benchmark_parser("step", __doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all unless given")
    parser.add_argument("--batch", nargs="+", type=count, default=[1])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"], choices=PRECISIONS)
    parser.add_argument("--device", default="cpu", type=device, help="cpu (default), cuda, mps or auto")
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--graph", action="store_true", help="ours as a CUDA graph, too")
    parser.add_argument("--roof", action="store_true", help="the share of a large convolution's rate")
    parser.add_argument("--operations", action="store_true", help="count operations instead of timing")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    if arguments.device == "cpu" and (arguments.graph or "tf32" in arguments.precision):
        parser.error("--graph and tf32 need --device cuda")
    jobs = [(row, batch) for row in arguments.rows or ROWS for batch in arguments.batch]
    echo(machine())
    if arguments.operations:
        echo(table(["job", "batch", "plain", "ours", "ratio"], [operations(*job) for job in jobs]))
        return 0
    rows = [cells for job in jobs for cells in time_row(*job, arguments)]
    echo(table(["job", "batch", "side", "time a step", "rate", "ratio", "peak memory", "of the roof"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
