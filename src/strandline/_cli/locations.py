"""Where a journal is, as the commands of `strandline journal` take it: a file, or a database."""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from strandline._config import journal_database, journal_file, resolve
from strandline._printable import without_passwords
from strandline.errors import JournalError, SettingsError


class Database(NamedTuple):
    """A journal in PostgreSQL."""

    address: str
    """It may have a password."""

    @property
    def shown(self) -> str:
        """The address without its password."""
        return without_passwords(self.address)


Location = Path | Database


def journal_at(named: str | None, config: Path | None) -> Location:
    """Return the journal that PATH names, else the settings. Raises `SettingsError` if it is in memory."""
    if named is not None and not re.match(r"(sqlite|memory|postgres(ql)?):", named):
        return Path(named).expanduser()
    settings = resolve({"journal": named}, os.environ, toml=config).settings
    if (address := journal_database(settings)) is not None:
        return Database(address)
    location = journal_file(settings)
    if location is None:
        raise SettingsError(
            f"The journal {without_passwords(settings.journal)!r} is not a file. Name a file, or a database."
        )
    return location.expanduser()


@contextmanager
def driver_needed() -> Iterator[None]:
    """Turn the lack of PostgreSQL's driver in the block into a `SettingsError` that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("psycopg"):
            raise
        raise SettingsError(
            "The journal is in a PostgreSQL database, and its driver is not installed: pip install"
            " 'strandline[postgres]'"
        ) from error


def backup_of_database(location: Database, to: str) -> JournalError:
    """Return the error that says how a database is backed up: no script may take this for a backup."""
    password = " (put the password in place of ***, or better into PGPASSFILE)" if "***" in location.shown else ""
    return JournalError(
        f"Nothing was written to {to}: PostgreSQL's own tools back up a journal in a database, also while servers run."
        f" Continuous archiving (point-in-time recovery) loses less. For a copy now, type{password}:"
        f" pg_dump --format=custom --file={shlex.quote(to)} {shlex.quote(location.shown)}"
    )
