"""Every setting, in one place: its name, default, meaning and limits, and where its value came from.

A value comes from, the first that has it: the command's flag (`--max-running 8`), the environment
(`STRANDLINE_MAX_RUNNING=8`), a TOML file (`max_running = 8` in `strandline.toml`), the default. The file is the one
that is named (`--config`, `STRANDLINE_CONFIG`), else that of the working folder. Agents may be able to write there, so
keys are only taken from a file that somebody has named, and `STRANDLINE_CONFIG=none` has no file read, as in the image.
"""

import difflib
import functools
import ipaddress
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from strandline.errors import SettingsError
from strandline.session_files.place import Place

DEFAULT: Final = "default"
"""The origin of a setting that nobody gave."""
PREFIX: Final = "STRANDLINE_"
HIDDEN: Final = frozenset({"api_keys"})
"""Settings whose values are not shown: somebody may have written a key itself there."""
OF_CLIENTS: Final = frozenset({"STRANDLINE_API_KEY", "STRANDLINE_API_KEY_FILE"})
"""Variables of those who ask a server, and no settings of one."""
TOML_FILE: Final = "strandline.toml"
CONFIG: Final = "STRANDLINE_CONFIG"
"""The variable that names the file of settings, as `--config` does."""
NO_FILE: Final = "none"
"""Its value where no file is to be read unless `--config` names one."""
NAMED_ONLY: Final = ("api_keys", "api_keys_file")
"""Settings that decide who is let in, and as whom: taken only from a file that somebody has named."""
ALIASES: Final = {"agent_id": "AGENT_ID", "port": "PORT", "idle_timeout_minutes": "IDLE_TIMEOUT_MINUTES"}
"""Names of the environment that clients of the original runner set; `STRANDLINE_*` counts first."""

_SERVICE_LINK: Final = re.compile(
    r"\w+_(?:SERVICE_HOST=|SERVICE_PORT(?:_\w+)?=|PORT(?:_\d+_(?:TCP|UDP|SCTP))?=\w+://|"
    r"PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)=)"
)
"""What Kubernetes (and Docker's links) put into the environment for a service of any name, ours too, begins so."""

