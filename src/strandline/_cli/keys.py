"""`strandline keys`: create an API key, which is shown once and stored as its hash, or a secret of webhooks."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from strandline._cli import say

OWNER_ONLY: Final = 0o600

keys_app: Final = typer.Typer(help="Create API keys for callers.", no_args_is_help=True, rich_markup_mode=None)


@keys_app.callback()
def _keys() -> None:
    """Create API keys for callers."""


@keys_app.command(short_help="Create a key for a caller.")
def new(
    name: Annotated[str, typer.Argument(help="The caller's name; sessions and runs belong to it.", metavar="NAME")],
    operator: Annotated[
        bool, typer.Option("--operator", help="Let it also read metrics, and counts and sessions of all callers.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Append the line to this file (setting api_keys_file).", metavar="FILE"),
    ] = None,
) -> None:
    """Create a key and print it once: it cannot be recovered later.

    The line to store has only its hash. Without --file it is printed too, for
    STRANDLINE_API_KEYS or a file. A caller may have several keys: to rotate one,
    create another, hand it out, then delete the old line.

    Example: strandline keys new ada --file keys
    """
    with say.errors_reported():
        from strandline._access.keyring import new_key

        key, hashed = new_key(name, operator=operator)
        if file is not None:
            _append(file, hashed.line(), lambda before: _check_keys(before, file, hashed.line()))
    sys.stdout.write(f"{key}\n" if file is not None else f"{key}\n{hashed.line()}\n")
    sys.stdout.flush()
    console = say.err()
    stored = f"{file} has its line" if file is not None else "store the second line"
    sentence = (
        f"This is the key, shown only once; {stored}. Servers that read that file accept the key without a restart."
    )
    console.print(sentence, markup=False, soft_wrap=not console.is_terminal)


@keys_app.command(short_help="Create a secret that signs events for webhooks.")
def webhook(
    name: Annotated[
        str, typer.Argument(help="The caller's name; `anonymous` without keys, `*` for the server's.", metavar="NAME")
    ],
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Append the line to this file (setting webhook_secrets).", metavar="FILE"),
    ] = None,
) -> None:
    """Create a secret, and print the line to store.

    Give the secret, which begins with whsec_, to the receiver of the events. A caller may
    have several, and each signs: to rotate one, create another, hand it out, then delete
    the old line.

    Example: strandline keys webhook anonymous --file webhook-secrets
    """
    with say.errors_reported():
        from strandline._webhooks.secrets import checked_name
        from strandline._webhooks.signing import new_secret

        line = f"{checked_name(name)} {new_secret()}"
        if file is not None:
            from strandline._webhooks.secrets import parse

            _append(file, line, lambda before: parse(before, str(file)))
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    console = say.err()
    stored = f"The file {file} has this line" if file is not None else "Store this line"
    sentence = f"{stored}. Servers that read that file sign with it without a restart."
    console.print(sentence, markup=False, soft_wrap=not console.is_terminal)


def _check_keys(before: bytes, file: Path, line: str) -> None:
    from strandline._access.keyring import lines_of, parse

    parse([*lines_of(before.decode("utf-8-sig"), str(file)), *lines_of(line, "the new line")])


def _append(file: Path, line: str, check: Callable[[bytes], object]) -> None:
    """Append a line to a file whose content passes a check; a new one is readable by its owner only. Raises
    `SettingsError`."""
    from strandline.errors import SettingsError

    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, OWNER_ONLY)
        with open(descriptor, "r+b", buffering=0) as opened:
            before = opened.read()
            check(before)
            # In one write, so that no server reads half of it.
            opened.write((b"" if before.endswith(b"\n") or not before else b"\n") + line.encode() + b"\n")
            os.fsync(descriptor)
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not a key file: it is not UTF-8 text. Name another one.") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror or error}. No key was created.") from None
