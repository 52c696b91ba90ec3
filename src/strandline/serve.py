"""The composition root: builds the server from settings, runs it, and stops it cleanly.

`run` is the whole life of a process: listen, open the journal, serve, drain on SIGTERM or SIGINT, leave. It listens
before the journal is open, so that probes are answered while another server still owns it.
"""

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
import uvloop

from strandline import __version__
from strandline.agents.port import Target, TriedAtStart
from strandline.clock import Clock, SystemClock
from strandline.config import Settings, check_exposure, is_loopback
from strandline.engine.loops import AgentLoops
from strandline.engine.options import Options
from strandline.engine.service import Service
from strandline.errors import SettingsError, SetupError
from strandline.http.app import HttpOptions, build_app
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import Journal
from strandline.model import RunId, SessionKey
from strandline.stacks import answer

_log = logging.getLogger("strandline")

INTERRUPTED = 130
"""The exit code after a second Ctrl-C, as shells have it."""
EXHAUSTED = 70
"""The exit code if so many runs have ended and still work that the process has to be replaced (`max_holds`)."""
CONNECTIONS_GRACE_S = 2
"""How long open connections get to take their last answer, after the drain."""


def run(target: Target, settings: Settings, *, announce: Callable[[str], None] = lambda line: None) -> int:
    """Serve until told to stop and return the exit code. Raises a `SetupError` if it cannot start.

    `announce` is told one line for people once the server is ready, with its address.
    """
    check_exposure(settings)
    if not is_loopback(settings.host):
        _log.warning("everybody who reaches %s may use the agent: nobody has to show a key", settings.host)
    clock = SystemClock()
    journal = open_journal(settings, clock)
    listener = _listen(settings)
    server = _Server(target, settings, clock, journal, listener, announce)
    code = uvloop.run(server.life())
    if not server.loops.close():
        # A thread of user code still works; Python would wait for it at exit.
        _log.warning("left while user code still worked in a thread")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def new_run_id(clock: Clock) -> RunId:
    """Return an id that sorts by time: `run_`, 12 hex digits of milliseconds, 16 of chance."""
    return RunId(f"run_{int(clock.now() * 1000):012x}{secrets.token_hex(8)}")


def open_journal(settings: Settings, clock: Clock) -> Journal:
    """Return the journal that the settings name, not yet opened. Raises `SettingsError`."""
    kind, _, place = settings.journal.partition(":")
    if kind == "memory" and not place:
        return MemoryJournal(clock)
    if kind == "sqlite" and place:
        from strandline.journal.sqlite import SqliteJournal

        return SqliteJournal(Path(place), clock, lock_wait_s=settings.lock_wait, on_wait=_log.warning)
    raise SettingsError(f"journal is {settings.journal!r}; it must be `sqlite:PATH` or `memory:`")


def workspaces(settings: Settings) -> Callable[[SessionKey], str]:
    """Return a function that names a session's folder: by the SHA-256 of its key."""
    if settings.workspace is not None:
        root = Path(settings.workspace)
    elif settings.journal.startswith("sqlite:"):
        root = Path(settings.journal.removeprefix("sqlite:")).parent / "workspace"
    else:
        root = Path(".strandline") / "workspace"
    prefix = f"{root.absolute()}{os.sep}"

    def workspace(key: SessionKey) -> str:
        return prefix + hashlib.sha256("\0".join(key).encode()).hexdigest()

    return workspace


