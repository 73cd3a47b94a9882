"""The scores of a run as the tables of its report."""

from pipeline.data.sources.listing import natural_key
from pipeline.evaluation.scores import DESCRIPTIONS, Scores, SummaryRow
from pipeline.metrics.names import OWN, is_named, system_title
from pipeline.metrics.protocols import PUBLISHED
from pipeline.metrics.regions import FEWEST_VOXELS
from pipeline.reporting.report_page import ScoreTable

Rows = dict[str, dict[str, tuple[float, float, int]]]  # label -> metric -> mean, SD and number

REGIONS = {
    "foreground": "inside the head",
    "interior": "tissues deep inside the head",
    "image": "whole image",
    "both heads": "inside the head of source and real target",
}
BESIDE = (  # figures that the protocol's own description, by which runs are compared, does not name
    "; calibrated PSNR: after the gain and offset that suit each volume best, by least squares, which forgives a wrong "
    "scale; HaarPSI: the mean over whole slices that show the head"
)
BY_REGION = (
    "whole volumes, within each label of the regions (and within the head outside of them), where the head of the real "
    f"target reaches; labels of fewer than {FEWEST_VOXELS} voxels are left out; SSIM is the mean of its map there"
)


def score_tables(scores: Scores) -> list[ScoreTable]:
    """Return a table for each direction, protocol, unit and region; a protocol's first table explains it.

    The regions that the configuration names follow, in one table for each direction.
    """
    summary = scores.summary()
    groups: dict[tuple[str, str, str, str, str], Rows] = {}
    for row in (row for row in summary if not is_named(row.region)):
        key = (row.source, row.target, row.protocol, row.unit, row.region)
        _add(groups.setdefault(key, {}), row.system, row)
    tables, descriptions = [], DESCRIPTIONS | {OWN: DESCRIPTIONS[OWN] + BESIDE}
    for (source, target, protocol, unit, region), rows in groups.items():
        title = f"per {unit}, {REGIONS.get(region, region)}"
        if protocol in PUBLISHED:
            title = f"{protocol}, on our slices: {title}"
        elif protocol != OWN:
            title = f"{protocol}: {title}"
        tables.append(ScoreTable(f"{source} → {target}", title, descriptions.pop(protocol, ""), rows))

    by_region: dict[str, Rows] = {}
    for row in sorted(summary, key=lambda row: natural_key(row.region)):
        if is_named(row.region):
            label = f"{row.region}, {system_title(row.system)}"
            _add(by_region.setdefault(f"{row.source} → {row.target}", {}), label, row)
    return tables + [ScoreTable(direction, "by region", BY_REGION, by_region[direction]) for direction in by_region]


def _add(rows: Rows, label: str, row: SummaryRow) -> None:
    rows.setdefault(label, {})[row.metric] = (row.mean, row.sd, row.n)
