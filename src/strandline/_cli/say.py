"""How the commands speak: results on the standard output, everything else on the other one.

An error is one paragraph that says what to do, and never a traceback of ours. Rich is imported when something is said,
so that `--help` stays quick.
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
    """Return the console for errors, progress and whatever else is no result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say_error(message: str) -> None:
    """Say one paragraph about what went wrong."""
    from rich.markup import escape

    from strandline._printable import clean

    if message.startswith(("The ", "There ")):
        message = message[0].lower() + message[1:]
    console = err()
    # On a terminal it is broken between words; elsewhere a line stays one.
    console.print(f"[bold red]strandline:[/] {escape(clean(message))}", soft_wrap=not console.is_terminal)


def fail(message: str) -> NoReturn:
    """Say one paragraph about what went wrong, and leave with exit code 2."""
    say_error(message)
    raise typer.Exit(REFUSED)


@contextmanager
def errors_reported() -> Iterator[None]:
    """Say an error of ours in one paragraph, and leave with exit code 2."""
    try:
        yield
    except StrandlineError as error:
        fail(str(error))


def say_unforeseen(error: Exception) -> int:
    """Say what was typed wrong, what cannot be written, or that there is a defect; return the exit code."""
    if any(kind.__name__ == "ClickException" for kind in type(error).__mro__):
        return _say_usage(error)
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
        say_error(f"what it has to say cannot be written: {error.strerror}. Make room there, or write it elsewhere.")
        return REFUSED
    return say_defect(error)


def _say_usage(error: Any) -> int:
    """Say what was typed wrong and where the right way is told; return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return REFUSED
    message = error.format_message().strip().rstrip(".")
    message = message[:1].lower() + message[1:]
    command = getattr(getattr(error, "ctx", None), "command_path", "strandline")
    say_error(f"{message}{'' if message.endswith('?') else '.'} `{command} --help` shows what can be written.")
    return REFUSED


def say_defect(error: BaseException) -> int:
    """Say that the command has a defect, with what whoever mends it needs; return the exit code."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error, file=sys.stderr)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    say_error(
        f"a defect of Strandline, not of yours: {type(error).__name__}: {error} ({os.path.basename(frame.filename)},"
        f" line {frame.lineno}). Set {TRACEBACK_VARIABLE}=1 to see all of it, and please report it"
    )
    return DEFECT
