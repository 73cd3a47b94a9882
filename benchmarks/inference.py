"""What sends slices through a generator how fast, and how far apart the results are; or one volume, file to file.

python -m benchmarks.inference                       an untrained U-Net-256 of width 64 on noise
python -m benchmarks.inference --model runs/ixi --to T2 --volume IXI002-Guys-0828-T1.nii.gz      a trained one
python -m benchmarks.inference --file                a volume of 256×256×150, from its .nii.gz to the translation's

"File to file" is what `pipeline.translate` does for one of its volumes, with the clock on the functions that it calls.
The yardstick sends one slice at a time, as public code does, with torch's layers, allocator and memory layout. A rate
counts slices that show something; the others are not sent at all.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.options import device, volume
from benchmarks.timing import Side, machine, measure, peak_mib, rows_of, spelt
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np
    from torch import nn

    from pipeline.inference.model import TranslationModel

PLAIN = "one by one, plain"
STAGES = {  # of a volume's translation: by name, the function that does it, where it is called from
    "read, prepare": "pipeline.inference.multi_view.open_volume",
    "network": "pipeline.inference.translator.OpenedVolume.run_network",
    "way back": "pipeline.inference.multi_view.on_source_grid",
    "write": "pipeline.inference.batch.batch.write_together",
}


def model_of(
    uri: str | None, to: str | None, width: int, size: int, device: str, *, tuned: bool = True
) -> "tuple[TranslationModel, str]":
    """Return a model and the contrast it is to make: a trained one, or an untrained U-Net down to one pixel."""
    import torch

    from networks.unet import UNet
    from pipeline.inference.model import TranslationModel, is_large, load_model
    from pipeline.utils.hardware import choose_device

    if uri is not None:
        model = load_model(uri, device)
        if not tuned:
            model = replace(model, translators={name: _plain(one) for name, one in model.translators.items()})
        return model, model.target(to)
    torch.manual_seed(0)
    where = choose_device(device)
    network = UNet(depth=size.bit_length() - 1, width=width).to(where).eval().requires_grad_(False)
    if not tuned:
        network = _plain(network)
    elif where.type == "cpu" and is_large(network, size, network.stride):
        network.to(memory_format=torch.channels_last)  # as `load_model` does
    settings = {"axis": "axial", "spacing_mm": None, "size": size, "n4": False, "percentiles": (0.5, 99.5)}
    facts = {"T2": {"low": 0.0, "high": 1000.0, "integer": True}}
    return TranslationModel(("T1", "T2"), {"T2": network}, settings, facts, network.stride, where), "T2"


def _plain(network: "nn.Module") -> "nn.Module":
    """Have a network compute as torch's own layers do, in the memory layout that they begin with."""
    import torch

    from networks.cpu_kernels.convolutions import plainly

    return plainly(network).to(memory_format=torch.contiguous_format)


def head(size: int, slices: int) -> "np.ndarray":
    """Return an uneven ellipsoid in noisy air, (size, size, slices) int16."""
    import numpy as np

    random = np.random.default_rng(0)
    axes = np.ogrid[-1.1 : 1.1 : size * 1j, -1.1 : 1.1 : size * 1j, -1.1 : 1.1 : slices * 1j]
    inside = sum(axis**2 for axis in axes) < 1
    return (random.integers(0, 20, inside.shape) + inside * random.integers(400, 1000, inside.shape)).astype(np.int16)


def slices_of(model: "TranslationModel", to: str, size: int, slices: int, volume: Path | None) -> "np.ndarray":
    """Return slices (N, H, W) in [-1, 1] as the model gets them."""
    import nibabel as nib
    import numpy as np

    from pipeline.inference.translator import open_volume

    source = volume or nib.Nifti1Image(head(size, slices), np.eye(4))
    opened = open_volume(source, model, to, [], compare=False)
    return opened.slices[opened.foreground.any(axis=(1, 2))]


