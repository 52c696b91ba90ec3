"""Clients that do something to runs and sessions of others, cancel, move and pause, and write down what came of it.

Whatever is paused is resumed, however many servers that takes: else a soak would never end.
"""

import asyncio
import time
from typing import Any, Final

from msgspec.structs import replace

from soak.actions import RUNNERS, Action, actions
from soak.desk import Desk
from soak.plan import DELETED
from soak.records import Cancel, Move, Pause, Sweep
from soak.server import Server
from soak.wire import Broken, Reply, Silent, ask

WAITING: Final = "queued"


class Hands:
    """All of these clients."""

    def __init__(self, desk: Desk, *, seed: int) -> None:
        self._desk = desk
        self._records = desk.records
        self._seed = seed
        self._paused: set[str] = set()
        self._doing = {
            "cancel": self._cancel,
            "cancel waiting": self._cancel_waiting,
            "cancel session": self._sweep,
            "move": self._move,
            "pause": self._pause,
        }

    def start(self, group: asyncio.TaskGroup) -> None:
        """Have them begin; each ends when it has done what it does when everybody is to stop."""
        for number in range(RUNNERS):
            group.create_task(self._run(number))

    async def _run(self, number: int) -> None:
        for action in actions(self._seed, number):
            await asyncio.sleep(action.pause_ms / 1000)
            if self._desk.stopping:
                return
            server = await self._desk.relay.ready()
            try:
                await self._doing[action.what](server, action)
            except (Broken, Silent) as error:
                self._desk.blame(server, error)

    # -- runs --------------------------------------------------------------------------------------

    async def _cancel(self, server: Server, action: Action) -> None:
        if runs := list(self._desk.runs)[-6:]:
            await self._cancel_run(server, runs[-1 - action.before % len(runs)], action)

    async def _cancel_waiting(self, server: Server, action: Action) -> None:
        if (run_id := await self._waiting(server, action)) is not None:
            await self._cancel_run(server, run_id, action)

    async def _cancel_run(self, server: Server, run_id: str, action: Action) -> None:
        cancel = Cancel(run_id=run_id, status_code=0, force=action.force)
        try:
            body = {"force": True} if action.force else {}
            reply = await ask(server.port, "POST", f"/v1/runs/{run_id}/cancel", body)
            cancel = replace(cancel, status_code=reply.status_code, answered_s=time.time())
            if action.force and reply.status_code == 200:
                cancel = replace(cancel, held=reply.body["held"])
        finally:
            self._records.cancels.append(cancel)
        self._expect(reply, f"a cancel of run {run_id}", 200, 202, 404, 409)
        if reply.status_code == 404:
            self._records.not_found[run_id] = time.monotonic_ns()

    async def _move(self, server: Server, action: Action) -> None:
        run_id = await self._waiting(server, action)
        if run_id is None:
            return
        move = Move(run_id=run_id, priority=action.priority, sent_s=time.time())
        body = {"front": True} if action.priority is None else {"priority": action.priority}
        try:
            reply = await ask(server.port, "POST", f"/v1/runs/{run_id}/move", body)
            move = replace(move, status_code=reply.status_code, answered_s=time.time(), code=_code(reply))
        finally:
            self._records.moves.append(move)
        self._expect(reply, f"a move of run {run_id}", 200, 409)

    async def _waiting(self, server: Server, action: Action) -> str | None:
        """Return a run that waits in a session, or has just waited; None if there is none."""
        if (session := self._session(action)) is None:
            return None
        reply = await ask(server.port, "GET", f"/v1/sessions/{session}/runs?limit=20")
        if reply.status_code != 200:
            self._expect(reply, f"asking for the runs of {session}")
            return None
        waiting = [run["run_id"] for run in reply.body["runs"] if run["status"] == WAITING]
        self._desk.runs.update(dict.fromkeys(waiting))
        return waiting[action.before % len(waiting)] if waiting else None

    # -- sessions ----------------------------------------------------------------------------------

    def _session(self, action: Action) -> str | None:
        sessions = [each for each in list(self._desk.sessions)[-16:] if not each.startswith(DELETED)][-10:]
        return sessions[-1 - action.before % len(sessions)] if sessions else None

    async def _sweep(self, server: Server, action: Action) -> None:
        if (session := self._session(action)) is None:
            return
        self._desk.read_ledger()  # what is known of what waits is known before
        sweep = Sweep(session=session, running=action.running, force=action.force, sent=time.monotonic_ns())
        try:
            body = {"running": action.running, "force": action.force}
            reply = await ask(server.port, "POST", f"/v1/sessions/{session}/cancel", body)
            now_s, now = time.time(), time.monotonic_ns()
            sweep = replace(sweep, status_code=reply.status_code, answered_s=now_s, answered=now)
            if reply.status_code in (200, 202):
                ended, cancelling = reply.body["cancelled"], reply.body["cancelling"]
                sweep = replace(sweep, stopped=(*ended, *cancelling), cancelling=tuple(cancelling))
                self._desk.runs.update(dict.fromkeys(sweep.stopped))
        finally:
            self._records.sweeps.append(sweep)
        self._expect(reply, f"a cancel of session {session}", 200, 202, 404)

    async def _pause(self, server: Server, action: Action) -> None:
        session = self._session(action)
        if session is None or session in self._paused:
            return
        self._paused.add(session)
        self._records.tried_to_pause.append(session)
        since_s, since = 0.0, 0
        try:
            reply = await ask(server.port, "POST", f"/v1/sessions/{session}/pause")
            if reply.status_code == 200:
                since_s, since = time.time(), time.monotonic_ns()
                await asyncio.sleep(action.for_ms / 1000)
            self._expect(reply, f"a pause of {session}", 200, 404)
        finally:
            until_s, until = time.time(), time.monotonic_ns()
            again, _ = await self._desk.until_answered("POST", f"/v1/sessions/{session}/resume")
            self._paused.remove(session)
        self._expect(again, f"a resume of {session}", 200, 404)
        if since:
            pause = Pause(session=session, since_s=since_s, since=since, until_s=until_s, until=until)
            self._records.pauses.append(pause)

    def _expect(self, reply: Reply, what: str, *codes: int) -> None:
        if reply.status_code not in (*codes, 503):
            self._records.faults.append(f"{what} gives {reply.status_code}: {reply.body}")


def _code(reply: Reply) -> str:
    body: Any = reply.body
    return str(body.get("code", "")) if isinstance(body, dict) else ""