_TYPES: Final = {
    "int | null": "a whole number",
    "float | null": "a number",
    "int": "a whole number",
    "float": "a number",
    "str | null": "text",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
}
"""What msgspec calls types, and what people do."""


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of a server. Durations are seconds."""

    agent_id: Annotated[str, Meta(description="Name of this server in answers", min_length=1)] = "strandline"
    journal: Annotated[
        str,
        Meta(
            description="Where accepted runs and history are kept: `sqlite:PATH` or `memory:`",
            pattern="^(sqlite:.+|memory:)$",
            examples=["sqlite:PATH", "memory:"],
        ),
    ] = "sqlite:.strandline/journal.db"
    workspace: Annotated[
        str | None, Meta(description="Folder with one folder per session; default: `workspace/` beside the journal")
    ] = None
    host: Annotated[str, Meta(description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(description="Port to listen on; 0 lets the system choose", ge=0, le=65535)] = 8080
    allow_anonymous: Annotated[
        bool, Meta(description="Listen on other than loopback addresses although nobody has to show a key")
    ] = False
    api_keys: Annotated[
        list[str],
        Meta(
            description="Keys that let callers in, as `strandline keys new` prints their lines; default: no key needed"
        ),
    ] = []
    api_keys_file: Annotated[
        str | None, Meta(description="File with such lines, read anew when it has changed and on SIGHUP")
    ] = None
    metrics_public: Annotated[
        bool, Meta(description="Whether /metrics is shown without an operator's key although there are keys")
    ] = False
    allowed_hosts: Annotated[
        list[str],
        Meta(description="Names in the Host header to answer besides localhost and IP addresses; `*`: every name"),
    ] = []
    trusted_baggage: Annotated[
        Literal["all", "operators", "none"],
        Meta(description="Whose `baggage` header is handed to agents and kept: `all`, `operators`, `none`"),
    ] = "all"
    cors_origins: Annotated[list[str], Meta(description="Origins of web pages that may call this server")] = []
    max_running: Annotated[int, Meta(description="Runs that execute at once, over all sessions", ge=1)] = 64
    max_running_per_principal: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Of these, at most for one key's name; default: no bound of its own"),
    ] = None
    executor_threads: Annotated[int, Meta(description="Threads for sync tools and factories, in each worker", ge=1)] = (
        256
    )
    workers: Annotated[
        int,
        Meta(description="Processes that agents are spread over; 1: they are in the server's own", ge=1, le=64),
    ] = 1
    max_queued_per_session: Annotated[int, Meta(description="Runs that may wait in one session", ge=0)] = 100
    max_queued_per_principal: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Runs that may wait in all sessions of one key's name; default: no bound of its own"),
    ] = None
    max_queued: Annotated[int, Meta(description="Runs that may wait in all sessions together", ge=0)] = 10_000
    max_body_bytes: Annotated[int, Meta(description="Size of a request's body, in bytes", ge=1)] = 10 * 1024 * 1024
    max_chat_body_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Size of a body in OpenAI's form, of which `max_body_bytes` bounds the last message and what is"
            " none; default: 67108864 (64 MiB), or `max_body_bytes` if that is more"
        ),
    ] = None
    default_session: Annotated[
        Literal["refuse", "shared"],
        Meta(
            description="Requests that name no session, where there are keys or in OpenAI's form: refused, or all talk"
            " in `default`"
        ),
    ] = "refuse"
    session_header: Annotated[
        str,
        Meta(
            description="Header that names the session in OpenAI's form; programs have their own",
            pattern="^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$",
        ),
    ] = "X-Session-Id"
    max_connections: Annotated[
        int, Meta(description="Connections at once; beyond them the one goes that has asked nothing for longest", ge=1)
    ] = 12_000
    receive_timeout: Annotated[
        float,
        Meta(description="Seconds that a client has to send a request, or to take the next part of its answer", gt=0),
    ] = 60.0
    start_wait: Annotated[
        float, Meta(description="Seconds that a request waits for a server that starts, before it is refused", ge=0)
    ] = 30.0
    keep_alive: Annotated[
        int, Meta(description="Seconds that an answered connection stays open for the next request", ge=1)
    ] = 75
    max_metadata_bytes: Annotated[int, Meta(description="Size of a run's `metadata` as JSON, in bytes", ge=2)] = (
        16 * 1024
    )
    allowed_content: Annotated[
        list[Annotated[str, Meta(pattern="^(?!(?:toolUse|toolResult|interruptResponse)$)[A-Za-z][A-Za-z0-9_-]*$")]],
        Meta(
            description="Kinds of content blocks that callers may send besides text, image, document and video",
            examples=["audio", "cachePoint", "citationsContent", "guardContent", "location", "reasoningContent"],
        ),
    ] = []
    error_text: Annotated[
        Literal["full", "class", "id"] | None,
        Meta(
            description="What callers and history are told of an exception: its text, its class, or an id under which"
            " the log has the text; default: full without keys, id with keys"
        ),
    ] = None
    retry_after: Annotated[
        float, Meta(description="What a full or stopping server tells clients to wait, in seconds", ge=0)
    ] = 5.0
    priority: Annotated[
        int, Meta(description="Place of a run in its queue, 1 to 5, 1 first; a request may ask for another", ge=1, le=5)
    ] = 3
    timeout: Annotated[
        float, Meta(description="Seconds a run may take from its first start; a request may ask for less", gt=0)
    ] = 3600.0
    queue_timeout: Annotated[
        float, Meta(description="Seconds a run may wait for its turn; a request may ask for less", gt=0)
    ] = 3600.0
    input_timeout: Annotated[
        float, Meta(description="Seconds that other runs of a session wait for an answer to an input request", ge=0)
    ] = 900.0
    cancel_grace: Annotated[
        float, Meta(description="Seconds a run gets to end after its deadline, or when it is cancelled", ge=0)
    ] = 5.0
    hold_limit: Annotated[
        float,
        Meta(description="Seconds a session waits for a thread that works on after its run has ended", ge=0),
    ] = 60.0
    max_holds: Annotated[
        int, Meta(description="Runs with such a thread at which the server stops itself, to be restarted", ge=1)
    ] = 8
    max_holds_per_principal: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Of these, at most for one key's name, which starts no more runs then; default: half of"
            " them, at least 1, where there are keys"
        ),
    ] = None
    max_stored_bytes_per_principal: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Bytes that may be kept for one key's name: inputs, metadata, history and state of all its"
            " sessions; beyond, no more runs of it are accepted; default: no bound of its own"
        ),
    ] = None
    disk_reserve_bytes: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Bytes of the journal's disk that are kept for runs that were accepted; with less left, no new"
            " ones are; 0: none; default: a tenth of the disk, at most 64 MiB"
        ),
    ] = None
    stall_after: Annotated[
        float, Meta(description="Seconds without any sign of life after which a run counts as stalled", gt=0)
    ] = 120.0
    stall_action: Annotated[
        Literal["report", "cancel"], Meta(description="What becomes of a stalled run: shown in /health, or cancelled")
    ] = "report"
    max_attempts: Annotated[int, Meta(description="How often a run is started if the server keeps dying", ge=1)] = 3
    after_crash: Annotated[
        Literal["resume", "fail"],
        Meta(description="What becomes of a run that executed when the server died: go on at its last round, or fail"),
    ] = "resume"
    unknown_tool: Annotated[
        Literal["fail", "tell"],
        Meta(
            description="A tool was at work when the server died, so what it did is unknown: fail the run, or tell the"
            " model so and go on"
        ),
    ] = "fail"
    idempotent_tools: Annotated[
        list[str],
        Meta(description="Tools that may be started again, under the same toolUseId, if the server died in them"),
    ] = []
    on_failure: Annotated[
        Literal["keep", "drop"],
        Meta(description="Whether what a failed run said and did stays in the conversation, or is flagged and hidden"),
    ] = "keep"
    history: Annotated[
        Literal["journal", "external"],
        Meta(description="Who keeps the conversation: the journal, or the agent's own session manager"),
    ] = "journal"
    session_files: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Folder in which each session is written, as its runs end, as Strands' `FileSessionManager`"
            " would; may hold `{session_id}` and, needed with keys, `{principal}`"
        ),
    ] = None
    session_files_names: Annotated[
        list[str],
        Meta(description="Sessions that have another name there, as `default=agent`; that one has theirs then"),
    ] = []
    run_retention: Annotated[
        float,
        Meta(description="Seconds for which an ended run can be asked for, at least 60; its messages stay", ge=60),
    ] = 30 * 86400.0
    history_retention: Annotated[
        Annotated[float, Meta(ge=60)] | None,
        Meta(
            description="Seconds after its last run for which a session at rest is kept, with all that was said; not"
            " below `run_retention`; default: until it is deleted"
        ),
    ] = None
    on_disconnect: Annotated[
        Literal["continue", "cancel", "cancel_if_queued"],
        Meta(description="What becomes of a run whose clients were lost; a request may ask for something else"),
    ] = "continue"
    on_question: Annotated[
        Literal["wait", "answer", "dismiss"],
        Meta(
            description="What a plain message does that comes while the agent has asked a person: wait for the answer,"
            " be the answer, or end the question; a request may ask for something else"
        ),
    ] = "wait"
    idempotency_retention: Annotated[
        float,
        Meta(description="Seconds after its end for which an `Idempotency-Key` stands for its run", ge=0),
    ] = 86400.0
    drain_grace: Annotated[
        float, Meta(description="Seconds that executing runs get to finish when the server is told to stop", ge=0)
    ] = 6.0
    lock_wait: Annotated[float, Meta(description="Seconds to wait for another server to give up the journal", ge=0)] = (
        60.0
    )
    stream_retention: Annotated[
        float, Meta(description="Seconds after a run's end for which its events can be read again", ge=0)
    ] = 300.0
    stream_buffer: Annotated[int, Meta(description="Events of a run that can be read again; the oldest go", ge=1)] = (
        10_000
    )
    stream_buffer_bytes: Annotated[
        int, Meta(description="Bytes of memory for the events of a run; the oldest go", ge=1024)
    ] = 4 * 1024 * 1024
    stream_memory: Annotated[
        int, Meta(description="Bytes of memory for the events of runs that have ended, together; the oldest go", ge=0)
    ] = 64 * 1024 * 1024
    stream_cut: Annotated[
        int,
        Meta(
            description="Bytes of a tool's arguments or result, or of an image, that events tell; history has all", ge=0
        ),
    ] = 16 * 1024
    max_agents: Annotated[int, Meta(description="Idle agents kept in memory", ge=0)] = 1_000
    agent_idle: Annotated[float, Meta(description="Seconds after which an idle agent leaves memory", ge=0)] = 600.0
    log_format: Annotated[
        Literal["text", "json"], Meta(description="Form of the log: lines for people, or one JSON object a line")
    ] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is worth a line in the log")
    ] = "info"
    log_details: Annotated[
        bool, Meta(description="What exceptions say is in a JSON log too; it may quote messages and secrets")
    ] = False
    idle_timeout_minutes: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Minutes without any work or question after which the server stops itself; 0: never"),
    ] = None

    @property
    def has_keys(self) -> bool:
        """Whether callers have to show a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    @property
    def holds_per_principal(self) -> int | None:
        """How many of a principal's runs may have ended and still work; None: no bound of its own."""
        if self.max_holds_per_principal is None and self.has_keys:
            return max(1, self.max_holds // 2)
        return self.max_holds_per_principal

    @property
    def chat_body_bytes(self) -> int:
        """How large a body in OpenAI's form may be; never less than before for a server whose bodies may be large."""
        if self.max_chat_body_bytes is None:
            return max(64 * 1024 * 1024, self.max_body_bytes)
        return self.max_chat_body_bytes

    @property
    def error_text_in_force(self) -> Literal["full", "class", "id"]:
        """What is told of exceptions: where callers are told apart, not what was meant for whoever runs the server."""
        return self.error_text or ("id" if self.has_keys else "full")


class Told(Struct, frozen=True):
    """One setting as it stands: `value` is what was written, if that is wrong; `error` says why then."""

    name: str
    value: Any
    default: Any
    origin: str
    meaning: str
    error: str | None


def shown(told: Told) -> Told:
    """Return a setting as it may be shown to people."""
    if told.name not in HIDDEN or not told.value:
        return told
    count = len(told.value) if isinstance(told.value, list) else 1
    return msgspec.structs.replace(told, value=f"{count}, not shown")


class Survey(Struct, frozen=True):
    """All settings, what is wrong with the file that they are in, and remarks about what is no setting."""

    settings: list[Told]
    faults: list[str]
    remarks: list[str]

    @property
    def errors(self) -> list[str]:
        """Everything for which a server would refuse to start."""
        return [*self.faults, *(each.error for each in self.settings if each.error)]


_FOR_KEYS: Final = (f"{PREFIX}API_KEYS", f"{PREFIX}API_KEYS_FILE")


class Resolved(Struct, frozen=True):
    """Settings, and for each of them where its value came from, in words."""

    settings: Settings
    origins: dict[str, str]
    remarks: list[str]
    """What the log should say of where they were not taken from, and of what was perhaps meant as one."""


def descriptions() -> dict[str, str]:
    """Return the meaning of each setting, in the order of the record."""
    hints = _hints()
    return {name: _description(hints[name]) for name in Settings.__struct_fields__}


def default_of(name: str) -> Any:
    """Return the default of a setting."""
    return getattr(Settings(), name)


def kind_of(name: str) -> Any:
    """Return the type of a setting, with its limits."""
    return _hints()[name]


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    toml: Path | None = None,
    folder: Path | None = None,
    given: str | None = None,
) -> Resolved:
    """Return the settings in force. Raises `SettingsError` that names each that is wrong, its origin, what it may be.

    `flags` holds only what was given; `toml`, or else the variable `STRANDLINE_CONFIG`, names a file that must exist;
    else `strandline.toml` of `folder` (the current one) is read if it is there. `given` says where `flags` come from,
    if they are none of a command.
    """
    table, faults = _from_toml(toml, environ, folder or Path.cwd())
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.__struct_fields__, DEFAULT)
    hints = _hints()
    for source in (table, _from_environment(environ), _from_flags(flags, given)):
        for name, (raw, origin) in source.items():
            try:
                values[name] = _convert(name, raw, hints[name], origin)
            except SettingsError as wrong:
                faults.append(str(wrong))
            origins[name] = origin
    if faults:
        count = f"{len(faults)} things are wrong with the settings:\n\n" if len(faults) > 1 else ""
        raise SettingsError(count + "\n\n".join(faults))
    settings = Settings(**values)
    if not settings.has_keys and (blank := [name for name in _FOR_KEYS if name in environ]):
        raise SettingsError(
            f"{blank[0]} is set and names no key, so nobody would have to show one. Put the line of a key there"
            " (strandline keys new NAME), or a file that has one; or unset it if everybody is to be let in."
        )
    if settings.idempotency_retention > settings.run_retention:
        name = "run_retention" if origins["run_retention"] != "default" else "idempotency_retention"
        raise SettingsError(
            f"{name} is {getattr(settings, name):g} ({origins[name]}), but an idempotency key is kept with its run:"
            f" run_retention ({settings.run_retention:g} s) must not be below idempotency_retention"
            f" ({settings.idempotency_retention:g} s). Make the one longer or the other shorter."
        )
    if settings.history_retention is not None and settings.history_retention < settings.run_retention:
        raise SettingsError(
            f"history_retention is {settings.history_retention:g} ({origins['history_retention']}), but a session"
            " that is forgotten takes its runs and their idempotency keys along: it must not be below run_retention"
            f" ({settings.run_retention:g} s). Make the one longer or the other shorter."
        )
    _check_session_files(settings)
    return Resolved(settings, origins, _remarks(toml, environ, folder or Path.cwd()))


