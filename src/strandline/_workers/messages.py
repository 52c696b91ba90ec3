"""The messages between the serving process and a worker: orders one way, reports the other. Values only.

A *call* is user code that runs in the worker, identified by a number; an *agent* has the number of the call that built
it.
"""

from typing import Any, Final

from msgspec import Struct

from strandline._agents.port import Finished, RunContext
from strandline._history import Progress, Waiting
from strandline._model import AgentRecord, Block, Carrier, Input, Message, RunId, SessionKey


class Setup(Struct, frozen=True, kw_only=True, tag="setup"):
    """The first order: what to serve and how. `path` is the `sys.path` of the serving process."""

    target: str
    history: str
    keys: bool
    executor_threads: int
    path: list[str]
    agent_id: str
    log_level: str
    log_format: str
    log_details: bool
    log_server: int | None = None
    """The server that each line of the log names, if several share it."""


class Build(Struct, frozen=True, kw_only=True, tag="build"):
    """Build an agent. `trace` belongs to the run's request; `carrier` continues the current trace."""

    call: int
    run_id: RunId
    key: SessionKey
    trace: Carrier | None
    carrier: Carrier | None
    record: AgentRecord
    progress: Progress


class Run(Struct, frozen=True, kw_only=True, tag="run"):
    """Execute an attempt with an agent. `owned_until` is as in `OwnedUntil`."""

    call: int
    agent: int
    owned_until: float | None
    context: RunContext
    trace: Carrier | None
    carrier: Carrier | None
    prompt: Input | None
    messages: list[Message]
    has_joins: bool = False
    """Whether runs wait to join it."""


class Signal(Struct, frozen=True, tag="signal"):
    """Set the signal of a run that should end soon."""

    call: int


class Cancel(Struct, frozen=True, tag="cancel"):
    """Cancel the task of a call once."""

    call: int


class Proceed(Struct, frozen=True, tag="proceed"):
    """Answer `begin_round`. `allowed`: the round is durable and its tools may start; else the run is being stopped."""

    call: int
    allowed: bool


class JoinsWait(Struct, frozen=True, tag="joins_wait"):
    """Runs wait to join the run of a call: ask for them before its next model call."""

    call: int


class Joined(Struct, frozen=True, tag="joined"):
    """Answer `take_joins`: what these runs say; nothing if none has joined."""

    call: int
    content: list[Block]


class WaitingRead(Struct, frozen=True, tag="waiting_read"):
    """Answer `read_waiting`."""

    call: int
    waiting: Waiting


class Compact(Struct, frozen=True, tag="compact"):
    """Let an idle agent take less memory."""

    agent: int


class Drop(Struct, frozen=True, tag="drop"):
    """Release an agent that is no longer needed."""

    agent: int


class Ping(Struct, frozen=True, tag="ping"):
    """Request a `Heartbeat`."""


class OwnedUntil(Struct, frozen=True, tag="owned_until"):
    """User code may start until then, by `boottime`; None: without limit."""

    until: float | None


class GetStack(Struct, frozen=True, tag="get_stack"):
    """Request the `Stack` of a call."""

    call: int


class Exit(Struct, frozen=True, tag="exit"):
    """Exit cleanly. Without it, a closed connection means that the serving process has died."""


Order = (
    Setup
    | Build
    | Run
    | Signal
    | Cancel
    | Proceed
    | JoinsWait
    | Joined
    | WaitingRead
    | Compact
    | Drop
    | Ping
    | OwnedUntil
    | GetStack
    | Exit
)


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded"):
    """The properties of the target, as far as they are known before the first agent is built."""

    resumable: bool
    singleton: bool
    self_managed: bool
    description: str


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The target cannot be served. `why` is for people."""

    why: str


class Ready(Struct, frozen=True, tag="ready"):
    """The worker has probed the target and accepts calls."""

    resumable: bool


class AttemptCall(Struct, frozen=True, tag="attempt_call"):
    """A call to a method of `Attempt`, by its name."""

    call: int
    method: str
    args: list[Any]


class Failure(Struct, frozen=True):
    """An exception of user code. `cancelled`: its task was cancelled; `stopped`: it started no further."""

    kind: str
    detail: str
    cancelled: bool = False
    stopped: bool = False


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """A call has ended. `finished` is None for a build. `alive`: a thread or task of it works until `WorkEnded`."""

    call: int
    resumable: bool
    finished: Finished | None = None
    failure: Failure | None = None
    alive: bool = False


class WorkEnded(Struct, frozen=True, tag="work_ended"):
    """No thread or task works for an ended call any more."""

    call: int


class Heartbeat(Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """How long the agent loop has been silent, the call that occupies it, and the number of tools without a thread."""

    silent_s: float
    running: int | None
    backlog: int


class Stack(Struct, frozen=True, tag="stack"):
    """The stack of a call, one line of text per frame."""

    call: int
    lines: list[str]


Report = Loaded | LoadFailed | Ready | AttemptCall | Done | WorkEnded | Heartbeat | Stack

AWAITED: Final = frozenset({"begin_round", "end_tool", "end_round", "read_waiting", "take_joins"})
"""The methods of `Attempt` that are awaited."""
ATTEMPT_METHODS: Final = AWAITED | {
    "add",
    "add_reasoning",
    "add_text",
    "add_usage",
    "amend",
    "begin_model",
    "begin_tool",
    "enter",
    "publish_tool_end",
    "reset_text",
    "touch",
}
"""All methods of `Attempt` that a worker may call."""
