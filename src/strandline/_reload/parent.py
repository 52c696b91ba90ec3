"""The parent of `strandline serve --reload`: watches files, and has one server after the other.

Invariants: at most one child serves; the next one starts serving when its predecessor has ended. Code that does not
load never replaces code that does: each child loads its target while its predecessor serves, and is dropped if it
cannot.
"""

import asyncio
import importlib.util
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from strandline import __version__
from strandline._config import CONFIG, TOML_FILE, check_exposure
from strandline._exits import REFUSED, as_shells_report, describe_exit
from strandline._listener import listen
from strandline._reload.changes import Changes
from strandline._reload.messages import display_path, executing, resumed, unfinished
from strandline._settings import Settings
from strandline._supervision.orders import Orders
from strandline._supervision.parent import Child, Parent
from strandline.errors import TargetError

QUIET_S: Final = 0.15
"""A reload begins after this long without a change: editors and version control write several files at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to serve and how: `arguments` are those of `strandline serve`, without `--reload`."""

    arguments: Sequence[str]
    folder: Path
    files: Sequence[Path]
    settings: Settings


def plan(target: str, arguments: Sequence[str], config: Path | None, settings: Settings) -> Plan:
    """Return what to watch and start for TARGET. Address and port stay fixed, even if settings change.

    Raises `TargetError` for a missing file: that is a typing error, not code to wait for.
    """
    where = target.partition(":")[0]
    if where.endswith(".py") and not Path(where).is_file():
        raise TargetError(f"{where} does not exist. TARGET is the path of a Python file, seen from {Path.cwd()}")
    folder = Path(where).resolve().parent if where.endswith(".py") else Path.cwd()
    files = [folder / TOML_FILE, config or Path(os.environ.get(CONFIG) or TOML_FILE)]
    return Plan(list(arguments), folder, [file.absolute() for file in files], settings)


def supervise(plan: Plan, say: Callable[[str], None]) -> int:
    """Serve, and reload whenever the code changes, until stopped. Return the exit code.

    Raises `SetupError` if it cannot listen. `say` prints a line for people.
    """
    check_exposure(plan.settings)
    listener = listen(plan.settings)
    try:
        return asyncio.run(_Parent(plan, listener, say).life())
    finally:
        listener.close()


class _Parent(Parent):
    """One supervision: `_serving` is the child that serves, `_next` the one that loads or waits for its turn."""

    def __init__(self, plan: Plan, listener: socket.socket, say: Callable[[str], None]) -> None:
        super().__init__(listener, say)
        self._plan = plan
        self._arguments = [*plan.arguments, "--host", plan.settings.host, "--port", str(listener.getsockname()[1])]
        self._serving: Child | None = None
        self._next: Child | None = None
        self._changed: set[Path] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._away_since: float | None = None

    async def life(self) -> int:
        """Follow the files for as long as it lives."""
        loop = asyncio.get_running_loop()
        changes = Changes(
            self._plan.folder,
            self._plan.files,
            lambda path: loop.call_soon_threadsafe(self._note, path),  # type: ignore[arg-type]
        )
        changes.start()
        try:
            return await super().life()
        finally:
            changes.stop()

    async def _begin(self) -> None:
        self._say(f"Strandline {__version__} reloads whenever Python files in {self._plan.folder} change")
        if self._plan.settings.journal == "memory:":
            self._say("The journal is in memory: each reload loses all conversations and runs")
        await self._start_next()

    # -- what happens ------------------------------------------------------------------------------

    def _note(self, path: Path) -> None:
        """Collect changed files until none has changed for `QUIET_S`."""
        self._changed.add(path)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._happened.put_nowait, self._reload)

    async def _reload(self) -> None:
        changed, self._changed = self._changed, set()
        if not changed:
            return
        await self._give_up_next()
        if self._stopping:  # (perhaps stopped meanwhile: the socket is closed)
            return
        names = sorted(display_path(path, self._plan.folder) for path in changed)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        self._say(f"{', '.join(names[:3])}{more} changed; loading")
        for path in changed:
            forget_compiled(path)
        await self._start_next()

    def _heard(self, child: Child, message: dict[str, Any]) -> None:
        """Handle a message of a child."""
        match message:
            case {"event": "stopping", "running": int(running)} if self._stopping and running:
                grace_s = self._plan.settings.drain_grace_s
                self._say(f"{executing(running)}: {grace_s:g} s to finish; Ctrl-C again exits at once")
            case _ if self._stopping:
                pass
            case {"event": "loaded"} if child is self._next:
                child.loaded = True
                if self._serving is None:
                    self._give_turn()
                else:
                    self._serving.stop()
            case {"event": "welcome", "line": line}:
                if self._away_since is None:
                    self._say(line)
            case {"event": "ready", "runs": runs}:
                child.ready = True
                if self._away_since is not None:
                    self._say(f"Reloaded; requests waited {monotonic() - self._away_since:.1f} s.{resumed(runs)}")
                    self._away_since = None
            case {"event": "stopping", "running": running, "waiting": waiting}:
                self._away_since = monotonic()
                for line in unfinished(running, waiting, self._plan.settings.drain_grace_s):
                    self._say(line)

    async def _ended(self, child: Child, code: int) -> None:
        """Handle the end of a child, wanted or not."""
        if child is self._next:
            self._next = None
            if not self._stopping:
                old = self._serving is not None and not self._serving.stopping
                self._say(
                    "The new code does not load: the server keeps the old code until the next change"
                    if old
                    else "The code does not load: requests wait until the next change"
                )
        elif child is self._serving:
            self._serving = None
            if self._stopping:
                self._code = as_shells_report(code)
            elif child.stopping:
                if self._next is not None and self._next.loaded:
                    self._give_turn()
            else:
                await self._ended_by_itself(child, code)
        if self._stopping and self._serving is None and self._code is None:
            self._code = 0

    async def _ended_by_itself(self, child: Child, code: int) -> None:
        if code == 0 or (code == REFUSED and not child.ready):
            if code == 0:
                self._say("The server stopped by itself (setting idle_timeout_minutes)")
            self._code = code
            return
        if not child.ready:
            self._say(
                f"The server ended before it was ready ({describe_exit(code)}): requests wait until the next change"
            )
            return
        self._away_since = monotonic()
        self._say(f"The server ended by itself ({describe_exit(code)}); restarting it")
        if self._next is None:
            await self._start_next()
        elif self._next.loaded:
            self._give_turn()

    def _stop(self) -> None:
        self._say("Stopping")
        self._listener.close()
        if self._next is not None and self._next.is_there:
            self._next.process.kill()
        if self._serving is not None:
            self._serving.stop()
        elif self._next is None:
            self._end(0)

    # -- children ----------------------------------------------------------------------------------

    async def _start_next(self) -> None:
        self._next = await self._start(self._arguments, Orders())

    async def _give_up_next(self) -> None:
        """End a child that is loading outdated code."""
        if (child := self._next) is None:
            return
        self._next = None
        if child.is_there:
            child.process.kill()
        await child.process.wait()

    def _give_turn(self) -> None:
        assert self._next is not None
        self._serving, self._next = self._next, None
        self._serving.serve()


def forget_compiled(path: Path) -> None:
    """Delete the bytecode of a file: Python compares it by size and second only, and a person may save faster."""
    with suppress(OSError, NotImplementedError):
        os.unlink(importlib.util.cache_from_source(str(path)))
