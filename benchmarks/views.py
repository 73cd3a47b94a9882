"""Scores of translations along several axes, alone and averaged, and of the error maps, on test subjects.

python -m benchmarks.views runs/phantom_axial runs/phantom_coronal --to T2

The runs share data, split and grid (preprocess.spacing_mm: null). Whole volumes inside the head of the real target, our
own protocol: intensities in [-1, 1], data range 2. The slice ratio is given for each axis that slices can be cut along;
"error jumps" is how much the error, made - real, changes from slice to slice of the first run's slicing, as a multiple
of how much the real target does: 0 is right.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.timing import benchmark_parser
from pipeline.config.load import load_config
from pipeline.runs.folder import RunFolder
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo, table

if TYPE_CHECKING:  # imports that take seconds, which --help does not need
    import numpy as np

    from pipeline.data.pairs import PreparedScan
    from pipeline.inference.multi_view import MultiViewTranslator


def translate_onto_grid(
    views: "MultiViewTranslator", path: Path, scan: "PreparedScan"
) -> "tuple[np.ndarray, np.ndarray]":
    """Return a volume's translation in [-1, 1] and its expected error in the same unit, on a prepared scan's grid."""
    import numpy as np

    from transforms.registration import resample_onto

    statistics = views.models[0].statistics[views.to]
    voxels, expected = (
        resample_onto(image.get_fdata(), image.affine, np.eye(4), scan.volume.shape, scan.affine)
        for image in views.translate(path)
        if image is not None
    )
    half = (statistics.high - statistics.low) / 2
    return ((voxels - statistics.low) / half - 1).astype(np.float32), (expected / half).astype(np.float32)


def score(
    translation: "np.ndarray",
    expected: "np.ndarray",
    real: "np.ndarray",
    head: "np.ndarray",
    inside: "np.ndarray",
    axis: str,
) -> dict[str, float]:
    """Measure a translation against the real target inside its head; errors only `inside` both heads."""
    import numpy as np

    from pipeline.evaluation.uncertainty_fit import calibration_curve, calibration_error, rank_correlation
    from pipeline.metrics.similarity import DATA_RANGE, psnr, slice_ratio, ssim
    from transforms.slices import AXES, cut_slices

    expected, observed = expected[inside], np.abs(translation - real)[inside]
    volumes = translation, real, head
    ratios = {f"slices {other}": slice_ratio(*(cut_slices(volume, other) for volume in volumes)) for other in AXES}
    sliced = (cut_slices(volume, axis) for volume in (translation - real, real, head))
    return {
        "PSNR [dB]": psnr(translation, real, DATA_RANGE, head),
        "SSIM": ssim(translation, real, DATA_RANGE, head),
        **ratios,
        f"error jumps {axis}": slice_ratio(*sliced),
        "Spearman": rank_correlation(expected, observed),
        "expected": float(expected.mean()),
        "observed": float(observed.mean()),
        "calibration error": calibration_error(calibration_curve(expected, observed)),
    }


def compare(uris: list[str], to: str) -> None:
    """Print the scores of runs, one for each axis, alone and fused, on their test subjects.

    Raises:
        UserError: a run does not exist, or does not translate to that contrast.
    """
    import numpy as np

    from pipeline.data.case import pairs
    from pipeline.data.pairs import PairReader
    from pipeline.data_builders import find_cases, split_cases
    from pipeline.inference.model import load_model
    from pipeline.inference.multi_view import open_multi_view
    from pipeline.inference.uncertainty import fused_error
    from pipeline.runs.prepare import registrations
    from transforms.slices import stack_slices

    # Open the models of the runs, and the test subjects of the first run.
    models = [load_model(uri) for uri in uris]
    views = [
        open_multi_view([uri], [model], to, None, uncertainty=True) for uri, model in zip(uris, models, strict=True)
    ]
    axes = [model.settings.axis for model in models]
    folder = RunFolder(Path(uris[0]))
    config = load_config(folder.config)
    split = split_cases(config, find_cases(config), folder.split)
    reader = PairReader(
        models[0].settings, models[0].stride, register=True, registrations=registrations(config.preprocess.store)
    )

    # Translate each subject by each run, and fuse the translations as `MultiViewTranslator.translate` does.
    scores_by_system: dict[str, list[dict[str, float]]] = {}
    for pair in pairs(split.test, config.contrasts):
        first_to_second, second_to_first, _ = reader.read(pair)
        to_second = to == config.contrasts[1]
        direction, case = (first_to_second, pair[0]) if to_second else (second_to_first, pair[1])
        arrays = (direction.real, direction.foreground, direction.source.foreground)
        real, head, source_head = (stack_slices(array, axes[0]) for array in arrays)
        translations = [translate_onto_grid(view, case.path, direction.source) for view in views]
        volumes, errors = zip(*translations, strict=True)
        systems = dict(zip((f"{axis} alone" for axis in axes), translations, strict=True))
        systems["fused"] = (np.mean(volumes, axis=0), fused_error(errors, volumes))
        for name, translation in systems.items():
            scores_by_system.setdefault(name, []).append(score(*translation, real, head, head & source_head, axes[0]))

    # Mean and standard deviation over the subjects.
    columns = list(next(iter(scores_by_system.values()))[0])
    rows = []
    for name, subjects in scores_by_system.items():
        values = np.array([list(scores.values()) for scores in subjects])
        spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(len(columns), np.nan)
        rows.append([name, *(f"{mean:.3f}±{sd:.3f}" for mean, sd in zip(values.mean(axis=0), spread, strict=True))])
    echo(f"{config.data.source}, to {to}, {len(subjects)} test subjects")
    echo(table(["", *columns], rows))


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = benchmark_parser("views", __doc__)
    parser.add_argument("runs", nargs="+", type=path_argument, help="run folders, one for each axis")
    parser.add_argument("--to", required=True, metavar="CONTRAST")
    arguments = parser.parse_args(argv)
    compare([str(run) for run in arguments.runs], arguments.to)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
