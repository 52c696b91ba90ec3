"""Copies all rows of a journal, table after table in the order of keys, and compares both sides at the end.

A destination is unusable from the first row on, until all of it was found equal: nothing ever takes half a copy for a
whole one. A copy that was cut off continues behind the last row of each table. If the source has changed meanwhile, the
comparison finds it, and the copy starts again from nothing.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from strandline._journal.contents import Carrier
from strandline._journal.database import Database
from strandline._journal.tables import TABLES, Table, pages
from strandline.errors import JournalError

OnStep = Callable[[str, int, int], None]
"""Called with what is done, how much of it is done, and how much there is."""
_encode: Final = msgspec.msgpack.encode


class RowsRefused(Exception):
    """The destination has refused rows, which do not fit to those that it has."""


class Numbers(NamedTuple):
    """What a journal knows beside its rows."""

    epoch: int
    """How many owners it has had."""
    pruned: int
    """The highest sequence of a run that was deleted; -1: none was."""


class Source(Protocol):
    """A journal that nobody changes meanwhile."""

    @property
    def name(self) -> str:
        """Where it is, for people, without a password."""
        ...

    @property
    def identity(self) -> int:
        """A number that other journals do not have."""
        ...

    @property
    def database(self) -> Database:
        """Reads it, all as of one moment."""
        ...

    def numbers(self) -> Numbers:
        """Return what it knows beside its rows."""
        ...


class Destination(Protocol):
    """A journal that nobody else uses."""

    @property
    def name(self) -> str:
        """Where it is, for people, without a password."""
        ...

    @property
    def database(self) -> Database:
        """Reads what was written."""
        ...

    def begin(self, identity: int, *, anew: bool) -> bool:
        """Make it unusable for everybody else. Return whether it has a part of a copy of this journal.

        Raises a `JournalError` if there is anything else, unless it is part of a copy, and `anew`: that is discarded.
        """
        ...

    def clear(self) -> None:
        """Delete all rows."""
        ...

    def write(self, table: Table, rows: list[tuple[Any, ...]]) -> None:
        """Add rows; they are durable on return. Raises `RowsRefused`."""
        ...

    def finish(self, numbers: Numbers) -> None:
        """Make it a journal like others, durably."""
        ...


def copy(
    source: Source, destination: Destination, on_step: OnStep, *, anew: bool = False, carrier: Carrier | None = None
) -> dict[str, int]:
    """Copy a journal, and with a carrier the contents of its files; return how many rows of each table there are.

    Raises a `JournalError` that says what to do.
    """
    if carrier is not None:
        carrier.check(source.database)
    fault: str | None = "nothing was copied"
    if destination.begin(source.identity, anew=anew):
        try:
            fault = _copied(source, destination, on_step)
        except RowsRefused as error:
            fault = str(error)
        if fault is not None:
            destination.clear()
    if fault is not None:
        try:
            fault = _copied(source, destination, on_step)
        except RowsRefused as error:
            fault = str(error)
    if fault is not None:
        raise JournalError(
            f"{source.name} could not be copied to {destination.name}: {fault}. The copy is unfinished, and nothing can"
            " use it. Look at the source with `strandline journal verify`."
        )
    if carrier is not None:
        carrier.bring(source.database, on_step)
    destination.finish(source.numbers())
    return {table.name: _count(source.database, table) for table in TABLES}


def _copied(source: Source, destination: Destination, on_step: OnStep) -> str | None:
    """Copy what is missing, and compare everything; return the first difference, None if there is none."""
    for table in TABLES:
        what, total, after, done = f"copying {table.name}", _count(source.database, table), None, 0
        if (after := _last(destination.database, table)) is not None:
            done = _count(destination.database, table)
        on_step(what, done, total)
        for page in pages(source.database, table, after):
            destination.write(table, page)
            done += len(page)
            on_step(what, done, total)
    for table in TABLES:
        ours, copied = (_digest(side, table, on_step) for side in (source.database, destination.database))
        if ours != copied:
            counts = f"{ours[0]:,} rows there, {copied[0]:,} in the copy"
            return f"the table {table.name} is not the same on both sides ({counts})"
    return None


def _count(database: Database, table: Table) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])


def _last(database: Database, table: Table) -> tuple[Any, ...] | None:
    backwards = ", ".join(f"{column} DESC" for column in table.columns[: table.key])
    row = database.execute(f"SELECT {table.key_columns} FROM {table.name} ORDER BY {backwards} LIMIT 1").fetchone()
    return None if row is None else tuple(row)


def _digest(database: Database, table: Table, on_step: OnStep) -> tuple[int, bytes]:
    """Return how many rows a table has, and a digest of them in the order of their keys."""
    digest, done, total = blake2b(digest_size=16), 0, _count(database, table)
    for page in pages(database, table):
        for row in page:
            digest.update(_encode(row))
        done += len(page)
        on_step(f"comparing {table.name}", done, total)
    return done, digest.digest()


def identity_of(*parts: object) -> int:
    """Return a number of 63 bits that stands for these parts."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1
