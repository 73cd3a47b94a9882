"""The columns of a comparison: which order figures stand in, what they are called, and which way is better."""

from collections.abc import Iterable

_ORDER = ("psnr", "ssim", "mae", "nrmse", "nmi", "dice", "dice_dark", "dice_middle", "dice_bright", "slice_ratio")
_HIGHER_IS_BETTER = {"psnr", "ssim", "nmi", "dice", "dice_dark", "dice_middle", "dice_bright"}
_ONE_IS_BEST = {"slice_ratio"}  # the further from 1, up or down, the worse
_TWO_DIGITS = {"psnr", "slice_ratio"}  # the others have three
_HEADINGS = {
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "mae": "MAE",
    "nrmse": "NRMSE",
    "nmi": "NMI",
    "dice": "mean Dice",
    "dice_dark": "Dice, dark",
    "dice_middle": "Dice, middle",
    "dice_bright": "Dice, bright",
    "slice_ratio": "slice ratio",
}
RANKING = "foreground/psnr"  # decides which run is the best of a direction


def in_order(columns: Iterable[str]) -> list[str]:
    """Return "region/metric" columns as a reader expects them; those that are not known stand last, by name."""
    place = {metric: index for index, metric in enumerate(_ORDER)}
    return sorted(set(columns), key=lambda column: (place.get(_metric(column), len(place)), column))


def heading(column: str) -> str:
    """Return a column's name."""
    return _HEADINGS.get(_metric(column), _metric(column).replace("_", " "))


def arrow(column: str) -> str:
    """Return which way is better: "↑", "↓" or "→ 1"."""
    if _metric(column) in _ONE_IS_BEST:
        return "→ 1"
    return "↑" if _metric(column) in _HIGHER_IS_BETTER else "↓"


def badness(column: str, value: float) -> float:
    """Return a number that is the lower the better, whichever way the metric runs."""
    if _metric(column) in _ONE_IS_BEST:
        return abs(value - 1)
    return -value if _metric(column) in _HIGHER_IS_BETTER else value


def tested(column: str, value: float) -> float:
    """Return what differences are taken of: the figure, or its distance from 1 where 1 is best."""
    return abs(value - 1) if _metric(column) in _ONE_IS_BEST else value


def higher_is_better(column: str) -> bool:
    """Whether a rise of `tested` is an improvement."""
    return _metric(column) in _HIGHER_IS_BETTER


def digits(column: str) -> int:
    """Return how many decimals a figure is shown with."""
    return 2 if _metric(column) in _TWO_DIGITS else 3


def difference_heading(column: str) -> str:
    """Return the heading over differences in a column."""
    return f"|{heading(column)} - 1|" if _metric(column) in _ONE_IS_BEST else heading(column)


def _metric(column: str) -> str:
    return column.partition("/")[2]
