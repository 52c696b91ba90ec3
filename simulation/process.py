"""The life of one server, as what runs in it sees it: once it is dead, nothing of it may be seen any more."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from simulation.loop import Chance
from simulation.record import Record
from simulation.script import Script


class Process(Protocol):
    """The life of one server."""

    number: int
    alive: bool
    fenced: bool
    chance: Chance
    record: Record
    scripts: dict[str, Script]

    def note(self, what: str, run: str = "", **details: Any) -> None:
        """Write down an event."""
        ...

    def context(self) -> Context:
        """Return a context for what runs in it and is not the engine's."""
        ...

    def at_death(self, call: Callable[[], object]) -> None:
        """Have `call` called when the process dies."""
        ...


def alive(process: Process) -> None:
    """End the caller if its process is dead: nothing of it may be seen any more."""
    if not process.alive:
        raise asyncio.CancelledError
