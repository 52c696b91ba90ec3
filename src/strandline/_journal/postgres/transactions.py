"""Transactions on the writer's connection to PostgreSQL, each behind the fence. Belongs to the writer's thread.

A batch is one round trip: BEGIN, the renewal of our row in `servers` (which fails once another server has taken over),
the rows, COMMIT. If the connection is lost meanwhile, it is unknown whether the batch was committed. That is found out
before anything else happens: a new connection takes the next `conn`, so that late packets of the old one are refused,
and reads which batch was the last.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from strandline._clock import Clock
from strandline._journal.changes import Change
from strandline._journal.deletion import prune
from strandline._journal.errors import RunIdTaken
from strandline._journal.numbers import Clocked
from strandline._journal.partitions import PARTITIONS
from strandline._journal.postgres.durability import DURABLE
from strandline._journal.postgres.failures import FENCED, TAKEN_OVER, for_operators, translated
from strandline._journal.postgres.lease import Lease
from strandline._journal.postgres.ownership import YOUNG_SHARE, end_half_batches, end_servers, leave, look
from strandline._journal.postgres.rows import Batch, PostgresRows
from strandline._journal.postgres.schema import BEGIN
from strandline._journal.postgres.shares import Queued, View
from strandline._journal.postgres.wire import LOCK_TIMEOUT, ConnectionLost, Refused, Statement, Wire
from strandline._journal.table import SessionTable
from strandline._model import Claim
from strandline.errors import JournalUnavailable, StrandlineError

_log = logging.getLogger("strandline.journal")

OnTime = Callable[[float, float, float], object]
"""Called with two times by `boottime`, and what the database's clock has shown between them."""
AGAIN_S: Final = 0.2
"""How long after a failed connection the next one is tried while an outcome is unknown."""

_RENEW: Final = f"SELECT renew(?, ?, ?, ?, ?), {DURABLE}"
_TRIAL: Final = (
    "SAVEPOINT trial",
    (
        "INSERT INTO runs"
        " (seq, run_id, session, lane, urgency, priority, status, attempt, last, opaque, input, created_at)"
        " VALUES (:no, :name, :no, 3, 0, 0, 'failed', 0, 0, 0, :bytes, 0)"
    ),
    "INSERT INTO history (no, session, nth, first, count, run, messages) VALUES (:no, :no, 0, 0, 0, :no, :bytes)",
    "ROLLBACK TO SAVEPOINT trial",
)
"""About what accepting and ending a run takes, undone again; a savepoint keeps the renewal of the lease."""
_TRIAL_BYTES: Final = 16_384
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '1s'"
_NO_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = DEFAULT"
_RENUMBER: Final = "UPDATE servers SET conn = conn + 1 WHERE id = ? AND alive RETURNING conn, batch"

WENT_BACK: Final = (
    "the database has lost commits that it had acknowledged (it was restored, or a standby took over that lacked some):"
    " see what it has, then start again"
)


class Adopted(NamedTuple):
    """Partitions that are ours once the transaction is committed, as a table of their own."""

    table: SessionTable
    claims: list[Claim]
    """What was executing, in order of sequence, with new tokens."""


