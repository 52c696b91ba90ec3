"""The composition root: builds journal, service and HTTP face from settings, for whoever gives them a life.

`strandline.server` is the life of a process of its own, `strandline.library` that of a service inside another one.
Nothing here starts anything.
"""

import asyncio
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp

from strandline import private
from strandline.access.source import Keys
from strandline.agents.load import load_target
from strandline.agents.port import Target, TriedAtStart
from strandline.clock import Clock
from strandline.config import Settings, journal_file
from strandline.engine.loops import AgentLoops, HasLoops, Loops
from strandline.engine.options import Options
from strandline.engine.projection import UNPROJECTED, Projection
from strandline.engine.service import Service
from strandline.http.app import HttpOptions, build_app
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import Journal
from strandline.logs import dropped
from strandline.model import OnDisconnect, OnQuestion, RunId, SessionKey
from strandline.session_files.keeper import SessionFiles
from strandline.session_files.place import Place
from strandline.telemetry.scrape import Scrapes
from strandline.telemetry.tally import Tally
from strandline.telemetry.traces import Traces

_log = logging.getLogger("strandline")
_SESSION: Final = re.compile(r"[0-9a-f]{64}")
"""The name of a session's folder."""


def new_run_id(clock: Clock) -> RunId:
    """Return an id that sorts by time: `run_`, 12 hex digits of milliseconds, 16 of chance."""
    return RunId(f"run_{int(clock.now() * 1000):012x}{secrets.token_hex(8)}")


def open_journal(settings: Settings, clock: Clock, tally: Tally) -> Journal:
    """Return the journal that the settings name, not yet opened; `tally` counts its commits."""
    if (file := journal_file(settings)) is None:
        return MemoryJournal(clock)
    from strandline.journal.sqlite import SqliteJournal

    lock_wait_s = settings.lock_wait
    return SqliteJournal(
        file,
        clock,
        lock_wait_s=lock_wait_s,
        on_wait=_log.warning,
        on_commit=tally.committed,
        disk_reserve=settings.disk_reserve_bytes,
    )


def workspaces(settings: Settings) -> Callable[[SessionKey], str]:
    """Return a function that names a session's folder: by the SHA-256 of its key.

    The folder of all of them, if it is there and has nothing else in it, becomes its owner's alone.
    """
    if settings.workspace is not None:
        root = Path(settings.workspace)
    elif (file := journal_file(settings)) is not None:
        root = file.parent / "workspace"
    else:
        root = Path(".strandline") / "workspace"
    if _has_nothing_but_sessions(root):
        private.tighten(root)
    prefix = f"{root.absolute()}{os.sep}"

    def workspace(key: SessionKey) -> str:
        return prefix + hashlib.sha256("\0".join(key).encode()).hexdigest()

    return workspace


def _has_nothing_but_sessions(root: Path) -> bool:
    try:
        with os.scandir(root) as found:
            return all(_SESSION.fullmatch(each.name) for each in found)
    except OSError:
        return False


@contextmanager
def served(target: str, settings: Settings) -> Iterator[Target]:
    """Load what a TARGET names, in this process or in workers, for the time of a `with`. Raises `TargetError`."""
    if settings.workers == 1:
        yield load_target(target, history=settings.history, keys=settings.has_keys)
        return
    from strandline.workers.crew import crew

    with crew(target, settings, Traces().carried) as workers:
        yield workers


