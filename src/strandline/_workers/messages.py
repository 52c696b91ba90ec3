"""What the serving process and a worker say to each other: orders one way, reports the other. Values only.

A *call* is user code that is executed there, by its number; an *agent* has the number of the call that has built it.
"""

from typing import Any, Final

from msgspec import Struct

from strandline._agents.port import Finished, RunContext
from strandline._history import Progress
from strandline._model import AgentRecord, Carrier, Input, Message, RunId, SessionKey


class Setup(Struct, frozen=True, kw_only=True, tag="setup"):
    """The first order: what is served and how, as the serving process was told; `path` is where modules are found."""

    target: str
    history: str
    keys: bool
    executor_threads: int
    path: list[str]
    agent_id: str
    log_level: str
    log_format: str
    log_details: bool


class Build(Struct, frozen=True, kw_only=True, tag="build"):
    """Have an agent built. `trace` is that of the run's request, `carrier` joins what is current now."""

    call: int
    run_id: RunId
    key: SessionKey
    trace: Carrier | None
    carrier: Carrier | None
    record: AgentRecord
    progress: Progress


class Run(Struct, frozen=True, kw_only=True, tag="run"):
    """Have an agent execute an attempt."""

    call: int
    agent: int
    context: RunContext
    trace: Carrier | None
    carrier: Carrier | None
    prompt: Input | None
    messages: list[Message]


class Signal(Struct, frozen=True, tag="signal"):
    """A run should end soon."""

    call: int


class Cancel(Struct, frozen=True, tag="cancel"):
    """Cancel the task of a call once."""

    call: int


class Go(Struct, frozen=True, tag="go"):
    """A round is durable: its tools may start; or the run is being stopped, and they may not."""

    call: int
    on: bool


class Rest(Struct, frozen=True, tag="rest"):
    """An idle agent may take less memory."""

    agent: int


class Drop(Struct, frozen=True, tag="drop"):
    """An agent is needed no longer."""

    agent: int


class Beat(Struct, frozen=True, tag="beat"):
    """Give a sign of life."""


class Where(Struct, frozen=True, tag="where"):
    """Tell where the code of a call is."""

    call: int


class Leave(Struct, frozen=True, tag="leave"):
    """End in good order: nobody needs anything any more. Without it, the end of the connection is a death."""


Order = Setup | Build | Run | Signal | Cancel | Go | Rest | Drop | Beat | Where | Leave


class Loaded(Struct, frozen=True, kw_only=True, tag="loaded"):
    """What is served, as far as it is known before the first agent is built."""

    resumable: bool
    exclusive: bool
    external: bool
    description: str


class Refused(Struct, frozen=True, tag="refused"):
    """It cannot be served; the text is for people."""

    why: str


class Ready(Struct, frozen=True, tag="ready"):
    """The worker has tried what it serves, and takes calls."""

    resumable: bool


class Told(Struct, frozen=True, tag="told"):
    """A call to a method of `Attempt`, by its name."""

    call: int
    what: str
    given: list[Any]


class Failure(Struct, frozen=True):
    """What user code has raised; `cancelled`: its task was cancelled."""

    kind: str
    detail: str
    cancelled: bool = False


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """A call has ended. `finished` is None for a build; `alive`: something works on for it, until it is `Over`."""

    call: int
    resumable: bool
    finished: Finished | None = None
    failure: Failure | None = None
    alive: bool = False


class Over(Struct, frozen=True, tag="over"):
    """Nothing works for a call any more that has ended."""

    call: int


class Pulse(Struct, frozen=True, kw_only=True, tag="pulse"):
    """A sign of life: for how long the loop of the agents owes one, which call has its thread, how many tools wait."""

    silent_s: float
    running: int | None
    backlog: int


class Here(Struct, frozen=True, tag="here"):
    """Where the code of a call is, one line of text each."""

    call: int
    lines: list[str]


Report = Loaded | Refused | Ready | Told | Done | Over | Pulse | Here

STAGED: Final = frozenset({"begin_round", "end_tool", "end_round"})
"""The methods of `Attempt` that are awaited."""
TOLD: Final = STAGED | {
    "add",
    "add_reasoning",
    "add_text",
    "add_usage",
    "amend",
    "begin_model",
    "begin_tool",
    "enter",
    "reset_text",
    "tell_tool",
    "touch",
}
"""The methods of `Attempt` that reports name."""
