"""Sends the events that the journal has for webhooks: each at least once, under the same id, and at last gives up.

The journal has the truth: an event is stored with what it reports, and forgotten when it was received. So whatever this
module knows too late, or forgets when the process ends, is sent by the next owner of its session, at worst twice.

Events wait in storage. A few for each receiver are in memory, where `turns` says which is sent next, and more are read
when these become fewer, without those of receivers that have enough: so one that hangs delays no other. Belongs to the
serving loop.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Raw, Struct

from strandline._clock import Clock
from strandline._encoding import decoder, encode
from strandline._engine.maintenance import Readiness
from strandline._engine.ownership import Ownership
from strandline._engine.webhooks.port import Sender, SendResult, ToSend
from strandline._engine.webhooks.turns import Receiver, Sending, Turns
from strandline._journal.deliveries import host_of
from strandline._journal.port import (
    Changed,
    DeliveriesLeftQuery,
    DeliveriesQuery,
    DueDeliveriesQuery,
    Journal,
    NoteDeliveries,
    NotReceived,
    Resend,
    StoredDelivery,
)
from strandline._model import Principal, RunId, SessionId
from strandline.errors import NotFound, StrandlineError

_log = logging.getLogger("strandline.webhooks")

PAGE: Final = 512
"""How many events are read at once."""
MOST_EXCLUDED: Final = 256
"""How many receivers are left out of a read at most."""
LOOK_S: Final = 5.0
"""How often all that is due is looked at: another server may have left something."""
OVERLAP_S: Final = 2.0
"""In between only what has become due lately is; so much of what was looked at is looked at again, since clocks and
commits of several servers differ."""
RETRY_S: Final = 1.0
BUSY: Final = "it was not sent, since as many events are being sent as may be at once; try again later"


class _Stored(Struct, frozen=True):
    """The record of an event, as the journal made it."""

    type: str
    url: str
    timestamp: float
    data: Raw
    by_server: bool = False


class _Payload(Struct, frozen=True):
    type: str
    timestamp: str
    data: Raw


class _Run(Struct, frozen=True):
    run_id: RunId | None = None


_stored: Final[Callable[[bytes], _Stored]] = decoder(_Stored)
_run: Final[Callable[[bytes], _Run]] = decoder(_Run)


class DeliveryView(Struct, frozen=True):
    """An event that waits to be sent, or is dead (`next_at` is None)."""

    id: str
    session_id: SessionId
    run_id: RunId | None
    type: str
    url: str | None
    created_at: float
    next_at: float | None
    attempts: int
    error: str | None


class DeliveryPage(Struct, frozen=True):
    """A page of events, and the id before the next page, None at the end."""

    deliveries: list[DeliveryView]
    after: str | None


class WebhookVitals(Struct, frozen=True):
    """What was sent, for metrics: since the start, and what is stored now for all servers."""

    sent: int = 0
    failed: int = 0
    waiting: int = 0
    dead: int = 0
    oldest_s: float = 0.0


class Outbox:
    """The events of this server's sessions that are to be sent."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        readiness: Readiness,
        ownership: Ownership,
        sender: Sender,
        *,
        retries_s: Sequence[float],
        spawn: Callable[[Coroutine[Any, Any, object]], object],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._readiness = readiness
        self._ownership = ownership
        self._sender = sender
        self.can_sign = sender.can_sign
        self._retries_s = tuple(retries_s)
        self._spawn = spawn
        self.sent = 0
        self.failed = 0
        """How many attempts were successful, and how many were not."""
        self._known: set[str] = set()
        """The events in memory: that wait, are being sent, or are to be noted."""
        self._turns = Turns()
        self._more: set[Receiver] = set()
        """Receivers of which storage has more that is due than is in memory, which is enough for now."""
        self._wanted: set[Receiver] = set()
        """Those of them that have few in memory by now."""
        self._results: list[tuple[StoredDelivery, SendResult]] = []
        self._is_noting = False
        self._is_reading = False
        self._is_querying = False
        self._noted_meanwhile: set[str] = set()
        """Events of which a query that began earlier may still return the old record; known until it has ended."""
        self._scanned_to = 0.0
        """What was due then was looked at."""
        self._look_at = 0.0
        """When storage may have events that are due and were not looked at."""
        self._look_at_all_at = 0.0
        self._retry_at = 0.0
        """Before then nothing is read, since storage does not work."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send; to be called once the journal is open."""
        self._loop = asyncio.get_running_loop()
        self._sender.start()
        self._journal.sessions.watch_deliveries(self._on_stored)
        self._look()

    def close(self) -> None:
        """Send nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._sender.close()

    def tick(self) -> None:
        """Send what is due; to be called every second."""
        if self._results and not self._is_noting:
            self._note_soon()
        self._turns.tick(self._clock.now())
        self._forget_left()
        fewer = {each for each in self._more if self._turns.has_few(each)}
        self._more -= fewer
        self._wanted |= fewer
        self._pump()

    def _on_stored(self) -> None:
        """Note that events were stored; may be called from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._look_at = 0.0
        self._pump()

    # -- sending ---------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Send what is in memory, as much as may be at once, and have more read."""
        if self._readiness.stopping or not self._readiness.started:
            return
        now = self._clock.now()
        while (turn := self._turns.next(now)) is not None:
            self._spawn(self._send(*turn))
        is_due = min(self._look_at, self._look_at_all_at) <= now
        if not self._is_reading and (is_due or self._wanted) and self._retry_at <= now:
            self._is_reading = True
            self._spawn(self._read())
        self._arm(now)

    def _arm(self, now: float) -> None:
        """Set the timer to the next event, if that is due within the next second: a tick sees all others."""
        in_s = self._look_at - now
        if self._timer is None and 0 < in_s < 1.0:
            self._timer = asyncio.get_running_loop().call_later(in_s, self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._pump()

    # -- reading ---------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read what has become due, and more for receivers that have few in memory.

        Afterwards each event that is due and of this server is in memory, or its receiver is in `_more`.
        """
        scan: tuple[float, str] | None = None
        try:
            while not self._readiness.stopping:
                now = self._clock.now()
                if self._look_at_all_at <= now:
                    scan, self._look_at_all_at, self._look_at = (0.0, ""), now + LOOK_S, math.inf
                elif scan is None and self._look_at <= now:
                    scan, self._look_at = (self._scanned_to - OVERLAP_S, ""), math.inf
                if self._wanted:
                    await self._fetch_wanted(now)
                elif scan is None:
                    return
                if scan is not None and (scan := await self._page(now, scan, is_scan=True)) is None:
                    self._scanned_to = now
                self._pump()
        except StrandlineError as error:
            _log.warning("events for webhooks cannot be read yet: %s", error)
            self._look_at_all_at = self._retry_at = self._clock.now() + RETRY_S
        finally:
            self._is_reading = False
            self._arm(self._clock.now())

    async def _fetch_wanted(self, now: float) -> None:
        """Read from what is due for longest on, until receivers that had few in memory have enough."""
        wanted = set(self._wanted)
        after: tuple[float, str] | None = (0.0, "")
        while after is not None and any(map(self._turns.has_few, wanted)):
            after = await self._page(now, after)
        self._wanted -= wanted
        if after is not None:
            self._more |= wanted

    async def _page(self, now: float, after: tuple[float, str], *, is_scan: bool = False) -> tuple[float, str] | None:
        """Read a page of what is due, and keep what there is room for; return where it ends, None at the end."""
        enough = self._turns.with_enough(MOST_EXCLUDED)
        self._more.update(enough)
        self._is_querying = True
        try:
            due = await self._journal.read(DueDeliveriesQuery(now, PAGE, tuple(enough), after))
            for stored in due.deliveries:
                self._keep(stored, is_scan=is_scan)
        finally:
            self._is_querying = False
            self._known -= self._noted_meanwhile
            self._noted_meanwhile.clear()
        if len(due.deliveries) < PAGE:
            if due.next_at is not None:
                self._look_at = min(self._look_at, due.next_at)
            return None
        last = due.deliveries[-1]
        return (last.at or 0.0, last.id)

    def _keep(self, stored: StoredDelivery, *, is_scan: bool) -> None:
        """Keep an event to send, if it is of this server, not known yet, and its receiver has not too many.

        In a scan, which may begin anywhere, nothing is kept for receivers whose earlier events are not all in memory.
        """
        if stored.id in self._known or not self._ownership.owns(stored.key):
            return
        receiver = (stored.key.principal, stored.host)
        if is_scan and (receiver in self._more or receiver in self._wanted):
            return
        if self._turns.has_room(receiver):
            self._turns.add(receiver, stored)
            self._known.add(stored.id)
        else:
            self._more.add(receiver)

    async def _send(self, stored: StoredDelivery, sending: Sending) -> None:
        """Send an event, and note what became of it."""
        result = SendResult(received=False, detail="")
        try:
            result = await self._sent(stored)
        except Exception as error:
            _log.exception("event %s cannot be sent", stored.id)
            result = SendResult(received=False, detail=type(error).__name__)
        finally:
            self._end(sending, result)
        self._results.append((stored, result))
        if not self._is_noting:
            self._note_soon()
        self._pump()

    def _end(self, sending: Sending, result: SendResult) -> None:
        """Give a place back, and have more read if few events of its receiver are left in memory and others are not."""
        self._turns.end(sending, self._clock.now(), received=result.received, is_silent=result.is_slow)
        self._forget_left()
        if sending.receiver in self._more and self._turns.has_few(sending.receiver):
            self._more.discard(sending.receiver)
            self._wanted.add(sending.receiver)

    def _forget_left(self) -> None:
        """Have storage alone know events for which there is no room in memory any more."""
        for stored in self._turns.take_left():
            self._known.discard(stored.id)
            self._more.add((stored.key.principal, stored.host))

    async def _sent(self, stored: StoredDelivery) -> SendResult:
        if stored.body is None:
            return SendResult(received=False, detail="its record is damaged in the journal", is_final=True)
        record = _stored(stored.body)
        at = datetime.fromtimestamp(record.timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        payload = encode(_Payload(record.type, at, record.data))
        return await self._sender.send(ToSend(stored.id, record.url, stored.key.principal, record.by_server, payload))

    # -- what became of it -----------------------------------------------------------------------------

    def _note_soon(self) -> None:
        self._is_noting = True
        self._spawn(self._note_results())

    async def _note_results(self) -> None:
        """Have the journal note what became of events, many in one commit."""
        try:
            while self._results:
                results, self._results = self._results, []
                change = self._noted(results)
                try:
                    await self._journal.change(change)
                except StrandlineError as error:
                    _log.warning("what became of events for webhooks cannot be stored yet: %s", error)
                    self._results = results + self._results
                    return
                noted = {stored.id for stored, _ in results}
                if self._is_querying:
                    self._noted_meanwhile |= noted
                else:
                    self._known -= noted
                self.sent += len(change.received)
                self.failed += len(change.not_received)
                for each in change.not_received:
                    if each.at is not None:
                        self._look_at = min(self._look_at, each.at)
        finally:
            self._is_noting = False
        self._pump()

    def _noted(self, results: Sequence[tuple[StoredDelivery, SendResult]]) -> NoteDeliveries:
        now = self._clock.now()
        received, failed = [], []
        for stored, result in results:
            if result.received:
                received.append(stored.id)
                continue
            attempts = stored.attempts + 1
            at = None
            if not result.is_final and attempts <= len(self._retries_s):
                at = now + self._retries_s[attempts - 1]
            failed.append(NotReceived(stored.id, attempts, at, result.detail))
            what = "it is dead" if at is None else f"it is sent again in {at - now:g} s"
            level = logging.WARNING if at is None else logging.INFO
            _log.log(level, "event %s was not received (attempt %d): %s; %s", stored.id, attempts, result.detail, what)
        return NoteDeliveries(tuple(received), tuple(failed))

    # -- for callers -----------------------------------------------------------------------------------

    async def page(self, principal: Principal, *, dead: bool | None, after: str, limit: int) -> DeliveryPage:
        """Return a page of a principal's events, in the order of their ids: all, or those that are dead, or wait."""
        self._readiness.note_request()
        found = await self._journal.read(DeliveriesQuery(principal, dead, after, limit))
        return DeliveryPage([_view(each) for each in found], found[-1].id if len(found) == limit else None)

    async def resend(self, principal: Principal, delivery_id: str) -> None:
        """Have an event be sent at once, as often as a new one. Raises `NotFound`, also for one of another principal,
        and for one that was received."""
        self._readiness.admit()
        if await self._journal.change(Resend(principal, delivery_id)) != Changed(existed=True):
            raise NotFound(f"there is no event {delivery_id} that waits or is dead")

    async def test(self, principal: Principal, event_id: str, url: str) -> SendResult:
        """Send an event `webhook.test` once, and return whether it was received. It has no place of its own: it is not
        sent while as many events are as may be at once, to its receiver, of its caller or in all."""
        self._readiness.note_request()
        sending = self._turns.begin((principal, host_of(url)), self._clock.now())
        if sending is None:
            return SendResult(received=False, detail=BUSY)
        now = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")
        payload = encode({"type": "webhook.test", "timestamp": now.replace("+00:00", "Z"), "data": {}})
        result = SendResult(received=False, detail="")
        try:
            result = await self._sender.send(ToSend(event_id, url, principal, by_server=False, payload=payload))
        finally:
            self._end(sending, result)
            self._pump()
        return result

    async def vitals(self) -> WebhookVitals | None:
        """Return what was sent and what is left; None if that cannot be read."""
        try:
            left = await self._journal.read(DeliveriesLeftQuery())
        except StrandlineError:
            return None
        oldest_s = 0.0 if left.oldest is None else max(0.0, self._clock.now() - left.oldest)
        return WebhookVitals(self.sent, self.failed, left.waiting, left.dead, oldest_s)


def _view(stored: StoredDelivery) -> DeliveryView:
    kind, url, run_id = "", None, None
    if stored.body is not None:
        record = _stored(stored.body)
        kind, run_id = record.type, _run(bytes(record.data)).run_id
        url = None if record.by_server else record.url.partition("?")[0]
    return DeliveryView(
        stored.id, stored.key.session_id, run_id, kind, url, stored.created_at, stored.at, stored.attempts, stored.error
    )