def sent(
    uri: str | None,
    to: str | None,
    width: int,
    size: int,
    slices: int,
    volume: Path | None,
    device: str,
    batch_size: int,
    *,
    tuned: bool = True,
    forms: bool = False,
    precision: str = "float32",
) -> "Callable[[], np.ndarray]":
    """Return what translates the slices once in one way: a side of the measurement."""
    import numpy as np

    from pipeline.inference.compile import CompiledForms
    from pipeline.inference.translator import translate_slices
    from pipeline.utils.hardware import set_up

    if tuned:
        set_up(threads=None)
    model, to = model_of(uri, to, width, size, device, tuned=tuned)
    model = replace(model, run=CompiledForms(batch_size)) if forms else model
    given = slices_of(model, to, size, slices, volume)
    how = {"device": model.device, "batch_size": batch_size, "precision": precision, "run": model.run, "name": "it"}
    return lambda: translate_slices(given, model.translators[to], np.ones(len(given), bool), **how)


def ways(batch_size: int) -> dict[str, dict]:
    """Return what is compared: by name, how the slices are sent."""
    return {
        PLAIN: {"batch_size": 1, "tuned": False},
        f"batch {batch_size}, plain": {"batch_size": batch_size, "tuned": False},
        f"batch {batch_size}, as translate does": {"batch_size": batch_size},
        "the same, compiled": {"batch_size": batch_size, "forms": True},
        "bf16": {"batch_size": batch_size, "precision": "bf16"},
        "bf16, compiled": {"batch_size": batch_size, "precision": "bf16", "forms": True},
    }


def apart(common: dict, batch_size: int) -> list[list[str]]:
    """Return a row a way: the largest difference to the yardstick's result and the PSNR between the two."""
    import numpy as np

    from pipeline.metrics.similarity import DATA_RANGE, psnr

    made = {name: sent(**common, **way)() for name, way in ways(batch_size).items()}
    plain = made.pop(PLAIN)
    inside, rows = np.ones(plain.shape, bool), []
    for name, other in made.items():
        ratio = "∞" if (other == plain).all() else f"{psnr(other, plain, DATA_RANGE, inside):.1f}"
        rows.append([name, f"{np.abs(other - plain).max():.2g}", ratio])
    return rows


def compare(common: dict, batch_size: int, rounds: int) -> None:
    """Print the table of rates and that of differences."""
    count = len(sent(**common, batch_size=1)())
    sides = {name: Side(sent, common | way, units=count) for name, way in ways(batch_size).items()}
    timings = measure(sides, rounds=rounds, title="slices")
    rows = [
        [*row, f"{timing.prepared:.1f} s"]
        for row, timing in zip(rows_of(timings, "slice"), timings.values(), strict=True)
    ]
    echo(table(["", "time a slice", "rate", "ratio", "peak memory", "set-up, first call"], rows))
    echo()
    echo(
        table(
            ["against one by one", "largest difference in [-1, 1]", "PSNR [dB], data range 2"],
            apart(common, batch_size),
        )
    )


def with_likeness(model: "TranslationModel", to: str, source: Path) -> "TranslationModel":
    """Return the model as if it had been trained on a volume: what it translates is compared with that."""
    from pipeline.data.fingerprint import cohort_fingerprint, volume_fingerprint
    from pipeline.inference.translator import open_volume

    opened = open_volume(source, model, to, [], compare=False)
    alike = volume_fingerprint(opened.inverse_state, model.settings["axis"], model.settings["size"])
    known = dict(model.statistics.get(contrast := model.source(to), {}))
    return replace(model, statistics={**model.statistics, contrast: known | {"likeness": cohort_fingerprint([alike])}})


@contextmanager
def clocked(stages: Mapping[str, str], taken: dict[str, float]) -> Iterator[None]:
    """Add to `taken` the seconds that functions take while the block runs."""

    def on_the_clock(name: str, function: Callable) -> Callable:
        def run(*arguments: object, **options: object) -> object:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                taken[name] += time.perf_counter() - started

        return run

    with ExitStack() as patches:
        for name, path in stages.items():
            patches.enter_context(patch(path, on_the_clock(name, resolve_name(path))))
        yield


