"""The report of a run: one self-contained HTML file that loads nothing from the network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import isnan
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageSequence, UnidentifiedImageError

from pipeline.metrics.names import HEADINGS, LOOKUP, MODEL, arrow, badness, mean_and_sd, system_title
from pipeline.reporting.viewer import Viewer
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text

_MISSING = (float("nan"), float("nan"), 0)  # a figure that was not measured

PHANTOM_FLAG = "phantom: easier than real data"
PHANTOM_NOTE = (
    "Phantom data: both contrasts are computed from the same tissue maps, which is easier than real data. "
    "These figures say nothing about scans of patients."
)


@dataclass(frozen=True)
class Picture:
    """A PNG, GIF, JPEG or WebP, as a file or as its bytes."""

    content: Path | bytes
    alt: str  # what the picture shows
    caption: str = ""  # one line below
    on_white: bool = False  # a chart, which the page inverts in dark mode


@dataclass(frozen=True)
class Highlight:
    """A main result at the top of the page: "14.1 dB", "T1 → T2, masked PSNR", "+4.7 dB over histogram matching"."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class SubjectResult:
    """One of the best or worst test subjects: "best: sub-01, T1 → T2", "14.10 dB masked PSNR"."""

    title: str
    score: str
    picture: Picture | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Scores of the model and the baselines in one direction under one protocol."""

    direction: str  # such as "T1 → T2"
    protocol: str  # in a few words, such as "volume, inside the head"
    description: str  # a sentence on normalisation, data range and what the ± is; "" for none
    rows: Mapping[str, Mapping[str, tuple[float, float, int]]]  # system -> metric -> (mean, SD, subjects or slices)

    @property
    def columns(self) -> dict[str, str]:
        """Heading of each metric, with "↑", "↓" or "→ 1" for better values."""
        metrics = dict.fromkeys(metric for scores in self.rows.values() for metric in scores)
        return {metric: f"{HEADINGS.get(metric, metric)} {arrow(metric)}" for metric in metrics}

    @property
    def count(self) -> str:
        """Number of subjects or slices, such as "n = 4 to 5"; "" without figures."""
        counts = {n for scores in self.rows.values() for _, _, n in scores.values()}
        return "n = " + " to ".join(map(str, sorted({min(counts), max(counts)}))) if counts else ""

    def text(self, system: str, metric: str) -> str:
        """Return a figure as mean ± SD; "—" for none."""
        mean, deviation, _ = self.rows[system].get(metric, _MISSING)
        return mean_and_sd(metric, mean, deviation)

    def verdict(self, system: str, metric: str) -> str:
        """Return "better" or "worse" for the model's figure beside the best baseline without pairs; "" for others."""
        means = {name: scores.get(metric, _MISSING)[0] for name, scores in self.rows.items()}
        baselines = means.keys() - {MODEL, LOOKUP}  # the lookup was fitted on pairs
        baseline_values = [badness(metric, means[name]) for name in baselines if not isnan(means[name])]
        difference = badness(metric, means[system]) - min(baseline_values, default=float("nan"))
        if system != MODEL or isnan(difference) or difference == 0:
            return ""
        return "better" if difference < 0 else "worse"


@dataclass(frozen=True)
class Report:
    """Content of the page, in order of display; empty fields are left out."""

    title: str
    result: str  # in one sentence
    highlights: Sequence[Highlight] = ()
    warnings: Sequence[str] = ()  # that qualify the results, such as `PHANTOM_NOTE`
    animations: Sequence[Picture] = ()  # training GIFs
    samples: Mapping[str, Sequence[Picture]] = field(default_factory=dict)  # by direction: before and after training
    mosaics: Sequence[Picture] = ()  # of a few translated test volumes, for they are embedded
    viewer: Viewer | None = None
    viewer_note: str = ""  # why there is no viewer
    scores: Sequence[ScoreTable] = ()  # one table per direction and protocol
    scores_flag: str = ""  # a few words beside every table's heading, such as `PHANTOM_FLAG`
    training_warnings: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)  # observation, meaning, advice
    curves: Picture | None = None
    uncertainty: Picture | None = None  # calibration curves and maps of the expected error
    subjects: Sequence[SubjectResult] = ()  # the best and the worst
    split_rows: Sequence[Sequence[str]] = ()  # split, contrast, subjects, images and slices
    split_subjects: Mapping[str, Sequence[str]] = field(default_factory=dict)  # such as "training T1" -> names
    config_yaml: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    next_commands: Mapping[str, str] = field(default_factory=dict)  # purpose -> command
    notes: Sequence[str] = ()  # further paragraphs, at the end


def write_report(path: Path, report: Report) -> None:
    """Write the report as one self-contained HTML file, atomically.

    Images are embedded as data: URIs. A content security policy forbids requests and every script but the viewer's
    two, which it lists by their hashes. UserError: a picture is missing or none, or the file cannot be written.
    """
    atomic_text(path, render(report))


def render(report: Report) -> str:
    """Return the report as HTML; raises `UserError` as `write_report` does."""
    return page_environment().get_template("page.html.jinja").render(report=report)


def page_environment(*folders: Path) -> Environment:
    """Return the Jinja environment of the report's template, and of templates in further folders that extend it.

    Every string is escaped, undefined names are errors, and the filter `embedded` turns a `Picture` into its data: URI
    and size, `system_title` a system's name into what readers see of it.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = _embedded
    environment.filters["system_title"] = system_title
    environment.filters["as_it_is"] = Markup  # for the viewer's scripts and style only
    return environment


def _embedded(picture: Picture) -> dict[str, str | int]:
    """Return a picture's data: URI and size in pixels; PNG becomes WebP (a chart) or JPEG, GIF an animated WebP."""
    name = str(picture.content) if isinstance(picture.content, Path) else f"picture '{picture.alt}'"
    try:
        content = picture.content.read_bytes() if isinstance(picture.content, Path) else picture.content
        with Image.open(BytesIO(content), formats=["PNG", "GIF", "JPEG", "WEBP"]) as opened:
            kind, (width, height) = opened.get_format_mimetype(), opened.size
            if opened.format == "PNG":
                kind, content = _smaller(opened, lossless=picture.on_white)
            elif opened.format == "GIF":
                kind, content = "image/webp", _animated(opened)
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a PNG, GIF, JPEG or WebP; it cannot go into the report") from error
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error}); make it again") from error
    return {"uri": f"data:{kind};base64,{b64encode(content).decode()}", "width": width, "height": height}


def _smaller(picture: Image.Image, lossless: bool) -> tuple[str, bytes]:
    """Return the MIME type and bytes of a picture: lossless WebP, or JPEG of high quality."""
    stream = BytesIO()
    if lossless:
        picture.save(stream, format="WEBP", lossless=True, method=1, quality=50)  # slower methods save little more
        return "image/webp", stream.getvalue()
    picture.convert("RGB").save(stream, format="JPEG", quality=92, subsampling="4:4:4")
    return "image/jpeg", stream.getvalue()


def _animated(picture: Image.Image) -> bytes:
    """Return a GIF's frames as an animated WebP, which is about a tenth of its size."""
    frames, durations = [], []
    for frame in ImageSequence.Iterator(picture):
        frames.append(frame.convert("RGB"))
        durations.append(frame.info.get("duration", 100))
    stream = BytesIO()
    frames[0].save(
        stream, format="WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=85, method=2
    )
    return stream.getvalue()
