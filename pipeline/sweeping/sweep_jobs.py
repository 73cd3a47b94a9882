"""Several runs of `pipeline.run`, each in its own process: started, monitored and stopped together."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.utils.errors import EXIT_DONE, Stopped, UserError
from pipeline.utils.files import printable
from pipeline.utils.interruption import Interruption

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "pipeline.run")
POLL_S = 0.1
JUDGE_S = 2.0  # between two looks at whether a run is worth going on with
PRUNED = "stopped early"  # how a run ended that was not


@dataclass
class SweepJob:
    """One run of a sweep."""

    name: str
    folder: Path
    command: list[str]  # `COMMAND` and its arguments
    log: Path  # file of the run's output
    code: int | None = None  # None before the run's end, 0 from the beginning for a run that is finished already
    ending: str = ""  # instead of the exit code: where a cluster ended the run without one, or `PRUNED`

    def failure(self) -> str:
        """Return how the run ended, and the last line that it printed."""
        ending = f"{self.name}: {self.ending or f'exit code {self.code}'}"
        if not self.log.exists():
            return f"{ending}; it printed nothing"
        last_line = self.log.read_text(errors="replace").rstrip().rpartition("\n")[2].strip()
        return f"{ending}: {last_line}; {self.log} has the rest"

    def log_ending(self, *, quiet: bool) -> None:
        """Say how the run ended; with `quiet` only if it failed, or was stopped early."""
        if self.code == EXIT_DONE:
            if not quiet:
                logger.info(f"{self.name}: done")
        elif self.ending == PRUNED:
            logger.info(f"{self.name}: {PRUNED}, for it scores below the median of earlier trials")
        else:
            logger.warning(self.failure())


def cuda_devices() -> list[str]:
    """Return the CUDA devices of this machine, or those in CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def work_through(
    jobs: Sequence[SweepJob],
    at_once: int,
    *,
    devices: Sequence[str],
    quiet: bool,
    is_behind: Callable[[SweepJob], bool] | None = None,
) -> None:
    """Do the runs without an exit code, several at a time; a failed run does not stop the others.

    Each process gets one of the CUDA devices in turn, if any are given. A run of which `is_behind` is true is stopped
    with a checkpoint. If this function ends early, all running processes are stopped and waited for.

    Raises:
        Stopped: A signal was received and passed on; the runs have written their checkpoints and ended.
        UserError: A process or its log could not be started.
    """
    # Fill free slots with waiting runs until all are done or a signal comes.
    pending = deque(job for job in jobs if job.code is None)
    running: dict[int, tuple[SweepJob, subprocess.Popen[bytes]]] = {}
    is_passed_on, judged = False, time.monotonic()
    with Interruption() as interruption:
        try:
            while running or (pending and not interruption.signal_number):
                for slot in range(at_once):
                    if slot in running and running[slot][1].poll() is not None:
                        job, process = running.pop(slot)
                        job.code = process.returncode
                        job.log_ending(quiet=quiet)
                    if slot not in running and pending and not interruption.signal_number:
                        job = pending.popleft()
                        if not quiet:
                            logger.info(f"{jobs.index(job) + 1}/{len(jobs)} {job.name}: started; {job.log}")
                        device = devices[slot % len(devices)] if devices else None
                        running[slot] = job, start_run(job, device)
                if is_behind is not None and time.monotonic() - judged > JUDGE_S:
                    judged = time.monotonic()
                    for job, process in running.values():
                        if not job.ending and is_behind(job):
                            job.ending = PRUNED
                            process.terminate()
                if interruption.signal_number and not is_passed_on:
                    is_passed_on = True
                    for _, process in running.values():
                        process.send_signal(interruption.signal_number)
                time.sleep(POLL_S)
        except BaseException:  # a second Ctrl-C among them, which stops the runs at once
            for _, process in running.values():
                process.send_signal(signal.SIGINT)
            for _, process in running.values():
                process.wait()
            raise
    require_no_stop(jobs, interruption)


def require_no_stop(jobs: Sequence[SweepJob], interruption: Interruption) -> None:
    """Raise Stopped, with what is done and what is not, if a signal was received."""
    if number := interruption.signal_number:
        unfinished = [job.name for job in jobs if job.code != EXIT_DONE]
        raise Stopped(
            number,
            f"{signal.Signals(number).name}; {len(jobs) - len(unfinished)} of {len(jobs)} runs are done, "
            f"still to do: {', '.join(unfinished) or 'the comparison'}; the same command goes on from there",
        )


def run_environment() -> dict[str, str]:
    """Return the variables with which a run finds this package, and its log what it prints at once."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def start_run(job: SweepJob, device: str | None = None) -> subprocess.Popen[bytes]:
    """Start a run in a process and session of its own, so that Ctrl-C reaches it only once, through this process.

    Its output is added to its log; it sees one CUDA device, or chooses for itself where that is None.

    Raises:
        UserError: The system cannot start another process, or the log cannot be written.
    """
    environment = {**os.environ, **run_environment()}
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as stream:
            heading = f"\n── {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(job.command[1:])}\n"
            stream.write(printable(heading).encode())
            stream.flush()
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise UserError(
            f"{job.name}: could not be started with its log {job.log} ({error.strerror or error}); runs under way were "
            "stopped; the same command goes on from there, perhaps with fewer --jobs"
        ) from error
