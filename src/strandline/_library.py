"""Strandline inside another program: an ASGI app to mount, the server in one call, the service without HTTP.

What cannot be served or set raises a `SetupError` at the call. Nothing starts, and no file is touched, before a server
or a `with` starts it, so several processes may import the same module.
"""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, Unpack

from starlette.types import ASGIApp, Receive, Scope, Send

from strandline._access.source import Keys, keys_of
from strandline._agents.load import load_target, target_for
from strandline._agents.port import Target
from strandline._composition import build_http, served
from strandline._config import FIELDS, Resolved, resolve
from strandline._http import wire
from strandline._http.app.errors import response_to
from strandline._lifespan import Lifespan, on_stop_signal
from strandline._service import Service
from strandline._settings import AppSettings, ServiceSettings, Settings
from strandline.errors import JournalLocked, NotStarted, SettingsError, SetupError

_log = logging.getLogger("strandline")

FAILED: Final = 2
"""What `serve` returns if it could not serve; the reason stands on the standard error output."""
OF_A_SERVER: Final = FIELDS.keys() - set(AppSettings.__struct_encode_fields__)
"""Settings of a process of its own."""
OF_HTTP: Final = FIELDS.keys() - OF_A_SERVER - set(ServiceSettings.__struct_encode_fields__)

Place = str | os.PathLike[str]


class _OlderKeywords(TypedDict, total=False):
    """Older names of settings (`strandline._older_names`)."""

    max_running_per_principal: int | None
    max_queued_per_principal: int | None
    max_stored_bytes_per_principal: int | None
    max_holds: int
    max_holds_per_principal: int | None
    hold_limit: float
    stream_cut: int


class ServiceKeywords(_OlderKeywords, total=False):
    """The settings of a service, as keywords; the others come from where `strandline serve` reads them."""

    agent_id: str
    journal: str
    workspace: Place | None
    max_running: int
    max_running_per_caller: int | None
    executor_threads: int
    max_queued_per_session: int
    max_queued: int
    max_queued_per_caller: int | None
    retry_after: float
    timeout: float
    queue_timeout: float
    input_timeout: float
    cancel_grace: float
    unlock_after: float
    max_still_working: int
    max_still_working_per_caller: int | None
    max_stored_bytes_per_caller: int | None
    max_schedules_per_caller: int
    files: Place | None
    max_file_bytes: int
    file_retention: float
    webhook: str | None
    webhook_events: list[
        Literal[
            "run.queued",
            "run.started",
            "run.joined",
            "run.finished",
            "session.paused",
            "session.resumed",
            "session.deleted",
        ]
    ]
    webhook_secrets: str | None
    webhook_retries: list[float]
    webhook_allow_private: bool
    max_webhooks_per_caller: int
    disk_reserve_bytes: int | None
    stall_after: float
    stall_action: Literal["report", "cancel"]
    max_attempts: int
    after_crash: Literal["resume", "fail"]
    unknown_tool: Literal["fail", "resume", "tell"]
    idempotent_tools: Sequence[str]
    on_failure: Literal["keep", "drop"]
    on_disconnect: Literal["continue", "cancel", "cancel_if_queued"]
    on_question: Literal["wait", "answer", "dismiss"]
    trusted_senders: bool
    join_senders: Literal["same", "any"]
    tell_waiting: bool
    collect_quiet: float
    collect_max_wait: float
    collect_max_items: int
    collect_max_bytes: int
    sender_template: str | None
    history: Literal["journal", "session_manager", "external"]
    session_files: Place | None
    session_files_names: list[str]
    run_retention: float
    history_retention: float | None
    idempotency_retention: float
    max_metadata_bytes: int
    max_client_options_bytes: int
    allowed_content: Sequence[str]
    error_text: Literal["full", "class", "id"] | None
    priority: int
    drain_grace: float
    lock_wait: float
    stream_retention: float
    stream_buffer: int
    stream_buffer_bytes: int
    stream_memory: int
    stream_truncate_bytes: int
    max_agents: int
    agent_idle: float


class AppKeywords(ServiceKeywords, total=False):
    """The settings of an ASGI app."""

    api_keys: Sequence[str]
    api_keys_file: Place | None
    max_token_lifetime: float
    metrics_public: bool
    allowed_hosts: Sequence[str]
    cors_origins: Sequence[str]
    default_session: Literal["refuse", "shared"]
    session_header: str
    client_history: Literal["ignore", "follow", "refuse"]
    agui_state: Sequence[str]
    console: Literal["on", "off"]
    agent_description: str
    agent_skills: Sequence[str]
    public_url: str | None
    max_body_bytes: int
    max_chat_body_bytes: int | None
    start_wait: float
    trusted_baggage: Literal["all", "operators", "none"]


