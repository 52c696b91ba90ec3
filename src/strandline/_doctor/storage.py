"""The journal and the workspace: whether they are usable, who uses them, and how much free space there is.

Nothing is written and no lock is taken; a server that has the journal open is not affected.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from strandline._config import check_servers, journal_database, journal_file
from strandline._doctor.finding import Finding, note, ok, problem
from strandline._journal.integrity import CHECKED_BYTES, check_pages
from strandline._journal.ownership import (
    check_openable,
    file_system,
    holder,
    is_network,
    locate,
)
from strandline._journal.postgres.shares import lease_shown
from strandline._journal.reserve import reserve_bytes
from strandline._journal.verify import at_one_moment
from strandline._printable import without_passwords
from strandline._settings import Settings
from strandline.errors import JournalError, SettingsError, StrandlineError

if TYPE_CHECKING:
    from strandline._journal.postgres.bloat import DeadRows
    from strandline._journal.postgres.inspection import Inspection

LITTLE_ROOM: Final = 1 << 30
NO_ROOM: Final = 64 << 20
MANY_DEAD: Final = 50_000
"""From how many dead versions of rows on a table is worth a note, if there are more of them than rows."""
LONG_S: Final = 600.0
"""From which age on a snapshot is worth a note: everything that has changed since is kept for it."""


def journal(settings: Settings) -> Iterator[Finding]:
    """Check whether the journal exists, is sound, and is not in use."""
    try:
        check_servers(settings)
    except SettingsError as error:
        yield problem("journal", str(error))
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
    """Say whether the database can be reached, whose the journal in it is, how large it is, and what it may lose."""
    shown = without_passwords(address)
    try:
        from strandline._journal.postgres.inspection import inspect
    except ImportError:
        yield problem("journal", f"{shown} needs a driver", "pip install 'strandline[postgres]'")
        return
    try:
        found = inspect(address)
    except JournalError as error:
        yield problem("journal", str(error), "start the database, or name another one with --journal")
        return
    yield _journal_in(found, shown)
    yield ok(
        "database",
        f"PostgreSQL {found.version}, synchronous_commit {found.synchronous_commit} (servers set on for themselves),"
        f" fsync {found.fsync}",
    )
    for each in found.weaknesses:
        yield note("database", each, "set it to on in postgresql.conf, and reload the configuration")
    if found.dead is not None:
        yield _dead_rows(found.dead)
    if (oldest := found.oldest) is not None:
        message = f"the oldest snapshot is {oldest.name}'s, {oldest.transactions:,} transactions old"
        since_s = oldest.since_s or 0.0
        if since_s < LONG_S:
            yield ok("database", message)
        else:
            yield note(
                "database", f"{message} and kept for {since_s / 60:,.0f} minutes: no newer row is cleaned up meanwhile",
                "end that transaction, or that replication slot",
            )  # fmt: skip


def _journal_in(found: "Inspection", shown: str) -> Finding:
    if not found.schema:
        return ok("journal", f"{shown} has no journal yet, used by nobody now; the first start makes one")
    if found.unfinished:
        return problem(
            "journal", f"{shown} has an unfinished copy of a journal, which no server uses",
            "run the same `strandline journal copy` again: it continues",
        )  # fmt: skip
    if not found.is_current:
        return note("journal", f"{shown}, schema {found.schema}: the next start brings it to this version")
    what = f"{shown}, schema {found.schema}, {_size(found.bytes)}"
    alive = [
        f"{each.name} ({each.partitions} of 256 partitions, version {each.version}, {lease_shown(each.left_s)})"
        for each in found.servers
    ]
    return (
        note("journal", f"{what}, in use by {'; '.join(alive)}")
        if alive
        else ok("journal", f"{what}, used by nobody now")
    )


def _dead_rows(found: "DeadRows") -> Finding:
    message = (
        f"{found.dead:,} dead versions of rows beside {found.live:,} rows in {found.table}, the most of all tables"
    )
    if found.dead > max(MANY_DEAD, found.live):
        return note("database", message, "look whether autovacuum is on, and who has the oldest snapshot")
    return ok("database", message)


def workspace(settings: Settings) -> Finding:
    """Check whether sessions can have folders."""
    file = journal_file(settings)
    data = Path(".strandline") if file is None else file.expanduser().parent
    root = (Path(settings.workspace) if settings.workspace else data / "workspace").absolute()
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
