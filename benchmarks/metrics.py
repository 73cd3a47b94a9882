"""Time of SSIM against scikit-image's and MONAI's, for a slice and for a volume.

python -m benchmarks.metrics [--rounds N] [--threads N]
"""

import argparse

from benchmarks.timing import Side, Work, machine, measure, show
from pipeline.utils.arguments import count
from pipeline.utils.console import cli_main, echo

SHAPES = {"slice": (256, 256), "volume": (192, 256, 192)}


def ssim_of(shape: tuple[int, ...], library: str, threads: int) -> Work:
    """Return the computation of SSIM between two float32 images in [-1, 1]."""
    import numpy as np
    import torch
    from scipy import ndimage
    from skimage.metrics import structural_similarity

    from pipeline.metrics.similarity import ssim

    torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    real = np.clip(ndimage.gaussian_filter(random.standard_normal(shape), 2) * 4 - 0.5, -1, 1).astype(np.float32)
    prediction = np.clip(real + 0.1 * random.standard_normal(shape), -1, 1).astype(np.float32)
    options = {"data_range": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    if library == "monai":
        from monai.metrics import SSIMMetric

        metric = SSIMMetric(len(shape), data_range=2.0)
        first, second = (torch.from_numpy(image)[None, None] for image in (prediction, real))
        return lambda: metric(first, second)
    if library == "scikit-image":
        return lambda: structural_similarity(real, prediction, **options)
    return lambda: ssim(prediction, real, 2)


def main(argv: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--threads", type=count, default=1, help="of torch; scikit-image has one")
    arguments = parser.parse_args(argv)
    echo(machine())
    for unit, shape in SHAPES.items():
        sides = {name: Side(ssim_of, {"shape": shape, "library": name, "threads": arguments.threads})
                 for name in ("scikit-image", "monai", "ours")}  # fmt: skip
        echo(f"\nSSIM of {' × '.join(map(str, shape))} float32")
        show(measure(sides, rounds=arguments.rounds, title=unit), unit)
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
