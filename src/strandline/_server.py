"""A server's process, from its first to its last moment.

`run` is all of it: listen, open the journal, serve, drain on SIGTERM or SIGINT, leave. It listens
before the journal is open, so that probes are answered while another server still owns it.

A server whose socket was handed in (`strandline._reload`) has a successor: it stops accepting before it drains, so that
connections that arrive meanwhile wait in the socket for the next one, and none is refused.
"""

import asyncio
import functools
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import uvloop

from strandline import __version__
from strandline import _logs as logs
from strandline._access.source import Keys, keys_of
from strandline._agents.port import Target
from strandline._clock import Clock, SystemClock
from strandline._compat import uvicorn
from strandline._composition import build_http, build_loops, build_service, open_journal, start
from strandline._config import check_exposure, is_loopback, journal_file
from strandline._exits import EXHAUSTED, INTERRUPTED
from strandline._garbage import collect_less_often
from strandline._http.app.errors import render_problem
from strandline._http.middleware.connections import Connections, allowed
from strandline._journal.port import Journal
from strandline._listener import close_in_forks, listen
from strandline._settings import Settings
from strandline._stacks import write_report
from strandline._telemetry.export import export_if_wanted, flush
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.traces import Traces
from strandline.errors import Draining

_log = logging.getLogger("strandline")

CONNECTIONS_GRACE_S = 2
"""How long open connections get to take their last write_report, after the drain."""
LAST_REQUESTS_S = 1.5
"""How long a request may take to be here while the server stops; within `CONNECTIONS_GRACE_S`, so that each is told."""
ARRIVAL_S = 0.05
"""How long a request may be under way on a connection that has been accepted, when a successor takes the others."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What a server gets from the process that holds its socket, and what that process wants to hear.

    `ready` is told how many runs of its predecessors go on; `stopping` how many execute and wait when it stops.
    """

    listener: socket.socket
    ready: Callable[[int], None]
    stopping: Callable[[int, int], None]


def run(
    target: Target,
    settings: Settings,
    *,
    announce: Callable[[str], None] = lambda line: None,
    handed: Handover | None = None,
) -> int:
    """Serve until told to stop and return the exit code. Raises a `SetupError` if it cannot start.

    `announce` is told one line for people once the server is ready, with its address.
    """
    check_exposure(settings)
    keys = keys_of(settings)
    if keys is None and not is_loopback(settings.host):
        _log.warning(
            "everybody who reaches %s may use the agent: nobody has to show a key. Requests are answered under IP"
            " addresses, localhost%s (setting allowed_hosts)",
            settings.host,
            "".join(f", {each}" for each in settings.allowed_hosts) or " and no other name",
        )
    clock = SystemClock()
    recorder, traces = MetricsRecorder(), Traces()
    export_if_wanted(os.environ, settings.agent_id)
    journal = open_journal(settings, clock, recorder)
    listener = listen(settings) if handed is None else handed.listener
    close_in_forks(listener)
    server = _Server(target, settings, clock, recorder, traces, journal, keys, listener, announce, handed)
    try:
        code = uvloop.run(server.life())
        flush()
        if not server.idle:
            # A thread of user code still works; Python would wait for it at exit.
            _log.warning("left while user code still worked in a thread")
            _leave(code)
    finally:
        logs.flush()
    if not logs.flush_printed():
        _leave(code)  # (Python would wait for whoever does not read)
    return code


def _leave(code: int) -> NoReturn:
    """End the process at once, whatever still works in it."""
    logs.flush()
    logs.flush_printed()
    os._exit(code)


