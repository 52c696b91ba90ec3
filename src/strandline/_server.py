"""The server process: listen, open the journal, serve, drain on SIGTERM or SIGINT, exit.

It listens before the journal is open, so that it answers probes while another server still owns the journal.

A server with an inherited socket (`strandline._supervision`) has a successor, or others beside it: it stops accepting
before it drains, so that new connections wait in the socket for them, and none is refused. If all stop, it refuses.
"""

import asyncio
import functools
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import uvloop
from starlette.types import ASGIApp

from strandline import __version__
from strandline import _logs as logs
from strandline._access.source import Keys, keys_of
from strandline._agents.port import Target
from strandline._clock import Clock
from strandline._compat import uvicorn
from strandline._composition import build_clock, build_http, build_loops, build_service, open_journal, start
from strandline._config import (
    check_exposure,
    exposed_to_all,
    is_loopback,
    journal_database,
    journal_file,
    workspaces_folder,
)
from strandline._exits import EXHAUSTED, EXITED_AT_ONCE, INTERRUPTED, LOST
from strandline._garbage import collect_less_often
from strandline._http.app.build import Apps
from strandline._http.app.errors import render_problem
from strandline._http.forwarding.inner import not_answered
from strandline._http.middleware.connections import Connections, allowed
from strandline._journal.port import Journal, Leased
from strandline._listener import address_for_servers, close_in_forks, listen, listen_alone, listen_for_servers
from strandline._settings import Settings
from strandline._stacks import beside, within, write_report
from strandline._telemetry.export import export_if_wanted, flush
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.traces import Traces
from strandline.errors import Draining

_log = logging.getLogger("strandline")

CONNECTIONS_GRACE_S = 2
"""How long open connections get to receive their last response, after the drain."""
LAST_REQUESTS_S = 1.5
"""How long a request may take to arrive during a stop: less than `CONNECTIONS_GRACE_S`, so each gets a response."""
ARRIVAL_S = 0.05
"""How long a request may take to arrive on an accepted connection when a successor takes over."""


IDLE_LOOK_S = 1.0
"""How often an idle server with others beside it looks whether it still is."""
BETWEEN_SERVERS_S = 75
"""How long an idle connection of another server stays open: longer than that server keeps it."""
FILES_BESIDE_OTHERS = 3
"""How many connections there may be for each client's, with several servers: its own, the one to the server that has
its session, and one of another server's client."""


@dataclass(frozen=True, slots=True)
class Handover:
    """The socket from the parent process, and its callbacks.

    `ready` gets the number of runs from predecessors; `stopping` gets the numbers of executing and waiting runs.
    """

    listener: socket.socket
    ready: Callable[[int], None]
    stopping: Callable[[int, int], None]
    answers_while_starting: bool
    """Whether to accept connections before it is ready. (If not, they wait for others, or for its start.)"""
    others_accept: Callable[[], bool]
    """Whether other processes accept connections once this one stops to."""
    idle: Callable[[bool], None] | None
    """Gets whether it is idle, in place of a stop (`idle_timeout_minutes`)."""


def run(
    target: Target,
    settings: Settings,
    *,
    announce: Callable[[str], None] = lambda line: None,
    handover: Handover | None = None,
) -> int:
    """Serve until a signal to stop, and return the exit code. Raises a `SetupError` if it cannot start.

    `announce` gets one line with the address once the server is ready.
    """
    check_exposure(settings)
    keys = keys_of(settings)
    if (remark := exposed_to_all(settings)) is not None and (handover is None or handover.idle is None):
        _log.warning("%s", remark)  # (else the parent has said so, once for all)
    clock = build_clock(settings)
    recorder, traces = MetricsRecorder(), Traces()
    export_if_wanted(os.environ, settings.agent_id)
    inner = None if journal_database(settings) is None else listen_for_servers(settings)
    address = "" if inner is None else address_for_servers(settings, inner)
    journal = open_journal(settings, clock, recorder, address=address)
    listener = listen(settings) if handover is None else handover.listener
    alone = listen_alone(settings)
    for each in (listener, alone, inner):
        if each is not None:
            close_in_forks(each)
    server = _Server(
        target, settings, clock, recorder, traces, journal, keys, listener, alone, inner, announce, handover
    )
    try:
        code = uvloop.run(server.serve())
        flush()
        if not server.idle:
            # A thread of user code still works; Python would wait for it at exit.
            _log.warning("exited while user code still worked in a thread")
            _exit_now(code)
    finally:
        logs.flush()
    if not logs.flush_printed():
        _exit_now(code)  # (Python would wait for a reader that reads nothing)
    return code


def _exit_now(code: int) -> NoReturn:
    """Exit at once, even if threads still work."""
    logs.flush()
    logs.flush_printed()
    os._exit(code)