def build_loops(
    settings: Settings,
    target: Target,
    clock: Clock,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Loops:
    """Return where the agents will run: where their target lives, or else in threads that `close` ends."""
    if isinstance(target, HasLoops):
        return target.loops
    return AgentLoops(executor_threads=settings.executor_threads, clock=clock, new_loop=new_loop)


def build_projection(settings: Settings, journal: Journal, clock: Clock) -> Projection:
    """Return what writes the files of sessions, if that is wanted."""
    if settings.session_files is None:
        return UNPROJECTED
    return SessionFiles(Place(settings.session_files, settings.session_files_names), journal, clock)


def build_service(
    settings: Settings, target: Target, journal: Journal, loops: Loops, clock: Clock, tally: Tally, traces: Traces
) -> Service:
    """Return a service that has not been started; `tally` counts its runs, `traces` tells of each."""
    return Service(
        journal=journal,
        target=target,
        loops=loops,
        clock=clock,
        new_run_id=lambda: new_run_id(clock),
        workspace=workspaces(settings),
        options=Options(
            max_running=settings.max_running,
            max_queued_per_session=settings.max_queued_per_session,
            max_queued=settings.max_queued,
            max_queued_per_principal=settings.max_queued_per_principal,
            max_running_per_principal=settings.max_running_per_principal,
            max_metadata_bytes=settings.max_metadata_bytes,
            allowed_content=frozenset(settings.allowed_content),
            error_text=settings.error_text_in_force,
            priority=settings.priority,
            timeout_s=settings.timeout,
            queue_timeout_s=settings.queue_timeout,
            input_timeout_s=settings.input_timeout,
            cancel_grace_s=settings.cancel_grace,
            hold_limit_s=settings.hold_limit,
            max_holds=settings.max_holds,
            max_holds_per_principal=settings.holds_per_principal,
            max_stored_bytes_per_principal=settings.max_stored_bytes_per_principal,
            executor_threads=settings.executor_threads,
            stall_after_s=settings.stall_after,
            stall_action=settings.stall_action,
            unknown_tool=settings.unknown_tool,
            idempotent_tools=frozenset(settings.idempotent_tools),
            on_failure=settings.on_failure,
            run_retention_s=settings.run_retention,
            history_retention_s=settings.history_retention,
            on_disconnect=OnDisconnect(settings.on_disconnect),
            on_question=OnQuestion(settings.on_question),
            idempotency_retention_s=settings.idempotency_retention,
            max_attempts=settings.max_attempts if settings.after_crash == "resume" else 1,
            retry_after_s=settings.retry_after,
            drain_grace_s=settings.drain_grace,
            stream_retention_s=settings.stream_retention,
            stream_buffer=settings.stream_buffer,
            stream_buffer_bytes=settings.stream_buffer_bytes,
            stream_memory=settings.stream_memory,
            stream_cut=settings.stream_cut,
            max_agents=settings.max_agents,
            agent_idle_s=settings.agent_idle,
            survives=not isinstance(journal, MemoryJournal),
        ),
        owner=settings.agent_id,
        observer=tally,
        tracing=traces,
        projection=build_projection(settings, journal, clock),
    )


def build_face(
    settings: Settings, service: Service, tally: Tally, traces: Traces, *, loopback: bool | None, keys: Keys | None
) -> ASGIApp:
    """Return the HTTP face of a service, for those who show one of `keys`; None: for everybody.

    `loopback`: whether it is reached from this machine only; None: not known.
    """
    return build_app(
        service,
        Scrapes(service, tally, journal_file(settings), dropped),
        HttpOptions(
            agent_id=settings.agent_id,
            max_body_bytes=settings.max_body_bytes,
            max_chat_body_bytes=settings.chat_body_bytes,
            retry_after_s=settings.retry_after,
            loopback=loopback,
            allowed_hosts=settings.allowed_hosts,
            cors_origins=settings.cors_origins,
            metrics_public=settings.metrics_public,
            default_session=settings.default_session,
            session_header=settings.session_header,
            start_wait_s=settings.start_wait,
            trusted_baggage=settings.trusted_baggage,
        ),
        keys,
        traces.arrived,
        tally.denied,
    )


async def start(service: Service, target: Target, loops: Loops) -> None:
    """Learn what is served, then open the journal and let runs in. Raises `SetupError`."""
    try:
        if isinstance(target, TriedAtStart):
            await loops.start(target.try_out).done
        await service.start()
    except BaseException:  # (a cancellation too: nobody may wait on for a server that stops)
        service.fail_start()
        raise
