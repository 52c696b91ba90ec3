"""The load: clients of all kinds, and what they write down.

Chatters share sessions and wait for their answers, or hang up before. Liners send one message after the other, each
as soon as the one before is known to be accepted. Lookers ask for runs, histories and health, and cancel some of the
runs. What has an idempotency key is sent again until it has an answer; nothing else is sent twice: whose connection
breaks knows nothing, and says something else next.
"""

import asyncio
import random
import sqlite3
import time
from datetime import datetime
from typing import Any, Final

from soak import plan
from soak.ledger import Line, Reader
from soak.plan import Say
from soak.records import (
    Answered,
    Asked,
    Cancel,
    Records,
    Seen,
    View,
    digest,
    ended_of_chat,
    ended_of_run,
)
from soak.server import Relay, Server
from soak.stored import stored
from soak.wire import Broken, Reply, Silent, ask
from strandline.testing.checker import check_history

LOOKERS: Final = 2
LOOK_MS: Final = 40.0
POLL_S: Final = 0.015
LATE_S: Final = 10.0
"""How long `/health` may take, on a machine that does other things as well."""


class Load:
    """All clients of a soak. `records` and `lines` grow while it runs."""

    def __init__(self, relay: Relay, records: Records, *, seed: int, timeouts: bool, control: bool) -> None:
        self.records = records
        self.lines: list[Line] = []
        self._relay = relay
        self._seed = seed
        self._timeouts = timeouts
        self._control = control
        self._ledger = Reader(relay.ledger)
        self._known: dict[str, None] = {}
        self._sessions: dict[str, None] = {}
        self._newest_of: dict[str, str] = {}
        self._sequence = -1
        self._stopping = False

    async def run(self) -> None:
        """Let all clients do what they do until `stop`; then let each come to the end of what it has begun."""
        async with asyncio.TaskGroup() as group:
            for number in range(plan.CHATTERS):
                group.create_task(self._chatter(number))
            for number in range(plan.LINERS):
                group.create_task(self._liner(number))
            for number in range(LOOKERS):
                group.create_task(self._looker(number))

    def stop(self) -> None:
        """Have nobody begin anything more."""
        self._stopping = True

    # -- clients -----------------------------------------------------------------------------------

    async def _chatter(self, number: int) -> None:
        for say in plan.chatter(self._seed, number, timeouts=self._timeouts, control=self._control):
            await asyncio.sleep(say.pause_ms / 1000)
            if self._stopping:
                return
            await self._say(say)

    async def _liner(self, number: int) -> None:
        for says in plan.liner(self._seed, number, timeouts=self._timeouts):
            await asyncio.sleep(says[0].pause_ms / 1000)
            if self._stopping:
                return
            async with asyncio.TaskGroup() as group:
                for say in says:
                    await self._line_up(say, group)

    async def _line_up(self, say: Say, group: asyncio.TaskGroup) -> None:
        """Send a message, and return when it is known to be accepted, or its client to know nothing."""
        before = self._newest(say.session)
        asked = group.create_task(self._say(say))
        while not asked.done():
            await asyncio.sleep(POLL_S)
            newest = self._newest(say.session)
            if newest is not None and newest != before:
                self.records.seen_waiting[say.label] = (newest, time.monotonic_ns())
                self._known[newest] = None
                return

    def _newest(self, session: str) -> str | None:
        """Return the id of the run that was accepted last in a session, as far as can be read just now."""
        try:
            for run in stored(self._relay.journal, after=self._sequence):
                self._newest_of[run.session] = run.run_id
                self._sequence = run.sequence
        except sqlite3.Error:
            pass  # the file is just being opened: it is asked again
        return self._newest_of.get(session)

    async def _say(self, say: Say) -> None:
        server = await self._relay.ready()
        records = self.records
        body: dict[str, Any] = {"message": say.text, "session_id": say.session, "metadata": {"label": say.label}}
        body |= {} if say.timeout_s is None else {"timeout": say.timeout_s}
        body |= {} if say.queue_timeout_s is None else {"queue_timeout": say.queue_timeout_s}
        body |= {} if say.if_busy == "enqueue" else {"if_busy": say.if_busy}
        body |= {} if say.priority is None else {"priority": say.priority}
        records.asked[say.label] = Asked(
            label=say.label,
            session=say.session,
            text=say.text,
            sent_ns=time.monotonic_ns(),
            timeout_s=say.timeout_s,
            queue_timeout_s=say.queue_timeout_s,
            keyed=say.keyed,
            if_busy=say.if_busy,
            priority=3 if say.priority is None else say.priority,
        )
        self._sessions[say.session] = None
        try:
            async with asyncio.timeout(None if say.leave_ms is None else say.leave_ms / 1000):
                while not await self._send(server, say, body) and say.keyed:
                    server = await self._relay.ready()
        except TimeoutError:
            records.unsure.add(say.label)  # it has hung up

    async def _send(self, server: Server, say: Say, body: dict[str, Any]) -> bool:
        """Send a message; tell whether there was an answer that settles it."""
        headers = f"Idempotency-Key: {say.label}\r\n" if say.keyed else ""
        try:
            reply = await ask(server.port, "POST", "/chat", body, headers=headers)
        except (Broken, Silent) as error:
            self.records.unsure.add(say.label)
            self._blame(server, error)
            await asyncio.sleep(POLL_S)
            return False
        self._answered(say.label, reply)
        if reply.status_code == 503:
            await asyncio.sleep(POLL_S)
        return reply.status_code != 503

    def _answered(self, label: str, reply: Reply) -> None:
        at_ns = time.monotonic_ns()
        run_id = reply.body.get("run_id", "") if isinstance(reply.body, dict) else ""
        self.records.answered.append(Answered(label=label, status_code=reply.status_code, at_ns=at_ns, run_id=run_id))
        match reply.status_code:
            case 200:
                self.records.told[run_id].add(ended_of_chat(reply.body))
            case 202 | 503:
                pass
            case 409 if self.records.asked[label].if_busy == "reject":
                pass
            case _:
                self.records.faults.append(f"{label} was answered {reply.status_code}: {reply.body}")
        if run_id:
            self._known[run_id] = None

    def _blame(self, server: Server, error: Exception) -> None:
        """Note that a request had no answer, if nobody had told its server to end."""
        if server.healthy or isinstance(error, Silent):
            self.records.faults.append(f"server {server.number} left a client without an answer: {error}")

    # -- lookers -----------------------------------------------------------------------------------

    async def _looker(self, number: int) -> None:
        chance = random.Random(f"{self._seed} looker {number}")
        while not self._stopping:
            await asyncio.sleep(chance.expovariate(1 / LOOK_MS) / 1000)
            self.read_ledger()
            server = await self._relay.ready()
            try:
                await self._look(server, chance)
            except (Broken, Silent) as error:
                self._blame(server, error)

    async def _look(self, server: Server, chance: random.Random) -> None:
        runs, sessions = list(self._known), list(self._sessions)
        looks = ("health", "new run", "wait", "any run", "new history", "history", "cancel")
        match chance.choices(looks, (2, 5, 1, 3, 3, 1, 2 if self._control else 0))[0]:
            case "cancel" if runs:
                await self._cancel(server, chance.choice(runs[-6:]))
            case "new run" if runs:
                await self.view(server, chance.choice(runs[-30:]))
            case "wait" if runs:
                await self.view(server, chance.choice(runs[-5:]), wait_s=1)
            case "any run" if runs:
                await self.view(server, chance.choice(runs))
            case "new history" if sessions:
                await self.history(server, chance.choice(sessions[-8:]))
            case "history" if sessions:
                await self.history(server, chance.choice(sessions))
            case _:
                await self.health(server)

    def read_ledger(self) -> None:
        """Take what the tools have written since; a run whose tool works is one that was accepted."""
        for line in self._ledger.new():
            self.lines.append(line)
            if line.run_id:
                self._known[line.run_id] = None

    @property
    def known(self) -> list[str]:
        """The ids of all runs that were acknowledged in any way."""
        return list(self._known)

    @property
    def sessions(self) -> list[str]:
        """All sessions that anything was said to."""
        return list(self._sessions)

    async def view(self, server: Server, run_id: str, *, wait_s: int | None = None) -> View:
        """Ask for a run, note how it ended, and return what was shown. Raises `Broken` or `Silent`."""
        headers = "" if wait_s is None else f"Prefer: wait={wait_s}\r\n"
        reply = await ask(server.port, "GET", f"/v1/runs/{run_id}", headers=headers)
        if reply.status_code == 503 and "not open" in reply.body["detail"]:
            raise Broken("the server has just stopped")
        if reply.status_code != 200:
            self.records.faults.append(
                f"run {run_id} was acknowledged, and asking for it gives {reply.status_code}: {reply.body}"
            )
            return View(status_code=reply.status_code)
        run = reply.body
        ended = ended_of_run(run)
        if run["held"]:
            self.records.held.add(run_id)
        if ended is not None:
            self.records.told[run_id].add(ended)
            self.records.told_at[run_id].add(run["ended_at"])
        return View(
            status_code=200,
            status=run["status"],
            attempt=run["attempt"],
            started=run["started_at"] is not None,
            ended_at=run["ended_at"],
            ended=ended,
            waited_s=_between(run["created_at"], run["started_at"] or run["ended_at"]),
            took_s=_between(run["started_at"], run["ended_at"]),
            label=run["metadata"].get("label", ""),
            created=datetime.fromisoformat(run["created_at"]).timestamp(),
            begun=None if run["started_at"] is None else datetime.fromisoformat(run["started_at"]).timestamp(),
        )

    async def history(self, server: Server, session: str) -> list[Any]:
        """Ask for a whole history, and note what is wrong about it. Raises `Broken` or `Silent`."""
        path = f"/history?session_id={session}&count=0&include_tool_messages=true"
        reply = await ask(server.port, "GET", path)
        if reply.status_code != 200:
            self.records.faults.append(f"asking for the history of {session} gives {reply.status_code}: {reply.body}")
            return []
        messages: list[Any] = reply.body["messages"]
        if faults := check_history(messages):
            self.records.faults.append(f"the history of {session} was malformed: {'; '.join(faults[:3])}")
        self.records.seen[session].add(Seen(count=len(messages), digest=digest(messages)))
        return messages

    async def whole_history(self, server: Server, session: str) -> tuple[list[Any], frozenset[int]]:
        """Ask for a history with what was rolled back; return it, and the places of that. Raises as `history` does."""
        shown = await self.history(server, session)
        messages: list[Any] = []
        more: str | None = ""
        while more is not None:
            path = f"/v1/sessions/{session}/history?discarded=true&limit=1000{more and f'&cursor={more}'}"
            reply = await ask(server.port, "GET", path)
            if reply.status_code != 200:
                self.records.faults.append(f"asking for all of {session} gives {reply.status_code}: {reply.body}")
                return shown, frozenset()
            messages = reply.body["messages"] + messages
            more = reply.body["next_cursor"]
        for message in messages:
            del message["pending"]
        hidden = frozenset(place for place, message in enumerate(messages) if message.pop("discarded"))
        if shown != [message for place, message in enumerate(messages) if place not in hidden]:
            self.records.faults.append(f"the history of {session} is not what was not rolled back of it")
        return messages, hidden

    async def _cancel(self, server: Server, run_id: str) -> None:
        """Cancel a run, and note the answer. Raises `Broken` or `Silent`."""
        status_code = 0
        try:
            reply = await ask(server.port, "POST", f"/v1/runs/{run_id}/cancel", {})
            status_code = reply.status_code
        finally:
            self.records.cancels.append(Cancel(run_id=run_id, status_code=status_code))
        if status_code not in (200, 202, 409, 503):
            self.records.faults.append(f"a cancel of run {run_id} gives {status_code}: {reply.body}")

    async def health(self, server: Server) -> dict[str, Any]:
        """Ask how it goes. Raises `Broken` or `Silent`."""
        reply = await ask(server.port, "GET", "/health", deadline_s=LATE_S)
        body: dict[str, Any] = reply.body
        if reply.status_code != 200 or body["status"] != "healthy":
            self.records.faults.append(f"/health gives {reply.status_code}: {body}")
        self.records.most_held = max(self.records.most_held, body["held"])
        return body


def _between(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