def _check_session_files(settings: Settings) -> None:
    """Raise `SettingsError` if files of sessions are wanted where there can be none."""
    if settings.session_files is None:
        if settings.session_files_names:
            raise SettingsError("session_files_names is set, but session_files is not. Name the folder there, too.")
        return
    place = Place(settings.session_files, settings.session_files_names)
    if settings.history == "external":
        raise SettingsError(
            "session_files is set, but with history=external the journal has no conversations to write: the agent's own"
            " session manager keeps them. Unset one of the two."
        )
    if settings.has_keys and not place.keeps_principals_apart:
        raise SettingsError(
            f"session_files is {settings.session_files}, and with keys two principals may have sessions of one name."
            f" Let it hold {{principal}}: {settings.session_files.rstrip('/')}/{{principal}}"
        )


def survey(environ: Mapping[str, str], *, toml: Path | None = None, folder: Path | None = None) -> Survey:
    """Return every setting as it stands, also where it is wrong, and whatever else is wrong with them. Never raises."""
    folder = folder or Path.cwd()
    table, faults = _from_toml(toml, environ, folder)
    found = table | _from_environment(environ)
    hints = _hints()
    told = []
    for name in Settings.__struct_fields__:
        value, origin = found.get(name, (default_of(name), DEFAULT))
        error = None
        try:
            value = _convert(name, value, hints[name], origin)
        except SettingsError as wrong:
            error = str(wrong)
        told.append(Told(name, value, default_of(name), origin, _description(hints[name]), error))
    return Survey(told, faults, _remarks(toml, environ, folder))


