"""The journal and the workspace: whether they are usable, who uses them, and how much free space there is.

Nothing is written and no lock is taken; a server that has the journal open is not affected.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from strandline._config import journal_database, journal_file
from strandline._doctor.finding import Finding, note, ok, problem
from strandline._journal.integrity import CHECKED_BYTES, check_pages
from strandline._journal.ownership import (
    check_openable,
    file_system,
    holder,
    is_network,
    locate,
)
from strandline._journal.reserve import reserve_bytes
from strandline._journal.verify import at_one_moment
from strandline._printable import without_passwords
from strandline._settings import Settings
from strandline.errors import JournalError, StrandlineError

LITTLE_ROOM: Final = 1 << 30
NO_ROOM: Final = 64 << 20


def journal(settings: Settings) -> Iterator[Finding]:
    """Check whether the journal exists, is sound, and is not in use."""
    if settings.journal == "memory:":
        yield note("journal", "in memory: everything is lost when the server stops")
        return
    if (database := journal_database(settings)) is not None:
        yield from _database(database)
        return
    named = journal_file(settings)
    if named is None:
        yield problem(
            "journal", f"{settings.journal!r} is not a journal", "write `sqlite:PATH`, `postgresql://...` or `memory:`"
        )
        return
    try:
        path = locate(named.expanduser())
        there = check_openable(path)
    except JournalError as error:
        yield problem("journal", str(error))
        return
    yield from _folder(path, settings.disk_reserve_bytes)
    if not there:
        yield ok("journal", f"{named} does not exist yet; the first start creates it")
        return
    try:
        at_one_moment(path, lambda connection: check_pages(path, connection, CHECKED_BYTES))
    except (StrandlineError, sqlite3.Error) as error:
        yield problem("journal", str(error), "strandline journal verify shows details")
        return
    owner = holder(path)
    looked = (
        "sound"
        if path.stat().st_size <= CHECKED_BYTES
        else "its first pages are sound (the rest: strandline journal verify)"
    )
    size = _size(path.stat().st_size)
    if owner is None:
        yield ok("journal", f"{named}, {size}, {looked}, not in use")
    else:
        yield note(
            "journal", f"{named}, {size}, {looked}, in use by process {owner.pid} on {owner.host} since {owner.since}"
        )


def _database(address: str) -> Iterator[Finding]:
    """Say whether the database can be reached, who owns the journal in it, and what it may lose."""
    shown = without_passwords(address)
    try:
        from strandline._journal.postgres.durability import weaknesses_of
        from strandline._journal.postgres.ownership import owner_of
    except ImportError:
        yield problem("journal", f"{shown} needs a driver", "pip install 'strandline[postgres]'")
        return
    try:
        owner = owner_of(address)
        weaknesses = weaknesses_of(address)
    except JournalError as error:
        yield problem("journal", f"{shown}: {error}", "start the database, or name another one with --journal")
        return
    yield note("journal", f"{shown}, in use by {owner}") if owner else ok("journal", f"{shown}, used by nobody now")
    for each in weaknesses:
        yield note("journal", each, "set it to on in postgresql.conf, and reload the configuration")


def workspace(settings: Settings) -> Finding:
    """Check whether sessions can have folders."""
    file = journal_file(settings)
    home = Path(".strandline") if file is None else file.expanduser().parent
    root = (Path(settings.workspace) if settings.workspace else home / "workspace").absolute()
    existing = _existing(root)
    if not existing.is_dir():
        return problem("workspace", f"{existing} is a file", "name another folder with --workspace")
    if not os.access(existing, os.W_OK | os.X_OK):
        return problem("workspace", f"{existing} is not writable", "change its owner, or name another with --workspace")
    return ok("workspace", f"{_shown(root)}{'' if root.exists() else ', created when needed'}")


def _folder(path: Path, wanted: int | None) -> Iterator[Finding]:
    existing = _existing(path.parent)
    kind = file_system(existing.resolve())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield problem("disk", f"{existing} is not writable", "change its owner, or name another file with --journal")
    elif is_network(kind):
        yield problem(
            "disk", f"{existing} is on a network file system ({kind}), where locks are not reliable",
            "name a file on a local disk with --journal",
        )  # fmt: skip
    else:
        disk = shutil.disk_usage(existing)
        free, reserve = disk.free, reserve_bytes(disk.total, wanted)
        message = f"{free / (1 << 30):,.1f} GiB free for the journal"
        if free < reserve:
            yield problem(
                "disk", f"{_size(free)} free for the journal, less than the {_size(reserve)} reserved for accepted runs"
                " (setting disk_reserve_bytes): new runs are refused unless the journal's file has that much"
                " free space inside",
                "free space on that disk, delete sessions, or set a smaller disk_reserve_bytes",
            )  # fmt: skip
        elif free < NO_ROOM:
            yield problem("disk", f"{free / (1 << 20):,.0f} MiB free for the journal", "free space on that disk")
        elif free < LITTLE_ROOM:
            yield note("disk", message, "free space on that disk")
        else:
            yield ok("disk", message + (f", {kind}" if kind else ""))


def _size(count: int) -> str:
    return f"{count / 1024:,.0f} KiB" if count < 1 << 20 else f"{count / (1 << 20):,.1f} MiB"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if here in path.parents else str(path)
