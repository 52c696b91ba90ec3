"""The private PostgreSQL of a soak with several servers: their journal, and a log of who owned what and ended what.

Reads what the judge needs to know: which runs there are, in the order of acceptance, and every change of owner and end
of a run, which triggers write down in the transactions that make them. It is asked from the soak's own loop, by a
socket on this machine.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, LiteralString

from judging.evidence import StoredEnd
from soak.records import Owned, Stored
from soak.stored import Unreadable, has_label
from strandline._journal.postgres import schema
from strandline._journal.postgres.wire import Wire
from tools.postgres import Cluster

_LOG: Final[LiteralString] = """
    CREATE TABLE soak_owners (
        no bigint GENERATED ALWAYS AS IDENTITY, p smallint, at_s float8, pid bigint, by_others boolean
    );
    CREATE FUNCTION soak_owner() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO soak_owners (p, at_s, pid, by_others) VALUES (
            NEW.p,
            extract(epoch FROM clock_timestamp()),
            coalesce((SELECT split_part(name, ' ', 2)::bigint FROM servers WHERE id = NEW.owner), 0),
            NEW.owner IS NULL AND NOT EXISTS (SELECT 1 FROM servers WHERE id = OLD.owner AND alive)
        );
        RETURN NULL;
    END $$;
    CREATE TRIGGER soak_owner AFTER UPDATE OF owner ON partitions
        FOR EACH ROW WHEN (OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION soak_owner();
    CREATE TABLE soak_ends (
        no bigint GENERATED ALWAYS AS IDENTITY, run_id text COLLATE "C", at_s float8, server bigint
    );
    CREATE FUNCTION soak_end() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO soak_ends (run_id, at_s, server) VALUES (
            NEW.run_id,
            extract(epoch FROM clock_timestamp()),
            coalesce((SELECT owner FROM partitions WHERE p = ('x' || right(NEW.run_id, 2))::bit(8)::int), 0)
        );
        RETURN NULL;
    END $$;
    CREATE TRIGGER soak_end AFTER UPDATE OF ended_at ON runs
        FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL) EXECUTE FUNCTION soak_end();
"""
_STORED: Final[LiteralString] = (
    "SELECT seq, run_id, session_id, status, attempt FROM runs JOIN sessions ON no = session ORDER BY seq"
)
_NEWEST: Final[LiteralString] = (
    "SELECT run_id, input FROM runs JOIN sessions ON no = session WHERE session_id = %s ORDER BY seq DESC LIMIT 1"
)
_ENDS: Final[LiteralString] = "SELECT run_id, at_s, server FROM soak_ends ORDER BY no"
_ACTIVITY: Final[LiteralString] = """
    SELECT pid, coalesce(state, ''), coalesce(wait_event, ''), pg_blocking_pids(pid),
        coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::int, left(query, 200)
    FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY xact_start
"""
_OWNERS: Final[LiteralString] = "SELECT p, at_s, pid, by_others FROM soak_owners ORDER BY no"

_NEWEST_OWNER: Final[LiteralString] = "SELECT coalesce(max(no), 0) FROM soak_owners"
_TAKER: Final[LiteralString] = """
    SELECT taken.pid FROM soak_owners taken WHERE taken.no > %s AND taken.pid <> 0 AND (
        SELECT lost.by_others FROM soak_owners lost WHERE lost.p = taken.p AND lost.no < taken.no
        ORDER BY lost.no DESC LIMIT 1
    ) ORDER BY taken.no LIMIT 1
"""


class Database:
    """A database of its own, in a cluster of its own. `stored`, `owned` and `ends` are true after `close`, too."""

    def __init__(self, *, lease_ms: int) -> None:
        self._cluster = Cluster(synced=True)
        self.url = self._cluster.new_database()
        wire = Wire(self.url)
        schema.migrate(wire)
        wire.execute("UPDATE meta SET value = ? WHERE name = 'lease_ms'", (lease_ms,))
        wire.close()
        self._connection: Any = None
        self._execute(_LOG)
        self._last: tuple[list[Stored], list[Owned], list[StoredEnd]] | None = None

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._cluster.folder / ".s.PGSQL.5432"

    def through(self, port: int) -> str:
        """Return the address of the database behind a port of this machine."""
        name = self.url.split("/")[3].split("?")[0]
        return f"postgresql://strandline@127.0.0.1:{port}/{name}?sslmode=disable&gssencmode=disable"

    def restart(self, mode: str) -> None:
        """Stop the database, `fast` or `immediate`, and start it again."""
        self._cluster.stop(mode)
        self._cluster.start()

    def close(self) -> None:
        """Read everything for the last time, and end the database."""
        try:
            self._last = self.stored(), self.owned(), self.ends()
        except Unreadable:
            self._last = [], [], []
        finally:
            self._disconnect()
            self._cluster.remove()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def stored(self) -> list[Stored]:
        """Return all runs. Raises `Unreadable`."""
        if self._last is not None:
            return self._last[0]
        return [
            Stored(sequence=sequence, run_id=run_id, session=session, status=status, attempt=attempt)
            for sequence, run_id, session, status, attempt in self._execute(_STORED)
        ]

    def accepted(self, session: str, label: str) -> str | None:
        """Return the id of the run that was accepted last in a session, if it has this label and can be read now."""
        with suppress(Unreadable):  # the database restarts: it is asked again
            for run_id, said in self._execute(_NEWEST, (session,)):
                return str(run_id) if has_label(said, label) else None
        return None

    def owned(self) -> list[Owned]:
        """Return every change of owner. Raises `Unreadable`."""
        if self._last is not None:
            return self._last[1]
        before_s = time.time() - time.monotonic()
        return [
            Owned(partition=p, at_ns=round((at_s - before_s) * 1e9), pid=pid, over=over)
            for p, at_s, pid, over in self._execute(_OWNERS)
        ]

    def newest_owner(self) -> int:
        """Return the number of the last change of owner, 0 before the first. Raises `Unreadable`."""
        return int(self._execute(_NEWEST_OWNER)[0][0])

    def taker(self, since: int) -> int | None:
        """Return the process that first took over a partition of another after a change of owner, None if none has."""
        return next((pid for (pid,) in self._execute(_TAKER, (since,))), None)

    def ends(self) -> list[StoredEnd]:
        """Return who stored the end of each run, in that order. Raises `Unreadable`."""
        if self._last is not None:
            return self._last[2]
        before_s = time.time() - time.monotonic()
        return [
            StoredEnd(run_id=run_id, place=round((at_s - before_s) * 1e9), server=server)
            for run_id, at_s, server in self._execute(_ENDS)
        ]

    def activity(self) -> list[str]:
        """Return what the database does, connection by connection, for people. Raises `Unreadable`."""
        return [
            f"process {pid}: {state or 'no state'}, waits for {event or 'nothing'}, blocked by {blockers or 'nobody'},"
            f" in a transaction for {age_s} s: {' '.join(query.split())}"
            for pid, state, event, blockers, age_s, query in self._execute(_ACTIVITY)
        ]

    def _execute(self, statement: LiteralString, parameters: tuple[object, ...] = ()) -> list[Any]:
        import psycopg

        while True:
            may_be_old = self._connection is not None  # (from before a restart)
            try:
                if self._connection is None:
                    self._connection = psycopg.connect(self.url, autocommit=True)
                cursor = self._connection.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description is not None else []
            except psycopg.OperationalError as error:
                self._disconnect()
                if not may_be_old:
                    raise Unreadable(str(error)) from error