def journal_file(settings: Settings) -> Path | None:
    """Return the file that the journal is, None if it is no file."""
    kind, _, place = settings.journal.partition(":")
    return Path(place) if kind == "sqlite" and place else None


def check_exposure(settings: Settings) -> None:
    """Raise `SettingsError` if the server would listen beyond this machine without anybody having allowed it."""
    if settings.has_keys or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"host is {settings.host}, so other machines could drive your agent, and nobody has to show a key. Make keys"
        " (strandline keys new NAME --file keys, and --api-keys-file keys), listen on 127.0.0.1, or set"
        " STRANDLINE_ALLOW_ANONYMOUS=1 if everybody who reaches this address may use the agent."
    )


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings, include_extras=True)


Source = dict[str, tuple[Any, str]]


def _from_flags(flags: Mapping[str, Any], given: str | None) -> Source:
    for name in flags:
        if name not in Settings.__struct_fields__:
            raise SettingsError(f"`{name}` is no setting{_meant(name, Settings.__struct_fields__)}")
    return {name: (value, given or f"--{name.replace('_', '-')}") for name, value in flags.items() if value is not None}


def _from_environment(environ: Mapping[str, str]) -> Source:
    found: Source = {}
    for name in Settings.__struct_fields__:
        for variable in (PREFIX + name.upper(), ALIASES.get(name, "")):
            if environ.get(variable):
                found[name] = (environ[variable], variable)
                break
    return found


