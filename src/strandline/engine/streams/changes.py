"""What changes anywhere for a principal, told to those who listen: the events of all its runs, and of its sessions.

A feed begins when somebody listens, and is kept for a while after the last one has left, for whoever comes back. Text
as it comes is no part of it: that is in the stream of each run. Belongs to the serving loop.
"""

from collections.abc import Collection
from typing import Final

from strandline.clock import Clock
from strandline.engine.events import (
    Event,
    Numbered,
    ReasoningDelta,
    RunPosition,
    StreamGap,
    TextDelta,
    TextReset,
    type_of,
)
from strandline.engine.streams.log import Bounds, EventLog
from strandline.engine.streams.subscription import Subscription
from strandline.model import Principal, RunId, SessionId, SessionKey

UNTOLD: Final = (TextDelta, TextReset, ReasoningDelta, RunPosition)
"""Events that are told in the stream of their run only."""


class _Feed(EventLog):
    """The feed of one principal; `heard_at` is when somebody was seen to listen, on the monotonic clock."""

    __slots__ = ("heard_at",)

    def __init__(self, first: int, bounds: Bounds, began: float, heard_at: float) -> None:
        super().__init__(first=first, older=1, bounds=bounds, began=began)
        self.heard_at = heard_at

    def tell(self, at: float, event: Event, run_id: RunId | None, session_id: SessionId) -> None:
        self._add(at, event, run_id, session_id)
        self._wake()

    def end(self) -> None:
        self.closed = True
        self._wake()


class ChangeFeed:
    """One for each principal that listens, kept for `retention_s` after that. True if there is any."""

    def __init__(self, clock: Clock, *, bounds: Bounds, retention_s: float) -> None:
        self._clock = clock
        self._bounds = bounds
        self._retention_s = retention_s
        self._feeds: dict[Principal, _Feed] = {}
        self._last = 0
        self._stopped = False

    def __bool__(self) -> bool:
        return bool(self._feeds)

    @property
    def listeners(self) -> int:
        """How many wait for something at this moment."""
        return sum(feed.listeners for feed in self._feeds.values())

    def begin(self, epoch: int) -> None:
        """Have numbers begin after those of all processes that have served the journal before."""
        self._last = epoch << 32

    def tell(self, key: SessionKey, run_id: RunId | None, at: float, event: Event) -> None:
        """Tell an event of a session, or of a run of it, to those of its principal who listen."""
        feed = self._feeds.get(key.principal)
        if feed is not None and not isinstance(event, UNTOLD):
            feed.tell(at, event, run_id, key.session_id)

    def subscribe(
        self, principal: Principal, after: int, sessions: Collection[SessionId], types: Collection[str]
    ) -> Subscription:
        """Return a subscription to the events after number `after`, or with 0 to all that come from now on.

        Only those of these sessions and types, of all if there are none of them; a gap is always told.
        """
        sessions, types = frozenset(sessions), frozenset(types)  # (each event is looked up in them)
        feed = self._feeds.get(principal)
        if feed is None:
            feed = self._feeds[principal] = _Feed(
                self._last + 1, self._bounds, self._clock.now(), self._clock.monotonic()
            )
        if self._stopped:
            feed.end()

        def wanted(told: Numbered) -> bool:
            if isinstance(told.event, StreamGap):
                return True
            return (not sessions or told.session_id in sessions) and (not types or type_of(told.event) in types)

        return Subscription(feed, min(after or feed.last, feed.last), wanted if sessions or types else None)

    def tidy(self) -> None:
        """Forget the feeds to which nobody has listened for long. To be called every second."""
        now = self._clock.monotonic()
        for principal, feed in list(self._feeds.items()):
            if feed.is_heard:
                feed.heard_at = now
            elif now - feed.heard_at > self._retention_s:
                del self._feeds[principal]
                # One more, for what nobody will have heard: whoever had all of this feed is told of a gap.
                self._last = max(self._last, feed.last + 1)
                feed.end()

    def stop(self) -> None:
        """End all feeds, those that begin later too: the server stops."""
        self._stopped = True
        for feed in self._feeds.values():
            feed.end()
        self._feeds.clear()
