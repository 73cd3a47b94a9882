"""Types of configuration values with their rules, and the base class of sections."""

import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from pipeline.utils.arguments import expanded

Item = TypeVar("Item")
OWN_REGIONS = ("image", "foreground", "interior")  # of every evaluation
SHORTEST_COVERAGE, LONGEST_COVERAGE = 10, 500  # mm of a head

# A validator's message is the rule, worded to follow "must be".


def _not_a_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _name(value: str) -> str:
    if not value or value in (".", "..") or set(value) & set("/\\\0\n\r"):
        raise ValueError("a name, not empty and without / or \\")
    return value


def _region(value: str) -> str:
    if not re.fullmatch(r"[\w.-]+( [\w.-]+)*", value) or value in OWN_REGIONS:
        raise ValueError(f"a name of letters, digits, spaces, _ . or -, and none of {', '.join(OWN_REGIONS)}")
    return value


def _as_float(value: object) -> float:
    """Return a number or a text as a float; NaN for what is none."""
    try:
        return float(value) if isinstance(value, int | float | str) else float("nan")
    except (ValueError, OverflowError):  # a whole number may be too large for a float
        return float("nan")


def _portion(value: object) -> int | float:
    """Accept a whole number of subjects, or a share of them in [0, 1)."""
    number = _as_float(value)
    if isinstance(value, bool) or not (0 <= number < 1 or (number >= 1 and number.is_integer())):
        raise ValueError("a whole number of subjects, or a share of them from 0 to below 1")
    return int(number) if isinstance(value, int) or number >= 1 else number


def _coverage(value: object) -> str | float:
    """Accept "all", "shared" or the length of a range of the head in mm."""
    if isinstance(value, str) and value in ("all", "shared"):
        return value
    length = float("nan") if isinstance(value, bool) else _as_float(value)
    if not SHORTEST_COVERAGE <= length <= LONGEST_COVERAGE:
        raise ValueError(f"all, shared, or a length from {SHORTEST_COVERAGE} to {LONGEST_COVERAGE} mm")
    return length


def _in_order(percentiles: tuple[float, float]) -> tuple[float, float]:
    if percentiles[0] >= percentiles[1]:
        raise ValueError("in order, the lower one first")
    return percentiles


def _expanded_path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("a path")
    try:
        return expanded(str(value))
    except ValueError as error:
        raise ValueError(f"a path whose variables are set; {error}") from None


def _expanded_text(value: str) -> str:
    return str(_expanded_path(value)) if set("~$") & set(value) else value


def _each_once(items: list[Item]) -> list[Item]:
    if any(item in items[:number] for number, item in enumerate(items)):
        raise ValueError("named once each")
    return items


Whole = Annotated[int, BeforeValidator(_not_a_boolean)]
Number = Annotated[float, BeforeValidator(_not_a_boolean)]
Positive = Annotated[Whole, Field(ge=1)]
PositiveFloat = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Name = Annotated[str, AfterValidator(_name)]
RegionName = Annotated[str, AfterValidator(_region)]
UserPath = Annotated[Path, BeforeValidator(_expanded_path)]  # `~` and $NAME replaced
Subfolder = Annotated[str, AfterValidator(_expanded_text)]
Portion = Annotated[int | float, PlainValidator(_portion)]
Coverage = Annotated[str | float, PlainValidator(_coverage)]
Lower = Annotated[Number, Field(ge=0, lt=100)]
Upper = Annotated[Number, Field(gt=0, le=100)]
OnceEach = AfterValidator(_each_once)
Percentiles = Annotated[tuple[Lower, Upper], AfterValidator(_in_order)]


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, and values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
