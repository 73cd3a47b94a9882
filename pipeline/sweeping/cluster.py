"""Runs of a sweep as Slurm jobs, by submitit: an array of them, started over where Slurm's time is up."""

import difflib
import logging
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.sweeping.sweep_jobs import SweepJob, require_no_stop, run_environment, start_run
from pipeline.tracking.mlflow_settings import environment_variables
from pipeline.utils.errors import UserError, first_line, missing_package
from pipeline.utils.interruption import Interruption

if TYPE_CHECKING:
    from submitit.core.core import Executor, Job
    from submitit.core.utils import DelayedSubmission

logger = logging.getLogger(__name__)

POLL_S = 1.0
STOP_S = 80  # that a run has for its checkpoint, of the 90 between Slurm's warning and its end
MOST_TIMEOUTS = 30  # after which a run that never ends is given up
# What a sweep decides itself: a run is one task, and --jobs says how many there are at once.
OURS = {"array_parallelism", "nodes", "ntasks_per_node", "num_gpus"}


class ClusterRun:
    """What a Slurm job does: one `pipeline.run` in a process of its own, stopped with a checkpoint when time is up.

    submitit pickles it, calls it on the node, and calls `checkpoint` some time before Slurm ends the job.
    """

    def __init__(self, job: SweepJob):
        self.job = job
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Return the run's exit code."""
        # Slurm sends SIGUSR2 to every process of the job, and the run would end of it; it inherits that it is ignored.
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        self._process = start_run(self.job)
        signal.signal(signal.SIGUSR2, handler)
        try:
            while self._process.poll() is None:  # not wait(), whose lock `checkpoint` would meet in a signal's handler
                time.sleep(POLL_S)
            return self._process.returncode
        finally:
            self._stop()

    def checkpoint(self) -> "DelayedSubmission":
        """Stop the run, which writes its checkpoint, and return what goes on with it."""
        from submitit.core.utils import DelayedSubmission

        self._stop()
        return DelayedSubmission(ClusterRun(self.job))

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)


def slurm_executor(folder: Path, settings: Sequence[str], at_once: int) -> "Executor":
    """Return what submits to Slurm.

    Every node must see `folder`, where submitit keeps its scripts, results and logs. `settings` are `key=value` each,
    named as sbatch's long options with underscores; so many jobs may run at the same time.

    Raises:
        UserError: submitit or Slurm is not installed; or names all settings that are wrong.
    """
    try:
        import submitit
    except ImportError as error:
        raise missing_package("--cluster", "cluster", error) from error
    values, problems = _slurm_values(settings, submitit.SlurmExecutor._valid_parameters() - OURS)
    executor = None
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_TIMEOUTS)
    except RuntimeError:
        problems.append("--cluster slurm: this machine has no Slurm (srun is missing); use the cluster's login node")
    if executor is not None and not problems:
        try:
            executor.update_parameters(**({"job_name": "sweep"} | values), array_parallelism=at_once)
        except (TypeError, ValueError) as error:
            problems.append(f"--slurm: {first_line(error)}; see submitit's SlurmExecutor")
    if executor is None or problems:
        raise UserError("\n  ".join(problems))
    return executor


def _slurm_values(settings: Sequence[str], known_keys: set[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings' values by key, and what is wrong with them."""
    values: dict[str, Any] = {}
    problems = []
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            problems.append(f"--slurm {setting}: is no key=value; configurations stand before --slurm")
        elif key in OURS:
            problems.append(f"--slurm {setting}: a run is one task, and --jobs says how many run at once; leave it out")
        elif key not in known_keys:
            nearest = difflib.get_close_matches(key, known_keys, n=1)
            problems.append(f"--slurm {setting}: unknown key" + (f"; the nearest is {nearest[0]}" if nearest else ""))
        elif key == "time" and not text.isdecimal():
            problems.append(f"--slurm {setting}: must be whole minutes")
        else:
            try:
                values[key] = yaml.safe_load(text)
            except yaml.YAMLError:
                problems.append(f"--slurm {setting}: not valid YAML; quote it")
    if not any(setting.startswith("time=") for setting in settings):
        problems.append("--slurm time=MINUTES: missing; without it a job would have five minutes")
    return values, problems


def submit_and_wait(jobs: Sequence[SweepJob], executor: "Executor", *, quiet: bool) -> None:
    """Submit the runs without an exit code together, and wait for them; if this ends early, cancel those left.

    Raises:
        Stopped: A signal was received; the jobs were cancelled, of which Slurm tells the runs, and they save.
        UserError: The cluster did not take the jobs.
    """
    pending = [job for job in jobs if job.code is None]
    if not pending:
        return
    running: list[tuple[SweepJob, Job[int]]] = []
    with Interruption() as interruption:
        try:
            with environment_variables(**run_environment()):  # a job inherits them
                running += zip(pending, executor.submit_array([*map(ClusterRun, pending)]), strict=True)
            for job, handle in running if not quiet else ():
                place = f"{jobs.index(job) + 1}/{len(jobs)}"
                logger.info(f"{place} {job.name}: submitted as job {handle.job_id}; {job.log}")
            while running and not interruption.signal_number:
                for entry in [entry for entry in running if entry[1].done()]:
                    running.remove(entry)
                    _settle(*entry)
                    entry[0].log_ending(quiet=quiet)
                time.sleep(POLL_S if running else 0)
        except (RuntimeError, OSError) as error:  # submitit's of a failed sbatch, among others
            raise UserError(f"the jobs could not be submitted or asked for: {' '.join(str(error).split())}") from error
        finally:
            for _, handle in running:
                with suppress(OSError):
                    handle.cancel(check=False)
    require_no_stop(jobs, interruption)


def _settle(job: SweepJob, handle: "Job[int]") -> None:
    """Fill in how a run ended."""
    try:
        job.code = handle.result()
    except RuntimeError:  # submitit's, where there is no exit code
        job.code = 1
        job.ending = f"job {handle.job_id} ended without an exit code ({handle.state}; {handle.paths.stderr})"
