"""Agents, a port: what can be served behind a session.

A `Target` makes one `SessionAgent` per session. A session agent executes one attempt of one run at a time and
reports to its `Attempt` what it does, as it does it. Everything here runs on an agent loop, never on the loop that
serves HTTP. Agents know nothing of journals: what they report is staged and closed by the engine.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct

from strandline._history import Progress
from strandline._model import (
    AgentRecord,
    Block,
    Ending,
    Input,
    Message,
    Principal,
    RunId,
    SessionId,
    SessionKey,
    StateRecord,
    ToolResult,
    Window,
)


class Signal(Protocol):
    """A flag that is set once, from any thread; user code polls it, as it polls a `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether somebody asked for the end."""
        ...

    def set(self) -> None:
        """Ask for the end."""
        ...


class RunContext(Struct, frozen=True, kw_only=True):
    """What a run's own code may know of it; `workspace` is a folder of the session's own."""

    run_id: RunId
    session_id: SessionId
    principal: Principal
    attempt: int
    metadata: dict[str, Any]
    workspace: str


class RunStopped(Exception):
    """The run is being stopped: no further tool may start. Raised by `Attempt.begin_round`; let it pass."""


class AgentLost(Exception):
    """The process in which an agent ran is gone, and everything that worked for it there with it."""


class Attempt(Protocol):
    """One execution of one run: what to do, and where to report. Used from the agent loop only."""

    @property
    def context(self) -> RunContext:
        """The run's own facts."""
        ...

    @property
    def prompt(self) -> Input | None:
        """The question; None to go on with a conversation that ends in toolResults."""
        ...

    @property
    def messages(self) -> Sequence[Message]:
        """The run's messages so far, those of earlier attempts first."""
        ...

    @property
    def signal(self) -> Signal:
        """Set when the run should end soon."""
        ...

    def add(self, message: Message) -> None:
        """Report a message that joined the conversation; it replaces the partial text before it."""
        ...

    def amend(self, index: int, content: list[Block]) -> None:
        """Report that the message at `index` of `messages` has another content than was reported: it was redacted, or
        closed."""
        ...

    def add_text(self, delta: str) -> None:
        """Report a piece of text of the model call under way."""
        ...

    def add_reasoning(self, delta: str) -> None:
        """Report a piece of reasoning of the model call under way."""
        ...

    def reset_text(self) -> None:
        """Report that what was said since the last message counts no more."""
        ...

    def begin_model(self) -> None:
        """Report that a model call starts (again): what it had said counts no more."""
        ...

    def add_usage(self, tokens: dict[str, int]) -> None:
        """Report the tokens that the model call under way has used, at its end."""
        ...

    def enter(self, phase: str) -> None:
        """Report what the run does now: `model`, `node NAME`. The task that reports is one of its own."""
        ...

    def begin_tool(self, tool_use_id: str, name: str, given: object) -> None:
        """Report that a tool starts with the arguments `given`. The task that reports is one of the run's own."""
        ...

    def publish_tool_end(self, tool_use_id: str, result: ToolResult) -> None:
        """Have whoever listens told that a tool has ended, of which nothing is staged; `end_tool` does both."""
        ...

    def touch(self) -> None:
        """Report that something went on, whatever it was; a run that reports nothing for long counts as stalled."""
        ...

    async def begin_round(self) -> None:
        """Make the messages so far durable, before any tool of the round starts. Raises `RunStopped`."""
        ...

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        """Report the result of one tool; may return before it is durable."""
        ...

    async def end_round(self, state: StateRecord | None) -> None:
        """Report that the messages so far close the round; may return before it is durable."""
        ...


class Finished(Struct, frozen=True, kw_only=True):
    """What came of an attempt. `window` and `state` are None where they did not change.

    A window belongs to the run's messages as `close` leaves them. `keep` False: the agent must be rebuilt before its
    next run, since its conversation is not one to go on with. `closed`: the messages reported are those that `close`
    makes of them for this ending, since the agent has closed them in its own conversation; else the engine closes them.
    """

    ending: Ending
    usage: dict[str, int] | None = None
    window: Window | None = None
    state: StateRecord | None = None
    keep: bool = True
    closed: bool = False


class SessionAgent(Protocol):
    """The agent of one session, with its conversation in memory."""

    async def run(self, attempt: Attempt) -> Finished:
        """Execute an attempt. Raises whatever the user's code raises; the object is not used again then."""
        ...

    def compact(self) -> None:
        """Take as little memory as possible until the next run. Called on the agent loop, between runs."""
        ...


class Target(Protocol):
    """What is served: makes the agent of a session."""

    @property
    def resumable(self) -> bool:
        """Whether its tools can be seen. If not, a run counts as having one in the middle from its start.

        Read at each accept: a factory that could not be tried at the start shows later what it makes.
        """
        ...

    @property
    def singleton(self) -> bool:
        """True if all sessions share one object: one run at a time over all of them, none beside a leftover thread."""
        ...

    @property
    def self_managed(self) -> bool:
        """True if the agent keeps its history itself: the journal's record is not given to it, and none is made."""
        ...

    @property
    def description(self) -> str:
        """One line for people: what is served and from where."""
        ...

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Make the agent of a session from its record and what a run has already done.

        Raises `AgentFailed` if the user's factory fails, or returns what cannot be served.
        """
        ...


@runtime_checkable
class ProbedAtStart(Protocol):
    """A target that finds out something about itself before the first run is accepted."""

    async def probe(self) -> None:
        """Find it out, on the agent loop, in bounded time. Raises nothing."""
        ...