def _from_toml(given: Path | None, environ: Mapping[str, str], folder: Path) -> tuple[Source, list[str]]:
    """Return what the file says, and what is wrong with it."""
    named = environ.get(CONFIG)
    path = given or (Path(named) if named else None)
    file = path or folder / TOML_FILE
    shown = file if path else TOML_FILE
    if given is None and named == NO_FILE:
        return {}, []
    if path is None and not file.is_file():
        return {}, []
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [f"{shown} cannot be read: {error.strerror}. Name another file with --config, or mend this one."]
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, [f"{shown} cannot be read: {error}. It is TOML: a line for each setting, such as `port = 8080`."]
    faults = []
    for name in table:
        if name not in Settings.__struct_fields__:
            hint = _meant(name, Settings.__struct_fields__)
            faults.append(
                f"{shown} has `{name}`, which is no setting{hint or '.'} `strandline settings` shows all of them."
            )
    found = {name: (value, str(shown)) for name, value in table.items() if name in Settings.__struct_fields__}
    if path is None:
        faults += [
            f"{shown} has `{name}`, which is not taken from a file that nobody has named: whoever can write into this"
            f" folder, such as a tool of the agent, could let itself in. Name the file (--config {TOML_FILE}, or"
            f" {CONFIG}={TOML_FILE}) or set {PREFIX}{name.upper()}."
            for name in NAMED_ONLY
            if found.pop(name, None) is not None
        ]
    return found, faults


