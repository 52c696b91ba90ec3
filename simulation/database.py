"""The database that the servers of a world share: what PostgreSQL does of it, on SQLite in memory.

It executes the statements of `strandline._journal.postgres` as they are sent, reworded where SQLite has other words.
Two functions that the schema defines there, `renew` and `look`, are written again here; every other rule of ownership
is a statement of the code under test. Transactions come one after another, as if each had the strictest isolation:
nothing passes while one is open.
"""

import re
import sqlite3
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from strandline._clock import Clock
from strandline._journal.driver import schema_after
from strandline._journal.lists import DELETED
from strandline._journal.partitions import PARTITIONS
from strandline._journal.postgres.dialect import TRANSLATED
from strandline._journal.postgres.failures import FENCED
from strandline._journal.postgres.schema import SCHEMA_VERSION
from strandline._journal.postgres.wire import Found, Refused, Statement

_TABLES: Final = f"""
ALTER TABLE sessions ADD COLUMN p INTEGER NOT NULL DEFAULT -1;
CREATE UNIQUE INDEX history_of ON history (session, nth);
CREATE TABLE servers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, address TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
    alive INTEGER NOT NULL DEFAULT 1, conn INTEGER NOT NULL DEFAULT 0, batch INTEGER NOT NULL DEFAULT 0,
    leaving INTEGER NOT NULL DEFAULT 0, top INTEGER NOT NULL DEFAULT 0, until REAL NOT NULL,
    queued TEXT NOT NULL DEFAULT ''
);
CREATE TABLE partitions (p INTEGER PRIMARY KEY, owner INTEGER, epoch INTEGER NOT NULL DEFAULT 0);
CREATE TABLE cluster (only_one INTEGER PRIMARY KEY DEFAULT 1, secret BLOB NOT NULL);
CREATE TABLE deletions (principal TEXT, session_id TEXT, at REAL NOT NULL, PRIMARY KEY (principal, session_id));
CREATE TABLE pg_settings (name TEXT, setting TEXT);
INSERT INTO meta VALUES ('schema', {SCHEMA_VERSION});
"""
_ADD_PARTITION: Final = "INSERT INTO partitions (p) VALUES (?)"
_UNIQUE: Final = "23505"
_ORIGINALS: Final = {reworded: original for original, reworded in TRANSLATED.items() if original != DELETED}
_LISTED: Final = re.compile(r"= ANY \(string_to_array\(\?, ','\)::smallint\[\]\)")
_CHANGED: Final = re.compile(
    r"WITH (\w+) AS \((.*) RETURNING 1\) SELECT changed\(count\(\*\), (\?|1), '(SL\d+)', (.*)\) FROM \1", re.DOTALL
)
_COUNTED: Final = re.compile(r"WITH (\w+) AS \((.*) RETURNING 1\) SELECT count\(\*\) FROM \1", re.DOTALL)
_NOW: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
_IGNORED: Final = ("SET LOCAL", "LOCK TABLE")
_OWNERSHIP: Final = ("UPDATE partitions", "UPDATE servers SET alive")


class _Reworded(NamedTuple):
    sql: str
    refusal: str | None = None
    """With what it is refused unless it changes the right number of rows, one or as many as its values say."""
    says_how_many: bool = False
    is_counted: bool = False
    """Whether its answer is how many rows it changed."""


