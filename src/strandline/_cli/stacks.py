"""`strandline stacks`: what every run of a running server does now."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from strandline._cli.complete import JOURNALS, TOML
from strandline._cli.journal import path_of
from strandline._cli.say import errors_reported


def stacks(
    journal: Annotated[
        str | None,
        typer.Option(
            help="The server's journal [the one that the settings name]", metavar="PATH", autocompletion=JOURNALS
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with settings [strandline.toml]", metavar="FILE", autocompletion=TOML),
    ] = None,
) -> None:
    """Show what every run of a server does now, and where.

    Its phase, and where its code is at this moment.

    Asks the server that has the journal open, on this machine. For one in a container: docker exec CONTAINER strandline
    stacks.
    """
    with errors_reported():
        place = path_of(journal, config)
        from strandline._printable import clean
        from strandline._stacks import fetch_report

        sys.stdout.write(clean(fetch_report(place)))
