"""What was seen of a race, as data: from it alone everything is drawn and judged, so it can be kept and judged again.

Times are seconds since the first request of a play.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from msgspec import Struct, field


class Server(StrEnum):
    """Who is in the race."""

    DEFAULT = "default"
    """Nothing around Strands as it comes, which refuses a call while another one is at work."""
    UNPROTECTED = "unprotected"
    """Nothing around Strands either, which was told to let several calls in."""
    LOCK = "lock"
    STRANDLINE = "strandline"


class Scenario(StrEnum):
    """What happens to the five requests."""

    TOGETHER = "together"
    FAILURE = "failure"
    KILL = "kill"


class ClientResult(StrEnum):
    """What a client got for its request."""

    WAITS = "waits"
    ANSWER = "answer"
    ERROR = "error"
    NOTHING = "nothing"


class Request(Struct, frozen=True, kw_only=True):
    """One request as its client saw it."""

    seat: int
    question: str
    fails: bool = False
    """Whether it asks for the failure of the model."""
    sent_at: float
    ended_at: float | None = None
    got: ClientResult = ClientResult.WAITS
    text: str = ""
    """The answer, or what the error says."""


class Invocation(Struct, frozen=True, kw_only=True):
    """One invocation of the agent, as the agent's ledger has it."""

    seat: int
    begun_at: float
    ended_at: float | None
    """None: it was cut off, or is still going on."""
    failed: bool = False


class Trial(Struct, frozen=True, kw_only=True):
    """One act on one server."""

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
    """The conversation as the server tells it in the end, before the next message."""
    following: Request | None = None
    """The next message, sent when everything was over."""
    note: str = ""
    """What goes on just now, for whoever watches."""
    over: bool = False


class Race(Struct, frozen=True, kw_only=True):
    """All acts on all servers, from one run."""

    strandline: str
    strands: str
    python: str
    seconds: float
    plays: Sequence[Trial]

    def play(self, server: Server, scenario: Scenario) -> Trial:
        """Return one play. Raises `KeyError` when it was not played."""
        for each in self.plays:
            if (each.server, each.scenario) == (server, scenario):
                return each
        raise KeyError(f"{scenario} on {server}")
