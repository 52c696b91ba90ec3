"""Every setting, declared once: its name, default, meaning and limits.

Three records build on each other: the settings of a service (`strandline.open_service`), of an app, which is a service
behind HTTP (`strandline.asgi`), and of a server, which is an app in its own process (`strandline.serve`, the command).
Flags, variables, TOML keys and the reference are derived from here; `strandline._config` finds the values.

Durations are seconds. Users write their names without the unit: the field `timeout_s` is the setting `timeout`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from strandline._model import OnDisconnect, OnQuestion
from strandline._older_names import NEWER_SETTINGS


def _shown(name: str) -> str:
    """Return the name that users write for a field; some fields have the older name of their setting."""
    bare = name.removesuffix("_s")
    return NEWER_SETTINGS.get(bare, bare)


class ServiceSettings(Struct, frozen=True, kw_only=True, rename=_shown):
    """The settings of a service."""

    agent_id: Annotated[str, Meta(description="Name of this server in answers", min_length=1)] = "strandline"
    journal: Annotated[
        str,
        Meta(
            description="Where accepted runs and history are stored: `sqlite:PATH`, `postgresql://...` or `memory:`",
            pattern="^(sqlite:.+|postgres(ql)?://.*|memory:)$",
            examples=["sqlite:PATH", "postgresql://USER@HOST/DATABASE", "memory:"],
        ),
    ] = "sqlite:.strandline/journal.db"
    workspace: Annotated[
        str | None, Meta(description="Folder with one folder per session; default: `workspace/` beside the journal")
    ] = None
    max_running: Annotated[
        int, Meta(description="Maximum number of runs that execute at once, over all sessions", ge=1)
    ] = 64
    max_running_per_principal: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Maximum number of runs of one caller that execute at once; default: no limit of its own"),
    ] = None
    executor_threads: Annotated[int, Meta(description="Threads for sync tools and factories, in each worker", ge=1)] = (
        256
    )
    max_queued_per_session: Annotated[
        int, Meta(description="Maximum number of runs that wait in one session", ge=0)
    ] = 100
    max_queued_per_principal: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Maximum number of runs that wait in all sessions of one caller; default: no limit of its own"
        ),
    ] = None
    max_queued: Annotated[int, Meta(description="Maximum number of runs that wait in all sessions together", ge=0)] = (
        10_000
    )
    max_metadata_bytes: Annotated[
        int, Meta(description="Maximum size of a run's `metadata` as JSON, in bytes", ge=2)
    ] = 16 * 1024
    max_client_options_bytes: Annotated[
        int,
        Meta(
            description="Maximum size of what a run's client wants of the agent (`tools`, `response_format`), in bytes",
            ge=2,
        ),
    ] = 128 * 1024
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
            description="What callers and history get of an exception: its text (`full`), its class (`class`), or an"
            " id under which the log has the text (`id`); default: `full` without keys, `id` with keys"
        ),
    ] = None
    retry_after_s: Annotated[
        float, Meta(description="Seconds that a full or stopping server asks clients to wait", ge=0)
    ] = 5.0
    priority: Annotated[
        int, Meta(description="Priority of a run in its queue, 1 to 5, 1 first; a request may set another", ge=1, le=5)
    ] = 3
    timeout_s: Annotated[
        float, Meta(description="Seconds a run may take from its first start; a request may set less", gt=0)
    ] = 3600.0
    queue_timeout_s: Annotated[
        float, Meta(description="Seconds a run may wait for its turn; a request may set less", gt=0)
    ] = 3600.0
    input_timeout_s: Annotated[
        float, Meta(description="Seconds that other runs of a session wait for the answer to an input request", ge=0)
    ] = 900.0
    cancel_grace_s: Annotated[
        float, Meta(description="Seconds a run has to end after its deadline or a cancel", ge=0)
    ] = 5.0
    hold_limit_s: Annotated[
        float,
        Meta(
            description="Seconds after which a session is unlocked although a thread of its ended run still works", ge=0
        ),
    ] = 60.0
    max_holds: Annotated[
        int,
        Meta(
            description="Number of ended runs with such a thread at which the server stops itself, to be restarted",
            ge=1,
        ),
    ] = 8
    max_holds_per_principal: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Number of a caller's ended runs with such a thread at which its runs no longer start;"
            " default: with keys half of `max_still_working`, at least 1"
        ),
    ] = None
    max_stored_bytes_per_principal: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Bytes stored for one caller (inputs, metadata, history and state of all its sessions) above"
            " which its new runs are refused; default: no limit of its own"
        ),
    ] = None
    max_schedules_per_caller: Annotated[
        int, Meta(description="Maximum number of schedules of one caller, in all its sessions", ge=0)
    ] = 1_000
    files: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Folder for uploaded files; default: beside the journal's file; a journal in a database needs"
            " one that all servers share"
        ),
    ] = None
    max_file_bytes: Annotated[int, Meta(description="Maximum size of an uploaded file, in bytes", ge=1)] = (
        32 * 1024 * 1024
    )
    file_retention_s: Annotated[
        float,
        Meta(
            description="Seconds after which an uploaded file is deleted that no run has named; others stay as long as"
            " their session",
            ge=60,
        ),
    ] = 86400.0
    webhook: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="URL to which events of runs and sessions are sent whose request and session name none;"
            " default: none"
        ),
    ] = None
    webhook_events: Annotated[
        list[
            Literal[
                "run.queued",
                "run.started",
                "run.joined",
                "run.finished",
                "session.paused",
                "session.resumed",
                "session.deleted",
            ]
        ],
        Meta(description="The events that are sent there; default: `run.finished`"),
    ] = []
    webhook_secrets: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="File with the secrets that sign what is sent to webhooks, as lines printed by `strandline keys"
            " webhook NAME`, read again when it changes; default: no webhooks"
        ),
    ] = None
    webhook_retries: Annotated[
        list[Annotated[float, Meta(ge=0)]],
        Meta(
            description="Seconds to wait before each further attempt to send an event, which is dead after the last"
            " one; an empty list (`,` as a variable or flag): no further attempt"
        ),
    ] = field(default_factory=lambda: [5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0])
    webhook_allow_private: Annotated[
        bool, Meta(description="Whether a webhook may be at `http` URLs, and at addresses that are not public")
    ] = False
    max_webhooks_per_caller: Annotated[
        int,
        Meta(
            description="Events of one caller that wait to be sent, or are dead, at which its new runs with a webhook"
            " are refused",
            ge=0,
        ),
    ] = 10_000
    disk_reserve_bytes: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Bytes of the journal's disk reserved for accepted runs; with less free, new runs are"
            " refused; 0: none; default: a tenth of the disk, at most 64 MiB"
        ),
    ] = None
    stall_after_s: Annotated[
        float, Meta(description="Seconds without any sign of life after which a run counts as stalled", gt=0)
    ] = 120.0
    stall_action: Annotated[
        Literal["report", "cancel"],
        Meta(description="What happens to a stalled run: `report` shows it in /health, `cancel` also cancels it"),
    ] = "report"
    max_attempts: Annotated[
        int, Meta(description="How often a run is started if the server crashes each time", ge=1)
    ] = 3
    after_crash: Annotated[
        Literal["resume", "fail"],
        Meta(
            description="What happens to a run that was executing when the server crashed: `resume` from its last"
            " checkpoint, or `fail`"
        ),
    ] = "resume"
    unknown_tool: Annotated[
        Literal["fail", "resume"],
        Meta(
            description="What happens if a tool was executing when the server crashed, so that its outcome is"
            " unknown: `fail` ends the run, `resume` resumes it and the model reads that the outcome is"
            " unknown"
        ),
    ] = "fail"
    idempotent_tools: Annotated[
        list[str],
        Meta(description="Tools that are started again, under the same toolUseId, if the server crashed during them"),
    ] = []
    on_failure: Annotated[
        Literal["keep", "drop"],
        Meta(
            description="Whether the messages of a failed run stay in the conversation (`keep`), or are flagged and"
            " hidden (`drop`)"
        ),
    ] = "keep"
    history: Annotated[
        Literal["journal", "session_manager"],
        Meta(description="Who stores the conversation: the journal, or the agent's own session manager"),
    ] = "journal"
    session_files: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Folder for a copy of each session, written as its runs end, in the format of Strands'"
            " `FileSessionManager`; may contain `{session_id}` and, required with keys, `{caller}`"
        ),
    ] = None
    session_files_names: Annotated[
        list[str],
        Meta(description="Sessions with another name there: `default=agent` swaps the names of these two"),
    ] = []
    run_retention_s: Annotated[
        float,
        Meta(description="Seconds for which an ended run can be read, at least 60; its messages stay", ge=60),
    ] = 30 * 86400.0
    history_retention_s: Annotated[
        Annotated[float, Meta(ge=60)] | None,
        Meta(
            description="Seconds after its last run for which an idle session is stored, with its history; not below"
            " `run_retention`; default: until it is deleted"
        ),
    ] = None
    on_disconnect: Annotated[
        OnDisconnect,
        Meta(description="What happens to a run whose clients have all disconnected; a request may set another"),
    ] = OnDisconnect.CONTINUE
    on_question: Annotated[
        OnQuestion,
        Meta(
            description="What a plain message does while the agent waits for a person: `wait` for the answer, be the"
            " `answer`, or `dismiss` the question; a request may set another"
        ),
    ] = OnQuestion.WAIT
    trusted_senders: Annotated[
        bool,
        Meta(description="Whether a request may name its `sender`; if not, the sender is the name of the API key"),
    ] = False
    join_senders: Annotated[
        Literal["same", "any"],
        Meta(
            description="Whose runs join the one that executes, with `if_busy` `steer`: only those of its sender"
            " (`same`), or those of every sender in its session (`any`)"
        ),
    ] = "same"
    tell_waiting: Annotated[
        bool,
        Meta(
            description="Whether an agent knows how many messages wait in its session and from whom, and may read"
            " them with `strandline.tools.waiting_messages`"
        ),
    ] = False
    collect_quiet_s: Annotated[
        float,
        Meta(
            description="Seconds without a further message after which runs with `if_busy` `collect` start, as one"
            " turn; a request may set others",
            ge=0,
            le=60,
        ),
    ] = 0.5
    collect_max_wait_s: Annotated[
        float, Meta(description="Seconds that the first of them waits for further ones at most", ge=0, le=600)
    ] = 5.0
    collect_max_items: Annotated[
        int, Meta(description="Maximum number of runs that start as one turn", ge=1, le=100)
    ] = 20
    collect_max_bytes: Annotated[
        int,
        Meta(
            description="Maximum size of their inputs together, in bytes; a first one that is larger starts alone",
            ge=1,
            le=1024 * 1024,
        ),
    ] = 64 * 1024
    sender_template: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^(?=[\s\S]*\{(?:name|id)\})(?=[\s\S]*\{text\})(?![\s\S]*\{text\}[\s\S]*\{text\})"
                r"(?:[^{}]|\{(?:name|id|text)\})*$"
            ),
        ]
        | None,
        Meta(
            description="How the agent reads a message whose sender is known, from `{text}` and `{name}` or `{id}`;"
            " default: the text alone",
            examples=["{name}: {text}"],
        ),
    ] = None
    idempotency_retention_s: Annotated[
        float,
        Meta(description="Seconds after its run's end for which an `Idempotency-Key` is remembered", ge=0),
    ] = 86400.0
    drain_grace_s: Annotated[
        float, Meta(description="Seconds that executing runs have to finish when the server is stopped", ge=0)
    ] = 6.0
    lock_wait_s: Annotated[
        float, Meta(description="Seconds to wait for another server to release the journal", ge=0)
    ] = 60.0
    stream_retention_s: Annotated[
        float, Meta(description="Seconds after a run's end for which its events can be read again", ge=0)
    ] = 300.0
    stream_buffer: Annotated[
        int, Meta(description="Events of a run that can be read again; the oldest are dropped", ge=1)
    ] = 10_000
    stream_buffer_bytes: Annotated[
        int, Meta(description="Bytes of memory for the events of a run; the oldest are dropped", ge=1024)
    ] = 4 * 1024 * 1024
    stream_memory: Annotated[
        int, Meta(description="Bytes of memory for the events of all ended runs together; the oldest are dropped", ge=0)
    ] = 64 * 1024 * 1024
    stream_cut: Annotated[
        int,
        Meta(
            description="Bytes of a tool's arguments or result, or of an image, in an event; history has them whole",
            ge=0,
        ),
    ] = 16 * 1024
    max_agents: Annotated[int, Meta(description="Maximum number of idle agents in memory", ge=0)] = 1_000
    agent_idle_s: Annotated[
        float, Meta(description="Seconds after which an idle agent is removed from memory", ge=0)
    ] = 600.0

    @property
    def has_keys(self) -> bool:
        """Whether callers must show an API key, which identifies them."""
        return False

    @property
    def holds_per_principal(self) -> int | None:
        """How many ended runs of one caller may still execute a tool; None: no limit of its own."""
        if self.max_holds_per_principal is None and self.has_keys:
            return max(1, self.max_holds // 2)
        return self.max_holds_per_principal

    @property
    def error_text_in_force(self) -> Literal["full", "class", "id"]:
        """What callers get of exceptions. With keys it is an id, since the text may be for the operator only."""
        return self.error_text or ("id" if self.has_keys else "full")

    @property
    def attempts(self) -> int:
        """How often a run is started, across crashes."""
        return self.max_attempts if self.after_crash == "resume" else 1


class AppSettings(ServiceSettings, frozen=True, kw_only=True, rename=_shown):
    """The settings of an ASGI app."""

    api_keys: Annotated[
        list[str],
        Meta(description="Keys of callers, as lines printed by `strandline keys new`; default: no key is required"),
    ] = []
    api_keys_file: Annotated[
        str | None, Meta(description="File of such lines, read again when it changes and on SIGHUP")
    ] = None
    max_token_lifetime_s: Annotated[
        float,
        Meta(description="Seconds for which a token for web pages is valid at most", gt=0, le=86400),
    ] = 3600.0
    metrics_public: Annotated[
        bool, Meta(description="Whether /metrics needs no operator's key although there are keys")
    ] = False
    allowed_hosts: Annotated[
        list[str],
        Meta(description="Names in the Host header to accept besides localhost and IP addresses; `*`: every name"),
    ] = []
    trusted_baggage: Annotated[
        Literal["all", "operators", "none"],
        Meta(description="Whose `baggage` header is stored and passed to agents: `all`, `operators`, `none`"),
    ] = "all"
    cors_origins: Annotated[list[str], Meta(description="Origins of web pages that may call this server")] = []
    max_body_bytes: Annotated[int, Meta(description="Maximum size of a request body, in bytes", ge=1)] = (
        10 * 1024 * 1024
    )
    max_chat_body_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Maximum size of a body in OpenAI's format; `max_body_bytes` limits its last message, and"
            " everything but its messages; default: 67108864 (64 MiB), or `max_body_bytes` if that is more"
        ),
    ] = None
    default_session: Annotated[
        Literal["refuse", "shared"],
        Meta(
            description="Requests without a session, if there are keys or in OpenAI's format: refused (`refuse`), or"
            " all share the session `default` (`shared`)"
        ),
    ] = "refuse"
    session_header: Annotated[
        str,
        Meta(
            description="Header that names the session in OpenAI's format; client programs have different ones",
            pattern="^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$",
        ),
    ] = "X-Session-Id"
    client_history: Annotated[
        Literal["ignore", "follow", "refuse"],
        Meta(
            description="What happens if the earlier messages of a request in OpenAI's or AG-UI's format differ from"
            " history: nothing (`ignore`), history continues from the last common one (`follow`), or the request is"
            " refused (`refuse`)"
        ),
    ] = "ignore"
    agui_state: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(
            description="Keys of the agent's state that clients of AG-UI get at the end of each run; default: none,"
            " since state may hold what is not for them",
            examples=["cart", "plan"],
        ),
    ] = []
    console: Annotated[
        Literal["on", "off"], Meta(description="Whether the server has the console, a page for people at `/`")
    ] = "on"
    agent_description: Annotated[
        str, Meta(description="What the agent is for, in its card for clients of A2A", min_length=1)
    ] = "An agent with one queue per conversation"
    agent_skills: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(
            description="What it can do, in its card: each a name, a colon and a description; default: one skill, with"
            " the agent's name and description",
            examples=["Search: finds flights", "Booking: books them"],
        ),
    ] = []
    public_url: Annotated[
        Annotated[str, Meta(pattern="^https?://[^/]+.*$")] | None,
        Meta(
            description="The address of this server for its clients, in the card; default: that of the request for it",
            examples=["https://agent.example.com"],
        ),
    ] = None
    start_wait_s: Annotated[
        float, Meta(description="Seconds that a request waits for a starting server before it is refused", ge=0)
    ] = 30.0

    @property
    def has_keys(self) -> bool:
        """Whether callers must show an API key, which identifies them."""
        return bool(self.api_keys) or self.api_keys_file is not None

    @property
    def chat_body_bytes(self) -> int:
        """The size limit of a body in OpenAI's format; never below `max_body_bytes` unless it is set."""
        if self.max_chat_body_bytes is None:
            return max(64 * 1024 * 1024, self.max_body_bytes)
        return self.max_chat_body_bytes


