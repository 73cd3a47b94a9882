"""Errors that end a command, and the exit codes of all endings."""

import re

EXIT_DONE = 0
EXIT_BAD_INPUT = 2
EXIT_PARTLY_DONE = 3
EXIT_INTERRUPTED = 130  # by Ctrl-C: 128 + SIGINT


class UserError(Exception):
    """Bad input or configuration: shown as one clear line, without a traceback; exit code 2.

    The message names the file or key, the reason and the remedy.
    """


class DiskFull(UserError):
    """A disk has no room left, so whatever else is written there will fail as well."""


class OutputNotFinite(UserError):
    """A network's output has values that are no numbers: its weights are damaged, or its training diverged."""

    def __init__(self, name: str):
        super().__init__(
            f"{name}: the network's output is not finite: the model is damaged, its training "
            "diverged, or half precision overflowed; try --precision float32, or another checkpoint"
        )


class Stopped(Exception):
    """A signal stopped the run after everything was saved; the exit code is 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def missing_package(user: str, extra: str, error: ImportError) -> UserError:
    """Return the error of an option or runtime (`user`) whose optional package, of an `extra`, cannot be imported."""
    reason = first_line(root_cause(error))
    return UserError(f'{user}: {reason}; install what it needs, in the checkout: pip install -e ".[{extra}]"')


def root_cause(error: BaseException) -> BaseException:
    """Return the error at the root of a chain, since MONAI wraps every error in its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_cause(error: BaseException) -> str:
    """Return the first line of the error at the root of a chain."""
    return first_line(root_cause(error))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def without_password(text: str) -> str:
    """Return an address, or a text with addresses in it, without their user names and passwords.

    A password may hold what an address must write otherwise, such as a slash or a question mark; a port with a path is
    none, nor is the letter of a Windows drive.
    """
    name, password = r"(?![A-Za-z]:[/\\])[^\s/?#@:\[]*", r"(?!\d+[/?#),])(?:(?!://)[^\s@])*"
    return re.sub(rf"(?<=://)(?:[^\s/?#]*|{name}:[^\s/]*|{name}:{password})@", "", text)
