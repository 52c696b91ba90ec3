"""The events of ended runs, stored for clients that come back: as bytes, for a while, in bounded memory."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from strandline._clock import Clock
from strandline._encoding import decoder, encode_messages
from strandline._engine.events import Numbered
from strandline._engine.streams.run_stream import RunStream
from strandline._model import Outcome, RunId, SessionKey

_decode: Final = msgspec.json.Decoder(list[Numbered]).decode
_outcome: Final = decoder(Outcome)
ENTRY_BYTES: Final = 600
"""What the events of a run cost in memory besides their bytes."""


class _Entry(Struct, frozen=True, gc=False):
    key: SessionKey
    events: bytes
    until: float
    host: RunId | None = None
    """The run that it joined, whose events continue its own after number `after`; with its outcome."""
    after: int = 0
    outcome: bytes = b""


class ReplayBuffer(Struct, eq=False):
    """Stores `memory` bytes in all, nothing for longer than `retention_s`; the oldest go first."""

    _clock: Clock
    retention_s: float
    memory: int
    _entries: OrderedDict[RunId, _Entry] = field(default_factory=OrderedDict)
    _size: int = 0
    _read: WeakValueDictionary[RunId, RunStream] = field(default_factory=WeakValueDictionary)
    """The streams that clients are reading: one for all readers of a run."""
    _latest: RunStream | None = None
    """The one that was read last, until the next `evict`: to decode one takes tens of milliseconds."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, stream: RunStream) -> None:
        """Store the events of a run that has ended."""
        if self.retention_s <= 0 or self.memory <= 0:
            return
        events = stream.as_bytes()
        entry = _Entry(stream.key, events, self._clock.monotonic() + self.retention_s)
        if isinstance(host := stream.successor, RunStream):
            end = encode_messages(stream.end_with_host)
            entry = replace(entry, host=host.run_id, after=stream.continues_after, outcome=end)
        self._entries[stream.run_id] = entry
        self._size += len(events) + ENTRY_BYTES
        while self._size > self.memory:
            self._drop(next(iter(self._entries)))

    def forget_all(self, unwanted: Callable[[SessionKey], bool]) -> None:
        """Drop the events of all runs of sessions that are unwanted."""
        for run_id in [run_id for run_id, entry in self._entries.items() if unwanted(entry.key)]:
            self._drop(run_id)
        self._latest = None

    def get(self, run_id: RunId) -> RunStream | None:
        """Return the stream of a run with stored events."""
        entry = self._entries.get(run_id)
        if entry is None or entry.until <= self._clock.monotonic():
            return None
        if (stream := self._read.get(run_id)) is None:
            if (found := self._replayed(run_id, entry)) is None:
                return None
            stream = self._read[run_id] = found
        self._latest = stream
        return stream

    def _replayed(self, run_id: RunId, entry: _Entry) -> RunStream | None:
        """Return a stream of stored events; None if its run joined another whose events are gone."""
        events = _decode(entry.events)
        if entry.host is None:
            return RunStream.replayed(run_id, entry.key, events)
        host = self.get(entry.host)
        if host is None:
            return None
        return RunStream.replayed_joined(run_id, entry.key, events, host, entry.after, _outcome(entry.outcome))

    def forget(self, key: SessionKey) -> None:
        """Delete the events of the runs of a session."""
        self.forget_all(lambda each: each == key)

    def evict(self) -> None:
        """Drop expired events. To be called every second."""
        self._latest = None
        now = self._clock.monotonic()
        while self._entries and next(iter(self._entries.values())).until <= now:
            self._drop(next(iter(self._entries)))

    def _drop(self, run_id: RunId) -> None:
        self._size -= len(self._entries.pop(run_id).events) + ENTRY_BYTES
