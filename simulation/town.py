"""Where clients live, and what all of them do: reach a server, write down how a run has ended."""

import asyncio
from typing import Protocol

from simulation.loop import Chance
from simulation.script import Script, Traits
from simulation.server import Server
from strandline._engine.requests import Request
from strandline._engine.streams import Later
from strandline._model import Outcome, SessionKey


class Town(Protocol):
    """Where clients live."""

    chance: Chance
    scripts: dict[str, Script]
    traits: Traits
    sessions: list[SessionKey]
    server: Server | None
    request_limits: list[dict[str, float]]
    keyed: list[Request]
    resends: bool
    """Whether a key lives longer than anybody is interested in its run."""

    def note(self, what: str, run: str = "", **details: object) -> None:
        """Write down an event."""
        ...

    def new_text(self) -> str:
        """Return a text that nobody has sent yet."""
        ...


async def reachable(town: Town) -> Server | None:
    """Return a server that takes requests, None if there is none for long."""
    for _ in range(3):
        server = town.server
        if server is not None and server.ready:
            return server
        await asyncio.sleep(1.0)
    return None


def note_end(town: Town, run: str, reported: Outcome | Later) -> None:
    """Record how a run is reported to have ended."""
    if isinstance(reported, Later):
        town.note("later", run)
    else:
        code = reported.error.code.value if reported.error else ""
        town.note("outcome", run, status=reported.status.value, code=code, output=reported.output)