class PostgresTransactions:
    """The one writing connection. Implements `writer.Transactions`.

    `connect` makes a connection. `trouble` says why an outcome is not known yet; None once it is. `closing` is set once
    nobody waits for one any more.
    """

    def __init__(
        self,
        connect: Callable[[], Wire],
        wire: Wire,
        owner: int,
        lease: Lease,
        clock: Clock,
        closing: threading.Event,
        on_time: OnTime = lambda sent_at, came_at, shown: None,
    ) -> None:
        self._on_time = on_time
        self._published: Queued | None = None
        """What the other servers know of our queues."""
        self._connect = connect
        self._connected_at = clock.boottime()
        self._owner = owner
        self._clock = clock
        self._conn = 0
        self._number = 0
        """Of the last batch that was sent."""
        self._kept = 0
        """Of the last batch that is known to be committed."""
        self._is_gone = False
        """Whether the log has said that the database is gone."""
        self._is_open = False
        self.is_in_doubt = False
        """Whether a commit was sent of which it is not known whether it was made."""
        self._logged: set[str] = set()
        """What was logged of failures since something was kept: their SQLSTATEs, or what they said."""
        self._sent_at = 0.0
        self.trouble: Callable[[str | None], None] = lambda why: None
        self._closing = closing
        self.lease = lease
        self.batch = Batch(wire)
        self.numbers = Clocked(clock.now)
        self.records = PostgresRows(self.batch, owner)

    # -- what the writer drives -----------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction, behind the fence."""
        self._check_ours()
        if not self._is_connected():
            self._reconnect()
        self._is_open = True
        self._number += 1
        self._sent_at = self.lease.sent()
        self.batch.write(BEGIN)
        self.batch.write(_RENEW, (self._owner, self._conn, self._number, self._lease_ms, self.numbers.top))

    @property
    def _lease_ms(self) -> int:
        return int(self.lease.lease_s * 1000)

    def write(self, changes: Iterable[Change]) -> None:
        """Have rows written, in their order."""
        self.records.write(changes)

    def commit(self) -> None:
        """Make the transaction durable. If that is not known, it is found out first, while the lease is ours."""
        self.records.count()
        self.is_in_doubt = True
        try:
            self.batch.execute("COMMIT")
        except ConnectionLost as error:
            self._is_open = False
            if not self._was_kept(error):
                raise
        finally:
            self.is_in_doubt = False
        self._end()

    def _end(self) -> None:
        self._is_open = False
        self._kept = self._number
        self._logged.clear()
        self.lease.confirm(self._sent_at)

    def rollback(self) -> None:
        """Undo the transaction, as far as there is one. Raises nothing."""
        self.batch.drop()
        self.records.forget()
        if self._is_open:
            self._is_open = False
            with suppress(ConnectionLost, Refused):
                self.batch.wire.execute("ROLLBACK")

    def make_room(self, error: Exception) -> None:
        """After a transaction that was undone because of `error`: see whether the journal is ours, and end half batches
        that may hold what it waited for."""
        if isinstance(error, Refused) and error.state == LOCK_TIMEOUT:
            with suppress(ConnectionLost, Refused):
                end_half_batches(self.batch.wire)
        if isinstance(error, Refused) and error.state == FENCED:
            self.lease.lose(TAKEN_OVER)

    def probe(self) -> None:
        """Renew the lease, on a new connection if there is none, and store as much as a run needs. Raises what hinders
        it."""
        values = {"no": -self._owner, "name": f"trial {self._owner}", "bytes": os.urandom(_TRIAL_BYTES)}
        self._renew(*((each, values) for each in _TRIAL))

    def check(self) -> None:
        """Raise what is known to hinder that anything is kept. Renews the lease if that is due."""
        self._check_ours()
        if self.lease.is_due or not self._is_connected():
            self._renew()

    def translated(self, error: Exception) -> StrandlineError:
        """Return an error of the driver as one of ours. What else it says is logged, once while it lasts: a full disk
        is said to be full in other words for each file."""
        ours = translated(error)
        if isinstance(error, StrandlineError | ConnectionLost) or isinstance(ours, RunIdTaken):
            return ours
        said = for_operators(error)
        known = error.state if isinstance(ours, JournalUnavailable) and isinstance(error, Refused) else said
        if known not in self._logged:
            self._logged.add(known)
            # (Another server is in the middle of a transaction: what waits for it is tried again.)
            _log.log(logging.WARNING if known == LOCK_TIMEOUT else logging.ERROR, "%s", said)
        return ours

    def prune(self, before: float, limit: int, after: int) -> tuple[int, int | None]:
        """Forget runs that ended before `before`; see `deletion.prune`."""
        return prune(self.batch, before, limit, after, self._clock.now())

    def close(self) -> None:
        """Give the journal up, so that the next owner need not wait. Idempotent."""
        if self.lease.lost is None:
            with suppress(ConnectionLost, Refused):
                leave(self.batch.wire, self._owner, self._conn)
        self.batch.close()

    def give_up(self) -> None:
        """Have nobody wait for an outcome any more. May be called from any thread."""
        self._closing.set()

    # -- partitions -----------------------------------------------------------------------------------

    def new_table(self, numbers: Clocked, max_attempts: int) -> SessionTable:
        """Return a table that owns no partition."""
        return SessionTable(None, None, max_attempts=max_attempts, numbers=numbers, partitions=PARTITIONS)

    def look(self, queued: Queued | None = None) -> View:
        """Renew the lease, and return who is there and who owns what. Publish what is `queued` here to the others."""
        self._check_ours()
        if not self._is_connected():
            self._reconnect()
        sent_at = self.lease.sent()
        try:
            news = None if queued == self._published else queued
            view = look(self.batch.wire, self._owner, self._conn, self._lease_ms, self.numbers.top, news)
        except Refused as error:
            self.make_room(error)
            self._check_ours()
            raise
        self.lease.confirm(sent_at)
        self._published = queued
        self._on_time(sent_at, self._clock.boottime(), view.at)
        return view

    def announce_leaving(self) -> None:
        """Let other servers know that this one stops: it has no share any more."""
        self._check_ours()
        self.batch.wire.execute(
            "UPDATE servers SET leaving = true WHERE id = ? AND conn = ? AND alive", (self._owner, self._conn)
        )

    def end_servers(self) -> int:
        """End the servers whose leases are over, and free what they owned, if they had time to renew them; return how
        many."""
        if self._clock.boottime() < self._connected_at + YOUNG_SHARE * self.lease.lease_s:
            return 0
        return end_servers(self.batch.wire, self._owner)

    def adopt(self, partitions: Collection[int], max_attempts: int) -> Adopted:
        """Own partitions that are free, in the transaction that is open: read what is open in them, end all holds and
        give what executes new tokens."""
        self.batch.write(_LOCK_TIMEOUT)  # (half a batch may have adopted them already, and never be whole)
        epochs = self.records.adopt(partitions)
        self.batch.write(_NO_LOCK_TIMEOUT)
        (top,) = self.batch.execute("SELECT max(top) FROM servers").fetchone()
        table = self.new_table(numbers := Clocked(self._clock.now), max_attempts)
        table.records = self.records
        table.install(self.records.busy_in(epochs) if epochs else ())
        claims = table.take_over(epochs, self._clock.now(), top=top)
        batch = table.drain()
        self.write(batch.changes)
        self.batch.write("UPDATE servers SET top = greatest(top, ?) WHERE id = ?", (numbers.top, self._owner))
        table.durable(batch, {})
        table.records = None
        return Adopted(table, claims)

    # -- connections ----------------------------------------------------------------------------------

    @property
    def unanswered_s(self) -> float:
        """For how long the database has not answered what was sent to it last, 0 if it has. On any thread."""
        return self.batch.wire.unanswered_s

    def _check_ours(self) -> None:
        if self.lease.lost is not None:
            raise JournalUnavailable(self.lease.lost)

    def _renew(self, *statements: Statement) -> None:
        """Renew the lease. Whether a renewal was committed need not be found out: nothing rests on it."""
        try:
            self.begin()
            for each in statements:
                self.batch.write(*each)
            self.batch.execute("COMMIT")
            self._end()
        except Exception as error:
            self.rollback()
            self.make_room(error)
            self._check_ours()
            raise

    def _is_connected(self) -> bool:
        try:
            self.batch.wire.check()
        except ConnectionLost:
            return False
        return True

    def _reconnect(self) -> int:
        """Make a new connection that alone may write; return the last batch that is committed."""
        self.batch.close()
        try:
            wire = self._connect()
        except ConnectionLost as error:
            if not self._is_gone:
                self._is_gone = True
                _log.error("%s", for_operators(error))
            raise
        self._is_gone = False
        try:
            row = self._renumbered(wire)
        except BaseException:
            wire.close()
            raise
        self.batch.wire = wire
        self._connected_at = self._clock.boottime()
        if row is None:
            self.lease.lose(TAKEN_OVER)
            raise JournalUnavailable(TAKEN_OVER)
        self._conn, kept = row
        if kept < self._kept:
            self.lease.lose(WENT_BACK)
            raise JournalUnavailable(WENT_BACK)
        return int(kept)

    def _renumbered(self, wire: Wire) -> tuple[int, int] | None:
        """Give our connection a new number; return it, and the last batch that is committed. None: we are over.

        Half a batch of the connection before may hold our row, and the database may not know that the rest never comes.
        """
        # Callers are answered by what is read here: it must be durable, and the commit that wrote it with it.
        begin: list[Statement] = [(BEGIN, ()), (f"SELECT {DURABLE}", ())]
        renumber: list[Statement] = [(_RENUMBER, (self._owner,)), ("COMMIT", ())]
        try:
            *_, found, _ = wire.run([*begin, (_LOCK_TIMEOUT, ()), *renumber])
        except Refused as error:
            wire.execute("ROLLBACK")
            if error.state != LOCK_TIMEOUT:
                raise
            end_half_batches(wire)
            *_, found, _ = wire.run([*begin, *renumber])
        row: tuple[int, int] | None = found.fetchone()
        return row

    def _was_kept(self, error: ConnectionLost) -> bool:
        """Return whether the batch was committed during which the connection was lost."""
        self.batch.drop()
        try:
            while not self._closing.is_set() and self.lease.lost is None:
                try:
                    return self._reconnect() >= self._number
                except (ConnectionLost, Refused) as again:
                    self.trouble(why := str(self.translated(again)))
                    if self.lease.left_s <= 0:
                        self.lease.end(why)
                    self._closing.wait(AGAIN_S)
        finally:
            self.trouble(None)
        raise error
