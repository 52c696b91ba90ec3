"""Where clients live, and what all of them do: reach a server, write down how a run has ended."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from simulation.habits import Habits
from simulation.loop import Chance, UnsteadyClock
from simulation.script import Script, Traits
from simulation.server import Server
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._model import Outcome, Resolution, RunId, SessionKey
from strandline.errors import NotOwner

T = TypeVar("T")

FORWARD_S: Final = 15.0
"""How long a server tries to find the owner of a session."""
AGAIN_S: Final = 0.3


class Town(Protocol):
    """Where clients live."""

    chance: Chance
    scripts: dict[str, Script]
    traits: Traits
    sessions: list[SessionKey]
    alone: list[SessionKey]
    """Sessions in which hardly anything waits: a run that crashed there can be taken up."""
    request_limits: list[dict[str, float]]
    keyed: list[Request]
    habits: Habits
    clock: UnsteadyClock
    replaced: dict[str, RunId]
    """By the text of a request: the run that it is to replace."""
    resolutions: dict[str, Resolution]
    """By the text of a request: what is said of the crashed run that it is to continue."""
    last_accepted: dict[SessionKey, deque[RunId]]
    """The last runs of each session of which clients know."""
    forked: list[SessionKey]
    """The sessions that may have been made as forks of others."""
    forgets: bool
    """Whether sessions are deleted, by people or by retention."""
    resends: bool
    """Whether a key lives longer than anybody is interested in its run."""

    def reached(self) -> Server | None:
        """Return a server that clients reach, which may not be ready; None: there is none."""
        ...

    def owner(self, server: Server, partition: int) -> Server | None:
        """Return which server owns a partition for all that one of them knows; None if that is not ready."""
        ...

    def has_effect(self, tool_use_id: str) -> bool:
        """Return whether a tool has taken effect, in whichever run."""
        ...

    def new_schedule(self) -> int:
        """Return a number that no schedule has yet."""
        ...

    def note(self, what: str, run: str = "", **details: object) -> None:
        """Write down an event."""
        ...

    def new_text(self) -> str:
        """Return a text that nobody has sent yet."""
        ...


async def requested(town: Town, server: Server, call: Callable[[Service], Coroutine[Any, Any, T]]) -> tuple[Server, T]:
    """Send a request to a server, which has it answered by the owner of its session; return that one and its answer.

    Raises `Gone` if a server dies meanwhile.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + FORWARD_S
    while True:
        try:
            return server, await server.ask(call(server.service))
        except NotOwner as moved:
            if loop.time() >= until:
                raise
            owner = town.owner(server, moved.partition)
            if owner is None or owner is server:
                await asyncio.sleep(AGAIN_S)
            else:
                server = owner


async def reachable(town: Town) -> Server | None:
    """Return a server that takes requests, None if there is none for long."""
    for _ in range(3):
        server = town.reached()
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