class Database:
    """Tables that survive servers. `on_owner` is called when a partition has got another owner (an address, None:
    nobody), `on_over` when a server has been ended."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self.is_down = False
        """Whether it answers nobody."""
        self.watched: Collection[int] = ()
        """The partitions whose owners are of interest."""
        self.on_owner: Callable[[int, str | None], object] = lambda partition, address: None
        self.on_over: Callable[[str], object] = lambda address: None
        self._clock = clock
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.executescript(f"BEGIN; {schema_after(0)} {_TABLES} COMMIT;")
        self._connection.executemany(_ADD_PARTITION, ((each,) for each in range(PARTITIONS)))
        self._connection.execute("INSERT INTO meta VALUES ('lease_ms', ?)", (int(lease_s * 1000),))
        settings = {"server_encoding": "UTF8", "synchronous_commit": "on"}
        functions: dict[str, tuple[int, Callable[..., Any]]] = {
            "clock_timestamp": (0, clock.boottime),
            "current_setting": (1, settings.get),
            "set_config": (3, lambda name, value, is_local: value),
            "to_regclass": (1, lambda name: name),
            "greatest": (2, max),
            "pg_advisory_xact_lock": (1, lambda key: None),
            "add_up_stored": (0, lambda: None),
            "count_stored": (2, lambda principal, more: None),  # (triggers of the file's schema count)
        }
        for name, (arguments, function) in functions.items():
            self._connection.create_function(name, arguments, function)
        self._open_by: Hashable | None = None
        self._is_about_ownership = False
        self._owners: dict[int, int | None] = {}
        self._over: set[int] = set()

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def is_in_transaction(self, connection: Hashable) -> bool:
        """Return whether a connection has begun a transaction and not ended it."""
        return self._open_by is connection

    def execute(self, connection: Hashable, statements: Sequence[Statement]) -> list[Found]:
        """Execute statements of a connection. Raises `Refused`; a transaction that is open is undone then."""
        assert self._open_by in (None, connection)
        try:
            return [self._execute(connection, *each) for each in statements]
        except sqlite3.IntegrityError as error:
            self._end("ROLLBACK")
            raise Refused(_UNIQUE, str(error)) from error
        except BaseException:
            self._end("ROLLBACK")
            raise

    def _execute(self, connection: Hashable, sql: str, values: Any) -> Found:
        if sql.startswith("BEGIN"):
            self._open_by = connection
            return self._do("BEGIN")
        if sql in ("COMMIT", "ROLLBACK"):
            self._end(sql)
            return Found([], 0)
        if sql.startswith(_IGNORED):
            return Found([], 0)
        if sql == _NOW:
            return Found([(self._clock.now(),)], 1)
        if sql.startswith("SELECT renew("):
            return self._renewed(*values)
        if "FROM look(" in sql:
            return self._look(*values)
        reworded = _reworded(sql)
        values = tuple(values) if not isinstance(values, dict) else values
        wanted = 1
        if reworded.says_how_many:
            *values, wanted = values[: reworded.sql.count("?") + 1]
        found = self._do(reworded.sql, values)
        if reworded.refusal is not None and found.rowcount != wanted:
            raise Refused(reworded.refusal, reworded.sql)
        self._is_about_ownership |= reworded.sql.startswith(_OWNERSHIP)
        if self._open_by is None:
            self._observe()
        return Found([(found.rowcount,)], 1) if reworded.is_counted else found

    def _do(self, sql: str, values: Any = ()) -> Found:
        cursor = self._connection.execute(sql, values)
        return Found(cursor.fetchall(), cursor.rowcount)

    def _end(self, how: str) -> None:
        self._open_by = None
        if self._connection.in_transaction:
            self._connection.execute(how)
        if how == "COMMIT":
            self._observe()
        self._is_about_ownership = False

    # -- what the schema defines ----------------------------------------------------------------------

    def _renewed(self, me: int, conn: int, batch: int, lease_ms: int, top: int) -> Found:
        self._renew("batch = ?, ", (batch,), me, conn, lease_ms, top)
        return Found([(None, None)], 1)

    def _renew(self, more: str, values: tuple[int, ...], me: int, conn: int, lease_ms: int, top: int) -> None:
        renewed = self._do(
            f"UPDATE servers SET {more}until = clock_timestamp() + ? / 1000.0, top = max(top, ?)"
            " WHERE id = ? AND conn = ? AND alive",
            (*values, lease_ms, top, me, conn),
        )
        if not renewed.rowcount:
            raise Refused(FENCED, "another server has taken over")

    def _look(self, me: int, conn: int, lease_ms: int, top: int) -> Found:
        self._renew("", (), me, conn, lease_ms, top)
        owned = dict(
            self._do(
                "SELECT CASE WHEN owner IS NULL THEN 0 WHEN alive THEN owner ELSE -1 END, group_concat(p)"
                " FROM partitions LEFT JOIN servers ON servers.id = owner GROUP BY 1"
            ).fetchall()
        )
        servers = self._do(
            "SELECT id, address, name, version, leaving, until - clock_timestamp(), queued FROM servers WHERE alive"
            " ORDER BY id"
        )
        now = self._clock.now()
        rows = [(*row[:6], owned.get(row[0]), row[6], now) for row in servers]
        rows += [(none, "", "", "", 1, 0.0, owned[none], "", now) for none in (0, -1) if none in owned]
        return Found(rows, len(rows))

    # -- what is seen from outside --------------------------------------------------------------------

    def _observe(self) -> None:
        if not self._is_about_ownership:
            return
        self._is_about_ownership = False
        for server, address in self._do("SELECT id, address FROM servers WHERE NOT alive"):
            if server not in self._over:
                self._over.add(server)
                self.on_over(address)
        addresses = dict(self._do("SELECT id, address FROM servers").fetchall())
        for partition, owner in self._do("SELECT p, owner FROM partitions").fetchall():
            if partition in self.watched and self._owners.get(partition) != owner:
                self._owners[partition] = owner
                self.on_owner(partition, addresses.get(owner))

    def owner(self, partition: int) -> str | None:
        """Return the address of the server that owns a partition and is not over, None: nobody."""
        row = self._do(
            "SELECT address FROM partitions JOIN servers ON servers.id = owner AND alive WHERE p = ?", (partition,)
        ).fetchone()
        return None if row is None else str(row[0])


@cache
def _reworded(sql: str) -> _Reworded:
    """Return a statement in the words of SQLite."""
    sql = _ORIGINALS.get(sql, sql)
    sql = _LISTED.sub("IN (SELECT value FROM json_each('[' || ? || ']'))", sql)
    sql = sql.replace("* interval '1 ms'", "/ 1000.0").replace(" FOR UPDATE SKIP LOCKED", "")
    if (found := _COUNTED.fullmatch(sql)) is not None:
        return _Reworded(found[2], is_counted=True)
    if (found := _CHANGED.fullmatch(sql)) is not None:
        return _Reworded(found[2], found[4], says_how_many=found[3] == "?")
    return _Reworded(sql)
