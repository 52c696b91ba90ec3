"""Clients that follow runs by their events: their own from the first request on, and those of others.

They do what `strandline.client` does: where a connection ends before the run, they resume after the last id, at another
server if there are several. Until its id is known, the request is sent again under its idempotency key.
"""

import asyncio
import random
import time
from typing import Any, Final

from judging.evidence import Event, Stream
from soak import plan
from soak.desk import POLL_S, Desk
from soak.events import Frame, Opened, opened
from soak.plan import Say
from soak.records import Answered, ended_of_run
from soak.server import Server
from soak.talk import Talk, body_of
from soak.wire import Broken, Silent

WATCH_MS: Final = 250.0
LAST: Final = "run.finished"
NEWEST: Final = 8
"""Of so many runs, the newest, one is followed by a client that has not made it."""


class _Follow:
    """One client of one run, over all connections that it needs."""

    def __init__(self, say: Say | None, run_id: str = "") -> None:
        self.say = say
        self.run_id = run_id
        self.last_id = ""
        self.events: list[Event] = []
        self.is_over = False

    def request(self) -> dict[str, Any]:
        """Return what to ask next."""
        if self.run_id or self.say is None:
            return {"method": "GET", "path": f"/v1/runs/{self.run_id}/events", "last_id": self.last_id}
        headers = f"Idempotency-Key: {self.say.label}\r\n"
        return {"method": "POST", "path": "/chat", "body": body_of(self.say), "headers": headers}


class Followers:
    """All of these clients."""

    def __init__(self, desk: Desk, talk: Talk, *, seed: int) -> None:
        self._desk = desk
        self._talk = talk
        self._records = desk.records
        self._seed = seed

    def start(self, group: asyncio.TaskGroup, *, timeouts: bool) -> None:
        """Have them begin; each ends with the run that it follows when everybody is to stop."""
        for number in range(plan.FOLLOWERS):
            group.create_task(self._follower(number, timeouts))
        for number in range(plan.WATCHERS):
            group.create_task(self._watcher(number))

    async def _follower(self, number: int, timeouts: bool) -> None:
        for say in plan.follower(self._seed, number, timeouts=timeouts):
            await asyncio.sleep(say.pause_ms / 1000)
            if self._desk.stopping:
                return
            self._talk.sends(say)
            await self._to_the_end(_Follow(say))

    async def _watcher(self, number: int) -> None:
        chance = random.Random(f"{self._seed} watcher {number}")
        while not self._desk.stopping:
            await asyncio.sleep(chance.expovariate(1 / WATCH_MS) / 1000)
            if runs := list(self._desk.runs)[-NEWEST:]:
                await self._to_the_end(_Follow(None, chance.choice(runs)))

    async def _to_the_end(self, follow: _Follow) -> None:
        """Follow a run until it ends, or is not there."""
        while not follow.is_over:
            server = await self._desk.relay.ready()
            try:
                async with opened(server.port, **follow.request()) as answer:
                    await self._read(server, answer, follow)
            except (Broken, Silent) as error:
                if follow.say is not None and not follow.run_id:
                    self._records.unsure.add(follow.say.label)
                self._desk.blame(server, error)
            await asyncio.sleep(POLL_S)
        if follow.events:
            is_whole = follow.events[-1].kind == LAST
            self._records.streams.append(Stream(run_id=follow.run_id, events=follow.events, is_whole=is_whole))

    async def _read(self, server: Server, answer: Opened, follow: _Follow) -> None:
        if (reply := answer.reply) is not None:
            if reply.status_code == 503:
                return
            if not follow.run_id and follow.say is not None:
                self._talk.answered(follow.say.label, reply)
                body = reply.body if isinstance(reply.body, dict) else {}
                follow.run_id = body.get("run_id", "")
                follow.is_over = reply.status_code != 202
                return
            if reply.status_code == 404:
                self._records.not_found[follow.run_id] = time.monotonic_ns()
            else:
                self._records.faults.append(f"following run {follow.run_id} gives {reply.status_code}: {reply.body}")
            follow.is_over = True
            return
        async for frame in answer.frames:
            if not follow.run_id and follow.say is not None:
                follow.run_id = frame.data["run_id"]
                self._desk.runs[follow.run_id] = None
                self._records.answered.append(
                    Answered(label=follow.say.label, status_code=200, at_ns=time.monotonic_ns(), run_id=follow.run_id)
                )
            follow.last_id = frame.id or follow.last_id
            follow.events.append(event_of(frame))
            if frame.kind == LAST:
                end = follow.events[-1].end
                assert end is not None
                self._records.reported[follow.run_id].add(end)
                follow.is_over = True


def event_of(frame: Frame) -> Event:
    """Return what the judge sees of an event."""
    data = frame.data
    match frame.kind:
        case "message.added":
            messages = [data["message"]]
        case "run.restarted":
            messages = data["messages"]
        case "run.joined":
            messages = [] if data.get("truncated") else [{"role": "user", "content": data["content"]}]
        case _:
            messages = []
    return Event(
        kind=frame.kind,
        number=int(frame.id) if frame.id else None,
        text=data["text"] if frame.kind == "text.delta" else "",
        tool=data.get("tool_use_id", ""),
        messages=messages,
        joining=data["joining"] if frame.kind == "run.joined" else "",
        end=ended_of_run(data) if frame.kind == LAST else None,
    )
