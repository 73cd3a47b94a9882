import errno
import io
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from terminal import Terminal

from pipeline.utils.console import bar, cli_main, echo, one_line, progress, table, warn, warnings_as_lines
from pipeline.utils.errors import Stopped, UserError

ROOT = Path(__file__).parents[3]


def door_that(ending):
    @cli_main
    def main(argv=None):
        """Do something."""
        if isinstance(ending, BaseException):
            raise ending
        return ending

    return main


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        (3, 3, ""),
        (UserError("x.yaml: wrong; mend it"), 2, "error: x.yaml: wrong; mend it\n"),
        (Stopped(15, "SIGTERM after step 3; saved"), 143, "stopped: SIGTERM after step 3; saved\n"),
        (KeyboardInterrupt(), 130, "stopped: SIGINT; the same command does what is left\n"),
        (KeyboardInterrupt("SIGINT again; not saved"), 130, "stopped: SIGINT again; not saved\n"),
        (SystemExit(2), 2, ""),
    ],
)
def test_an_expected_ending_is_one_line_and_an_exit_code(ending, code, message, capsys):
    assert door_that(ending)([]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", message)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        door_that(ZeroDivisionError())()


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import sys; from pipeline.utils.console import cli_main, echo\n"
        "@cli_main\ndef main(argv=None):\n    for _ in range(10_000): echo('line')\n    return 3\n"
        "sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 3  # as it would have ended with one
        assert process.stderr.read() == b""


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")


def run_code(code: str, **streams) -> subprocess.CompletedProcess:
    """Run code in a process of its own, with its terminal elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONUNBUFFERED", None)
    names = "import sys; from pipeline.utils.console import cli_main, echo, warn, progress"
    whole = f"{names}\n@cli_main\ndef main(argv=None):\n{code}\nsys.exit(main())"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.run([sys.executable, "-c", whole], env=environment, text=True, timeout=30, **pipes)


def test_what_modules_log_is_printed_once_also_beside_a_handler_of_the_root():
    process = run_code(
        "    import logging; logging.basicConfig(level=logging.INFO); logger = logging.getLogger('pipeline.train')\n"
        "    logger.info('done'); logger.warning('odd'); return 0"
    )
    assert (process.stdout, process.stderr) == ("done\n", "warning: odd\n")


def test_a_name_with_a_line_end_forges_no_second_warning(capsys):
    logging.getLogger("pipeline.x").warning("new\nwarning: line\x1b[2J: damaged")
    assert capsys.readouterr().err == "warning: new\\nwarning: line\\x1b[2J: damaged\n"


@needs_full
def test_a_full_disk_behind_the_output_does_not_end_the_work_and_is_said_once():
    with FULL.open("w") as full:
        process = run_code("    echo('a'); echo('b'); warn('end'); return 3", stdout=full)
    assert process.returncode == 3
    assert process.stderr == (
        "warning: standard output cannot be written (No space left on device); going on without it\nend\n"
    )


@needs_full
def test_where_nothing_can_be_told_the_work_goes_on(tmp_path):
    code = "    [echo(str(n)) for n in progress(range(3))]; warn('x'); print('y', file=sys.stderr); return 3"
    with FULL.open("w") as full:
        process = run_code(code, stderr=full)
    assert (process.returncode, process.stdout) == (3, "0\n1\n2\n")
    with FULL.open("w") as full:
        assert run_code("    print('no line of ours', end=''); return 0", stdout=full).returncode == 0


def test_a_progress_bar_outlives_its_terminal(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise OSError(errno.EIO, "Input/output error")

    for stream in (Gone(), None):
        monkeypatch.setattr("sys.stderr", stream)
        assert list(progress(range(3))) == [0, 1, 2]


def test_sigterm_is_a_line_and_143_from_the_door_on():
    before = signal.getsignal(signal.SIGTERM)
    process = run_code("    import os, signal\n    os.kill(os.getpid(), signal.SIGTERM)\n    while True: pass")
    assert (process.returncode, process.stdout) == (143, "")
    assert process.stderr == "stopped: SIGTERM; the same command does what is left\n"
    assert door_that(0)() == 0 and signal.getsignal(signal.SIGTERM) is before


def test_errors_hold_no_terminal_codes_and_no_line_ends_of_file_names(capsys):
    assert door_that(UserError("a\x1b[31m\nb.nii: wrong:\n  one\n  two\x07"))() == 2
    assert capsys.readouterr().err == "error: a\\x1b[31m\\nb.nii: wrong:\n  one\n  two\\x07\n"


def test_what_cannot_be_printed_is_written_out(capsys):
    echo("caf\udce9")
    warn(one_line("two\nlines\t\x1b[31m größer"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("caf\\udce9\n", "two\\nlines\\t\\x1b[31m größer\n")


def test_a_table_aligns_text_left_and_numbers_right():
    assert table(["name", "slices", "note"], [("T1", 5, "12"), ("n", "-3.5 ± 0.1", "none")]) == (
        "name      slices  note\n────  ──────────  ────\nT1             5  12\nn     -3.5 ± 0.1  none"
    )
    assert table(["name", "count"], []) == "name  count\n────  ─────"


def test_warnings_are_shown_without_their_place_in_the_code(capsys):
    with warnings_as_lines():
        warnings.warn("a.nii: odd", stacklevel=1)
        warnings.warn("for programmers", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: a.nii: odd\n"


def test_a_terminal_has_a_bar_and_warnings_on_lines_of_their_own_below_it(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    for _ in progress(range(3), title="slices", unit="vol"):
        logging.getLogger("pipeline.training").warning("trouble")
    assert "slices: 100%" in stream.getvalue() and "\r" in stream.getvalue()
    assert stream.getvalue().count("\nwarning: trouble\n") == 3


def test_without_a_terminal_long_work_is_at_most_ten_lines(monkeypatch, capsys):
    monkeypatch.setattr("pipeline.utils.console.APART_S", 0.0)
    assert len(list(progress(range(1000), title="slices", unit="vol"))) == 1000
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split()[1]) for line in lines] == list(range(100, 1001, 100))
    assert lines[0].startswith("slices: 100 of 1000 vol, 00:00 gone, ")
    with bar(initial=50, total=100, desc="training", unit="step") as training:
        for _ in range(50):
            training.set_postfix({"cycle": "1.00"}, refresh=False)
            training.update()
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split()[1]) for line in lines] == [60, 70, 80, 90, 100]
    assert all(line.endswith(", cycle=1.00") for line in lines)


def test_a_command_gives_a_warning_once(capsys):
    @cli_main
    def main(argv=None):
        for name in "aba":
            warn(f"warning: {name}")
            warn("no warning")
        return 0

    for _ in range(2):  # each command for itself
        assert main() == 0
        assert capsys.readouterr().err.splitlines() == [
            "warning: a", "no warning", "warning: b", "no warning", "no warning",
        ]  # fmt: skip
    warn("warning: a")
    warn("warning: a")  # outside a command nothing is kept back
    assert capsys.readouterr().err == "warning: a\nwarning: a\n"
