"""`strandline stacks`: what every executing run of a server is doing."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from strandline._cli.complete import JOURNALS, TOML
from strandline._cli.locations import file_of
from strandline._cli.say import errors_reported


def stacks(
    journal: Annotated[
        str | None,
        typer.Option(help="The server's journal [from the settings]", metavar="PATH", autocompletion=JOURNALS),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="TOML file with settings [strandline.toml]", metavar="FILE", autocompletion=TOML),
    ] = None,
) -> None:
    """Show what every executing run of a server is doing.

    Prints each run's phase, and where its code is at this moment.

    The server must be on this machine; it is found by its journal. In a container: docker exec CONTAINER strandline
    stacks.
    """
    with errors_reported():
        file = file_of(journal, config)
        from strandline._printable import clean
        from strandline._stacks import fetch_report

        sys.stdout.write(clean(fetch_report(file)))
