"""A server's process, from its first to its last moment.

`run` is all of it: listen, open the journal, serve, drain on SIGTERM or SIGINT, leave. It listens
before the journal is open, so that probes are answered while another server still owns it.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn
import uvloop

from strandline import __version__
from strandline.agents.port import Target
from strandline.clock import Clock, SystemClock
from strandline.composition import build_face, build_loops, build_service, open_journal, start
from strandline.config import Settings, check_exposure, is_loopback, journal_file
from strandline.errors import SetupError
from strandline.journal.port import Journal
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
        self.loops = build_loops(settings, clock, uvloop.new_event_loop)
        self._service = build_service(settings, target, journal, self.loops, clock)

    async def life(self) -> int:
        """Listen, start, serve until told to stop, drain, leave. Returns the exit code."""
        settings = self._settings
        app = build_face(settings, self._service, loopback=is_loopback(settings.host))
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
        starting = asyncio.create_task(start(self._service, self._target, self.loops))
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
        if (place := journal_file(self._settings)) is not None:
            try:
                answer(place, self._service.stacks())
            except OSError as error:
                _log.error("what runs do could not be written down: %s", error)

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
