"""Scores of translations: every subject's figures, their summary, and both as files and as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isnan
from pathlib import Path

import numpy as np

from pipeline.data.case import Case
from pipeline.data.pairs import PreparedScan, View
from pipeline.metrics.baselines import Baselines
from pipeline.metrics.names import HEADINGS, LOOKUP, MODEL, START, figure_parts, mean_and_sd
from pipeline.metrics.protocols import OWN, PUBLISHED, Measurements, Summary, subject_means, summarise
from pipeline.metrics.similarity import intensity_distance, mae
from pipeline.utils.console import table
from pipeline.utils.files import atomic_text, csv_text, json_row

MASKED_PSNR = "volume/foreground/psnr"  # what subjects are ranked by
UNPAIRED = "unpaired"  # the protocol of what can be measured without pairs
UNCERTAINTY = "uncertainty"  # the protocol that compares expected and observed error
DESCRIPTIONS = {protocol.name: protocol.description for protocol in (OWN, *PUBLISHED.values())} | {
    UNPAIRED: "the test subjects have no pairs, so nothing here says whether a translation is right: cycle error is "
    "the mean |F(G(x)) - x| in [-1, 1], intensity distance the Wasserstein-1 distance of the foreground's intensities "
    "to the target contrast's training cohort; ± is the sample SD over scans",
    UNCERTAINTY: "how well the error that --uncertainty expects tells the observed absolute error, intensities in "
    "[-1, 1], voxels in the head of both source and real target, some evenly spread slices of each test subject; "
    "calibrated on validation subjects; Spearman's rank correlation over voxels; calibration error: the mean distance "
    "of expected and observed error in ten equally filled bins; ± is the sample SD over subjects",
}

TITLES = {
    OWN.name: "whole volumes inside the head of the real target (Dice: deep inside), our own protocol",
    UNCERTAINTY: "expected against observed absolute error",
    UNPAIRED: "without pairs",
}
SHORT_DESCRIPTIONS = {  # on the terminal, where the report has the whole of it
    OWN.name: "± is the sample SD over subjects; data range 2; Dice of dark, middle and bright tissue; slices: how "
    "much neighbours differ, 1 as much as the real target's; report.html says more",
    UNCERTAINTY: "calibrated on validation subjects; calibration error: mean distance of expected and observed error",
}
SHORT_HEADINGS = HEADINGS | {"slice_ratio": "slices", "dice": "Dice"}  # for seven figures to fit a terminal
SHORT_TITLES = {LOOKUP: "lookup on pairs"}


@dataclass(frozen=True)
class SubjectScore:
    """One subject's figures for one direction, system and protocol, by "unit/region/metric"."""

    subject: str
    source: str
    target: str
    system: str
    protocol: str
    measurements: Measurements

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Source, target, system and protocol, over whose subjects figures are summarised."""
        return self.source, self.target, self.system, self.protocol


@dataclass(frozen=True)
class Translation:
    """A test scan and its translation."""

    case: Case  # the source's
    to: str  # the target contrast
    scan: PreparedScan  # the source, prepared for the network
    slices: np.ndarray  # (N, H, W) in [-1, 1], translated, still padded
    view: View | None = None  # the real target on the source's grid; None where there is none
    start: np.ndarray | None = None  # the slices by what the model began with; None where that is no system


def score_pair(baselines: Baselines, protocols: Sequence[str], translation: Translation) -> list[SubjectScore]:
    """Return the figures of every system and protocol."""
    case, view = translation.case, translation.view
    assert view is not None  # the translation of one of a pair
    predictions, scores = _predictions(translation, baselines), []
    for protocol in (OWN, *(PUBLISHED[name] for name in protocols)):
        for system, prediction in predictions.items():
            measurements = protocol.measure(
                prediction, view.real, view.foreground, view.source.spacing_mm, view.regions
            )
            score = SubjectScore(case.scan_name, case.contrast, translation.to, system, protocol.name, measurements)
            scores.append(score)
    return scores


def score_unpaired(
    cycled: np.ndarray, quantiles: np.ndarray, baselines: Baselines, translation: Translation
) -> list[SubjectScore]:
    """Return the figures of a translation without a real target; `cycled` is F(G(x)), still padded."""
    case, source, scores = translation.case, translation.scan, []
    for system, prediction in _predictions(translation, baselines).items():
        figures = {"foreground/intensity_distance": intensity_distance(prediction[source.foreground], quantiles)}
        if system == MODEL:
            figures["image/cycle_error"] = mae(source.unpadded(cycled), source.stack)
            figures["foreground/cycle_error"] = mae(source.unpadded(cycled), source.stack, source.foreground)
        measurements = {f"volume/{figure}": np.array([value]) for figure, value in figures.items()}
        scores.append(SubjectScore(case.name, case.contrast, translation.to, system, UNPAIRED, measurements))
    return scores


def _predictions(translation: Translation, baselines: Baselines) -> dict[str, np.ndarray]:
    """Return every system's prediction, unpadded, (N, h, w) in [-1, 1]."""
    source = translation.scan
    stack = source.stack
    slices = {MODEL: translation.slices} | ({} if translation.start is None else {START: translation.start})
    return {system: source.unpadded(predicted) for system, predicted in slices.items()} | {
        name: baseline(stack, source.foreground, source.spacing_mm[0]) for name, baseline in baselines.items()
    }


