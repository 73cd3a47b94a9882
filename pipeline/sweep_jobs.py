"""Several runs of `pipeline.run`, each in its own process: started, monitored and stopped together."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.training.initial_weights import require_initial_weights
from pipeline.utils.errors import Stopped, UserError
from pipeline.utils.files import encoded
from pipeline.utils.interruption import signal_handlers

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "pipeline.run")
POLL_S = 0.1
STOPPED_CODES = {130, 143, -signal.SIGINT, -signal.SIGTERM}  # negative: stopped before it could catch the signal
HANGUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has none


@dataclass
class SweepJob:
    """One run of a sweep.

    Attributes:
        config: Configuration of the run, overrides applied.
        arguments: Arguments of `python -m pipeline.run`.
        log: File of the run's output.
        code: Exit code; None before the run's end, 0 from the beginning for a run that is finished already.
        last_line: Last line of the output.
        process: Process of the run; None before its start.
        started: Time of the start, in seconds of `time.monotonic`.
        log_start: Byte offset at which this sweep's output begins in the log.
    """

    config: Config
    arguments: list[str]
    log: Path
    code: int | None = None
    last_line: str = ""
    process: subprocess.Popen | None = field(default=None, repr=False)
    started: float = 0.0
    log_start: int = 0

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.config.name


def plan(configs: Sequence[Path], overrides: Sequence[str], output: Path | None, logs: Path) -> list[SweepJob]:
    """Check every configuration, and return the runs to do.

    Args:
        configs: YAML files.
        overrides: `key=value` settings for all of them.
        output: Parent folder of all runs' folders; None for the folders of the configurations.
        logs: Folder of the log files.

    Raises:
        UserError: Names all errors of all configurations, and runs that share a name or a folder.
    """
    # Load the configurations.
    jobs, problems = [], []
    for path in configs:
        try:
            config = load_config(path, overrides)
            if output is not None:
                config = config.model_copy(update={"output": output / config.name})
            require_initial_weights(config)
        except UserError as error:
            problems.append(str(error))
            continue
        output_override = [f"output={_quoted(str(config.folder))}"] if output is not None else []
        jobs.append(SweepJob(config, [str(path), *overrides, *output_override, "--quiet"], logs / f"{config.name}.log"))

    # Check names and folders.
    problems += _shared_names_and_folders(configs, jobs) if not problems else []
    problems += [
        f"{job.name}: is the folder of the logs; give the run another name" for job in jobs if job.config.folder == logs
    ]
    blocking_file = next((path for path in (logs, *logs.parents) if path.exists() and not path.is_dir()), None)
    if blocking_file:
        problems.append(f"{blocking_file}: is a file, and the runs' folder is to be there; give another -o")
    if problems:
        raise UserError("\n  ".join(["no run was started:", *problems]))
    return jobs


def _quoted(text: str) -> str:
    """Return text quoted for YAML."""
    return "'" + text.replace("'", "''") + "'"


def _shared_names_and_folders(configs: Sequence[Path], jobs: Sequence[SweepJob]) -> Iterable[str]:
    """Yield an error for every two runs that share a name (used in logs and tables) or a folder."""
    for index, job in enumerate(jobs):
        for other_index, other in enumerate(jobs[:index]):
            paths_text = f"{configs[other_index]} and {configs[index]}"
            if job.name == other.name:
                yield f"{paths_text}: both are named {job.name!r}; give one another name"
            elif job.config.folder.resolve() == other.config.folder.resolve():
                yield f"{paths_text}: both write to {job.config.folder}; give one another output"


def work_through(jobs: Sequence[SweepJob], at_once: int, *, quiet: bool, devices: Sequence[str] = ()) -> None:
    """Do the runs without an exit code, several at a time; a failed run does not stop the others.

    If this function ends early, all running processes are stopped and waited for.

    Args:
        jobs: The runs; their `code` and `last_line` are filled in.
        at_once: Maximum number of simultaneous runs.
        quiet: Whether to print failures only.
        devices: CUDA devices as in CUDA_VISIBLE_DEVICES, of which each process gets one in turn; none leaves the choice
            to the run.

    Raises:
        Stopped: A signal was received and passed on; the runs have written their checkpoints and ended.
        UserError: A process or its log could not be started.
    """
    # Fill free slots with waiting runs until all are done or a signal comes.
    queue = deque((number, job) for number, job in enumerate(jobs, 1) if job.code is None)
    slots: dict[int, SweepJob | None] = dict.fromkeys(range(at_once))
    with _Signals(lambda: [job.process for job in jobs if job.process]) as signals:
        try:
            while any(slots.values()) or (queue and signals.first is None):
                for slot, job in slots.items():
                    if job is not None and job.process.poll() is not None:
                        slots[slot] = None
                        _end(job, quiet)
                    if slots[slot] is None and queue and signals.first is None:
                        number, next_job = queue.popleft()
                        device = devices[slot % len(devices)] if devices else None
                        _start(next_job, device, "" if quiet else f"{number}/{len(jobs)} ")
                        slots[slot] = next_job
                signals.pass_on()
                time.sleep(POLL_S)
        except BaseException:
            signals.stop_all()
            raise

    # Report a stop by a signal.
    if signals.first is not None:
        unfinished = [job.name for job in jobs if job.code != 0]
        raise Stopped(
            signals.first,
            f"{signal.Signals(signals.first).name}; {len(jobs) - len(unfinished)} of {len(jobs)} runs are done, "
            f"still to do: {', '.join(unfinished) or 'the comparison'}; the same command goes on from there",
        )


def cuda_devices() -> list[str]:
    """Return the CUDA devices of this machine, or those in CUDA_VISIBLE_DEVICES."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _start(job: SweepJob, device: str | None, counter_text: str) -> None:
    """Start a run in a process and session of its own, so that Ctrl-C reaches it only once, through this process.

    Raises:
        UserError: The system cannot start another process, or the log cannot be written.
    """
    # Prepare command and environment.
    command = [*COMMAND, *job.arguments]
    home = str(Path(__file__).parents[1])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device

    # Start the process with its output in the log.
    device_text = "" if device is None else f" on CUDA device {device}"
    if counter_text:
        logger.info(f"{counter_text}{job.name}: started{device_text}; {job.log}")
    header = f"\n── {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command[1:])}{device_text}\n"
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            log.write(encoded(header))
            log.flush()
            job.log_start, job.started = log.tell(), time.monotonic()
            job.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise UserError(
            f"{job.name}: could not be started with its log {job.log} ({error.strerror or error}); runs under way were "
            "stopped; see to that, perhaps with fewer --jobs, and the same command goes on from there"
        ) from error


