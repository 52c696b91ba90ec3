"""`strandline export`: write all of a session into one file."""

from pathlib import Path
from typing import Annotated

import typer

from strandline._cli import say
from strandline._cli.address import KeyFile, Url
from strandline._cli.complete import SESSIONS
from strandline._cli.files import write
from strandline._cli.runs import server_of, session_named


def export(
    session: Annotated[str, typer.Argument(help="A session.", autocompletion=SESSIONS)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it [SESSION.zip].", metavar="PATH")
    ] = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Write all of a session into a zip: its history, runs, options and files.

    Example: strandline export ada --output ada.zip
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        name = session_named(session)
        path = output or Path(f"{name.replace(':', '_')}.zip")
        write(path, server.export(name), may_replace=output is not None)
        say.out().print(f"{path} is written.", markup=False, soft_wrap=True)
