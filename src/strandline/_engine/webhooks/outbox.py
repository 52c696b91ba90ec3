"""Sends the events that the journal has for webhooks: each at least once, under the same id, and at last gives up.

The journal has the truth: an event is stored with what it reports, and forgotten when it was received. So whatever this
module knows too late, or forgets when the process ends, is sent by the next owner of its session, at worst twice.

Events wait in storage. A few for each receiver are in memory, and more are read when these become fewer, without those
of receivers that have enough: so one that hangs delays no other. Belongs to the serving loop.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Raw, Struct

from strandline._clock import Clock
from strandline._encoding import decoder, encode
from strandline._engine.maintenance import Readiness
from strandline._engine.ownership import Ownership
from strandline._engine.webhooks.port import Sender, SendResult, ToSend
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

AT_ONCE: Final = 256
"""How many events are sent at once, to all receivers."""
AT_ONCE_EACH: Final = 16
"""How many to one receiver."""
AT_ONCE_FOR_ONE: Final = AT_ONCE // 4
"""How many of one caller, tests included: its receivers that hang leave most of them to others."""
SLOW_S: Final = 60.0
"""For how long a receiver that did not answer in time gets one event at a time."""
FEW: Final = 64
MOST: Final = 256
"""Of each receiver so many events are in memory at most, and more are read when there are fewer."""
PAGE: Final = 512
MOST_EXCLUDED: Final = 64
"""How many receivers are left out of a read at most."""
LOOK_S: Final = 5.0
"""How often storage is looked at when nothing is known to be due: another server may have left something."""
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
    run_id: RunId


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
        self._waiting: dict[str, deque[StoredDelivery]] = {}
        """By receiver."""
        self._more: set[str] = set()
        """Receivers of which storage may have more that is due."""
        self._sending: Counter[str] = Counter()
        self._sending_for: Counter[Principal] = Counter()
        self._full: set[Principal] = set()
        """Callers of whom as many events are being sent as may be at once."""
        self._waiting_for: Counter[Principal] = Counter()
        self._more_for: set[Principal] = set()
        """Callers of whom storage may have more that is due."""
        self._slow: dict[str, float] = {}
        """Receivers that did not answer in time, and until when they get one event at a time."""
        self._results: list[tuple[StoredDelivery, SendResult]] = []
        self._is_noting = False
        self._is_reading = False
        self._noted_meanwhile: set[str] = set()
        """Events of which a read that began earlier may still return the old record; known until it has ended."""
        self._look_at = 0.0
        """When storage may have events that are due and not known."""
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
        for host in list(self._waiting):
            queue, most = self._waiting[host], self._most(host)
            while self._sending[host] < most and self._sending.total() < AT_ONCE:
                if (stored := self._next(queue)) is None:
                    break
                self._enter(host, stored.key.principal)
                self._spawn(self._send(stored))
            if not queue:
                del self._waiting[host]
        now = self._clock.now()
        if self._look_at <= now and not self._is_reading and self._sending.total() < AT_ONCE:
            self._is_reading = True
            self._spawn(self._read())
        self._arm(now)

    def _next(self, queue: deque[StoredDelivery]) -> StoredDelivery | None:
        """Take the first event of a queue whose caller may send more."""
        for index, stored in enumerate(queue):
            if stored.key.principal not in self._full:
                del queue[index]
                _less(self._waiting_for, stored.key.principal)
                return stored
        return None

    def _enter(self, host: str, principal: Principal) -> None:
        self._sending[host] += 1
        self._sending_for[principal] += 1
        if self._sending_for[principal] >= AT_ONCE_FOR_ONE:
            self._full.add(principal)

    def _leave(self, host: str, principal: Principal) -> None:
        _less(self._sending, host)
        _less(self._sending_for, principal)
        self._full.discard(principal)

    def _most(self, host: str) -> int:
        until = self._slow.get(host)
        if until is None:
            return AT_ONCE_EACH
        if until > self._clock.now():
            return 1
        del self._slow[host]
        return AT_ONCE_EACH

    def _arm(self, now: float) -> None:
        """Set the timer to the next event, if that is due within the next second: a tick sees all others."""
        in_s = self._look_at - now
        if self._timer is None and 0 < in_s < 1.0:
            self._timer = asyncio.get_running_loop().call_later(in_s, self._rung)

    def _rung(self) -> None:
        self._timer = None
        self._pump()

    def _in_memory(self, host: str) -> int:
        """Return how many events of a receiver are in memory, without those that wait until their caller may send."""
        queue = self._waiting.get(host, ())
        if not self._full:
            return len(queue) + self._sending[host]
        return sum(each.key.principal not in self._full for each in queue) + self._sending[host]

    async def _read(self) -> None:
        """Read events that are due, of all receivers that have few in memory."""
        now = self._clock.now()
        enough = sorted(
            (host for host in {*self._waiting, *self._sending} if self._in_memory(host) >= FEW),
            key=self._in_memory,
            reverse=True,
        )[:MOST_EXCLUDED]
        self._look_at = now + LOOK_S
        self._more.update(enough)
        after, fresh = (0.0, ""), 0
        try:
            while True:
                due = await self._journal.read(DueDeliveriesQuery(now, PAGE, tuple(enough), after))
                fresh += sum(map(self._take, due.deliveries))
                if len(due.deliveries) < PAGE:
                    break
                if fresh >= FEW:
                    self._more.update(self._waiting)
                    break
                last = due.deliveries[-1]
                after = (last.at or 0.0, last.id)
        except StrandlineError as error:
            _log.warning("events for webhooks cannot be read yet: %s", error)
            self._look_at = now + RETRY_S
            return
        finally:
            self._is_reading = False
            self._known -= self._noted_meanwhile
            self._noted_meanwhile.clear()
        if due.next_at is not None:
            self._look_at = min(self._look_at, due.next_at)
        self._pump()

    def _take(self, stored: StoredDelivery) -> bool:
        """Keep an event to send, if it is of this server, not known yet, and its receiver has not too many."""
        if stored.id in self._known or not self._ownership.owns(stored.key):
            return False
        principal = stored.key.principal
        if principal in self._full:
            if self._waiting_for[principal] >= MOST:
                self._more_for.add(principal)
                return False
        elif self._in_memory(stored.host) - self._sending[stored.host] >= MOST:
            self._more.add(stored.host)
            return False
        self._waiting.setdefault(stored.host, deque()).append(stored)
        self._waiting_for[principal] += 1
        self._known.add(stored.id)
        return True

    async def _send(self, stored: StoredDelivery) -> None:
        """Send an event, and note what became of it."""
        try:
            result = await self._sent(stored)
        except Exception as error:
            _log.exception("event %s cannot be sent", stored.id)
            result = SendResult(received=False, detail=type(error).__name__)
        finally:
            was_full = stored.key.principal in self._full
            self._leave(stored.host, stored.key.principal)
        if result.is_slow:
            self._slow[stored.host] = self._clock.now() + SLOW_S
        else:
            self._slow.pop(stored.host, None)
        self._results.append((stored, result))
        if not self._is_noting:
            self._note_soon()
        self._look_for_more(stored.host, stored.key.principal, was_full=was_full)
        self._pump()

    def _look_for_more(self, host: str, principal: Principal, *, was_full: bool) -> None:
        """Have more read at once if few events of a receiver, or of a caller, are left in memory and others are not."""
        is_few = self._waiting_for[principal] < FEW
        if host in self._more and self._in_memory(host) < FEW and (is_few or not was_full):
            self._more.discard(host)
            self._look_at = 0.0
        if is_few and principal in self._more_for:
            self._more_for.discard(principal)
            self._look_at = 0.0

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
                if self._is_reading:
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

    async def page(self, principal: Principal, *, dead: bool | None, after: str, limit: int) -> list[DeliveryView]:
        """Return a page of a principal's events, in the order of their ids: all, or those that are dead, or wait."""
        self._readiness.note_request()
        found = await self._journal.read(DeliveriesQuery(principal, dead, after, limit))
        return [_view(each) for each in found]

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
        host = host_of(url)
        if principal in self._full or self._sending[host] >= AT_ONCE_EACH or self._sending.total() >= AT_ONCE:
            return SendResult(received=False, detail=BUSY)
        now = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")
        payload = encode({"type": "webhook.test", "timestamp": now.replace("+00:00", "Z"), "data": {}})
        self._enter(host, principal)
        try:
            return await self._sender.send(ToSend(event_id, url, principal, by_server=False, payload=payload))
        finally:
            self._leave(host, principal)
            self._pump()

    async def vitals(self) -> WebhookVitals | None:
        """Return what was sent and what is left; None if that cannot be read."""
        try:
            left = await self._journal.read(DeliveriesLeftQuery())
        except StrandlineError:
            return None
        oldest_s = 0.0 if left.oldest is None else max(0.0, self._clock.now() - left.oldest)
        return WebhookVitals(self.sent, self.failed, left.waiting, left.dead, oldest_s)


def _less(counter: Counter[Any], key: Any) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _view(stored: StoredDelivery) -> DeliveryView:
    kind, url, run_id = "", None, None
    if stored.body is not None:
        record = _stored(stored.body)
        kind, run_id = record.type, _run(bytes(record.data)).run_id
        url = None if record.by_server else record.url.partition("?")[0]
    return DeliveryView(
        stored.id, stored.key.session_id, run_id, kind, url, stored.created_at, stored.at, stored.attempts, stored.error
    )
