"""The model in the box beside the baselines, on the test subjects of any configuration's data.

python -m benchmarks.box configs/phantom.yaml
python -m benchmarks.box configs/ms_raw.yaml --seeds 0 1 2        # divisions of the subjects, pooled
python -m benchmarks.box configs/nifti.yaml data.folder=/where/it/lies split.validation=2 split.test=4

Volumes become slices as that model was trained, 2 mm apart, whatever the configuration says; data and split are the
configuration's. Nothing is trained: the context lookup is fitted to the training subjects, whose intensities histogram
matching takes on, too. `--write FILE` instead makes the file that is shipped of a run of configs/box.yaml.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import ROOT, benchmark_parser
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo
from pipeline.utils.files import atomic_write

BOX_CONFIG = ROOT / "configs" / "box.yaml"
GRID = ("preprocess.spacing_mm.in_plane=2", "preprocess.spacing_mm.through_plane=2", "preprocess.size=112",
        "preprocess.coverage_mm=all", "preprocess.percentiles=[0.5, 99.5]", "preprocess.n4=false")  # fmt: skip


def score(config_file: Path, overrides: Sequence[str], seeds: Sequence[int], address: str) -> str:
    """Return the tables of the test subjects of all splits together."""
    from pipeline.config.load import load_config
    from pipeline.data.case import pairs
    from pipeline.data.lookup_fit import fit_context_tables
    from pipeline.data.slice_stacks import stored_stacks
    from pipeline.data_builders import find_cases, pair_reader, prepare_data
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.scores import Scores
    from pipeline.evaluation.translation_writer import translate_scan
    from pipeline.inference.model import load_model
    from transforms.slice_chain import CHAIN_VERSION

    model, scores = load_model(address, "cpu"), Scores(paired=True)
    for seed in seeds:
        config = load_config(config_file, [*overrides, *GRID, f"split.seed={seed}"])
        prepared = prepare_data(config, find_cases(config, quiet=True), quiet=True)
        own, _ = evaluate(
            prepared.split.test,
            pairs(prepared.training_cases, config.contrasts),
            config.contrasts,
            lambda scan, to: translate_scan(scan, to, model, 8),
            reader=pair_reader(config, CHAIN_VERSION, model.stride),
            histograms=prepared.histograms,
            context_tables=fit_context_tables(stored_stacks(prepared.stored, model.settings)),
            quiet=True,
        )
        scores.subjects += own.subjects
        scores.notes += [note for note in own.notes if note not in scores.notes]
    return scores.text()


def write(checkpoint: Path, output: Path) -> None:
    """Write what translation needs of a checkpoint of configs/box.yaml: weights in half precision, and no path."""
    import torch

    from pipeline.config.load import load_config
    from pipeline.inference.model_address import checkpoint_at
    from pipeline.runs.checkpoint import load_checkpoint

    content = load_checkpoint(checkpoint_at(checkpoint))
    kept = {name: content[name] for name in ("format", "chain_version", "facts")}
    halved = {
        to: {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        for to, state in content["translators"].items()
    }
    config = load_config(BOX_CONFIG).model_dump(mode="json")
    atomic_write(output, lambda stream: torch.save({**kept, "config": config, "translators": halved}, stream))


def main(argv: list[str] | None = None) -> int:
    """Print the table, or write the file."""
    parser = benchmark_parser("box", __doc__)
    parser.add_argument("config", type=path_argument, help="a configuration; with --write a run's folder or checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of split.seed")
    parser.add_argument("--model", default="box", help="another model of the same grid")
    parser.add_argument("--write", type=path_argument, metavar="FILE")
    arguments = parser.parse_args(argv)
    if arguments.write:
        write(arguments.config, arguments.write)
        echo(f"{arguments.write}: {arguments.write.stat().st_size:,} bytes")
        return 0
    echo(score(arguments.config, arguments.overrides, arguments.seeds, arguments.model))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
