"""The commands' output: results go to the standard output, everything else to the standard error.

An error is one paragraph that says what to do, never a traceback. Rich is imported on first output, so that `--help`
stays quick.
"""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import typer

from strandline._exits import DEFECT, REFUSED
from strandline.errors import StrandlineError

if TYPE_CHECKING:
    from rich.console import Console

_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
TRACEBACK_VARIABLE: Final = "STRANDLINE_TRACEBACK"


def out() -> "Console":
    """Return the console for results."""
    from rich.console import Console

    return Console(highlight=False)


def err() -> "Console":
    """Return the console for errors, progress and everything else that is not a result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say_error(message: str) -> None:
    """Print an error as one paragraph."""
    from rich.markup import escape

    from strandline._printable import clean

    if message.startswith(("The ", "There ")):
        message = message[0].lower() + message[1:]
    console = err()
    # On a terminal it wraps between words; elsewhere it stays one line.
    console.print(f"[bold red]strandline:[/] {escape(clean(message))}", soft_wrap=not console.is_terminal)


def fail(message: str) -> NoReturn:
    """Print an error as one paragraph, and exit with code 2."""
    say_error(message)
    raise typer.Exit(REFUSED)


@contextmanager
def errors_reported() -> Iterator[None]:
    """Print a Strandline error of the block as one paragraph, and exit with code 2."""
    try:
        yield
    except StrandlineError as error:
        fail(str(error))


def say_unforeseen(error: Exception) -> int:
    """Report a usage error, an unwritable output or a bug; return the exit code."""
    if any(kind.__name__ == "ClickException" for kind in type(error).__mro__):
        return _say_usage(error)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
        say_error(f"its output cannot be written: {error.strerror}. Free some space, or write it elsewhere.")
        return REFUSED
    return say_defect(error)


def _say_usage(error: Any) -> int:
    """Report a usage error, and where the usage is shown; return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return REFUSED
    message = error.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    command = getattr(getattr(error, "ctx", None), "command_path", "strandline")
    say_error(f"{message}{'' if message.endswith('?') else '.'} `{command} --help` shows the options.")
    return REFUSED


def say_defect(error: BaseException) -> int:
    """Report a bug, with what is needed to fix it; return the exit code."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error, file=sys.stderr)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    say_error(
        f"this is a bug in Strandline: {type(error).__name__}: {error} ({os.path.basename(frame.filename)},"
        f" line {frame.lineno}). Set {TRACEBACK_VARIABLE}=1 for the traceback, and please report it"
    )
    return DEFECT
