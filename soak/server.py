"""The real server as processes: the one that owns the journal, and others that wait to take it over.

`Relay` keeps some waiting, so that the next one serves as soon as the lock is free, which takes no more than it takes
a standby in production. Knows of a server what an operator sees: its command, its log, its exit code. Most of them are
forked by the nursery, which is quicker; some are started as an operator does.
"""

import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from soak.clock import environment
from soak.kills import WORKERS
from soak.ledger import VARIABLE
from soak.nursery import Newborn, Nursery
from soak.records import Exit, Signal
from soak.stored import FileListing, Listing

COMMAND: Final = Path(sys.executable).parent / "strandline"
ROOT: Final = Path(__file__).parents[1]
STANDBYS: Final = 2
SHOWN_LINES: Final = 3
"""How many of its last log lines are shown of a server that should be ready, or has just ended."""
SHOWN_ENDED: Final = 3
MOST_FAILED: Final = 3
"""How many servers may end by themselves before the first one is ready: then none will ever be."""
BY_COMMAND: Final = 10
"""Every server of so many is started as an operator does."""
_URL: Final = re.compile(rb" at http://127\.0\.0\.1:(\d+)$")
_ENTRY: Final = re.compile(rb"\d{4}-\d\d-\d\d ")
_BAD: Final = re.compile(r"Traceback| ERROR | CRITICAL ")
_DIED: Final = re.compile(r" ERROR strandline\.workers: worker \d+ \(process (\d+)\) has died: ended by SIGKILL$")
_STRUCK: Final = ("an agent loop is blocked for good and is given up", "not ready: no worker takes calls")
_OURS: Final = re.compile(r"STRANDLINE_|AGENT_ID$|PORT$|IDLE_TIMEOUT_MINUTES$")
_SIGNALS: Final[dict[Signal, signal.Signals]] = {
    "KILL": signal.SIGKILL,
    "TERM": signal.SIGTERM,
    "STOP": signal.SIGSTOP,
}
Phase = Literal["starting", "waiting", "ready"]


Process = asyncio.subprocess.Process | Newborn


class NotReady(Exception):
    """No server became ready. Says what those that are there, and those that ended last, have logged."""