class ServerKeywords(AppKeywords, total=False):
    """The settings of a server: all of them."""

    host: str
    port: int
    cluster_listen: str
    cluster_address: str | None
    allow_anonymous: bool
    log_format: Literal["text", "json"]
    log_level: Literal["debug", "info", "warning", "error"]
    log_details: bool
    idle_timeout_minutes: float | None
    max_connections: int
    receive_timeout: float
    keep_alive: int
    own_port: int | None
    workers: int
    servers: int


def asgi(target: object, *, config: Place | None = None, **settings: Unpack[AppKeywords]) -> "AgentApp":
    """Return an ASGI app that serves `target`, to be mounted in another app or served by itself.

    `target` is a factory, a function, an agent, or a TARGET as the command takes it (`"agent.py:make_agent"`).
    `config` names a TOML file with settings. Raises `SetupError` for what cannot be served or set.
    """
    return AgentApp(target, config=config, **settings)


def serve(target: object, *, config: Place | None = None, **settings: Unpack[ServerKeywords]) -> int:
    """Serve `target` until SIGTERM or Ctrl-C, and return the exit code: `strandline serve` in one call.

    It logs to the standard error output, unless the program has said where its log goes.

    If it cannot serve, it writes the reason to the standard error output, in one paragraph. Raises `SetupError` only if
    it is called where no server can run: outside the main thread, or inside a running event loop.
    """
    _check_thread()
    from strandline._logs import log_to_stderr
    from strandline._server import run
    from strandline._supervision.servers import supervise

    ours = not logging.getLogger().handlers
    if ours:
        log_to_stderr()
    try:
        resolved = _resolved("strandline.serve", config, settings, frozenset())
        found = resolved.settings
        if ours:
            log_to_stderr(level=found.log_level, form=found.log_format, details=found.log_details)
        _log_remarks(resolved)
        if found.servers > 1:
            return supervise(_named(target, "servers", found.servers), found, _say)
        with _served(target, found) as loaded:
            return run(loaded, found, announce=_say)
    except SetupError as error:
        _say(f"strandline: {error}")
        return FAILED


@asynccontextmanager
async def open_service(
    target: object, *, config: Place | None = None, **settings: Unpack[ServiceKeywords]
) -> AsyncIterator[Service]:
    """Start a service for the time of an `async with`, on the event loop that runs; drain it at the end.

    Raises `SetupError` if it cannot start.
    """
    life = Lifespan(*_target_and_settings("strandline.open_service", target, config, settings, OF_A_SERVER | OF_HTTP))
    try:
        await life.begin()
        yield Service(life.service, life.loop)
    finally:
        await life.end()


