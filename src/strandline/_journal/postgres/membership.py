"""One server among those that share a journal: what it owns, adopts and cedes.

It looks every second, and acts on what it sees: servers whose leases are over are ended, free partitions are adopted,
those that another server should have are ceded as soon as nothing is claimed in them. A partition is ours from the
moment in which everything that is open in it has been read, until the moment in which the decision to cede it is made;
storage hears of that behind everything that was decided in it before.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeVar

from strandline._clock import Clock
from strandline._journal.cluster import DatabaseVitals, Feature, Peer
from strandline._journal.operations import Decide
from strandline._journal.partitions import PARTITIONS
from strandline._journal.port import Ceded, Gained
from strandline._journal.postgres.lease import Lease
from strandline._journal.postgres.ownership import Joined
from strandline._journal.postgres.shares import Queued, Shares
from strandline._journal.postgres.transactions import PostgresTransactions
from strandline._journal.postgres.wire import LOCK_TIMEOUT, ConnectionLost, Refused
from strandline._journal.table import SessionTable
from strandline._model import Claim
from strandline.errors import JournalLocked, StrandlineError

T = TypeVar("T")

_log = logging.getLogger("strandline.journal")

LOOK_SHARE: Final = 0.1
LOOK_S: Final = 1.0
"""How often a server looks: every second, or ten times during a lease that is shorter."""
ENTER_S: Final = 0.25
"""How often a server looks that starts."""
CEDE_S: Final = 5.0
"""How long runs may take to end in partitions that are to be ceded, while no other starts in them."""
CEDE_AGAIN_S: Final = 30.0
"""When that is tried again. Meanwhile they are ceded if nothing happens to be claimed in them."""
COUNT_AGAIN_S: Final = 10.0
"""After how long what is stored for a principal is read again: other servers add to it, too."""
SURVEY_S: Final = 60.0
"""How often the database is asked how it does, if anybody wants to know."""


def enter(
    transactions: PostgresTransactions,
    shares: Shares,
    clock: Clock,
    *,
    max_attempts: int,
    wait_s: float,
    on_wait: Callable[[str], None],
    sleep: Callable[[float], bool],
) -> tuple[SessionTable, list[Claim]]:
    """Adopt what is free, on the thread that writes; return a table of it, and what was executing there.

    Servers may be there that are dead, and whose leases are not over. So this waits, at most `wait_s` seconds, until
    everything is ours or another server has been seen to live. `on_wait` is called once if that takes long. `sleep`
    returns True if nobody wants the journal any more.
    """
    table = transactions.new_table(transactions.numbers, max_attempts)
    claims: list[Claim] = []
    began = clock.boottime()
    is_reported = False
    while True:
        try:
            shares.seen(transactions.look(), clock.boottime())
            if shares.has_ended:
                transactions.end_servers()
                shares.seen(transactions.look(), clock.boottime())
        except ConnectionLost:  # (a database that restarts)
            if clock.boottime() - began >= wait_s or sleep(ENTER_S):
                raise
            continue
        if wanted := shares.to_adopt(table.owned, clock.boottime()):
            transactions.begin()
            try:
                adopted = transactions.adopt(wanted, max_attempts)
                transactions.commit()
            except Refused as error:
                transactions.rollback()
                transactions.make_room(error)
                if error.state != LOCK_TIMEOUT or clock.boottime() - began >= wait_s or sleep(ENTER_S):
                    raise
                continue
            except BaseException:
                transactions.rollback()
                raise
            table.join(adopted.table)
            claims += adopted.claims
        waited_s = clock.boottime() - began
        if len(table.owned) == PARTITIONS or shares.others_live or waited_s >= wait_s:
            return table, claims
        if waited_s > LOOK_S and not is_reported:
            is_reported = True
            on_wait(f"waiting for the journal in the database: it belongs to {shares.others}")
        if sleep(min(ENTER_S, max(0.0, wait_s - waited_s))):
            raise JournalLocked("The journal is not wanted any more.")


class Storage(Protocol):
    """What a member needs of its journal."""

    async def call(self, call: Callable[[PostgresTransactions], T]) -> T:
        """Return what a call returns, in no transaction."""
        ...

    async def transact(self, call: Callable[[PostgresTransactions], T]) -> T:
        """Return what a call returns, in a transaction of its own."""
        ...

    async def operate(self, decide: Decide[T]) -> T:
        """Have the table decide."""
        ...

    async def survey(self, *, whole: bool) -> DatabaseVitals:
        """Ask the database how it does, beside the thread that writes; `whole`: more than its clock."""
        ...


class Membership:
    """Implements `cluster.Cluster`. Belongs to the loop that opened the journal."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.me = 0
        self.secret = b""
        self.lease_s = 0.0
        self._shares = Shares(0, 0.0)
        self._table: SessionTable | None = None
        self._storage: Storage | None = None
        self._lease: Lease | None = None
        self.takeovers = 0
        self._max_attempts = 0
        self._moves: asyncio.Queue[Gained | Ceded | None] = asyncio.Queue()
        self._leaving: set[int] = set()
        """Partitions whose cede is decided and not yet durable."""
        self._ceding: asyncio.Task[object] | None = None
        self._patient_at = 0.0
        self._count_again_at = 0.0
        self._is_leaving = False
        self._database: DatabaseVitals | None = None
        self._survey_at = 0.0

    def begin(
        self,
        joined: Joined,
        shares: Shares,
        table: SessionTable,
        storage: Storage,
        lease: Lease,
        max_attempts: int,
    ) -> None:
        """Belong to the servers."""
        self.me, self.secret, self.lease_s = joined.id, joined.secret, joined.lease_s
        self._shares, self._table, self._storage, self._lease = shares, table, storage, lease
        self._max_attempts = max_attempts
        self._moves = asyncio.Queue()
        self._patient_at = 0.0
        self._is_leaving = False
        self._survey_at = 0.0

    # -- who is there ---------------------------------------------------------------------------------

    @property
    def peers(self) -> dict[int, Peer]:
        """The servers that are alive, with this one, by id."""
        servers = self._shares.view.servers.values()
        return {each.id: Peer(each.id, each.address, each.version, each.queued.schema > 0) for each in servers}

    def knows(self, feature: Feature) -> bool:
        """Return whether every server that is alive knows a feature, so that it may be stored."""
        return self._shares.knows(feature)

    def owner(self, partition: int) -> Peer | None:
        """Return the server that owns a partition; None: none does, or it is not known yet."""
        if self.owns(partition):
            return self.peers.get(self.me)
        owner = self._shares.view.owner(partition)
        return None if owner is None or owner.id == self.me else self.peers[owner.id]

    def owns(self, partition: int) -> bool:
        """Return whether this server owns a partition, and has read what is stored in it."""
        if self._table is None or self._lease is None:
            return False
        return self._table.owns(partition) and self._lease.lost is None

    @property
    def lease_left_s(self) -> float:
        """For how many seconds runs may execute here without another renewal."""
        return 0.0 if self._lease is None or self._lease.lost is not None else max(0.0, self._lease.left_s)

    async def database(self) -> DatabaseVitals | None:
        """Return how the database does, asked once a minute at most. Only the owner of the first partition asks it for
        more than its clock."""
        if self._storage is not None and (now := self._clock.boottime()) >= self._survey_at:
            self._survey_at = now + SURVEY_S
            self._database = None  # (if it cannot be asked)
            self._database = await self._storage.survey(whole=self.owns(0))
        return self._database

    async def refresh(self) -> None:
        """Read anew who owns what; end servers whose leases are over."""
        storage = self._storage
        if storage is None:
            return
        await self._look(storage)
        if self._shares.has_ended:
            self.takeovers += await storage.call(PostgresTransactions.end_servers)
            await self._look(storage)

    async def _look(self, storage: Storage) -> None:
        table = self._table
        assert table is not None
        queued = Queued.at(table.waiting, table.waiting_of())
        self._shares.seen(await storage.call(partial(PostgresTransactions.look, queued=queued)), self._clock.boottime())
        elsewhere = self._shares.queued_elsewhere()
        table.note_elsewhere(elsewhere.in_all, elsewhere.of)

    # -- what moves -----------------------------------------------------------------------------------

    async def moves(self) -> AsyncIterator[Gained | Ceded]:
        """Yield what is gained and ceded, until `end`."""
        while (moved := await self._moves.get()) is not None:
            yield moved

    async def tend(self) -> None:
        """Look, adopt and cede, until cancelled."""
        try:
            while True:
                await asyncio.sleep(min(LOOK_S, LOOK_SHARE * self.lease_s))
                try:
                    await self.refresh()
                    await self._adopt()
                except StrandlineError as error:
                    _log.debug("who owns what cannot be seen: %s", error)
                    continue
                except Exception:
                    _log.exception("who owns what cannot be seen; trying again")
                    continue
                self._begin_to_cede()
                self._count_again()
        finally:
            if self._ceding is not None:
                self._ceding.cancel()
                await asyncio.wait([self._ceding])

    def end(self) -> None:
        """Have `moves` end, after all that it has to yield."""
        self._moves.put_nowait(None)

    def _count_again(self) -> None:
        if (now := self._clock.boottime()) >= self._count_again_at:
            assert self._table is not None
            self._table.forget_stored()
            self._count_again_at = now + COUNT_AGAIN_S

    async def leave(self) -> None:
        """Adopt nothing more. Cede everything to other servers, as its runs end."""
        assert self._storage is not None
        self._is_leaving = True
        await self._storage.call(PostgresTransactions.announce_leaving)
        await self.refresh()
        self._begin_to_cede()

    async def _adopt(self) -> None:
        table = self._table
        assert table is not None
        if self._is_leaving:
            return
        if wanted := self._shares.to_adopt({*table.owned, *self._leaving}, self._clock.boottime()):
            await self.adopt(wanted)

    async def adopt(self, wanted: Collection[int]) -> Gained:
        """Own those of some partitions that nobody else owns; the engine hears of it, too."""
        table, storage = self._table, self._storage
        assert table is not None
        assert storage is not None
        adopted = await storage.transact(lambda transactions: transactions.adopt(wanted, self._max_attempts))
        gained = Gained(frozenset(adopted.table.owned), adopted.claims)
        if gained.partitions:
            table.join(adopted.table)
            self._moves.put_nowait(gained)
            _log.info(
                "owns %d of %d partitions more; %d runs were executing there", len(gained.partitions), PARTITIONS,
                len(gained.orphans),
            )  # fmt: skip
        return gained

    def _begin_to_cede(self) -> None:
        assert self._table is not None
        wanted = self._shares.to_cede(self._table.owned)
        if not wanted or (self._ceding is not None and not self._ceding.done()):
            return
        patience_s, now = 0.0, self._clock.boottime()
        if self._is_leaving or now >= self._patient_at:
            patience_s, self._patient_at = CEDE_S, now + CEDE_S + CEDE_AGAIN_S
        self._ceding = asyncio.create_task(self._cede_and_log(wanted, patience_s))

    async def _cede_and_log(self, partitions: Collection[int], patience_s: float) -> None:
        try:
            await self.cede(partitions, patience_s)
        except StrandlineError as error:
            _log.warning("partitions could not be handed over yet: %s", error)

    async def cede(self, partitions: Collection[int], patience_s: float = CEDE_S) -> frozenset[int]:
        """Own partitions no longer, those in which nothing is claimed within `patience_s` seconds; return these.

        Nothing more is claimed in the others meanwhile; then they continue.
        """
        table, ceded = self._table, frozenset[int]()
        assert table is not None
        left = set(partitions)
        until = self._clock.boottime() + patience_s
        rests = asyncio.Event()
        if patience_s:
            table.close(left, rests.set)
        try:
            while True:
                rests.clear()
                if resting := table.at_rest(left):
                    ceded |= (done := await self._cede_resting(resting))
                    left -= done
                left_s = until - self._clock.boottime()
                if not left or left_s <= 0:
                    return ceded
                with suppress(TimeoutError):
                    await asyncio.wait_for(rests.wait(), left_s)
        finally:
            table.reopen(partitions)

    async def _cede_resting(self, resting: set[int]) -> frozenset[int]:
        assert self._storage is not None
        self._leaving |= resting
        try:
            ceded = await self._storage.operate(lambda table, _: table.cede(resting))
        finally:
            self._leaving -= resting
        if ceded:
            self._moves.put_nowait(Ceded(ceded))
            _log.info("handed over %d of %d partitions", len(ceded), PARTITIONS)
        return ceded
