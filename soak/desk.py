"""What all clients of a soak share: the servers, what they write down, which runs and sessions are known."""

import asyncio
from typing import Final

from soak.kept import KEPT
from soak.ledger import Line, Reader
from soak.records import Records, Unanswered
from soak.server import Relay, Server
from soak.wire import Broken, Cut, Lost, Reply, Silent, Unavailable, ask

POLL_S: Final = 0.015
ANSWER_S: Final = 60.0


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
        self.may_refuse = False
        """Whether a server that nobody has stopped may refuse to answer for a while."""
        self.answer_s = ANSWER_S
        """How long the answer to a message may take."""
        self._ledger = Reader(relay.ledger)

    def read_ledger(self) -> None:
        """Take what the tools have written since; a run whose tool works is one that was accepted."""
        for line in self._ledger.new():
            self.lines.append(line)
            if line.run_id and not line.session.startswith(KEPT):
                self.runs[line.run_id] = None

    def accepted(self, session: str, label: str) -> str | None:
        """Return the id of the run that was accepted last in a session, if it has this label and can be read now."""
        return self.relay.listing.accepted(session, label)

    def blame(self, server: Server, error: Exception) -> None:
        """Note that a request had no answer, if nobody had stopped its server."""
        if isinstance(error, Lost | Unavailable) or (self.may_refuse and isinstance(error, Cut)):
            return  # it says so itself, as far as it can
        if server.healthy or isinstance(error, Silent):
            self.records.unanswered.append(Unanswered(server=server.number, what=str(error)))

    async def until_answered(
        self, method: str, path: str, body: object = None, *, headers: str = ""
    ) -> tuple[Reply, bool]:
        """Ask one server after the other until one has carried it out; return its answer, and whether others may have.

        Raises `NotReady` if there is no server.
        """
        others = False
        while True:
            server = await self.relay.ready()
            try:
                reply = await ask(server.port, method, path, body, headers=headers)
                if reply.status_code != 503:
                    return reply, others
            except (Broken, Silent) as error:
                others = True
                self.blame(server, error)
            await asyncio.sleep(POLL_S)
