"""Where a journal is, as the commands of `strandline journal` take it: a file, or a database."""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from strandline._config import files_folder, journal_database, journal_file, resolve
from strandline._printable import without_passwords
from strandline._settings import Settings
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


def files_of(location: Location, config: Path | None, given: Path | None) -> Path | None:
    """Return the folder that has the contents of a journal's files, None if it is not known.

    It is the given one; else the one beside the journal, unless this is the journal of the settings and they name a
    folder; else the one that they name.
    """
    if given is not None:
        return given.expanduser()
    settings = _settings(config)
    named = None if settings is None or settings.files is None else Path(settings.files)
    if isinstance(location, Database):
        return named
    beside = Path(f"{location}.files")
    ours = None if settings is None else journal_file(settings)
    is_ours = ours is not None and ours.expanduser().resolve() == location.resolve()
    return beside if named is None or (beside.is_dir() and not is_ours) else named


def files_for(location: Location, given: Path | None) -> Path | None:
    """Return the folder where a server with these settings looks for the files of a new journal, or the given one."""
    if given is not None:
        return given.expanduser()
    settings = _settings(None)
    if settings is not None and settings.files is not None:
        return files_folder(settings)
    return None if isinstance(location, Database) else Path(f"{location}.files")


def _settings(config: Path | None) -> Settings | None:
    """Return the settings, None if they are wrong: a named journal does not need them."""
    try:
        return resolve({}, os.environ, toml=config).settings
    except SettingsError:
        return None


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
