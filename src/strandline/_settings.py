"""Every setting, declared once: its name, default, meaning and limits. Whoever reads it takes the record that it is in.

Three records, each of which has the settings of the one before: those of a service (`strandline.open_service`), those
of an app, which is a service behind HTTP (`strandline.asgi`), and those of a server, which is an app in a process of
its own (`strandline.serve`, the command). Flags, variables, TOML keys and the reference follow from here;
`strandline._config` finds the values.

Durations are seconds and have that in their names, which people leave out: `timeout_s` here is the setting `timeout`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from strandline._model import OnDisconnect, OnQuestion


def _shown(name: str) -> str:
    """Return the name of a setting for people."""
    return name.removesuffix("_s")


class ServiceSettings(Struct, frozen=True, kw_only=True, rename=_shown):
    """The settings of a service."""

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
    max_running: Annotated[int, Meta(description="Runs that execute at once, over all sessions", ge=1)] = 64
    max_running_per_principal: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Of these, at most for one key's name; default: no bound of its own"),
    ] = None
    executor_threads: Annotated[int, Meta(description="Threads for sync tools and factories, in each worker", ge=1)] = (
        256
    )
    max_queued_per_session: Annotated[int, Meta(description="Runs that may wait in one session", ge=0)] = 100
    max_queued_per_principal: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Runs that may wait in all sessions of one key's name; default: no bound of its own"),
    ] = None
    max_queued: Annotated[int, Meta(description="Runs that may wait in all sessions together", ge=0)] = 10_000
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
    retry_after_s: Annotated[
        float, Meta(description="What a full or stopping server tells clients to wait, in seconds", ge=0)
    ] = 5.0
    priority: Annotated[
        int, Meta(description="Place of a run in its queue, 1 to 5, 1 first; a request may ask for another", ge=1, le=5)
    ] = 3
    timeout_s: Annotated[
        float, Meta(description="Seconds a run may take from its first start; a request may ask for less", gt=0)
    ] = 3600.0
    queue_timeout_s: Annotated[
        float, Meta(description="Seconds a run may wait for its turn; a request may ask for less", gt=0)
    ] = 3600.0
    input_timeout_s: Annotated[
        float, Meta(description="Seconds that other runs of a session wait for an answer to an input request", ge=0)
    ] = 900.0
    cancel_grace_s: Annotated[
        float, Meta(description="Seconds a run gets to end after its deadline, or when it is cancelled", ge=0)
    ] = 5.0
    hold_limit_s: Annotated[
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
    stall_after_s: Annotated[
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
    run_retention_s: Annotated[
        float,
        Meta(description="Seconds for which an ended run can be asked for, at least 60; its messages stay", ge=60),
    ] = 30 * 86400.0
    history_retention_s: Annotated[
        Annotated[float, Meta(ge=60)] | None,
        Meta(
            description="Seconds after its last run for which a session at rest is kept, with all that was said; not"
            " below `run_retention`; default: until it is deleted"
        ),
    ] = None
    on_disconnect: Annotated[
        OnDisconnect,
        Meta(description="What becomes of a run whose clients were lost; a request may ask for something else"),
    ] = OnDisconnect.CONTINUE
    on_question: Annotated[
        OnQuestion,
        Meta(
            description="What a plain message does that comes while the agent has asked a person: wait for the answer,"
            " be the answer, or end the question; a request may ask for something else"
        ),
    ] = OnQuestion.WAIT
    idempotency_retention_s: Annotated[
        float,
        Meta(description="Seconds after its end for which an `Idempotency-Key` stands for its run", ge=0),
    ] = 86400.0
    drain_grace_s: Annotated[
        float, Meta(description="Seconds that executing runs get to finish when the server is told to stop", ge=0)
    ] = 6.0
    lock_wait_s: Annotated[
        float, Meta(description="Seconds to wait for another server to give up the journal", ge=0)
    ] = 60.0
    stream_retention_s: Annotated[
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
    agent_idle_s: Annotated[float, Meta(description="Seconds after which an idle agent leaves memory", ge=0)] = 600.0

    @property
    def has_keys(self) -> bool:
        """Whether callers have to show a key, and are told apart by it."""
        return False

    @property
    def holds_per_principal(self) -> int | None:
        """How many of a principal's runs may have ended and still work; None: no bound of its own."""
        if self.max_holds_per_principal is None and self.has_keys:
            return max(1, self.max_holds // 2)
        return self.max_holds_per_principal

    @property
    def error_text_in_force(self) -> Literal["full", "class", "id"]:
        """What is told of exceptions: where callers are told apart, not what was meant for whoever runs the server."""
        return self.error_text or ("id" if self.has_keys else "full")

    @property
    def attempts(self) -> int:
        """How often a run is started."""
        return self.max_attempts if self.after_crash == "resume" else 1


class AppSettings(ServiceSettings, frozen=True, kw_only=True, rename=_shown):
    """The settings of an ASGI app."""

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
    start_wait_s: Annotated[
        float, Meta(description="Seconds that a request waits for a server that starts, before it is refused", ge=0)
    ] = 30.0

    @property
    def has_keys(self) -> bool:
        """Whether callers have to show a key, and are told apart by it."""
        return bool(self.api_keys) or self.api_keys_file is not None

    @property
    def chat_body_bytes(self) -> int:
        """How large a body in OpenAI's form may be; never less than before for a server whose bodies may be large."""
        if self.max_chat_body_bytes is None:
            return max(64 * 1024 * 1024, self.max_body_bytes)
        return self.max_chat_body_bytes


class Settings(AppSettings, frozen=True, kw_only=True, rename=_shown):
    """The settings of a server: all that there are."""

    host: Annotated[str, Meta(description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(description="Port to listen on; 0 lets the system choose", ge=0, le=65535)] = 8080
    allow_anonymous: Annotated[
        bool, Meta(description="Listen on other than loopback addresses although nobody has to show a key")
    ] = False
    workers: Annotated[
        int,
        Meta(description="Processes that agents are spread over; 1: they are in the server's own", ge=1, le=64),
    ] = 1
    max_connections: Annotated[
        int, Meta(description="Connections at once; beyond them the one goes that has asked nothing for longest", ge=1)
    ] = 12_000
    receive_timeout_s: Annotated[
        float,
        Meta(description="Seconds that a client has to send a request, or to take the next part of its answer", gt=0),
    ] = 60.0
    keep_alive_s: Annotated[
        int, Meta(description="Seconds that an answered connection stays open for the next request", ge=1)
    ] = 75
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