class _Server:
    """One process's life."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        clock: Clock,
        journal: Journal,
        listener: socket.socket,
        announce: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._target = target
        self._listener = listener
        self._announce = announce
        self._stop = asyncio.Event()
        self.loops = AgentLoops(executor_threads=settings.executor_threads, clock=clock, new_loop=uvloop.new_event_loop)
        self._service = Service(
            journal=journal,
            target=target,
            loops=self.loops,
            clock=clock,
            new_run_id=lambda: new_run_id(clock),
            workspace=workspaces(settings),
            options=Options(
                max_running=settings.max_running,
                max_queued_per_session=settings.max_queued_per_session,
                max_queued=settings.max_queued,
                timeout_s=settings.timeout,
                queue_timeout_s=settings.queue_timeout,
                cancel_grace_s=settings.cancel_grace,
                hold_limit_s=settings.hold_limit,
                max_holds=settings.max_holds,
                stall_after_s=settings.stall_after,
                stall_action=settings.stall_action,
                unknown_tool=settings.unknown_tool,
                idempotent_tools=frozenset(settings.idempotent_tools),
                on_failure=settings.on_failure,
                run_retention_s=settings.run_retention,
                max_attempts=settings.max_attempts if settings.after_crash == "resume" else 1,
                retry_after_s=settings.retry_after,
                drain_grace_s=settings.drain_grace,
                max_agents=settings.max_agents,
                agent_idle_s=settings.agent_idle,
                survives=not isinstance(journal, MemoryJournal),
            ),
            owner=settings.agent_id,
        )

    async def life(self) -> int:
        """Listen, start, serve until told to stop, drain, leave. Returns the exit code."""
        settings = self._settings
        app = build_app(
            self._service,
            HttpOptions(
                agent_id=settings.agent_id,
                max_body_bytes=settings.max_body_bytes,
                retry_after_s=settings.retry_after,
                loopback=is_loopback(settings.host),
                allowed_hosts=settings.allowed_hosts,
                cors_origins=settings.cors_origins,
            ),
        )
        web = _Web(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=CONNECTIONS_GRACE_S,
            )
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGUSR1, self._show_stacks)
        serving = asyncio.create_task(web.serve(sockets=[self._listener]))
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        idling = asyncio.create_task(self._stop_when_idle())
        exhausting = asyncio.create_task(self._service.exhausted.wait())
        try:
            await asyncio.wait([starting, stopping, serving], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                gc.freeze()  # what was imported will not become garbage: it need not be looked at again
                self._announce(self._welcome())
                await asyncio.wait([stopping, serving, exhausting], return_when=asyncio.FIRST_COMPLETED)
            else:
                starting.cancel()
                await asyncio.wait([starting])
            _log.info("stopping")
            await self._service.drain()
            _log.info("stopped")
            return EXHAUSTED if exhausting.done() and not self._stop.is_set() else 0
        finally:
            idling.cancel()
            exhausting.cancel()
            stopping.cancel()
            # Clients that never finish their request are cut; it would log a traceback for each of them.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            web.should_exit = True
            await asyncio.wait([serving], timeout=CONNECTIONS_GRACE_S + 1)

    def _show_stacks(self) -> None:
        """Write what every run does for whoever asked, if there is a file to write it beside."""
        kind, _, place = self._settings.journal.partition(":")
        if kind == "sqlite":
            try:
                answer(Path(place), self._service.stacks())
            except OSError as error:
                _log.error("what runs do could not be written down: %s", error)

    async def _start(self) -> None:
        """Learn what is served, then open the journal and let runs in."""
        if isinstance(self._target, TriedAtStart):
            await self.loops.start(self._target.try_out).done
        await self._service.start()

    def _interrupted(self) -> None:
        """Stop cleanly on the first Ctrl-C, at once on the second: the journal is safe either way."""
        if self._stop.is_set():
            _log.warning("left at once; what executed is taken up at the next start")
            os._exit(INTERRUPTED)
        self._stop.set()

    async def _stop_when_idle(self) -> None:
        minutes = self._settings.idle_timeout_minutes
        if minutes is None:
            return
        left_s = minutes * 60
        while left_s > 0:  # (idleness is read, not signalled: the hot path stays free of it)
            await asyncio.sleep(left_s)
            left_s = minutes * 60 - self._service.idle_s()
        _log.info("nothing has run, waited or been asked for in %g minutes", minutes)
        self._stop.set()

    def _welcome(self) -> str:
        host, port = self._listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"Strandline {__version__} serves {self._target.description} at http://{shown}:{port}"


class _Web(uvicorn.Server):
    """A uvicorn server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


def _listen(settings: Settings) -> socket.socket:
    """Return a listening socket. Raises `SetupError` that says what to do if there is none to be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        listener.close()
        raise SetupError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}. Name another with"
            " --port (0 lets the system choose), or stop what listens there"
        ) from None
    listener.listen(2048)
    listener.setblocking(False)
    return listener