class Server:
    """One process of `strandline serve`."""

    def __init__(
        self, number: int, log: Path, *, workers: bool = False, clock_s: float = 0.0, excused: Sequence[str] = ()
    ) -> None:
        self.number = number
        self.clock_s = clock_s
        """By how much its clock is off."""
        self._excused = excused
        self._is_excused = False
        """Whether the present entry of its log is one of those, with the lines that belong to it."""
        self.has_workers = workers
        self.struck: set[int] = set()
        """The processes of workers that something was done to."""
        self.port = 0
        self.phase: Phase = "starting"
        self.signals: list[Signal] = []
        self.is_frozen = False
        self.phase_at_signal: Phase = "starting"
        self.code: int | None = None
        self._log = log
        self._complaints: list[str] = []
        self._last_lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self._process: Process | None = None

    @property
    def healthy(self) -> bool:
        """Whether it should answer: it is ready, and nobody has stopped it."""
        return self.phase == "ready" and not self.is_stopped and not self.is_frozen and self.code is None

    @property
    def is_stopped(self) -> bool:
        """Whether it was killed, or sent SIGTERM."""
        return "KILL" in self.signals or "TERM" in self.signals

    @property
    def pid(self) -> int:
        """The number of its process; 0: it has none yet."""
        return self._process.pid if self._process is not None else 0

    @property
    def account(self) -> str:
        """What is known of it, for people: how far it is, what was done to it, and its last log lines."""
        ended = f", ended with {self.code}" if self.code is not None else ""
        sent = f", sent {'+'.join(self.signals)}" if self.signals else ""
        return f"server {self.number} ({self.phase}{sent}{ended}): {' | '.join(self._last_lines) or 'no log'}"

    async def live(self, starting: Awaitable[Process], changed: "Change") -> Exit:
        """Start the process, follow its log, and return how it ended."""
        self._process = process = await starting
        try:
            for early in self.signals:
                with suppress(ProcessLookupError):
                    process.send_signal(_SIGNALS[early])
            assert process.stderr is not None
            with self._log.open("wb") as log:
                async for line in process.stderr:
                    log.write(line)
                    self._read(line, changed)
            self.code = await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            changed.notify()
        if not self._complaints and self.signals:
            self._log.unlink()
        return Exit(
            server=self.number,
            signals=tuple(self.signals),
            phase=self.phase_at_signal if self.signals else self.phase,
            code=self.code,
            complaints=tuple(self._complaints),
            pid=process.pid,
            clock_s=self.clock_s,
        )

    def send(self, which: Signal) -> None:
        """Send a signal, if it still runs; one that ends it is sent as soon as there is a process."""
        if which == "STOP" if self._process is None else self._process.returncode is not None:
            return
        if not self.signals:
            self.phase_at_signal = self.phase
        self.signals.append(which)
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(_SIGNALS[which])
        self.is_frozen = which == "STOP"

    def thaw(self) -> None:
        """Have it continue after a `STOP`."""
        if self._process is not None and self._process.returncode is None and self.is_frozen:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
        self.is_frozen = False

    def workers(self) -> list[int]:
        """Return the processes of its workers, also of those that load what they serve or are about to end."""
        if not self.has_workers or self._process is None or not self._process.pid:
            return []
        return sorted(pid for pid, parent in _parents() if parent == self._process.pid)

    def _read(self, line: bytes, changed: "Change") -> None:
        self._last_lines.append(line.decode(errors="replace").strip()[:200])
        if _ENTRY.match(line):
            self._is_excused = any(each in line.decode(errors="replace") for each in self._excused)
        if found := _URL.search(line.rstrip()):
            self.port = int(found.group(1))
            self.phase = "ready"
            changed.notify()
        elif b"waiting for the journal" in line and self.phase == "starting":
            self.phase = "waiting"
            changed.notify()
        elif _BAD.search(text := line.decode(errors="replace")) and not (self._is_excused or self._has_reason(text)):
            self._complaints.append(text.strip()[:500])

    def _has_reason(self, text: str) -> bool:
        """Return whether a line of its log is about what was done to its workers."""
        if died := _DIED.search(text):
            return int(died[1]) in self.struck
        return bool(self.struck) and any(each in text for each in _STRUCK)


