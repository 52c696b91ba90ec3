"""The load: clients of all kinds, and what they write down.

Chatters share sessions and wait for their answers, or hang up before. Liners send one message after the other, each
as soon as the one before is known to be accepted. Askers answer what their messages make agents ask. Deleters forget
their sessions. (Readers, streams and actions: `soak.readers`, `soak.followers`, `soak.hands`.) What has an idempotency
key is sent again until it has an answer; nothing else is sent twice: whose connection breaks knows nothing, and says
something else next.
"""

import asyncio
import time
from typing import Final

from soak import plan
from soak.answers import Answers
from soak.branches import Branches
from soak.desk import POLL_S, Desk
from soak.followers import Followers
from soak.hands import Hands
from soak.plan import Say
from soak.readers import Readers
from soak.records import Deletion
from soak.server import Relay
from soak.talk import Talk

AGAIN_S: Final = 0.06
"""How long to wait before a session that was busy is deleted again."""
IDLE: Final = frozenset({"succeeded", "agent_error"})
"""How a run ends of which nothing works on."""


class Load:
    """All clients of a soak."""

    def __init__(self, desk: Desk, *, seed: int, timeouts: bool, control: bool) -> None:
        self.readers = Readers(desk, seed=seed)
        self._desk = desk
        self._relay: Relay = desk.relay
        self._seed = seed
        self._timeouts = timeouts
        self._control = control
        self._talk = Talk(desk)
        self._answers = Answers(desk, self._talk)
        self._followers = Followers(desk, self._talk, seed=seed)
        self._hands = Hands(desk, seed=seed)
        self.branches = Branches(desk, seed=seed)

    async def run(self) -> None:
        """Let all clients do what they do until `stop`; then let each come to the end of what it has begun."""
        async with asyncio.TaskGroup() as group:
            for number in range(plan.CHATTERS):
                group.create_task(self._chatter(number))
            for number in range(plan.LINERS):
                group.create_task(self._liner(number))
            self.readers.start(group)
            self._followers.start(group, timeouts=self._timeouts)
            if self._control:
                for number in range(plan.ASKERS):
                    group.create_task(self._asker(number))
                for number in range(plan.DELETERS):
                    group.create_task(self._deleter(number))
                self._hands.start(group)
                self.branches.start(group)

    def stop(self) -> None:
        """Have nobody begin anything more."""
        self._desk.stopping = True

    async def _chatter(self, number: int) -> None:
        for say in plan.chatter(self._seed, number, timeouts=self._timeouts, control=self._control):
            await asyncio.sleep(say.pause_ms / 1000)
            if self._desk.stopping:
                return
            await self._talk.say(say)

    async def _asker(self, number: int) -> None:
        for exchange in plan.asker(self._seed, number, timeouts=self._timeouts):
            await asyncio.sleep(exchange.say.pause_ms / 1000)
            if self._desk.stopping:
                return
            received = await self._talk.say(exchange.say)
            for reply in exchange.replies:
                if not (requests := await self._answers.open(exchange.say, received)):
                    break
                received = await self._answers.give(exchange.say, reply, requests)

    async def _liner(self, number: int) -> None:
        for says in plan.liner(self._seed, number, timeouts=self._timeouts):
            await asyncio.sleep(says[0].pause_ms / 1000)
            if self._desk.stopping:
                return
            async with asyncio.TaskGroup() as group:
                for say in says:
                    await self._line_up(say, group)

    async def _line_up(self, say: Say, group: asyncio.TaskGroup) -> None:
        """Send a message, and return when it is known to be accepted, or its client to know nothing."""
        request = group.create_task(self._talk.say(say))
        while not request.done():
            await asyncio.sleep(POLL_S)
            run_id = self._desk.accepted(say.session, say.label)
            if run_id is not None:
                self._desk.records.seen_waiting[say.label] = (run_id, time.monotonic_ns())
                self._desk.runs[run_id] = None
                return

    async def _deleter(self, number: int) -> None:
        said: dict[str, list[str]] = {}
        for life in plan.deleter(self._seed, number):
            session = life.says[0].session
            labels = said.setdefault(session, [])
            async with asyncio.TaskGroup() as group:
                for say in life.says:
                    await asyncio.sleep(say.pause_ms / 1000)
                    labels.append(say.label)
                    group.create_task(self._talk.say(say))
                await asyncio.sleep(life.after_ms / 1000)
                await self._delete(session, labels)
            while True:
                if await self._delete(session, labels) in (204, 404):
                    break
                await asyncio.sleep(AGAIN_S)
            if self._desk.stopping:
                return

    async def _delete(self, session: str, labels: list[str]) -> int:
        """Delete a session that these were said to, and return the answer's status: in any case there is one."""
        records = self._desk.records
        idle = all(self._talk.ended_as(label) in IDLE for label in labels)
        sent = time.monotonic_ns()
        reply, unsure = await self._desk.until_answered("DELETE", f"/v1/sessions/{session}")
        shown = 0
        if reply.status_code == 204 and idle:
            there, _ = await self._desk.until_answered("GET", f"/v1/sessions/{session}")
            shown = there.status_code
        if reply.status_code not in (204, 404, 409):
            records.faults.append(f"a deletion of {session} gives {reply.status_code}: {reply.body}")
        records.deletions.append(
            Deletion(
                session=session,
                sent=sent,
                answered=time.monotonic_ns(),
                status_code=reply.status_code,
                idle=idle,
                unsure=unsure,
                shown=shown,
            )
        )
        return reply.status_code
