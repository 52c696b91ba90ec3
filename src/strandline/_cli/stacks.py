"""`strandline stacks`: what every executing run of a server is doing."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from strandline._cli.complete import JOURNALS, TOML
from strandline._cli.locations import Database, driver_needed, journal_at
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

    The server must be on this machine; it is found by its journal, and with a database all servers of this machine are
    asked. In a container: docker exec CONTAINER strandline stacks.
    """
    with errors_reported():
        location = journal_at(journal, config)
        from strandline._printable import clean

        sys.stdout.write(
            clean(_of_database(location, config) if isinstance(location, Database) else _of_file(location))
        )


def _of_file(journal: Path) -> str:
    from strandline._stacks import fetch_report

    return fetch_report(journal)


def _of_database(database: Database, config: Path | None) -> str:
    from strandline._config import resolve, workspaces_folder
    from strandline._stacks import ServerProcess, fetch_reports

    with driver_needed():
        from strandline._journal.postgres.roster import roster

        servers = [
            ServerProcess(each.id, *each.process) for each in roster(database.address).servers if each.lease_left_s > 0
        ]
    return fetch_reports(servers, workspaces_folder(resolve({}, os.environ, toml=config).settings))
