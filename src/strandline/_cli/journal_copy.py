"""`strandline journal migrate` and `copy`: bring a journal to this version, or to another location."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from strandline._cli import say
from strandline._cli.complete import JOURNALS
from strandline._cli.journal_options import AsJson, Config, FilesFolder, OptionalPath, progress, say_faults
from strandline._cli.locations import Database, Location, driver_needed, files_for, files_of, journal_at

if TYPE_CHECKING:
    from strandline._journal.contents import Carrier
    from strandline._journal.copying.copy import Destination, Source


def migrate(path: OptionalPath = None, config: Config = None) -> None:
    """Bring the journal's tables to this version, as a server does when it starts.

    Servers of the version before may run on the same database meanwhile. A file is
    copied first, and no server may use it.

    Example: strandline journal migrate postgresql://db.example/strandline
    """
    with say.errors_reported(), driver_needed():
        location = journal_at(path, config)
        if isinstance(location, Database):
            from strandline._journal.postgres.migrating import migrate_database
            from strandline._journal.postgres.schema import SCHEMA_VERSION as VERSION

            shown, before, now = location.shown, migrate_database(location.address), VERSION
        else:
            from strandline._clock import SystemClock
            from strandline._journal.migrations import migrate_file
            from strandline._journal.ownership import SCHEMA_VERSION

            shown, before, now = str(location), migrate_file(location, SystemClock()), SCHEMA_VERSION
    if before == now:
        say.out().print(f"{shown}: schema {now}, nothing to do.", soft_wrap=True)
    else:
        made = "tables made" if before == 0 else f"migrated from schema {before}"
        say.out().print(f"{shown}: {made}, now schema {now}.", soft_wrap=True)


def copy(
    source: Annotated[
        str, typer.Argument(help="The journal: a file or `postgresql://...`", metavar="SRC", autocompletion=JOURNALS)
    ],
    destination: Annotated[
        str, typer.Argument(help="A new file, or an empty database", metavar="DST", autocompletion=JOURNALS)
    ],
    anew: Annotated[
        bool, typer.Option("--anew", help="Discard an unfinished copy that is there, and start again.")
    ] = False,
    files: FilesFolder = None,
    files_to: Annotated[
        Path | None,
        typer.Option(
            "--files-to",
            help="The folder for its uploaded files [from the settings, or beside it]",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a journal, whole, from a file or a database into another one.

    No server may use either of them. All rows are compared at the end, and uploaded
    files with their hashes; until then nothing can use the copy. A copy that was cut
    off continues with the same command. The source stays as it is: never serve both.
    Exit code: 1 if files are missing or changed in the source; all else is copied.

    Example: strandline journal copy .strandline/journal.db postgresql://db.example/strandline
    """
    from strandline._encoding import encode

    with say.errors_reported(), driver_needed(), progress("copying") as step:
        ours, theirs = journal_at(source, None), journal_at(destination, None)
        folder = files_for(theirs, files_to)
        carrier = carrier_between(files_of(ours, None, files), folder)
        counts = copied(ours, theirs, lambda what, done, total: step(done, total, what), anew=anew, carrier=carrier)
    faults = carrier.faults.sentences
    if as_json:
        sys.stdout.write(encode(counts).decode() + "\n")
        say_faults(faults)
        return
    say.out().print(
        f"{counts['sessions']:,} sessions and {counts['runs']:,} runs copied; both sides were compared, row by row."
        " Serve the copy, and the other one no more.",
        soft_wrap=True,
    )
    if carrier.files:
        say.out().print(
            f"{carrier.files:,} file{'s' * (carrier.files != 1)} compared with their hashes, in {folder}.",
            soft_wrap=True,
        )
    say_faults(faults)


def carrier_between(source: Path | None, to: Path | None) -> "Carrier":
    """Return what brings the contents of files from one folder to another one."""
    from strandline._files.store import FileStore
    from strandline._journal.contents import Carrier

    return Carrier(*(None if each is None else FileStore(each) for each in (source, to)))


def copied(
    source: Location,
    destination: Location,
    on_step: Callable[[str, int, int], None],
    *,
    anew: bool,
    carrier: "Carrier | None" = None,
) -> dict[str, int]:
    """Copy a journal, and with a carrier the contents of its files; return how many rows of each table there are.

    Raises a `JournalError` that says what to do.
    """
    from strandline._journal.copying.copy import copy as copy_rows

    with _source(source) as ours, _destination(destination) as theirs:
        return copy_rows(ours, theirs, on_step, anew=anew, carrier=carrier)


def _source(location: Location) -> "AbstractContextManager[Source]":
    if isinstance(location, Database):
        from strandline._journal.postgres.copying import database_source

        return database_source(location.address)
    from strandline._clock import SystemClock
    from strandline._journal.copying.files import file_source

    return file_source(location, SystemClock())


def _destination(location: Location) -> "AbstractContextManager[Destination]":
    if isinstance(location, Database):
        from strandline._journal.postgres.copying import database_destination

        return database_destination(location.address)
    from strandline._clock import SystemClock
    from strandline._journal.copying.files import file_destination

    return file_destination(location, SystemClock())