class AgentApp:
    """An ASGI app, as `asgi` returns it. The server starts it, or the app that it is mounted in."""

    def __init__(self, target: object, *, config: Place | None = None, **settings: Unpack[AppKeywords]) -> None:
        self._target, self._settings = _target_and_settings("strandline.asgi", target, config, settings, OF_A_SERVER)
        self._keys = keys_of(self._settings)
        self._lifespan: Lifespan | None = None
        self._http: ASGIApp | None = None
        """Takes requests from before it has started: they wait for that."""
        self._started = False
        self._ended = False

    @property
    def service(self) -> Service:
        """The service, for routes of one's own. Raises `NotStarted` before the app has started and after its end."""
        if self._lifespan is None or not self._started:
            raise self._missing()
        return Service(self._lifespan.service, self._lifespan.loop)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the service for the time of an `async with`; an app can have it as its lifespan. Raises `SetupError`.

        SIGTERM and Ctrl-C begin the drain at once if a server in the main thread handles them: without that, the server
        first waits for all answers and stops its app afterwards. The server's own handler is called too.
        """
        if self._lifespan is not None:
            raise SetupError("this app runs already: give its lifespan to one app only, or make another with asgi(...)")
        life = self._lifespan = Lifespan(self._target, self._settings)
        self._http = build_http(
            self._settings, life.service, life.recorder, life.traces, loopback=None, keys=self._keys
        ).public
        try:
            with on_stop_signal(life.drain_soon):
                await life.begin()
                self._started = True
                following = asyncio.create_task(_follow(self._keys))
                try:
                    yield
                finally:
                    following.cancel()
        except JournalLocked as error:
            raise JournalLocked(
                f"{error} One process owns a journal and serves all its sessions: start the server with one worker"
                " (uvicorn --workers 1)."
            ) from None
        finally:
            self._lifespan = self._http = None
            self._started = False
            self._ended = True
            await life.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or live as the server says (the lifespan protocol of ASGI)."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._http is not None:
            await self._http(wire.whole(scope), receive, send)
        elif scope["type"] == "http":
            await response_to(self._missing(), wire.whole(scope))(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        began = False
        try:
            async with self.lifespan():
                began = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except SetupError as error:
            if not began:
                await send({"type": "lifespan.startup.failed", "message": f"strandline: {error}"})
            raise  # (servers know it by now; a test client takes an app that only returns for one that has started)
        await send({"type": "lifespan.shutdown.complete"})

    def _missing(self) -> NotStarted:
        if self._ended:
            return NotStarted("this agent was stopped together with its server")
        return NotStarted(
            "this agent was mounted and never started, since a server starts only its outermost app. Give its"
            " lifespan to the app around it: FastAPI(lifespan=agent.lifespan), agent being what strandline.asgi(...)"
            " returned; or write `async with agent.lifespan(app):` around the `yield` of the lifespan that you have"
        )


def _target_and_settings(
    name: str, target: object, config: Place | None, settings: Mapping[str, Any], foreign: Set[str]
) -> tuple[Target, Settings]:
    """Return what to serve and how, in this process. Raises `SetupError`."""
    resolved = _resolved(name, config, settings, foreign)
    _log_remarks(resolved)
    return _loaded(target, resolved.settings), resolved.settings


def _log_remarks(resolved: Resolved) -> None:
    for remark in resolved.remarks:
        _log.warning("%s", remark)


def _resolved(name: str, config: Place | None, settings: Mapping[str, Any], foreign: Set[str]) -> Resolved:
    """Return the settings, those that are given first. Raises `SettingsError`."""
    for each in settings.keys() & foreign:
        whose = "the command and of strandline.serve" if each in OF_A_SERVER else "strandline.asgi and strandline.serve"
        raise SettingsError(f"{name} has no use for `{each}`, which is a setting of {whose}: leave it out")
    given = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in settings.items()}
    toml = None if config is None else Path(config)
    return resolve(given, os.environ, toml=toml, given=f"given to {name}")


def _loaded(target: object, settings: Settings) -> Target:
    if isinstance(target, (str, os.PathLike)):
        return load_target(os.fspath(target), history=settings.history, keys=settings.has_keys)
    return target_for(target, _describe(target), history=settings.history, keys=settings.has_keys)


@contextmanager
def _served(target: object, settings: Settings) -> Iterator[Target]:
    """Load what is served, in workers if that is wanted, for the time of a `with`. Raises `SetupError`."""
    if isinstance(target, (str, os.PathLike)):
        with served(os.fspath(target), settings) as loaded:
            yield loaded
    elif settings.workers > 1:
        _named(target, "workers", settings.workers)
    else:
        yield _loaded(target, settings)


def _named(target: object, setting: str, value: int) -> str:
    """Return a TARGET. Raises `SettingsError` for an object that other processes cannot load."""
    if isinstance(target, (str, os.PathLike)):
        return os.fspath(target)
    raise SettingsError(
        f"{setting} = {value} needs a TARGET by its name, since each of them loads it:"
        f' strandline.serve("agent.py:make_agent", {setting}=2). Name it, or leave `{setting}` out'
    )


def _describe(target: object) -> str:
    """Return how people recognise an object: the module or script that it was made in, and its name."""
    thing = target if hasattr(target, "__qualname__") else type(target)
    where = getattr(thing, "__module__", None) or "?"
    if where == "__main__":
        where = Path(getattr(sys.modules["__main__"], "__file__", None) or "script").name
    return f"{where}:{getattr(thing, '__qualname__', thing)}"


async def _follow(keys: Keys | None) -> None:
    if keys is not None:
        await keys.follow()


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise SetupError(
            "strandline.serve was called in a thread, where no signal could stop it. Call it in the main thread, or use"
            " strandline.open_service in an event loop"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SetupError(
        "strandline.serve was called while an event loop runs, which it would block. Call it outside of asyncio.run,"
        " or use strandline.open_service here"
    )


def _say(line: str) -> None:
    from strandline._logs import say

    say(line)
