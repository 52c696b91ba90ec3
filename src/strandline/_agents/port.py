"""The port for agents.

A `Target` makes one `SessionAgent` per session. A session agent executes one attempt of one run at a time and
reports its progress to its `Attempt`. Everything here runs on an agent loop, never on the loop that serves HTTP.
Agents know nothing of journals: the engine stores and closes what they report.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from strandline._history import Progress, Waiting, effective_sender, unusable
from strandline._model import (
    AgentRecord,
    Block,
    ClientOptions,
    Ending,
    ErrorCode,
    Failed,
    Input,
    Message,
    Principal,
    RunId,
    Sender,
    SessionId,
    SessionKey,
    StateRecord,
    ToolResult,
    Window,
)


class Signal(Protocol):
    """A flag that is set once, from any thread. User code polls it like a `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether the run should end."""
        ...

    def set(self) -> None:
        """Request the end."""
        ...


class RunContext(Struct, frozen=True, kw_only=True):
    """The facts of a run for user code. `workspace` is the session's own folder."""

    run_id: RunId
    session_id: SessionId
    principal: Principal
    attempt: int
    metadata: dict[str, Any]
    workspace: str
    sender: Sender | None = None
    """Who sent it, if the request says so."""
    files: dict[str, str] | None = None
    """Where the files are that its input names, by their ids: copies in the workspace, which tools may change."""
    files_root: str | None = None
    """The folder that models get files from."""
    shows_waiting: bool = False
    """Whether the agent may know what waits in its session."""
    client: ClientOptions | None = None
    """What its client wants of the agent."""

    @property
    def said_by(self) -> Sender | None:
        """Who sent it, or the name of the key; None without keys if nobody was named."""
        return effective_sender(self.sender, self.principal)


class RunStopped(Exception):
    """The run is being stopped, or may be another server's by now: nothing further may start. Let it pass."""


class AgentLost(Exception):
    """The agent's process is gone, with everything that worked for it there."""


class Attempt(Protocol):
    """One execution of one run: its input, and the receiver of its reports. Used from the agent loop only."""

    @property
    def context(self) -> RunContext:
        """The facts of the run."""
        ...

    @property
    def prompt(self) -> Input | None:
        """The input; None to resume a conversation that ends in toolResults."""
        ...

    @property
    def messages(self) -> Sequence[Message]:
        """The run's messages so far, those of earlier attempts first."""
        ...

    @property
    def signal(self) -> Signal:
        """Set when the run should end soon."""
        ...

    @property
    def has_joins(self) -> bool:
        """Whether messages of runs that join this one wait for its next model call."""
        ...

    def forward_joins(self, on_joins: Callable[[], object]) -> None:
        """Call `on_joins`, on the serving loop, when further ones wait, or now if some do."""
        ...

    async def take_joins(self) -> list[Block]:
        """Add what these runs say to the last one of `messages`, the user's, durably; return the added blocks, in
        order.

        None if the run is being stopped, or the last message is not the user's: they wait on then.
        """
        ...

    async def read_waiting(self, messages: int) -> Waiting:
        """Return what waits in the session at this moment, with the first `messages` of it; not known if it cannot be
        read, or the run has ended."""
        ...

    def add(self, message: Message) -> None:
        """Report a new message; it replaces the partial text before it."""
        ...

    def amend(self, index: int, content: list[Block]) -> None:
        """Report that the message at `index` of `messages` has changed: it was redacted or closed."""
        ...

    def add_text(self, delta: str) -> None:
        """Report a piece of text of the current model call."""
        ...

    def add_reasoning(self, delta: str) -> None:
        """Report a piece of reasoning of the current model call."""
        ...

    def reset_text(self) -> None:
        """Report that the text since the last message is void."""
        ...

    def begin_model(self) -> None:
        """Report that a model call starts or restarts; the text since the last message is void. Raises `RunStopped`."""
        ...

    def add_usage(self, tokens: dict[str, int]) -> None:
        """Report the tokens of a model call, at its end."""
        ...

    def enter(self, phase: str) -> None:
        """Report the current phase: `model` or `node NAME`. The current task counts as one of the run's own.

        Raises `RunStopped`.
        """
        ...

    def begin_tool(self, tool_use_id: str, name: str, given: object) -> None:
        """Report that a tool starts with the arguments `given`. The current task counts as one of the run's own.

        Raises `RunStopped`.
        """
        ...

    def publish_tool_end(self, tool_use_id: str, result: ToolResult) -> None:
        """Publish the end of a tool without a checkpoint; `end_tool` does both."""
        ...

    def touch(self) -> None:
        """Report progress of any kind. A run without reports for a while counts as stalled."""
        ...

    async def begin_round(self) -> None:
        """Make the messages so far durable before any tool of the round starts. Raises `RunStopped`."""
        ...

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        """Report the result of one tool; may return before it is durable."""
        ...

    async def end_round(self, state: StateRecord | None) -> None:
        """Report that the messages so far close the round; may return before it is durable."""
        ...


class Finished(Struct, frozen=True, kw_only=True):
    """The result of an attempt. `window` and `state` are None if they did not change.

    A window belongs to the run's messages as `close` leaves them. `keep` False: the agent's conversation is damaged, so
    the agent must be rebuilt before its next run. `closed`: the agent has already closed its messages for this ending,
    in its own conversation and in its reports; else the engine closes them.
    """

    ending: Ending
    usage: dict[str, int] | None = None
    window: Window | None = None
    state: StateRecord | None = None
    keep: bool = True
    closed: bool = False


def unusable_options(context: RunContext, kind: str) -> Finished | None:
    """Return how a run ends at once whose client wants something of an agent of a kind that gives only text."""
    if context.client is None:
        return None
    why = f"the agent is {kind}, which has neither the tools of a client nor a form of its answer; leave them out"
    return Finished(ending=Failed(ErrorCode.AGENT_ERROR, unusable(why)))


class SessionAgent(Protocol):
    """The agent of one session, with its conversation in memory."""

    async def run(self, attempt: Attempt) -> Finished:
        """Execute an attempt. Raises whatever the user's code raises; then the object is not used again."""
        ...

    def compact(self) -> None:
        """Use as little memory as possible until the next run. Called on the agent loop, between runs."""
        ...


class Target(Protocol):
    """The served target: builds the agent of each session."""

    @property
    def resumable(self) -> bool:
        """Whether its tools can be seen. If not, a run counts as having one in the middle from its start.

        Read at each accept: a factory that could not be tried at the start shows later what it makes.
        """
        ...

    @property
    def singleton(self) -> bool:
        """True if all sessions share one object: one run at a time, and none while a thread of an ended run works."""
        ...

    @property
    def self_managed(self) -> bool:
        """True if the agent keeps its own history: it gets no record of the journal, and the journal stores none."""
        ...

    @property
    def description(self) -> str:
        """One line for people: what is served, and from where."""
        ...

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Build the agent of a session from its record and the progress of a run.

        Raises `AgentFailed` if the user's factory fails or returns something that cannot be served.
        """
        ...


@runtime_checkable
class ProbedAtStart(Protocol):
    """A target that examines itself before the first run is accepted."""

    async def probe(self) -> None:
        """Examine it, on the agent loop, in bounded time. Raises `TargetError` if it cannot be served."""
        ...
