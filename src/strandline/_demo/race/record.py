"""The record of a race: the only input of judgement and drawing, so it can be saved and judged again.

Times are seconds since the first request of a trial. Names in JSON differ in part (`act`, `asked`, `spells`).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from msgspec import Struct, field


class Server(StrEnum):
    """The servers in the race."""

    DEFAULT = "default"
    """Strands as it comes, which refuses a call while another one executes."""
    UNPROTECTED = "unprotected"
    """Strands with concurrent calls allowed."""
    LOCK = "lock"
    STRANDLINE = "strandline"


class Scenario(StrEnum):
    """What happens to the five requests."""

    TOGETHER = "together"
    FAILURE = "failure"
    KILL = "kill"


class ClientResult(StrEnum):
    """What a client got."""

    WAITS = "waits"
    ANSWER = "answer"
    ERROR = "error"
    NOTHING = "nothing"


class Request(Struct, frozen=True, kw_only=True):
    """One request, as its client saw it."""

    seat: int
    question: str
    fails: bool = False
    """Whether it makes the model fail."""
    sent_at: float
    ended_at: float | None = None
    got: ClientResult = ClientResult.WAITS
    text: str = ""
    """The answer, or what the error says."""


class Invocation(Struct, frozen=True, kw_only=True):
    """One invocation of the agent, from its ledger."""

    seat: int
    begun_at: float
    ended_at: float | None
    """None: it was cut off, or still executes."""
    failed: bool = False


class Trial(Struct, frozen=True, kw_only=True):
    """One scenario on one server."""

    server: Server
    scenario: Scenario = field(name="act")
    requests: Sequence[Request] = field(name="asked")
    invocations: Sequence[Invocation] = field(name="spells")
    tools: Sequence[int]
    """The seat of every start of the tool, in order."""
    killed_at: float | None = None
    ready_at: float | None = None
    """When the server answered again after it was killed."""
    history: Sequence[Any] = ()
    """The server's final conversation, before the next message."""
    following: Request | None = None
    """The next message, sent after all others ended."""
    note: str = ""
    """The current step, for watchers."""
    over: bool = False


class Race(Struct, frozen=True, kw_only=True):
    """All scenarios on all servers, from one race."""

    strandline: str
    strands: str
    python: str
    seconds: float
    plays: Sequence[Trial]

    def play(self, server: Server, scenario: Scenario) -> Trial:
        """Return one trial. Raises `KeyError` if it was not played."""
        for each in self.plays:
            if (each.server, each.scenario) == (server, scenario):
                return each
        raise KeyError(f"{scenario} on {server}")