class _Server:
    """One server, from start to exit."""

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
        alone: socket.socket | None,
        inner: socket.socket | None,
        announce: Callable[[str], None],
        handover: Handover | None,
    ) -> None:
        self._handover = handover
        self._keys = keys
        self._settings = settings
        self._recorder = recorder
        self._traces = traces
        self._target = target
        self._listener = listener
        self._alone = alone
        """Of this server alone, while others may share the listener."""
        self._inner = inner
        """For other servers with the same journal, if there can be any."""
        self._announce = announce
        self._stop = asyncio.Event()
        self.idle = False
        """Whether no user code works any more, after `serve`."""
        self._showing: asyncio.Task[None] | None = None
        self.loops = build_loops(settings, target, clock, uvloop.new_event_loop)
        self._journal = journal
        self._service = build_service(settings, target, journal, self.loops, clock, recorder, traces)

    async def serve(self) -> int:
        """Start, serve until a signal to stop, and drain. Returns the exit code."""
        settings = self._settings
        apps = build_http(
            settings, self._service, self._recorder, self._traces, loopback=is_loopback(settings.host), keys=self._keys
        )
        connections = self._connections()
        late = Draining(
            "the server is stopping, and the request was not here yet", retry_after_s=settings.retry_after_s
        )
        refuse_late = functools.partial(connections.stop, late, LAST_REQUESTS_S)
        web = web_server(apps.public, connections, settings.keep_alive_s)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        if self._handover is None:  # (else the parent handles Ctrl-C, which it gets too)
            loop.add_signal_handler(signal.SIGINT, self._interrupted)
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # (else nohup started it)
                loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        loop.add_signal_handler(signal.SIGUSR1, self._show_stacks)
        starting = asyncio.create_task(start(self._service, self._target, self.loops))
        # Answer probes during the start; but a successor lets them wait, so that a reload stays invisible.
        answers = self._handover is None or self._handover.answers_while_starting
        first = None if answers else starting
        serving = asyncio.create_task(web.serve_after(first, self._listener))
        more = self._serve_beside(apps, connections, starting)
        stopping = asyncio.create_task(self._stop.wait())
        idling = asyncio.create_task(self._stop_when_idle(starting))
        exhausting = asyncio.create_task(self._service.exhausted.wait())
        losing = asyncio.create_task(self._exit_when_lost(starting))
        following = asyncio.create_task(self._follow_keys(loop))
        looking = asyncio.create_task(self._look_around(apps, starting))
        try:
            await asyncio.wait([starting, stopping, serving], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                collect_less_often()
                self._announce(self._welcome())
                if self._handover is not None:
                    health = self._service.health()
                    self._handover.ready(health.running + health.queue_depth)
                await asyncio.wait([stopping, serving, exhausting], return_when=asyncio.FIRST_COMPLETED)
            else:
                starting.cancel()
                await asyncio.wait([starting])
            _log.info("stopping")
            refuse_late()
            if self._handover is not None:
                await self._hand_over(web, self._handover)
            stopped_by = loop.time() + settings.drain_grace_s
            # (If all servers stop, no other one answers clients here whose runs finish elsewhere.)
            all_stop = self._handover is not None and not self._handover.others_accept()
            if all_stop and apps.forwarder is not None:
                apps.forwarder.stop_with_all()
            await self._service.drain(close=False)
            if apps.forwarder is not None:
                await apps.forwarder.leave(max(0.0, stopped_by - loop.time()) if all_stop else 0.0)
            _log.info("stopped")
            return EXHAUSTED if exhausting.done() and not self._stop.is_set() else 0
        finally:
            losing.cancel()
            idling.cancel()
            following.cancel()
            looking.cancel()
            exhausting.cancel()
            stopping.cancel()
            refuse_late()  # (if the start failed)
            # Connections of clients that never read their response are cut; uvicorn would log a traceback for each.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            web.should_exit = True
            await asyncio.wait([serving], timeout=CONNECTIONS_GRACE_S + 1)
            await more()
            # Before another server gets the journal: no thread of an ended run may work beside it.
            self.idle = self.loops.close()
            # Not before: clients that waited for a run read it now.
            await self._service.close()

    def _serve_beside(
        self, apps: Apps, connections: Connections, starting: "asyncio.Task[None]"
    ) -> Callable[[], Awaitable[object]]:
        """Serve the other sockets too: for other servers, once it has started, and of its own. Return how to end it."""
        others: list[tuple[_Web, asyncio.Task[None]]] = []

        def serve(web: _Web, first: "asyncio.Task[None] | None", listener: socket.socket) -> None:
            others.append((web, asyncio.create_task(web.serve_after(first, listener))))

        if self._alone is not None:
            serve(web_server(apps.public, connections, self._settings.keep_alive_s), None, self._alone)
        if self._inner is not None and apps.inner is None:
            self._inner.close()
        elif self._inner is not None and apps.inner is not None:
            limits = Connections(
                most=connections.most,
                patience_s=self._settings.receive_timeout_s,
                on_end=self._recorder.cut_off,
                render=not_answered,
            )
            serve(web_server(apps.inner, limits, BETWEEN_SERVERS_S), starting, self._inner)

        async def end() -> None:
            for web, _ in others:
                web.should_exit = True
            if others:
                await asyncio.wait([serving for _, serving in others], timeout=CONNECTIONS_GRACE_S + 1)

        return end

    async def _look_around(self, apps: Apps, starting: "asyncio.Task[None]") -> None:
        """Log once, when this server has started, which others cannot be reached."""
        await asyncio.wait([starting])
        if apps.forwarder is not None and not starting.cancelled() and starting.exception() is None:
            await apps.forwarder.look_around()

    async def _hand_over(self, web: "_Web", handover: Handover) -> None:
        """Report what executes. If other processes do, accept no more connections, nor requests on open ones."""
        if handover.others_accept():
            web.stop_accepting()
            await asyncio.sleep(ARRIVAL_S)
            web.shutdown_connections()
        health = self._service.health()
        handover.stopping(health.running, health.queue_depth)

    def _connections(self) -> Connections:
        wanted = self._settings.max_connections
        if (most := allowed(wanted, files_each=1 if self._inner is None else FILES_BESIDE_OTHERS)) < wanted:
            _log.warning(
                "at most %d connections instead of %d: the system lets this process open no more files (ulimit -n)",
                most,
                wanted,
            )
        patience_s = self._settings.receive_timeout_s
        return Connections(most=most, patience_s=patience_s, on_end=self._recorder.cut_off, render=render_problem)

    async def _follow_keys(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reload the file of keys when it changes, and at once on SIGHUP."""
        if (keys := self._keys) is None or keys.file is None:
            return
        tasks: set[asyncio.Task[None]] = set()

        def look() -> None:
            tasks.add(task := asyncio.create_task(keys.reload()))
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGHUP, look)
        await keys.follow()

    def _show_stacks(self) -> None:
        """Write the stacks of all runs to a file, for a command on this machine."""
        if (journal := journal_file(self._settings)) is not None:
            file = beside(journal)
        elif journal_database(self._settings) is not None:
            file = within(workspaces_folder(self._settings), os.getpid())
        else:
            return
        self._showing = asyncio.create_task(self._write_stacks(file))

    async def _write_stacks(self, file: Path) -> None:
        try:
            write_report(file, await self._service.stacks())
        except OSError as error:
            _log.error("the stacks of runs could not be written: %s", error)

    def _hung_up(self) -> None:
        """Stop cleanly: the terminal is gone. (With a file of keys SIGHUP reloads it, see `_follow_keys`.)"""
        _log.info("the terminal is gone (SIGHUP)")
        self._stop.set()

    def _interrupted(self) -> None:
        """Stop cleanly on the first Ctrl-C, at once on the second; the journal is safe either way."""
        if self._stop.is_set():
            _log.warning(EXITED_AT_ONCE)
            logs.flush()
            os._exit(INTERRUPTED)
        self._stop.set()

    async def _stop_when_idle(self, starting: "asyncio.Task[None]") -> None:
        minutes = self._settings.idle_timeout_minutes
        if not minutes:
            return
        await asyncio.wait([starting])  # (no request could arrive before)
        await self._idle_for(minutes * 60)
        if (report := None if self._handover is None else self._handover.idle) is None:
            _log.info("idle for %g minutes: no run and no request", minutes)
            self._stop.set()
            return
        while True:
            report(True)
            while self._service.idle_s() >= minutes * 60:  # noqa: ASYNC110  (as in `_idle_for`)
                await asyncio.sleep(IDLE_LOOK_S)
            report(False)
            await self._idle_for(minutes * 60)

    async def _idle_for(self, wanted_s: float) -> None:
        """Return once it has been idle for that long."""
        left_s = wanted_s
        while left_s > 0:  # (polled, to keep the hot path free of it)
            await asyncio.sleep(left_s)
            left_s = wanted_s - self._service.idle_s()

    async def _exit_when_lost(self, starting: "asyncio.Task[None]") -> None:
        """Exit at once when the journal may belong to another server, which recovers what executes here."""
        await asyncio.wait([starting])
        if isinstance(self._journal, Leased) and not starting.cancelled() and starting.exception() is None:
            why = await self._journal.until_lost()
            _log.critical("exited at once: %s; the next owner of the journal recovers the executing runs", why)
            _exit_now(LOST)

    def _welcome(self) -> str:
        host, port = self._listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        several = f" by {self._settings.servers} servers" if self._settings.servers > 1 else ""
        return f"Strandline {__version__} serves {self._target.description}{several} at http://{shown}:{port}"


def web_server(app: ASGIApp, connections: Connections, keep_alive_s: int) -> "_Web":
    """Return a web server, which does not serve yet."""
    return _Web(
        uvicorn.Config(
            app,
            http=connections,  # type: ignore[arg-type]  # (it creates protocols but is no class)
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=CONNECTIONS_GRACE_S,
        )
    )


class _Web(uvicorn.Server):
    """The web server, which may wait before it serves."""

    async def serve_after(self, first: "asyncio.Task[None] | None", listener: socket.socket) -> None:
        """Serve once `first` has succeeded."""
        if first is not None:
            await asyncio.wait([first])
            if first.cancelled() or first.exception() is not None:
                return
        await self.serve(sockets=[listener])
