"""Names of systems, of our protocol and of metrics; the metrics' headings, digits and better direction.

Nothing heavy is imported here, so that checks of scores need not import what measures them.
"""

from math import isfinite, isnan

MODEL = "model"  # systems are this, what it began with, and the baselines
START = "untrained start"  # a generator's, where that is more than the context lookup
COPY, HISTOGRAM, CONTEXT, LOOKUP = "copy", "histogram matching", "context lookup", "lookup"
BASELINES = COPY, HISTOGRAM, CONTEXT, LOOKUP  # the last alone is fitted on pairs
SYSTEM_TITLES = {LOOKUP: "lookup fitted on pairs"}  # of those that files and MLflow name otherwise
OWN = "own"  # our protocol, `pipeline.metrics.protocols.OWN`

HEADINGS = {  # in the order of a table's columns
    "psnr": "PSNR [dB]",
    "calibrated_psnr": "calibrated PSNR [dB]",
    "ssim": "SSIM",
    "haarpsi": "HaarPSI",
    "mae": "MAE",
    "nrmse": "NRMSE",
    "nmi": "NMI",
    "dice": "mean Dice",
    "dice_dark": "Dice, dark",
    "dice_middle": "Dice, middle",
    "dice_bright": "Dice, bright",
    "slice_ratio": "slice ratio",
    "spearman": "Spearman",
    "expected_error": "expected |error|",
    "observed_error": "observed |error|",
    "calibration_error": "calibration error",
}
_TISSUES = {"dice", "dice_dark", "dice_middle", "dice_bright"}
_HIGHER_IS_BETTER = {"psnr", "calibrated_psnr", "ssim", "haarpsi", "nmi", "spearman", *_TISSUES}
_ONE_IS_BEST = {"slice_ratio"}  # the further from 1, up or down, the worse
_TWO_DIGITS = {"psnr", "calibrated_psnr", "slice_ratio"}


def figure_parts(figure: str) -> tuple[str, str, str]:
    """Return unit, region and metric of a figure "unit/region/metric"; a region may hold a "/" (see `is_named`)."""
    unit, _, column = figure.partition("/")
    region, _, metric = column.rpartition("/")
    return unit, region, metric


def system_title(system: str) -> str:
    """Return what readers see of a system's name."""
    return SYSTEM_TITLES.get(system, system)


def is_named(region: str) -> bool:
    """Whether a region is a label of one that the configuration names, "lesion/1", and none of the protocols' own."""
    return "/" in region


def higher_is_better(metric: str) -> bool:
    """Whether a metric is better when higher; all others but those of `one_is_best` are better when lower."""
    return metric in _HIGHER_IS_BETTER


def one_is_best(metric: str) -> bool:
    """Whether a metric is a ratio that should be 1."""
    return metric in _ONE_IS_BEST


def arrow(metric: str) -> str:
    """Return the sign of a metric's better direction: "↑", "↓" or "→ 1"."""
    if one_is_best(metric):
        return "→ 1"
    return "↑" if higher_is_better(metric) else "↓"


def badness(metric: str, value: float) -> float:
    """Return a number that is lower for a better value of the metric."""
    if one_is_best(metric):
        return abs(value - 1)
    return -value if higher_is_better(metric) else value


def digits(metric: str) -> int:
    """Return how many decimals a figure is shown with."""
    return 2 if metric in _TWO_DIGITS else 3


def mean_and_sd(metric: str, mean: float, sd: float, sign: str = " ± ") -> str:
    """Return a figure as "mean ± SD", without a SD that is not finite; "—" for a mean that was not measured."""
    if isnan(mean):
        return "—"
    decimals = digits(metric)
    return f"{mean:.{decimals}f}" + (f"{sign}{sd:.{decimals}f}" if isfinite(sd) else "")
