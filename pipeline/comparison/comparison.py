"""One comparison from folders to files: tables, page, figure and record."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.comparison.comparability import require_comparable
from pipeline.comparison.runs import FinishedRun, load_runs
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import UserError
from pipeline.utils.files import require_writable

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from pipeline.reporting.report_page import Picture

METRICS = "metrics.jsonl"  # in a comparison's record, which is kept until MLflow has it


@dataclass(frozen=True)
class Outputs:
    """Paths of a comparison's files: beside its page, under the page's name."""

    page: Path

    @property
    def csv(self) -> Path:
        return self.page.with_suffix(".csv")

    @property
    def json(self) -> Path:
        return self.page.with_suffix(".json")

    @property
    def picture(self) -> Path:
        return self.page.with_name(f"{self.page.stem}_slices.png")

    @property
    def record(self) -> Path:
        return self.page.with_name(f"{self.page.stem}_record")


def compare_folders(folders: Sequence[Path], page: Path, *, quiet: bool = False) -> None:
    """Compare finished runs: print the tables, and write page, figure, CSV and JSON.

    Raises:
        UserError: Fewer than two runs, unfinished or incomparable runs, or an output that cannot be written.
    """
    if page.suffix.lower() != ".html":
        raise UserError(f"{page}: the comparison is a page; give -o a name that ends in .html")
    within = next((folder for folder in page.absolute().parents if RunFolder(folder).config.is_file()), None)
    if within is not None:
        raise UserError(f"{page}: lies in a run's folder ({within}), whose files it would overwrite; choose another -o")
    if Outputs(page).record.exists() and not (Outputs(page).record / METRICS).is_file():
        raise UserError(f"{Outputs(page).record}: is in the way, and no comparison's; move it, or choose another -o")
    outputs = Outputs(page)
    require_writable(outputs.page, outputs.csv, outputs.json, outputs.picture)
    runs = load_runs(folders)
    require_comparable(runs)
    from pipeline.tracking.mlflow_settings import configure_mlflow

    configure_mlflow()  # first, for MONAI imports MLflow, which asks for its settings then
    _write(runs, outputs, quiet)


def _write(runs: Sequence[FinishedRun], outputs: Outputs, quiet: bool) -> None:
    from pipeline.comparison.comparison_page import write_page
    from pipeline.comparison.comparison_record import log_comparison
    from pipeline.comparison.files import save, terminal_text
    from pipeline.comparison.table import compare

    comparison = compare(runs)
    logger.info(f"{terminal_text(comparison)}\n")
    save(comparison, outputs.csv, outputs.json)
    picture = _picture(runs, outputs.picture, quiet)
    write_page(outputs.page, comparison, picture)
    files = [outputs.page, outputs.csv, outputs.json, *([outputs.picture] if picture else [])]
    how_to_open = log_comparison(comparison, outputs.page.stem, files, outputs.record)
    logger.info(f"  comparison  {outputs.page}   (open it in a browser)")
    if picture:
        logger.info(f"  slices      {outputs.picture}")
    logger.info(f"  figures     {outputs.csv}, {outputs.json}")
    logger.info(f"  MLflow      {how_to_open}")


def _picture(runs: Sequence[FinishedRun], path: Path, quiet: bool) -> "Picture | None":
    """Draw and write the figure; if the data is missing, warn and return None."""
    from pipeline.comparison.figure import CAPTION, draw_slices
    from pipeline.reporting.report_page import Picture
    from pipeline.reporting.tiles import save_png

    path.unlink(missing_ok=True)  # an earlier comparison's figure must not stay
    try:
        sheet = draw_slices(runs, quiet)
    except UserError as error:
        logger.warning(f"{error}; the comparison is without its figure")
        return None
    save_png(sheet, path)
    return Picture(path, "the same slices: input, each method, real target", CAPTION)