def _parents() -> Iterator[tuple[int, int]]:
    """Yield all processes, each with its parent."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            yield int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])


class Change:
    """Wakes those that wait for a change of the servers."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all that wait."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next change."""
        await self._event.wait()


class Relay:
    """The servers of one journal. `exits` grows as they end; `__aexit__` ends them all."""

    excused: Sequence[str] = ()
    """What a server may complain of because of what is done to others."""

    def __init__(
        self, target: str, flags: Sequence[str], folder: Path, *, workers: Callable[[int], bool] = lambda number: False
    ) -> None:
        self.exits: list[Exit] = []
        self.listing: Listing = FileListing(folder / "journal.db")
        self.ledger = folder / "ledger.jsonl"
        self.started = 0
        self._clock: Callable[[int], float] = lambda number: 0.0
        """By how much the clocks of servers are off, by their numbers."""
        self._command = [str(COMMAND), "serve", target, "--port", "0", *flags]
        self._journal = f"sqlite:{folder / 'journal.db'}"
        self._folder = folder
        self._workers = workers
        """Which servers have workers, by their numbers."""
        self._nursery = Nursery(self._environment(), folder) if sys.platform == "linux" else None
        self._changed = Change()
        self._tasks: dict[Server, asyncio.Task[None]] = {}
        self._ended: deque[Server] = deque(maxlen=SHOWN_ENDED)
        self._failed = 0
        """How many have ended that were sent no signal."""
        self._has_served = False
        self._ending = False

    async def __aenter__(self) -> "Relay":
        """Start the first servers."""
        (self._folder / "log").mkdir(exist_ok=True)
        if self._nursery is not None:
            await self._nursery.__aenter__()
        self._fill()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Kill what still runs, and see it end."""
        self._ending = True
        for server in list(self._tasks):
            server.send("KILL")
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        if self._nursery is not None:
            await self._nursery.__aexit__(*error)

    @property
    def owner(self) -> Server | None:
        """The server that serves, None while there is none."""
        return next((server for server in self._tasks if server.healthy), None)

    @property
    def with_workers(self) -> list[Server]:
        """Those that answer and have workers."""
        return [server for server in self._tasks if server.healthy and server.has_workers]

    @property
    def alive(self) -> list[Server]:
        """Those whose processes have not ended."""
        return list(self._tasks)

    @property
    def others(self) -> list[Server]:
        """Those that wait for the journal, are about to, or are taking it over."""
        return [server for server in self._tasks if server.phase != "ready" and not server.signals]

    async def ready(self, deadline_s: float = 60.0) -> Server:
        """Return the server that serves, once there is one.

        Raises `NotReady` at the deadline, and at once where so many of the first servers ended that nobody had struck.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while (owner := self.owner) is None:
                    if not self._has_served and self._failed >= MOST_FAILED:
                        raise self._not_ready(f"before {MOST_FAILED} had ended by themselves")
                    await self._changed.wait()
        except TimeoutError:
            raise self._not_ready(f"within {deadline_s:g} s") from None
        self._has_served = True
        return owner

    def _not_ready(self, when: str) -> NotReady:
        accounts = "; ".join(server.account for server in (*self._ended, *self._tasks))
        return NotReady(f"no server became ready {when}: {accounts or 'there is none'}")

    async def ended(self, server: Server) -> None:
        """Return when a server's process has ended."""
        while server in self._tasks:
            await self._changed.wait()

    async def finish(self) -> None:
        """Have all stop as an operator does, those that wait first, and see them end."""
        self._ending = True
        for phase in ("waiting", "ready"):
            for server in [each for each in self._tasks if (each.phase == "ready") == (phase == "ready")]:
                server.send("TERM")
                await self.ended(server)

    def _fill(self) -> None:
        """Start servers until one serves or is to serve, and `STANDBYS` wait."""
        alive = sum(1 for server in self._tasks if not server.signals)
        self._start(1 + STANDBYS - alive)

    def _start(self, count: int) -> None:
        for _ in range(0 if self._ending else count):
            self.started += 1
            log = self._folder / "log" / f"server-{self.started:05d}.txt"
            server = Server(
                self.started,
                log,
                workers=self._workers(self.started),
                clock_s=self._clock(self.started),
                excused=self.excused,
            )
            self._tasks[server] = asyncio.create_task(self._live(server))

    async def _live(self, server: Server) -> None:
        try:
            self.exits.append(await server.live(self._started(server), self._changed))
        finally:
            del self._tasks[server]
            self._ended.append(server)
            self._failed += not server.signals
            self._changed.notify()
            self._fill()

    async def _started(self, server: Server) -> Process:
        workers = ("--workers", str(WORKERS)) if server.has_workers else ()
        command = [*self._command, *await self._options(server), *workers]
        clock = environment(server.clock_s, self._environment()["PYTHONPATH"]) if server.clock_s else {}
        if self._nursery is not None and server.number % BY_COMMAND:
            return await self._nursery.born(server.number, command, clock)
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=self._folder,
            env=self._environment() | clock,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the soak, which then ends its servers itself
        )

    async def _options(self, server: Server) -> list[str]:
        """Return what else a server is started with."""
        del server
        return ["--journal", self._journal]

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**clean, "PYTHONPATH": paths, "COLUMNS": "200", VARIABLE: str(self.ledger)}
