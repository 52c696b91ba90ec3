"""Clients of the feed of all runs (`/v1/events`), which leave and come back, to any server, after the last id.

The rule of `judging.streams` is that they are shown every end, or a gap of the server that had the run.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from judging.evidence import Feed, FeedEvent, StoredEnd
from soak.desk import POLL_S, Desk
from soak.events import Frame, opened
from soak.wire import Broken, Silent

PATHS: Final = ("/v1/events", "/v1/events?type=run.finished")
RANGE_BITS: Final = 32
"""A server's numbers in a feed are its id, shifted by so many bits, and more."""
REST_S: Final = 30.0
"""How long after the last end of a run a feed may show it, on a busy machine."""


class Feeds:
    """All of these clients: one of everything, and one of ends alone."""

    def __init__(self, desk: Desk, *, seed: int) -> None:
        self._desk = desk
        self._seed = seed
        self._began: dict[str, int] = {}
        self._events: dict[str, list[FeedEvent]] = {path: [] for path in PATHS}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Have all of them follow the feed, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for path in PATHS:
                group.create_task(self._follow(path))

    async def finish(self, ends: Callable[[], Sequence[StoredEnd]]) -> None:
        """Note what all of them were shown, once there was time for it; what ends from now on does not count."""
        ended = time.monotonic_ns()
        last = {end.server: end for end in ends()}
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                while not all(self._has(path, end) for path in self._began for end in last.values()):
                    self._news.clear()
                    await self._news.wait()
        for path, began in self._began.items():
            feed = Feed(name=f"the feed {path}", began=began, ended=ended, events=self._events[path])
            self._desk.records.feeds.append(feed)

    def _has(self, path: str, end: StoredEnd) -> bool:
        """Return whether a client was shown an end, or a gap of its server, or came after it."""
        shown = (event.run_id == end.run_id or end.server in event.servers for event in self._events[path])
        return end.place < self._began[path] or any(shown)

    async def _follow(self, path: str) -> None:
        chance = random.Random(f"{self._seed} feed {path}")
        last_id = ""
        while True:
            server = await self._desk.relay.ready()
            leaving = asyncio.timeout(chance.uniform(0.5, 8.0))
            try:
                async with leaving, opened(server.port, "GET", path, last_id=last_id) as answer:
                    if answer.reply is None:
                        if not last_id:  # it has not had any event, and gets those from now on
                            self._began[path] = time.monotonic_ns()
                        async for frame in answer.frames:
                            self._events[path].append(event_of(frame))
                            self._news.set()
                            last_id = frame.id or last_id
                    elif answer.reply.status_code != 503:
                        self._desk.records.faults.append(f"{path} gives {answer.reply}")
            except TimeoutError:
                pass  # it leaves, and comes back
            except (Broken, Silent) as error:
                self._desk.blame(server, error)
            await asyncio.sleep(POLL_S)


def event_of(frame: Frame) -> FeedEvent:
    """Return what the judge sees of an event."""
    numbers = [int(number) for number in frame.id.split(".") if number]
    first, last = (
        (frame.data[name] >> RANGE_BITS for name in ("first", "last")) if frame.kind == "stream.gap" else (1, 0)
    )
    return FeedEvent(
        kind=frame.kind,
        numbers={number >> RANGE_BITS: number for number in numbers},
        run_id=frame.data.get("run_id", ""),
        servers=frozenset(range(first, last + 1)),
    )
