"""Clients that send the whole conversation each time: what their lists say, and what that does to history.

The header `X-Client-History`, or the setting `client_history`, says whether a request's earlier messages are compared.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from starlette.requests import Request

from strandline._engine.admission import Ticket
from strandline._history import MOST_LISTED, kept, plain_text
from strandline._http.routes.runs import effects_of, state_of
from strandline.errors import Invalid

HEADER: Final = "X-Client-History"
INSTRUCTIONS: Final = frozenset({"system", "developer"})
"""Roles of messages that are ignored: the agent has its own system prompt."""


def client_history(
    request: Request, default: Literal["ignore", "follow", "refuse"]
) -> Literal["ignore", "follow", "refuse"]:
    """Return what a request's earlier messages do; `default` is the setting. Raises `Invalid`."""
    values = request.headers.getlist(HEADER)
    if not any(values):
        return default
    match values[0].strip().lower():
        case ("ignore" | "follow" | "refuse") as how if len(values) == 1:
            return how
    raise Invalid(f"{HEADER} must be ignore, follow or refuse, and be sent once")


class Earlier:
    """What the user's messages of a list say that are not the last one; at most `MOST_LISTED`."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque(maxlen=MOST_LISTED + 1)
        self._has_begun = False
        self.is_cut = False
        """Whether earlier ones are not in the list, or too large to be compared."""

    def add(self, role: str, content: str | Sequence[Mapping[str, Any]] | None) -> None:
        """Add the next message of the list."""
        if role == "user":
            self.is_cut = self.is_cut or len(self._texts) > MOST_LISTED
            self._texts.append(kept(plain_text(content)))
            self._has_begun = True
        elif role not in INSTRUCTIONS:
            self.is_cut = self.is_cut or not self._has_begun  # (no conversation begins with an answer)
            self._has_begun = True

    def add_unread(self) -> None:
        """Add one that was too large."""
        self._texts.clear()
        self.is_cut = self._has_begun = True

    @property
    def texts(self) -> tuple[str, ...]:
        """All but the last one."""
        return tuple(self._texts)[:-1]


def went_back(ticket: Ticket) -> dict[str, Any]:
    """Return the fields of the extension for a run that went back as its client's list says; none for any other."""
    if ticket.back is None or (gone := ticket.superseded) is None:
        return {}
    return {
        "after": ticket.back.after,
        "superseded": gone.runs,
        "effects": effects_of(gone),
        "agent_state": state_of(gone),
    }
