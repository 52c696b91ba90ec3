"""`strandline stacks`: what every run of a running server does now."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from strandline.cli.say import told
from strandline.config import journal_file, resolve
from strandline.errors import SetupError


def stacks(
    journal: Annotated[str | None, typer.Option(help="The server's journal [from its settings]")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with settings")] = None,
) -> None:
    """Show what every run of a server does now, and where.

    Its phase, and where its code is at this moment.

    Asks the server that has the journal open, on this machine. For one in a container: docker exec CONTAINER strandline
    stacks.
    """
    with told():
        place = journal_file(resolve({"journal": journal}, os.environ, toml=config).settings)
        if place is None:
            raise SetupError("only a server with a `sqlite:PATH` journal can be asked: name it with --journal")
        from strandline.stacks import ask

        sys.stdout.write(ask(place))