@dataclass(frozen=True)
class SummaryRow:
    """One figure over all subjects; `n` counts subjects, or slices where the protocol runs over slices."""

    source: str
    target: str
    system: str
    protocol: str
    unit: str
    region: str
    metric: str
    mean: float
    sd: float
    n: int


def metric_name(row: SummaryRow, system: str | None = None) -> str:
    """Return a figure's name in MLflow, with the row's system or another one."""
    name = (system or row.system).replace(" ", "_")
    return f"test/{row.source}_to_{row.target}/{name}/{row.protocol}/{row.unit}_{row.region}_{row.metric}"


@dataclass
class Scores:
    """The result of an evaluation."""

    paired: bool  # whether there were pairs to compare with
    subjects: list[SubjectScore] = field(default_factory=list)  # every subject's figures
    failures: dict[str, str] = field(default_factory=dict)  # subjects that could not be evaluated, and why
    notes: list[str] = field(default_factory=list)  # for the reader of the table
    subject_of: dict[str, str] = field(default_factory=dict)  # scan -> its subject, of pairs with sessions

    def summary(self) -> list[SummaryRow]:
        """Return mean, SD and number of every figure over the subjects, as its protocol defines them.

        Sessions of a subject are not independent, so their figures count together, as that subject's.
        """
        groups: dict[tuple[str, str, str, str], dict[str, list[Measurements]]] = {}
        for score in self.subjects:
            subject = self.subject_of.get(score.subject, score.subject)
            groups.setdefault(score.group, {}).setdefault(subject, []).append(score.measurements)
        return [
            SummaryRow(*key, unit, region, metric, *summary)
            for key, by_subject in groups.items()
            for name, summary in _summarised(key[3], [*map(_joined, by_subject.values())]).items()
            for unit, region, metric in [figure_parts(name)]
        ]

    def mean(self, source: str, target: str, system: str, figure: str, protocol: str = OWN.name) -> float:
        """Return one mean, such as `figure` "volume/foreground/psnr"; NaN where it was not measured."""
        of_system = [score for score in self.subjects if score.group == (source, target, system, protocol)]
        summary = replace(self, subjects=of_system).summary()
        return next((row.mean for row in summary if f"{row.unit}/{row.region}/{row.metric}" == figure), float("nan"))

    def ranked(self, source: str, target: str) -> list[tuple[float, str]]:
        """Return (the model's masked PSNR, subject) of one direction, ascending; subjects with NaN are left out."""
        means = (
            (float(np.mean(score.measurements[MASKED_PSNR])), score.subject)
            for score in self.subjects
            if score.group == (source, target, MODEL, OWN.name)
        )
        return sorted(entry for entry in means if not isnan(entry[0]))

    def save(self, folder: Path) -> list[Path]:
        """Write `scores.csv` (the summary), `scores_by_subject.csv` and `scores.json` (all of it); return the paths."""
        summary = [asdict(row) for row in self.summary()]
        by_subject = [
            {name: value for name, value in asdict(score).items() if name != "measurements"}
            | dict(zip(("unit", "region", "metric"), figure_parts(figure), strict=True))
            | {"value": mean}
            for score in self.subjects
            for figure, mean in subject_means(score.measurements).items()
        ]
        protocols = dict.fromkeys(score.protocol for score in self.subjects)
        content = {
            "paired": self.paired,
            "notes": self.notes,
            "failures": self.failures,
            "protocols": {name: DESCRIPTIONS[name] for name in protocols},
            "summary": [json_row(row) for row in summary],
            "subjects": [json_row(row) for row in by_subject],
        }
        atomic_text(folder / "scores.csv", csv_text(summary))
        atomic_text(folder / "scores_by_subject.csv", csv_text(by_subject))
        atomic_text(folder / "scores.json", json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
        return [folder / name for name in ("scores.csv", "scores_by_subject.csv", "scores.json")]

    def text(self) -> str:
        """Return the tables for one screen: a figure's mean ± SD for each direction and system.

        Published protocols are named, and have their tables in the files and the report.
        """
        rows = self.summary()
        protocols = list(dict.fromkeys(row.protocol for row in rows))
        sections = []
        for protocol in (name for name in protocols if name not in PUBLISHED):
            table_rows = [row for row in rows if row.protocol == protocol and _is_in_text_table(row)]
            description = SHORT_DESCRIPTIONS.get(protocol, DESCRIPTIONS[protocol])
            sections.append(f"Test subjects, {TITLES[protocol]}\n{_text_table(table_rows)}\n({description})")
        if published := ", ".join(name for name in protocols if name in PUBLISHED):
            sections.append(f"The protocols of {published} have their tables in report.html and scores.csv.")
        notes = [f"note: {note}" for note in self.notes]
        failed = [f"left out: {subject}: {reason}" for subject, reason in self.failures.items()]
        return "\n\n".join([*sections, *(["\n".join(notes + failed)] if notes or failed else [])])


def _joined(sessions: Sequence[Measurements]) -> Measurements:
    """Return the figures of a subject's sessions together."""
    if len(sessions) == 1:
        return sessions[0]
    names = dict.fromkeys(name for measurements in sessions for name in measurements)
    return {
        name: np.concatenate([measurements[name] for measurements in sessions if name in measurements])
        for name in names
    }


def _summarised(protocol: str, measurements: list[Measurements]) -> Mapping[str, Summary]:
    if protocol in (UNPAIRED, UNCERTAINTY):
        return summarise([subject_means(values) for values in measurements])
    return (OWN if protocol == OWN.name else PUBLISHED[protocol]).summarise(measurements)


def _is_in_text_table(row: SummaryRow) -> bool:
    """Whether a row stands in the terminal's table: of our own protocol, the masked volume and the mean Dice."""
    if row.protocol != OWN.name or row.unit != "volume":
        return row.protocol != OWN.name
    in_head = row.region == "foreground" and row.metric != "calibrated_psnr"  # for which a terminal is too narrow
    return in_head or (row.region, row.metric) == ("interior", "dice")


def _text_table(rows: list[SummaryRow]) -> str:
    columns = list(dict.fromkeys((row.region, row.metric) for row in rows))
    headings = [SHORT_HEADINGS.get(metric, metric.replace("_", " ")) for _, metric in columns]
    if len({metric for _, metric in columns}) < len(columns):  # some metric stands here for several regions
        headings = [f"{region} {heading}" for (region, _), heading in zip(columns, headings, strict=True)]
    lines: dict[tuple[str, str], dict[tuple[str, str], SummaryRow]] = {}
    for row in rows:
        system = SHORT_TITLES.get(row.system, row.system)
        lines.setdefault((f"{row.source} → {row.target}", system), {})[row.region, row.metric] = row
    body = [
        [*line, *(_figure(cells.get(column)) for column in columns), max(row.n for row in cells.values())]
        for line, cells in lines.items()
    ]
    return table(["direction", "system", *headings, "n"], body)


def _figure(row: SummaryRow | None) -> str:
    return "—" if row is None else mean_and_sd(row.metric, row.mean, row.sd, sign="±")  # spaces would not fit
