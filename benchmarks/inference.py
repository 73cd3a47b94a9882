"""Rates of translating slices in several ways, and differences of the results; or one volume, file to file.

python -m benchmarks.inference                       an untrained U-Net-256 of width 64 on noise
python -m benchmarks.inference --model runs/ixi --to T2 --volume IXI002-Guys-0828-T1.nii.gz      a trained one
python -m benchmarks.inference --file                a volume of 256×256×150, from its .nii.gz to the translation's

"File to file" is what `pipeline.translate` does for a volume; the functions that it calls are timed. The yardstick
translates one slice at a time, as public code does, with torch's layers, allocator and memory layout. Rates count
slices with foreground; the others are not translated.
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
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.inputs import benchmark_model, ellipsoid_volume
from benchmarks.timing import Side, device, duration_text, machine, measure, peak_mib, table_rows, volume
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo, table

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np

PLAIN = "one by one, plain"
STAGES = {  # stages of a volume's translation: the function of each, in the module that calls it
    "read, prepare": "pipeline.inference.multi_view.open_volume",
    "network": "pipeline.inference.translator.OpenedVolume.run_network",
    "way back": "pipeline.inference.multi_view.on_source_grid",
    "write": "pipeline.inference.batch.batch.write_together",
}


def translation_work(
    uri: str | None,
    to: str | None,
    size: int,
    slices: int,
    volume: Path | None,
    device: str,
    batch_size: int,
    *,
    width: int = 64,
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
    model, to = benchmark_model(uri, to, width=width, size=size, device=device, tuned=tuned)
    model = replace(model, run=CompiledForms(batch_size)) if compiled else model
    source = volume or nib.Nifti1Image(ellipsoid_volume(size, slices), np.eye(4))
    opened = open_volume(source, model, to, compare=False)
    images = opened.slices[opened.foreground.any(axis=(1, 2))]  # (N, H, W) in [-1, 1]
    options: dict[str, Any] = {"device": model.device, "batch_size": batch_size, "precision": precision}
    return lambda: translate_slices(
        images, model.translators[to], np.ones(len(images), bool), **options, run=model.run, name="it"
    )


def variants(batch_size: int) -> dict[str, dict[str, Any]]:
    """Return the compared variants: options of `translation_work` by name."""
    return {
        PLAIN: {"batch_size": 1, "tuned": False},
        f"batch {batch_size}, plain": {"batch_size": batch_size, "tuned": False},
        f"batch {batch_size}, as translate does": {"batch_size": batch_size},
        "the same, compiled": {"batch_size": batch_size, "compiled": True},
        "bf16": {"batch_size": batch_size, "precision": "bf16"},
        "bf16, compiled": {"batch_size": batch_size, "precision": "bf16", "compiled": True},
    }


def difference_rows(common: dict[str, Any], batch_size: int) -> list[list[str]]:
    """Return a row for each variant: the largest difference from the yardstick's result, and the PSNR between both."""
    import numpy as np

    from pipeline.metrics.similarity import DATA_RANGE, psnr

    translations = {name: translation_work(**common, **options)() for name, options in variants(batch_size).items()}
    reference = translations.pop(PLAIN)
    inside, rows = np.ones(reference.shape, bool), []
    for name, translation in translations.items():
        ratio = "∞" if (translation == reference).all() else f"{psnr(translation, reference, DATA_RANGE, inside):.1f}"
        rows.append([name, f"{np.abs(translation - reference).max():.2g}", ratio])
    return rows


def compare(common: dict[str, Any], batch_size: int, rounds: int) -> None:
    """Print the table of rates and that of differences."""
    count = len(translation_work(**common, batch_size=1)())
    sides = {
        name: Side(translation_work, common | options, units=count) for name, options in variants(batch_size).items()
    }
    timings = measure(sides, rounds=rounds, title="slices")
    rows = [
        [*row, f"{timing.prepared:.1f} s"]
        for row, timing in zip(table_rows(timings, "slice"), timings.values(), strict=True)
    ]
    echo(table(["", "time a slice", "rate", "ratio", "peak memory", "set-up, first call"], rows))
    echo()
    echo(
        table(
            ["against one by one", "largest difference in [-1, 1]", "PSNR [dB], data range 2"],
            difference_rows(common, batch_size),
        )
    )


@contextmanager
def timed_stages(stages: Mapping[str, str], seconds_by_stage: dict[str, float]) -> Iterator[None]:
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
        for name, path in stages.items():
            patches.enter_context(patch(path, timed(name, resolve_name(path))))
        yield


def file_to_file(common: dict[str, Any], batch_size: int, rounds: int) -> None:
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
    size, slices = common["size"], common["slices"]
    model, to = benchmark_model(common["uri"], common["to"], width=common["width"], size=size, device=common["device"])
    seconds_by_stage: dict[str, list[float]] = {name: [] for name in (*STAGES, "all else", "all")}
    with tempfile.TemporaryDirectory() as folder:
        source, target = common["volume"] or Path(folder) / "source.nii.gz", Path(folder) / "target.nii.gz"
        if common["volume"] is None:
            nib.save(nib.Nifti1Image(ellipsoid_volume(size, slices), np.eye(4)), source)
        view = open_multi_view([str(common["uri"])], [model], to, None, uncertainty=False)
        translator = JobTranslator(view.compiled("no", 1, batch_size), Provenance(to, "", ""), batch_size=batch_size)

        # Translate the volume again and again, with the stages timed.
        for _ in range(rounds + 1):
            stage_seconds = dict.fromkeys(STAGES, 0.0)
            started = time.perf_counter()
            with timed_stages(STAGES, stage_seconds):
                translator.translate(Job(source, target))
            total = time.perf_counter() - started
            stage_seconds |= {"all else": total - sum(stage_seconds.values()), "all": total}
            for name, duration in stage_seconds.items():
                seconds_by_stage[name].append(duration)
    medians = {name: statistics.median(durations[1:]) for name, durations in seconds_by_stage.items()}
    rows = [
        [name, duration_text(median), f"{median / medians['all']:.0%}", duration_text(seconds_by_stage[name][0])]
        for name, median in medians.items()
    ]
    echo(table(["stage", "median", "share", "the first"], rows))
    echo(f"peak memory {peak_mib():,.0f} MiB")


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="URI", help="a trained model, instead of an untrained U-Net")
    parser.add_argument("--to", metavar="CONTRAST", help="with --model: what it is to make")
    parser.add_argument("--volume", type=volume, metavar="FILE", help="a scan, instead of an ellipsoid of noise")
    parser.add_argument("--width", type=count, default=64, help="of the untrained U-Net")
    parser.add_argument("--size", type=count, default=256, help="of the ellipsoid's sides, a power of two")
    parser.add_argument("--slices", type=count, help="of the ellipsoid (default: 32, with --file 150)")
    parser.add_argument("--device", default="auto", type=device)
    parser.add_argument("--batch-size", type=count, default=8, metavar="N")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--file", action="store_true", help="one volume, file to file, by stages")
    arguments = parser.parse_args(argv)
    if arguments.size < 8 or arguments.size & (arguments.size - 1):
        parser.error(f"--size {arguments.size}: must be a power of two, 8 or more")
    echo(machine())
    common = {name: getattr(arguments, name) for name in ("to", "volume", "width", "size", "device")}
    common |= {"uri": arguments.model, "slices": arguments.slices or (150 if arguments.file else 32)}
    (file_to_file if arguments.file else compare)(common, arguments.batch_size, arguments.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
