"""Lookers: clients that ask for runs, histories and health, and write down what they are shown."""

import asyncio
import random
import time
from datetime import datetime
from typing import Any, Final

from soak.desk import Desk
from soak.records import Seen, View, digest, ended_of_run
from soak.server import Server
from soak.shown import check_shown
from soak.wire import Broken, Reply, Silent, Unavailable, ask

UNAVAILABLE: Final = 503
LOOKERS: Final = 2
LOOK_MS: Final = 40.0
LATE_S: Final = 10.0
"""How long `/health` may take, on a machine that does other things as well."""


class Readers:
    """All of these clients, and what is requested in the end."""

    def __init__(self, desk: Desk, *, seed: int) -> None:
        self._desk = desk
        self._records = desk.records
        self._seed = seed

    def start(self, group: asyncio.TaskGroup) -> None:
        """Have them begin; each ends when everybody is to stop."""
        for number in range(LOOKERS):
            group.create_task(self._looker(number))

    async def _looker(self, number: int) -> None:
        chance = random.Random(f"{self._seed} looker {number}")
        while not self._desk.stopping:
            await asyncio.sleep(chance.expovariate(1 / LOOK_MS) / 1000)
            self._desk.read_ledger()
            server = await self._desk.relay.ready()
            try:
                await self._look(server, chance)
            except (Broken, Silent) as error:
                self._desk.blame(server, error)

    async def _look(self, server: Server, chance: random.Random) -> None:
        runs, sessions = list(self._desk.runs), list(self._desk.sessions)
        readers = ("health", "new run", "wait", "any run", "new history", "history")
        match chance.choices(readers, (2, 5, 1, 3, 3, 1))[0]:
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

    async def view(self, server: Server, run_id: str, *, wait_s: int | None = None) -> View:
        """Ask for a run, note how it ended, and return what was shown. Raises `Broken` or `Silent`."""
        if wait_s is not None:
            self._records.waited_for.add(run_id)
        headers = "" if wait_s is None else f"Prefer: wait={wait_s}\r\n"
        reply = await ask(server.port, "GET", f"/v1/runs/{run_id}", headers=headers)
        if reply.status_code == 503 and "not open" in reply.body["detail"]:
            raise Broken("the server has just stopped")
        self._check_available(reply)
        if reply.status_code == 404:
            self._records.not_found[run_id] = time.monotonic_ns()
            return View(status_code=404)
        if reply.status_code != 200:
            self._records.faults.append(
                f"run {run_id} was acknowledged, and asking for it gives {reply.status_code}: {reply.body}"
            )
            return View(status_code=reply.status_code)
        run = reply.body
        ended = ended_of_run(run)
        if run["held"]:
            self._records.held.add(run_id)
        if ended is not None:
            self._records.reported[run_id].add(ended)
            self._records.reported_at[run_id].add(run["ended_at"])
        return View(
            status_code=200,
            status=run["status"],
            attempt=run["attempt"],
            started=run["started_at"] is not None,
            ended_at=run["ended_at"],
            ended=ended,
            label=run["metadata"].get("label", ""),
            created=_seconds(run["created_at"]) or 0.0,
            begun=_seconds(run["started_at"]),
            ended_s=_seconds(run["ended_at"]),
            priority=run["priority"],
            join=run["join"],
            joined=run["joined"],
        )

    async def history(self, server: Server, session: str) -> list[Any]:
        """Ask for a whole history, and note what is wrong about it. Raises `Broken` or `Silent`."""
        path = f"/history?session_id={session}&count=0&include_tool_messages=true"
        reply = await ask(server.port, "GET", path)
        self._check_available(reply)
        if reply.status_code != 200:
            self._records.faults.append(f"asking for the history of {session} gives {reply.status_code}: {reply.body}")
            return []
        messages: list[Any] = reply.body["messages"]
        if faults := check_shown(messages):
            self._records.faults.append(f"the history of {session} was malformed: {'; '.join(faults[:3])}")
        self._records.seen[session].add(Seen(count=len(messages), digest=digest(messages)))
        return messages

    async def whole_history(self, server: Server, session: str) -> tuple[list[Any], frozenset[int]]:
        """Ask for a history with what was rolled back; return it, and the places of that. Raises as `history` does."""
        shown = await self.history(server, session)
        messages: list[Any] = []
        more: str | None = ""
        while more is not None:
            path = f"/v1/sessions/{session}/history?discarded=true&limit=1000{more and f'&cursor={more}'}"
            reply = await ask(server.port, "GET", path)
            self._check_available(reply)
            if reply.status_code != 200:
                self._records.faults.append(f"asking for all of {session} gives {reply.status_code}: {reply.body}")
                return shown, frozenset()
            messages = reply.body["messages"] + messages
            more = reply.body["next_cursor"]
        if [place for place, message in enumerate(messages) if message["pending"]] == [len(messages) - 1]:
            self._records.pending.add(session)
        else:
            self._records.pending.discard(session)
        hidden = frozenset(place for place, message in enumerate(messages) if message["discarded"])
        messages = [{"role": message["role"], "content": message["content"]} for message in messages]
        if shown != [message for place, message in enumerate(messages) if place not in hidden]:
            self._records.faults.append(f"the history of {session} is not what was not rolled back of it")
        return messages, hidden

    async def health(self, server: Server) -> dict[str, Any]:
        """Ask how it goes. Raises `Broken` or `Silent`."""
        reply = await ask(server.port, "GET", "/health", deadline_s=LATE_S)
        self._check_available(reply)
        body: dict[str, Any] = reply.body
        if reply.status_code != 200 or body["status"] != "healthy":
            self._records.faults.append(f"/health gives {reply.status_code}: {body}")
        self._records.most_held = max(self._records.most_held, body["held"])
        return body

    def _check_available(self, reply: Reply) -> None:
        """Raise `Unavailable` if servers may refuse to answer, and this one does."""
        if reply.status_code == UNAVAILABLE and self._desk.may_refuse:
            raise Unavailable(str(reply.body))


def _seconds(at: str | None) -> float | None:
    return None if at is None else datetime.fromisoformat(at).timestamp()
