"""A server of `alternatives` as a real process, with the operations of `Server`: `Alternative`."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acceptance.server import Server


class Alternative(Server):
    """One module of `alternatives`, serving `make_agent` of a file or another function that it names."""

    def __init__(self, module: str, target: Path, *, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(target, folder=folder, variables=variables, journal=None)
        self._module = module
        self._agent = f"{target}:make_agent"

    def command(self) -> list[str]:
        """Return what starts the process."""
        return [sys.executable, "-m", f"alternatives.{self._module}", "--agent", self._agent]

    def inside(self) -> int:
        """Return how many requests wait or execute."""
        health = self.health()
        return int(health["processing"]) + int(health["queue_depth"])

    def history(self, session_id: str = "default") -> list[Any]:
        """Return the whole history, sound or not."""
        messages: list[Any] = self.client.get("/history", params={"session_id": session_id}).json()["messages"]
        return messages


@contextmanager
def serving(module: str, target: Path, *, folder: Path, variables: Mapping[str, str]) -> Iterator[Alternative]:
    """Serve an alternative for the time of a `with`."""
    server = Alternative(module, target, folder=folder, variables=variables)
    try:
        server.start()
        yield server
    finally:
        server.close()
