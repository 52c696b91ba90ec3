"""What all clients of a soak share: the servers, what they write down, which runs and sessions are known."""

import asyncio
import sqlite3
from typing import Final

from soak.ledger import Line, Reader
from soak.records import Records
from soak.server import Relay, Server
from soak.stored import stored
from soak.wire import Broken, Reply, Silent, ask

POLL_S: Final = 0.015


class Desk:
    """`records` and `lines` grow while clients are at work."""

    def __init__(self, relay: Relay, records: Records) -> None:
        self.relay = relay
        self.records = records
        self.lines: list[Line] = []
        self.runs: dict[str, None] = {}
        """The ids of all runs that were acknowledged in any way."""
        self.sessions: dict[str, None] = {}
        """All sessions that anything was said to."""
        self.stopping = False
        self._ledger = Reader(relay.ledger)
        self._newest_of: dict[str, str] = {}
        self._sequence = -1

    def read_ledger(self) -> None:
        """Take what the tools have written since; a run whose tool works is one that was accepted."""
        for line in self._ledger.new():
            self.lines.append(line)
            if line.run_id:
                self.runs[line.run_id] = None

    def newest(self, session: str) -> str | None:
        """Return the id of the run that was accepted last in a session, as far as can be read just now."""
        try:
            for run in stored(self.relay.journal, after=self._sequence):
                self._newest_of[run.session] = run.run_id
                self._sequence = run.sequence
        except sqlite3.Error:
            pass  # the file is just being opened: it is asked again
        return self._newest_of.get(session)

    def blame(self, server: Server, error: Exception) -> None:
        """Note that a request had no answer, if nobody had stopped its server."""
        if server.healthy or isinstance(error, Silent):
            self.records.faults.append(f"server {server.number} left a client without an answer: {error}")

    async def until_answered(self, method: str, path: str, body: object = None) -> tuple[Reply, bool]:
        """Ask one server after the other until one has carried it out; return its answer, and whether others may have.

        Raises `TimeoutError` if there is no server.
        """
        others = False
        while True:
            server = await self.relay.ready()
            try:
                reply = await ask(server.port, method, path, body)
                if reply.status_code != 503:
                    return reply, others
            except (Broken, Silent) as error:
                others = True
                self.blame(server, error)
            await asyncio.sleep(POLL_S)
