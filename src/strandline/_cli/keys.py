"""`strandline keys`: make an API key. It is shown once; what is kept is its hash."""

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from strandline._cli import say

OWNER_ONLY: Final = 0o600

keys_app: Final = typer.Typer(
    help="Make the API keys that let callers in.", no_args_is_help=True, rich_markup_mode=None
)


@keys_app.callback()
def _keys() -> None:
    """Make the API keys that let callers in."""


@keys_app.command(short_help="Make a key for a caller.")
def new(
    name: Annotated[
        str, typer.Argument(help="Whose key it is: the principal that sessions and runs belong to.", metavar="NAME")
    ],
    operator: Annotated[
        bool, typer.Option("--operator", help="It may also read metrics, and see counts and sessions of all.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Append the line to this file (setting api_keys_file).", metavar="FILE"),
    ] = None,
) -> None:
    """Make a key and print it, once: nobody can find it out again.

    The line to store has its hash only. Without --file it is printed too, for
    STRANDLINE_API_KEYS or a file. A name may have several keys: to change one,
    make another, hand it out, then take the old line out.

    Example: strandline keys new ada --file keys
    """
    with say.errors_reported():
        from strandline._access.keyring import new_key

        key, kept = new_key(name, operator=operator)
        if file is not None:
            _append(file, kept.line())
    sys.stdout.write(f"{key}\n" if file is not None else f"{key}\n{kept.line()}\n")
    sys.stdout.flush()
    console = say.err()
    stored = f"{file} has its line" if file is not None else "the second line is to be stored"
    sentence = f"This is the key, shown this once; {stored}. Servers that read it there let the key in by themselves."
    console.print(sentence, markup=False, soft_wrap=not console.is_terminal)


def _append(file: Path, line: str) -> None:
    """Add a line to a file of keys, which only its owner may read if it is a new one. Raises `SettingsError`."""
    from strandline._access.keyring import lines_of, parse
    from strandline.errors import SettingsError

    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, OWNER_ONLY)
        with open(descriptor, "r+b", buffering=0) as opened:
            before = opened.read()
            parse([*lines_of(before.decode("utf-8-sig"), str(file)), *lines_of(line, "the new line")])
            # In one write, so that no server reads half of it.
            opened.write((b"" if before.endswith(b"\n") or not before else b"\n") + line.encode() + b"\n")
            os.fsync(descriptor)
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is no file of keys: it is no text in UTF-8. Name another one.") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror or error}. The key was not made.") from None