class _Server:
    """One process's life."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        clock: Clock,
        recorder: MetricsRecorder,
        traces: Traces,
        journal: Journal,
        keys: Keys | None,
        listener: socket.socket,
        announce: Callable[[str], None],
        handed: Handover | None,
    ) -> None:
        self._handed = handed
        self._keys = keys
        self._settings = settings
        self._recorder = recorder
        self._traces = traces
        self._target = target
        self._listener = listener
        self._announce = announce
        self._stop = asyncio.Event()
        self.idle = False
        """Whether no user code works any more, once its life is over."""
        self._showing: asyncio.Task[None] | None = None
        self.loops = build_loops(settings, target, clock, uvloop.new_event_loop)
        self._service = build_service(settings, target, journal, self.loops, clock, recorder, traces)

    async def life(self) -> int:
        """Listen, start, serve until told to stop, drain, leave. Returns the exit code."""
        settings = self._settings
        app = build_http(
            settings, self._service, self._recorder, self._traces, loopback=is_loopback(settings.host), keys=self._keys
        )
        connections = self._connections()
        late = Draining(
            "the server is stopping, and the request was not here yet", retry_after_s=settings.retry_after_s
        )
        refuse_late = functools.partial(connections.stop, late, LAST_REQUESTS_S)
        web = _Web(
            uvicorn.Config(
                app,
                http=connections,  # type: ignore[arg-type]  # (it makes them, and is no class)
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=CONNECTIONS_GRACE_S,
            )
        )
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        if self._handed is None:  # (else Ctrl-C is for the parent to act on, which gets it too)
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # (else it was started to outlive its terminal)
                loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        loop.add_signal_handler(signal.SIGUSR1, self._show_stacks)
        starting = asyncio.create_task(start(self._service, self._target, self.loops))
        # Probes are answered while it starts; but a successor lets them wait, since nobody has seen it stop.
        first = starting if self._handed is not None else None
        serving = asyncio.create_task(web.serve_after(first, self._listener))
        stopping = asyncio.create_task(self._stop.wait())
        idling = asyncio.create_task(self._stop_when_idle(starting))
        exhausting = asyncio.create_task(self._service.exhausted.wait())
        following = asyncio.create_task(self._follow_keys(loop))
        try:
            await asyncio.wait([starting, stopping, serving], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                collect_less_often()
                self._announce(self._welcome())
                if self._handed is not None:
                    health = self._service.health()
                    self._handed.ready(health.running + health.queue_depth)
                await asyncio.wait([stopping, serving, exhausting], return_when=asyncio.FIRST_COMPLETED)
            else:
                starting.cancel()
                await asyncio.wait([starting])
            _log.info("stopping")
            refuse_late()
            if self._handed is not None:
                await self._leave_the_rest(web, self._handed)
            await self._service.drain(close=False)
            _log.info("stopped")
            return EXHAUSTED if exhausting.done() and not self._stop.is_set() else 0
        finally:
            idling.cancel()
            following.cancel()
            exhausting.cancel()
            stopping.cancel()
            refuse_late()  # (if its start has failed)
            # Clients that never take their answer are cut; it would log a traceback for each of them.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            web.should_exit = True
            await asyncio.wait([serving], timeout=CONNECTIONS_GRACE_S + 1)
            # Before the journal is another server's: what works on after its run has ended does so beside no other.
            self.idle = self.loops.close()
            # Not before: who waited for a run reads it now, and must not hear that there is no journal.
            await self._service.close()

    async def _leave_the_rest(self, web: "_Web", handed: Handover) -> None:
        """Accept no connection any more, and no further request on those that are open."""
        web.stop_accepting()
        await asyncio.sleep(ARRIVAL_S)
        web.shutdown_connections()
        health = self._service.health()
        handed.stopping(health.running, health.queue_depth)

    def _connections(self) -> Connections:
        wanted = self._settings.max_connections
        if (most := allowed(wanted)) < wanted:
            _log.warning(
                "at most %d connections instead of %d: the system lets this process open no more files (ulimit -n)",
                most,
                wanted,
            )
        patience_s = self._settings.receive_timeout_s
        return Connections(most=most, patience_s=patience_s, on_end=self._recorder.cut_off, render=render_problem)

    async def _follow_keys(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let those keys in that the file has by now: it is looked at from time to time, and at once on SIGHUP."""
        if (keys := self._keys) is None or keys.file is None:
            return
        looks: set[asyncio.Task[None]] = set()

        def look() -> None:
            looks.add(task := asyncio.create_task(keys.reload()))
            task.add_done_callback(looks.discard)

        if self._handed is None:  # (else it is for the parent, and tells both that their terminal is gone)
            loop.add_signal_handler(signal.SIGHUP, look)
        await keys.follow()

    def _show_stacks(self) -> None:
        """Write what every run does for whoever asked, if there is a file to write it beside."""
        if (place := journal_file(self._settings)) is not None:
            self._showing = asyncio.create_task(self._write_stacks(place))

    async def _write_stacks(self, place: Path) -> None:
        try:
            write_report(place, await self._service.stacks())
        except OSError as error:
            _log.error("what runs do could not be written down: %s", error)

    def _hung_up(self) -> None:
        """Stop cleanly: the terminal is gone. (With a file of keys SIGHUP means another thing, see `_follow_keys`.)"""
        _log.info("told to hang up (SIGHUP)")
        self._stop.set()

    def _interrupted(self) -> None:
        """Stop cleanly on the first Ctrl-C, at once on the second: the journal is safe either way."""
        if self._stop.is_set():
            _log.warning("left at once; what executed is taken up at the next start")
            logs.flush()
            os._exit(INTERRUPTED)
        self._stop.set()

    async def _stop_when_idle(self, starting: "asyncio.Task[None]") -> None:
        minutes = self._settings.idle_timeout_minutes
        if not minutes:
            return
        await asyncio.wait([starting])  # however long that takes: nobody could ask for anything before
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
    """The web server, which may have to wait for something before it serves."""

    async def serve_after(self, first: "asyncio.Task[None] | None", listener: socket.socket) -> None:
        """Serve, once `first` has ended well."""
        if first is not None:
            await asyncio.wait([first])
            if first.cancelled() or first.exception() is not None:
                return
        await self.serve(sockets=[listener])