def _end(job: SweepJob, quiet: bool) -> None:
    job.code, job.last_line = job.process.returncode, _last_line(job)
    if job.code == 0 and not quiet:
        logger.info(f"{job.name}: done in {(time.monotonic() - job.started) / 60:.1f} min")
    elif job.code in STOPPED_CODES:
        with suppress(OSError):  # the terminal may have been closed
            logger.warning(f"{job.name}: stopped ({job.code}): {job.last_line}")
    elif job.code != 0:
        logger.warning(f"{job.name}: failed with exit code {job.code}: {job.last_line}; {job.log} has the rest")


def _last_line(job: SweepJob) -> str:
    """Return the last non-empty line that the run printed in this sweep."""
    try:
        text = job.log.read_bytes()[job.log_start :].decode(errors="replace")
    except OSError:
        return "its log cannot be read"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


class _Signals:
    """Context manager that records SIGINT, SIGTERM and SIGHUP and passes them on to the running processes.

    A closed terminal (SIGHUP) stops them as SIGTERM does, with checkpoints; under nohup it is ignored.
    """

    def __init__(self, processes: Callable[[], list[subprocess.Popen]]):
        self.first: int | None = None
        self._processes, self._received, self._sent_counts = processes, [], {}
        under_nohup = HANGUP is None or signal.getsignal(HANGUP) is signal.SIG_IGN
        self._handlers = signal_handlers(
            (signal.SIGINT, signal.SIGTERM, *([] if under_nohup else [HANGUP])), self._on_signal
        )

    def __enter__(self) -> "_Signals":
        self._handlers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.__exit__(None, None, None)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._received.append(signal.SIGTERM if number == HANGUP else number)
        if self.first is None:
            self.first = number
            name = signal.Signals(number).name
            note = f"\n{name}: passed on; waiting until the runs have saved (Ctrl-C again stops them at once)\n"
            with suppress(OSError):  # past sys.stderr, whose buffer the interrupted code may be holding
                os.write(2, note.encode())

    def stop_all(self) -> None:
        """Let every process save and end, and wait for it."""
        self._received.append(signal.SIGTERM)
        while any(process.poll() is None for process in self._processes()):
            self.pass_on()
            time.sleep(POLL_S)

    def pass_on(self) -> None:
        """Send every process the received signals that it has not been sent yet, including new processes."""
        received = list(self._received)
        for process in self._processes():
            for number in received[self._sent_counts.get(process.pid, 0) :]:
                if process.poll() is None:
                    process.send_signal(number)
            self._sent_counts[process.pid] = len(received)