def _remarks(given: Path | None, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Return what is no setting in force although somebody may think so. Nothing of it keeps a server from starting."""
    return [*_passed_over(given, environ, folder), *_misspelt_variables(environ)]


def _passed_over(given: Path | None, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Return a remark if there is a file of settings that would be read elsewhere."""
    file = folder / TOML_FILE
    if given is not None or environ.get(CONFIG) != NO_FILE or not file.is_file():
        return []
    told = f"{file} is not read, since {CONFIG} is {NO_FILE}: agents can write where it is."
    return [f"{told} Mount it to another folder, and name it there with --config or {CONFIG}"]


def _misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a remark for each variable that reads like a misspelt one of ours."""
    names = [name.upper() for name in Settings.__struct_fields__] + [CONFIG.removeprefix(PREFIX)]
    unknown = (name.removeprefix(PREFIX) for name in sorted(environ) if name.startswith(PREFIX))
    return [
        f"the variable {PREFIX}{name} is no setting{hint}"
        for name in unknown
        if name not in names
        and PREFIX + name not in OF_CLIENTS
        and not _SERVICE_LINK.match(f"{PREFIX}{name}={environ[PREFIX + name]}")
        and (hint := _meant(name, names, PREFIX))
    ]


def _meant(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean `{prefix}{close[0]}`?" if close else ""


def _convert(name: str, raw: Any, kind: Any, origin: str) -> Any:
    listed = isinstance(default_of(name), list)
    value = [item.strip() for item in raw.split(",") if item.strip()] if listed and isinstance(raw, str) else raw
    try:
        converted = msgspec.convert(value, kind, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("Expected a number that is finite")
        return converted
    except msgspec.ValidationError as error:
        said = "not shown here" if name in HIDDEN else repr(raw)
        raise SettingsError(
            f"{name} is {said} ({origin}); it must be {_choices(kind) or _wanted(error)}. {_description(kind)}."
        ) from None


def _wanted(error: msgspec.ValidationError) -> str:
    """Say what was expected, in words of people: msgspec's name types."""
    expected = str(error).partition(", got")[0].partition(" - at")[0]
    for name, words in _TYPES.items():
        expected = expected.replace(f"`{name}`", words)
    return expected.removeprefix("Expected ").removesuffix(".0")


def _description(kind: Any) -> str:
    metas = [each for each in getattr(kind, "__metadata__", ()) if isinstance(each, Meta)]
    return next((each.description for each in metas if each.description), "")


def _choices(kind: Any) -> str:
    """Return the values that a setting of few values may have, or the forms of one that has to have one of them."""
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    for each in (inner, *get_args(inner)):
        if get_origin(each) is Literal:
            return " or ".join(get_args(each))
    forms = [each.examples for each in getattr(kind, "__metadata__", ()) if isinstance(each, Meta) and each.examples]
    return " or ".join(f"`{form}`" for form in forms[0]) if forms else ""
