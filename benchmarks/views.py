"""What averaging the translations of several slicings changes, and how far off the fused map is, on test subjects.

python -m benchmarks.views runs/phantom_axial runs/phantom_coronal --to T2

The runs share data, split and grid (preprocess.spacing_mm: null). Whole volumes inside the head of the real target, our
own protocol: intensities in [-1, 1], data range 2. The slice ratio is given for each axis that slices can be cut along;
"error jumps" is how much the error, made - real, changes from slice to slice of the first run's slicing, as a multiple
of how much the real target does: 0 is right.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.load import load_config
from pipeline.runs.folder import RunFolder
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo, table

if TYPE_CHECKING:  # what takes seconds to import is not needed to answer --help
    import numpy as np

    from pipeline.data.pairs import PreparedScan
    from pipeline.inference.multi_view import MultiViewTranslator


def translated(views: "MultiViewTranslator", path: Path, scan: "PreparedScan") -> "tuple[np.ndarray, np.ndarray]":
    """Return a volume's translation in [-1, 1] and the error to expect in that unit, on a prepared scan's grid."""
    import numpy as np

    from transforms.registration import resample_onto

    facts = views.models[0].facts[views.to]
    voxels, expected = (
        resample_onto(image.get_fdata(), image.affine, np.eye(4), scan.volume.shape, scan.affine)
        for image in views.translate(path)
    )
    half = (facts["high"] - facts["low"]) / 2
    return ((voxels - facts["low"]) / half - 1).astype(np.float32), (expected / half).astype(np.float32)


def measured(
    made: "np.ndarray",
    expected: "np.ndarray",
    real: "np.ndarray",
    head: "np.ndarray",
    inside: "np.ndarray",
    axis: str,
) -> dict[str, float]:
    """Measure a translation against the real target inside its head; errors `inside` the source's head as well."""
    import numpy as np

    from pipeline.metrics.calibration import calibration_curve, calibration_error, rank_correlation
    from pipeline.metrics.similarity import DATA_RANGE, psnr, slice_ratio, ssim
    from transforms.slices import AXES, cut_slices

    expected, observed = expected[inside], np.abs(made - real)[inside]
    ratios = {f"slices {one}": slice_ratio(*(cut_slices(each, one) for each in (made, real, head))) for one in AXES}
    sliced = (cut_slices(one, axis) for one in (made - real, real, head))
    return {
        "PSNR [dB]": psnr(made, real, DATA_RANGE, head),
        "SSIM": ssim(made, real, DATA_RANGE, head),
        **ratios,
        f"error jumps {axis}": slice_ratio(*sliced),
        "Spearman": rank_correlation(expected, observed),
        "expected": float(expected.mean()),
        "observed": float(observed.mean()),
        "calibration error": calibration_error(calibration_curve(expected, observed)),
    }


def compare(uris: list[str], to: str) -> None:
    """Print the table of some runs, one for each axis, alone and fused, on their test subjects.

    Raises:
        UserError: a run is not there, or does not make that contrast.
    """
    import numpy as np

    from pipeline.data.case import pairs
    from pipeline.data.pairs import PairReader
    from pipeline.inference.model import load_model
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.inference.uncertainty import fused_error
    from pipeline.runs.prepare import find_cases, registrations, split_cases
    from transforms.slices import stack_slices

    # The runs as they translate, and the test subjects of the first.
    models = [load_model(uri) for uri in uris]
    views = [
        open_multi_view([uri], [model], to, None, uncertainty=True) for uri, model in zip(uris, models, strict=True)
    ]
    axes = [str(model.settings["axis"]) for model in models]
    folder = RunFolder(Path(uris[0]))
    config = load_config(folder.config)
    split = split_cases(config, find_cases(config), folder.split)
    reader = PairReader(models[0].settings, models[0].stride, register=True, cache=registrations(config.preprocess))

    # Each subject by each run alone and by all of them, as `MultiViewTranslator.translate` fuses them.
    found: dict[str, list[dict[str, float]]] = {}
    for pair in pairs(split.test, config.contrasts):
        there, back, _ = reader.read(pair)
        view, case = (there, pair[0]) if to == config.contrasts[1] else (back, pair[1])
        real, head, own = (stack_slices(one, axes[0]) for one in (view.real, view.foreground, view.source.foreground))
        each = [translated(one, case.path, view.source) for one in views]
        volumes, errors = zip(*each, strict=True)
        systems = dict(zip((f"{axis} alone" for axis in axes), each, strict=True))
        systems["fused"] = (np.mean(volumes, axis=0), fused_error(errors, volumes))
        for name, made in systems.items():
            found.setdefault(name, []).append(measured(*made, real, head, head & own, axes[0]))

    # Mean and standard deviation over the subjects.
    columns = list(next(iter(found.values()))[0])
    rows = []
    for name, subjects in found.items():
        values = np.array([list(one.values()) for one in subjects])
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(len(columns), np.nan)
        rows.append([name, *(f"{mean:.3f}±{sd:.3f}" for mean, sd in zip(values.mean(axis=0), spread, strict=True))])
    echo(f"{config.data.source}, to {to}, {len(subjects)} test subjects")
    echo(table(["", *columns], rows))


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    door = argparse.ArgumentParser(
        prog="python -m benchmarks.views", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    door.add_argument("runs", nargs="+", type=path_argument, help="run folders, one for each axis")
    door.add_argument("--to", required=True, metavar="CONTRAST")
    arguments = door.parse_args(argv)
    compare([str(run) for run in arguments.runs], arguments.to)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