def file_to_file(common: dict, batch_size: int, rounds: int, *, forms: bool, precision: str) -> None:
    """Print what one volume takes, file to file, and its stages, after a first one that warms the process up."""
    import nibabel as nib
    import numpy as np

    from pipeline.inference import multi_view as views
    from pipeline.inference.batch import batch
    from pipeline.inference.batch.jobs import Job
    from pipeline.inference.translator import open_volume
    from pipeline.utils.hardware import set_up

    set_up(threads=None)
    model, to = model_of(*(common[name] for name in ("uri", "to", "width", "size", "device")))
    taken: dict[str, list[float]] = {name: [] for name in (*STAGES, "all else", "all")}
    with tempfile.TemporaryDirectory() as folder:
        source, target = common["volume"] or Path(folder) / "source.nii.gz", Path(folder) / "target.nii.gz"
        if common["volume"] is None:
            nib.save(nib.Nifti1Image(head(common["size"], common["slices"]), np.eye(4)), source)
        if common["uri"] is None:
            model = with_likeness(model, to, source)
        one_view = views.open_multi_view(
            [str(common["uri"])], [model.in_precision(precision)], to, None, uncertainty=False
        )
        translate_one = batch.job_translator(
            one_view.compiled("yes" if forms else "no", 1, batch_size), None, batch_size=batch_size
        )
        for _ in range(rounds + 1):
            seconds = dict.fromkeys(STAGES, 0.0)
            started = time.perf_counter()
            with clocked(STAGES, seconds):
                translate_one(Job(source, target))
            whole = time.perf_counter() - started
            for name, part in (seconds | {"all else": whole - sum(seconds.values()), "all": whole}).items():
                taken[name].append(part)
        opened = open_volume(source, model, to, [], compare=False)
        kept = int(opened.foreground.any(axis=(1, 2)).sum())
        echo(f"{kept} of {len(opened.slices)} slices show something; {source.stat().st_size / 2**20:.1f} MiB read")
    whole = statistics.median(taken["all"][1:])
    rows = [
        [name, spelt(statistics.median(times[1:])), f"{statistics.median(times[1:]) / whole:.0%}", spelt(times[0])]
        for name, times in taken.items()
    ]
    echo(table(["stage", "median", "share", "the first"], rows))
    echo(f"peak memory {peak_mib():,.0f} MiB")


def refuse_what_does_not_apply(told: argparse.Namespace, door: argparse.ArgumentParser) -> None:
    """Refuse options that would do nothing, and say what they go with."""
    without_file = {"--compile": told.compile, "--precision": told.precision is not None}
    rules = [
        (not told.file, without_file, "goes with --file alone: without it, all ways are compared"),
        (told.model is None, {"--to": told.to is not None}, "goes with --model alone"),
        (told.model is not None, {"--width": told.width, "--size": told.size and told.volume}, "is the model's own"),
        (told.volume is not None, {"--slices": told.slices}, "is the volume's own"),
    ]
    for applies, options, reason in rules:
        for option, given in options.items():
            if applies and given:
                door.error(f"{option} {reason}")


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    door = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    door.add_argument("--model", metavar="URI", help="a trained model, instead of an untrained U-Net")
    door.add_argument("--to", metavar="CONTRAST", help="what the model is to make")
    door.add_argument("--volume", type=volume, metavar="FILE", help="a scan, instead of an ellipsoid of noise")
    door.add_argument("--width", type=count, help="of the untrained U-Net (default: 64)")
    door.add_argument("--size", type=count, help="of a slice's sides, a power of two (default: 256)")
    door.add_argument("--slices", type=count, help="of the ellipsoid (default: 32, with --file 150)")
    door.add_argument("--device", default="auto", type=device)
    door.add_argument("--batch-size", type=count, default=8, metavar="N")
    door.add_argument("--rounds", type=count, default=5)
    door.add_argument("--file", action="store_true", help="one volume, file to file, by stages")
    door.add_argument("--compile", action="store_true", help="with --file: compiled")
    door.add_argument("--precision", choices=("model", "float32", "bf16"), help="with --file (default: model)")
    told = door.parse_args(argv)
    refuse_what_does_not_apply(told, door)
    if told.size is not None and (told.size < 8 or told.size & (told.size - 1)):
        door.error(f"--size {told.size}: must be a power of two, 8 or more")
    echo(machine())
    common = {"uri": told.model, "to": told.to, "width": told.width or 64, "size": told.size or 256}
    common |= {"device": told.device, "volume": told.volume, "slices": told.slices or (150 if told.file else 32)}
    if told.file:
        precision = told.precision or "model"
        file_to_file(common, told.batch_size, told.rounds, forms=told.compile, precision=precision)
    else:
        compare(common, told.batch_size, told.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
