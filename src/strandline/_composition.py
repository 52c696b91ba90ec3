"""The composition root: builds journal, service and HTTP application from settings.

`strandline._server` runs them in a process of its own, `strandline._library` inside a host program.
"""

import asyncio
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from strandline import _private as private
from strandline._access.source import Keys
from strandline._agents.load import load_target
from strandline._agents.port import ProbedAtStart, Target
from strandline._clock import Clock, FollowingClock, SystemClock
from strandline._config import files_folder, journal_database, journal_file, workspaces_folder
from strandline._engine.loops import AgentLoops, HasLoops, Loops
from strandline._engine.observers import UNPROJECTED, Projection
from strandline._engine.options import Options
from strandline._engine.requests import check_url
from strandline._engine.service import Service
from strandline._engine.webhooks import Sender
from strandline._files.store import FileStore, folder_of
from strandline._http.app.build import Apps, build_apps
from strandline._journal.memory import MemoryJournal
from strandline._journal.partitions import suffix_of
from strandline._journal.port import Journal
from strandline._logs import dropped
from strandline._model import RunId, SessionKey
from strandline._printable import without_passwords
from strandline._session_files.paths import SessionPaths
from strandline._session_files.projection import SessionFiles
from strandline._settings import ServiceSettings, Settings
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.scrape import Scrapes
from strandline._telemetry.traces import Traces
from strandline.errors import Invalid, SettingsError

_log = logging.getLogger("strandline")
_SESSION: Final = re.compile(r"[0-9a-f]{64}")
"""The name of a session's workspace."""


def build_clock(settings: Settings) -> Clock:
    """Return the clock of a server: its machine's own, or with a journal in a database one that follows the
    database's."""
    return SystemClock() if journal_database(settings) is None else FollowingClock(SystemClock())


def new_run_id(clock: Clock, key: SessionKey) -> RunId:
    """Return an id that sorts by time: `run_`, 12 hex digits of milliseconds, 14 random ones, 2 of the partition."""
    return RunId(f"run_{int(clock.now() * 1000):012x}{secrets.token_hex(7)}{suffix_of(key)}")


def open_journal(settings: Settings, clock: Clock, recorder: MetricsRecorder, *, address: str = "") -> Journal:
    """Return the journal of the settings, not yet opened. `recorder` counts its commits.

    `address` is where other servers with the same journal reach this one, if there can be any.
    """
    if (database := journal_database(settings)) is not None:
        return _open_database(database, settings, clock, recorder, address)
    if (file := journal_file(settings)) is None:
        return MemoryJournal(clock)
    from strandline._journal.sqlite import SqliteJournal

    lock_wait_s = settings.lock_wait_s
    return SqliteJournal(
        file,
        clock,
        lock_wait_s=lock_wait_s,
        on_wait=_log.warning,
        on_commit=recorder.committed,
        disk_reserve=settings.disk_reserve_bytes,
    )


def _open_database(conninfo: str, settings: Settings, clock: Clock, recorder: MetricsRecorder, address: str) -> Journal:
    """Return the journal in a database. Raises `SettingsError` without its driver, and for an address that is none."""
    try:
        from strandline._journal.postgres.journal import PostgresJournal
        from strandline._journal.postgres.wire import check_conninfo
    except ImportError as error:
        raise SettingsError(
            "journal names a PostgreSQL database, and its driver is not installed: pip install 'strandline[postgres]'"
        ) from error
    try:
        check_conninfo(conninfo)
    except ValueError as error:
        raise SettingsError(f"journal is {without_passwords(conninfo)}, and {error}") from None
    return PostgresJournal(
        conninfo,
        clock,
        lock_wait_s=settings.lock_wait_s,
        on_wait=_log.warning,
        on_commit=recorder.committed,
        address=lambda: address,
        on_time=clock.measured if isinstance(clock, FollowingClock) else lambda sent_at, came_at, shown: None,
    )


def workspaces(settings: Settings) -> Callable[[SessionKey], str]:
    """Return a function that maps a session to its workspace: a folder named by the SHA-256 of its key.

    If the parent folder exists and has nothing else in it, only its owner may access it from now on.
    """
    root = workspaces_folder(settings)
    if _has_nothing_but_sessions(root):
        private.tighten(root)
    prefix = f"{root.absolute()}{os.sep}"

    def workspace(key: SessionKey) -> str:
        return prefix + folder_of(key)

    return workspace


