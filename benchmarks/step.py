"""A training step against the plain one of research code (`benchmarks.reference`): same networks, losses and batch.

python -m benchmarks.step                       # every row of the table that this machine can do
python -m benchmarks.step unet-128 --batch 1 8
python -m benchmarks.step unet-256 resnet-256 --device cuda --batch 1 4 16

Rows are networks and sizes as CycleGAN's code calls them (U-Net and ResNet at 256², width 64; "128": 128², width 16);
sides the plain step, ours, and ours in half precision. `--roof` adds the share of the rate of a large convolution that
each reaches, `--operations` counts the operations of a step that launch a kernel.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.timing import Side, Work, machine, measure, rows_of
from pipeline.config.schema import Config
from pipeline.console import say, table


@dataclass(frozen=True)
class Row:
    """One of the table's jobs: a configuration's sections, and the image's side."""

    size: int
    method: Mapping[str, object]
    generator: Mapping[str, object]
    discriminator: Mapping[str, object]


CYCLEGAN, DUALGAN = {"type": "cyclegan"}, {"type": "dualgan"}
MUNIT = {"type": "munit", "cycle_weight": 2.0}
UNET, RESNET = {"type": "unet", "dropout": 0.0}, {"type": "resnet"}
PLAIN_METHODS = ("cyclegan", "dualgan", "munit")  # those that `benchmarks.reference` has
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


def config_of(row: str, batch: int, precision: str = "float32") -> Config:
    """Return a row's configuration; the keys that a step does not read are the usual ones."""
    job = ROWS[row]
    sections = {"method": job.method, "generator": job.generator, "discriminator": job.discriminator}
    training = {"batch_size": batch, "precision": precision}
    base = {"name": row, "data": {"source": "phantom"}, "preprocess": {"size": job.size}, "training": training}
    return Config.model_validate(base | {name: dict(section) for name, section in sections.items()})


def prepare(row: str, batch: int, kind: str, device: str, threads: int | None) -> Work:
    """Return a step; `kind` is "plain" or the precision that ours has."""
    import torch

    from benchmarks.reference import PLAIN
    from pipeline.engines.build import build_engine
    from pipeline.hardware import set_up

    if threads:
        torch.set_num_threads(threads)
    if kind != "plain":
        set_up(threads)
    config = config_of(row, batch, "float32" if kind == "plain" else kind)
    torch.manual_seed(0)
    place = torch.device(device)
    engine = build_engine(config, place)
    stepping = PLAIN[config.method.type](config, engine.networks()) if kind == "plain" else engine
    del engine
    size = config.preprocess.size
    images = (torch.rand(2, batch, 1, size, size) * 2 - 1).to(place)
    return lambda: stepping.step(*images)


def convolution(device: str, kind: str, threads: int | None) -> Work:
    """Return the roof's work: one large 3×3 convolution, 77.3 GFLOP, in the precision of a side."""
    import torch

    from pipeline.hardware import set_up

    set_up(threads)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind, torch.float32)
    images = torch.randn(4, 256, 128, 128, device=device, dtype=dtype)
    weights = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)

    def work() -> None:
        with torch.inference_mode():
            torch.nn.functional.conv2d(images, weights, padding=1)

    return work


ROOF_FLOP = 2 * 4 * 128 * 128 * 256 * 256 * 9


def flop_of_step(row: str, batch: int) -> int:
    """Count a plain step's floating-point operations (convolutions and matrix products), on torch's meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.reference import PLAIN
    from pipeline.engines.build import build_engine

    config = config_of(row, batch)
    with torch.device("meta"):
        engine = build_engine(config, torch.device("meta"))
        plain = PLAIN[config.method.type](config, engine.networks())
        images = torch.zeros(2, batch, 1, config.preprocess.size, config.preprocess.size)
        with FlopCounterMode(display=False) as counter:
            plain.step(*images)
    return counter.get_total_flops()


def time_row(row: str, batch: int, arguments: argparse.Namespace) -> list[list[str]]:
    """Measure one job's sides; return the rows of the table."""
    kinds = ["plain", *arguments.precision]
    options = {"device": arguments.device, "threads": arguments.threads}
    sides = {kind: Side(prepare, {"row": row, "batch": batch, "kind": kind} | options) for kind in kinds}
    if arguments.roof:
        sides |= {f"roof {kind}": Side(convolution, {"kind": kind} | options) for kind in arguments.precision}
    timings = measure(sides, rounds=arguments.rounds, seconds=arguments.seconds, title=f"{row}, batch {batch}")
    flop = flop_of_step(row, batch) if arguments.roof else 0
    rows = []
    for cells, kind in zip(rows_of({kind: timings[kind] for kind in kinds}, "step"), kinds, strict=True):
        share = "–"
        if arguments.roof:
            roof = timings[f"roof {'float32' if kind == 'plain' else kind}"]
            share = f"{flop / timings[kind].seconds / (ROOF_FLOP / roof.seconds):.0%}"
        rows.append([row, str(batch), *cells, share])
    return rows


def operations(row: str, batch: int) -> list[str]:
    """Return a table row: how many operations that launch a kernel a plain step and ours make."""
    from benchmarks.operations import count_operations

    counts = [count_operations(prepare(row, batch, kind, "cpu", None)) for kind in ("plain", "float32")]
    return [row, str(batch), *(f"{count:,}" for count in counts), f"{counts[1] / counts[0]:.3f}"]


def main() -> None:
    """Print the table."""
    door = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    door.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all unless given")
    door.add_argument("--batch", nargs="+", type=int, default=[1])
    door.add_argument("--precision", nargs="+", default=["float32", "bf16"], choices=["float32", "bf16", "fp16"])
    door.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    door.add_argument("--threads", type=int, help="CPU threads; all cores unless given")
    door.add_argument("--rounds", type=int, default=7)
    door.add_argument("--seconds", type=float, default=2.0, help="that a side works in each round")
    door.add_argument("--roof", action="store_true", help="the share of a large convolution's rate")
    door.add_argument("--operations", action="store_true", help="count operations instead of timing")
    arguments = door.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        door.error(f"no such row: {', '.join(sorted(unknown))}; choose from {', '.join(ROWS)}")
    jobs = [(row, batch) for row in arguments.rows or ROWS for batch in arguments.batch]
    say(machine())
    if arguments.operations:
        say(table(["job", "batch", "plain", "ours", "ratio"], [operations(*job) for job in jobs]))
        return
    rows = [cells for job in jobs for cells in time_row(*job, arguments)]
    say(table(["job", "batch", "side", "time a step", "rate", "ratio", "peak memory", "of the roof"], rows))


if __name__ == "__main__":
    main()
