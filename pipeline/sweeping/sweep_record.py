"""A sweep in MLflow: a run with its description, its parameters and its comparison, below which its runs are shown."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runs.folder import RunFolder
from pipeline.sweeping.sweep_jobs import SweepJob
from pipeline.tracking.event_log import read_event_log
from pipeline.tracking.mlflow_run import PARENT_VARIABLE, flatten
from pipeline.tracking.mlflow_settings import environment_variables
from pipeline.tracking.mlflow_sync import SWEEP_RECORD
from pipeline.tracking.tracker import Tracker
from pipeline.utils.errors import EXIT_DONE

if TYPE_CHECKING:
    from pipeline.comparison.table import Comparison

STEP = 0  # of a comparison's figures
SEARCH_SCORE = "search/validation_score"  # of each trial, at the step of its number


class SweepRecord:
    """What a sweep puts on record; nothing without a tracker, where its runs do not go to MLflow.

    Its description begins with the heading, in Markdown.
    """

    def __init__(self, tracker: Tracker | None, heading: str):
        self._tracker, self._description = tracker, heading

    def start(self, jobs: Sequence[SweepJob]) -> None:
        """Describe the sweep, and have runs that began earlier shown below it."""
        self._describe()
        self._adopt(jobs)

    def log_scores(self, scores: Mapping[int, float], best: str) -> None:
        """Log the validation scores of a search's trials by number, and a sentence on the best."""
        if self._tracker is not None:
            for number, score in sorted(scores.items()):
                self._tracker.log_metrics({SEARCH_SCORE: score}, number)
            self._tracker.set_tags({"best_trial": best})
            self._describe(best)

    def log_comparison(self, comparison: "Comparison", files: Sequence[Path]) -> str:
        """Log a comparison of the sweep's runs, and return a line on how to open it."""
        from pipeline.comparison.comparison import log_figures
        from pipeline.comparison.comparison_page import markdown

        if self._tracker is None:
            return "off, as in the compared runs"
        log_figures(self._tracker, comparison, files)
        self._describe(markdown(comparison))
        return self._tracker.open_instructions()

    def finish(self, jobs: Sequence[SweepJob]) -> None:
        """Record how the runs ended."""
        failed = [job for job in jobs if job.code != EXIT_DONE]
        if failed:  # first, for tables may fill what MLflow keeps of a description
            self._description = "\n\n".join([f"**failed: {', '.join(job.name for job in failed)}**", self._description])
        self._describe()
        self._adopt(jobs)
        if self._tracker is not None:
            self._tracker.set_tags({"runs_done": f"{len(jobs) - len(failed)} of {len(jobs)}"})
            self._tracker.close("FAILED" if failed else "FINISHED")

    def _describe(self, *paragraphs: str) -> None:
        """Add paragraphs to the description."""
        self._description = "\n\n".join(filter(None, (self._description, *paragraphs)))
        if self._tracker is not None:
            self._tracker.set_description(self._description)

    def _adopt(self, jobs: Sequence[SweepJob]) -> None:
        if self._tracker is not None and jobs:
            self._tracker.log_children([job.folder for job in jobs])


@contextmanager
def sweep_record(
    home: Path, title: str, paths: Sequence[Path], settings: Sequence[str], *, experiment: str | None, source: str
) -> Iterator[SweepRecord]:
    """Open a sweep's record for the time of a block, in which runs that are started know their parent.

    The record lies below `home`: the same command goes on with the same MLflow run, another begins anew. `settings`
    are `key=value` each, with all their values, or the range of a search; `experiment` is None where the runs do not
    go to MLflow, and `source` the kind of their data.

    Raises:
        UserError: Another sweep is at work in this folder.
    """
    files, values = ", ".join(map(str, paths)), dict(text.split("=", 1) for text in settings)
    heading = "\n".join([f"{title}: {files}.", "", *(f"- `{key}`: {value}" for key, value in values.items())]).strip()
    if experiment is None:
        yield SweepRecord(None, heading)
        return
    folder, params = home / SWEEP_RECORD, {"configurations": files, **values}
    with RunFolder(folder).lock():
        tracker = Tracker(
            folder,
            experiment=experiment,
            run_name=home.absolute().name,
            params={**params, "sweep": title},
            step=STEP if _is_of(folder, params) else None,
            tags={"kind": "sweep", "data": source},
            machine=False,
        )
        with tracker:
            run_id = tracker.call("the sweep", lambda run: run.id)
            with environment_variables(**{PARENT_VARIABLE: run_id}) if run_id else nullcontext():
                yield SweepRecord(tracker, heading)


def _is_of(folder: Path, params: Mapping[str, str]) -> bool:
    """Return whether a record is of a sweep with these parameters; a search with more trials is the same."""
    starts = (entry["params"] for entry in read_event_log(folder) if entry["kind"] == "about")
    return any({key: value for key, value in start.items() if key != "sweep"} == flatten(params) for start in starts)