def _has_nothing_but_sessions(root: Path) -> bool:
    try:
        with os.scandir(root) as found:
            return all(_SESSION.fullmatch(each.name) for each in found)
    except OSError:
        return False


@contextmanager
def served(target: str, settings: Settings) -> Iterator[Target]:
    """Load a TARGET, in this process or in workers, for the time of a `with`. Raises `TargetError`."""
    if settings.workers == 1:
        yield load_target(target, history=settings.history, keys=settings.has_keys)
        return
    from strandline._workers.pool import worker_pool

    with worker_pool(target, settings, Traces().carried) as workers:
        yield workers


def build_loops(
    settings: Settings,
    target: Target,
    clock: Clock,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Loops:
    """Return the loops of the agents: those of the target's workers, or threads of this process."""
    if isinstance(target, HasLoops):
        return target.loops
    return AgentLoops(executor_threads=settings.executor_threads, clock=clock, new_loop=new_loop)


def build_projection(settings: Settings, journal: Journal, clock: Clock) -> Projection:
    """Return the projection that writes session files, if the settings enable it."""
    if settings.session_files is None:
        return UNPROJECTED
    return SessionFiles(SessionPaths(settings.session_files, settings.session_files_names), journal, clock)


def build_file_store(settings: Settings) -> FileStore | None:
    """Return where uploaded files are kept; None: nowhere, since no folder is set for a journal without a file."""
    folder = files_folder(settings)
    return None if folder is None else FileStore(folder.absolute())


def build_service(
    settings: Settings,
    target: Target,
    journal: Journal,
    loops: Loops,
    clock: Clock,
    recorder: MetricsRecorder,
    traces: Traces,
) -> Service:
    """Return a service, not yet started. `recorder` counts its runs, `traces` records them."""
    return Service(
        journal=journal,
        target=target,
        loops=loops,
        clock=clock,
        new_run_id=partial(new_run_id, clock),
        workspace=workspaces(settings),
        options=options_of(settings, survives=not isinstance(journal, MemoryJournal)),
        owner=settings.agent_id,
        observer=recorder,
        tracing=traces,
        projection=build_projection(settings, journal, clock),
        file_store=build_file_store(settings),
        sender=build_sender(settings),
    )


def build_sender(settings: Settings) -> Sender | None:
    """Return what sends events to webhooks; None without secrets. Raises `SettingsError`."""
    if settings.webhook_secrets is None:
        if settings.webhook is not None:
            raise SettingsError(
                "webhook is set, and nothing can be signed: set webhook_secrets to a file of lines that `strandline"
                " keys webhook NAME` prints"
            )
        return None
    from strandline._webhooks.secrets import Secrets
    from strandline._webhooks.sender import HttpSender

    if settings.webhook is not None:
        try:
            check_url(settings.webhook, allow_private=settings.webhook_allow_private)
        except Invalid as error:
            raise SettingsError(f"the setting webhook cannot be used: {error}") from None
    secrets = Secrets(Path(settings.webhook_secrets))
    return HttpSender(secrets, allow_private=settings.webhook_allow_private)


def options_of(settings: Settings, *, survives: bool) -> Options:
    """Return the options of a service. `survives`: its journal survives the process."""
    read = {name: getattr(settings, name) for name in ServiceSettings.__struct_fields__}
    in_force = {
        "error_text": settings.error_text_in_force,
        "max_attempts": settings.attempts,
        "max_holds_per_principal": settings.holds_per_principal,
    }
    return Options(**{**read, **in_force}, survives=survives)


def build_http(
    settings: Settings,
    service: Service,
    recorder: MetricsRecorder,
    traces: Traces,
    *,
    loopback: bool | None,
    keys: Keys | None,
) -> Apps:
    """Return the HTTP applications of a service. `keys` None: no key is required.

    `loopback`: whether only this machine reaches it; None: unknown.
    """
    return build_apps(
        service,
        Scrapes(service, recorder, journal_file(settings), dropped),
        settings,
        keys,
        loopback=loopback,
        on_arrival=traces.arrived,
        on_denied=recorder.denied,
        on_forward=recorder.forwarded,
        on_refused=recorder.refused,
    )


async def start(service: Service, target: Target, loops: Loops) -> None:
    """Probe the target, then open the journal and accept runs. Raises `SetupError`."""
    try:
        if isinstance(target, ProbedAtStart):
            await loops.start(target.probe).done
        await service.start()
    except BaseException:  # (also a cancellation: requests must not wait for a server that stops)
        service.fail_start()
        raise
