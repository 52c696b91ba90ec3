"""What happens between a question and its answer, as values: `Conversation` makes them, `Screen` draws them.

And every way in which there is no answer, as an error whose message is a paragraph for people.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from strandline.remote.answers import RemoteError


@dataclass(frozen=True, slots=True)
class Waiting:
    """No answer after `elapsed_s`; on the server `running` runs execute and `queued` wait, of whatever session.

    Both are None if it does not say at the moment.
    """

    elapsed_s: float
    running: int | None
    queued: int | None


@dataclass(frozen=True, slots=True)
class InLine:
    """The run is known by its id, and not ended: `position` runs start until it has (None: it executes)."""

    elapsed_s: float
    run_id: str
    phase: str
    position: int | None
    estimated_wait_s: float | None


@dataclass(frozen=True, slots=True)
class Kept:
    """The server stops, and keeps the run: it goes on when the server, or the next one, is back."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The server does not take the question now; nothing was accepted. It is sent again in `wait_s`.

    `again`: it was refused before.
    """

    reason: str
    wait_s: float
    again: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke before the answer came; the server is asked whether it knows of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a run: `body` is what `POST /chat` answers. `found`: it was read in the history, after a break."""

    body: dict[str, Any]
    elapsed_s: float
    found: bool = False

    @property
    def text(self) -> str:
        """The answer, or what went wrong."""
        return str(self.body.get("response", ""))

    @property
    def ok(self) -> bool:
        """Whether the agent answered."""
        return self.body.get("status") == "success"


Event = Waiting | InLine | Kept | Refused | Lost | Answer


class ChatError(RemoteError):
    """There is no answer to a question; the message says why and what to do."""

    code: ClassVar[str] = "chat"


class NotTaken(ChatError):
    """The server refuses the question, now and later."""


class Untold(ChatError):
    """The connection broke, and what became of the question cannot be found out."""