class Settings(AppSettings, frozen=True, kw_only=True, rename=_shown):
    """The settings of a server: all of them."""

    host: Annotated[str, Meta(description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(description="Port to listen on; 0 lets the system choose", ge=0, le=65535)] = 8080
    cluster_listen: Annotated[
        str,
        Meta(
            description="Address and port to listen on for other servers with the same journal in PostgreSQL; port 0"
            " lets the system choose",
            pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@\s]+):\d{1,5}$",
            examples=["127.0.0.1:0", "0.0.0.0:8081"],
        ),
    ] = "127.0.0.1:0"
    cluster_address: Annotated[
        Annotated[str, Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@\s]+)(:\d{1,5})?$")] | None,
        Meta(
            description="Address, and port if it differs, at which other servers reach that; default: `cluster_listen`,"
            " or the address that this machine's name has if that is every address",
            examples=["10.0.3.7", "strandline-a.internal:8081"],
        ),
    ] = None
    own_port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        Meta(
            description="A second port, of this server alone; with `servers`, of the first of them, and the next ones"
            " have the next ports; default: none"
        ),
    ] = None
    allow_anonymous: Annotated[
        bool, Meta(description="Listen on addresses beyond loopback although no key is required")
    ] = False
    workers: Annotated[
        int,
        Meta(description="Processes that agents are spread over; 1: they run in the server's own process", ge=1, le=64),
    ] = 1
    servers: Annotated[
        int,
        Meta(
            description="Servers that share the address, each a process of its own with its `workers`; more than 1 need"
            " a journal in PostgreSQL",
            ge=1,
            le=64,
        ),
    ] = 1
    max_connections: Annotated[
        int, Meta(description="Maximum number of connections; at the limit, the longest-idle one is closed", ge=1)
    ] = 12_000
    receive_timeout_s: Annotated[
        float,
        Meta(description="Seconds that a client has to send a request, or to read the next part of its answer", gt=0),
    ] = 60.0
    keep_alive_s: Annotated[
        int, Meta(description="Seconds that an idle connection stays open for the next request", ge=1)
    ] = 75
    log_format: Annotated[
        Literal["text", "json"], Meta(description="Format of the log: lines for people, or one JSON object a line")
    ] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Lowest level that is logged")
    ] = "info"
    log_details: Annotated[
        bool,
        Meta(description="Whether a JSON log includes the text of exceptions, which may quote messages and secrets"),
    ] = False
    idle_timeout_minutes: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Minutes without a run or a request after which the server stops itself; 0: never"),
    ] = None
