"""The sessions of clients that shake hands: an id that says all, so that nothing is stored.

It is good after a restart, at each server, and for its caller only. It grants nothing: every request is let in by its
own key. So it needs no secret: who makes one up has what `initialize` would have given.
"""

import hashlib
import re
import secrets
from typing import Final

from msgspec import Struct

from strandline._model import Principal, SessionId

HEADER: Final = "mcp-session-id"
_ID: Final = re.compile(r"([yn])-([0-9a-f]{32})-([0-9a-f]{16})")


class McpSession(Struct, frozen=True):
    """A client's session. `elicits`: whether the client can ask its user, by a form."""

    drawn: str
    elicits: bool

    @property
    def name(self) -> SessionId:
        """The session of its calls that name none."""
        return SessionId(f"mcp_{self.drawn}")

    def id_for(self, principal: Principal) -> str:
        """Return its id for its caller."""
        said = f"{'y' if self.elicits else 'n'}-{self.drawn}"
        return f"{said}-{_check(said, principal)}"


def new_session(*, elicits: bool) -> McpSession:
    """Return a session that nobody has."""
    return McpSession(secrets.token_hex(16), elicits)


def session_with(given: str, principal: Principal) -> McpSession | None:
    """Return the session of an id; None: it is none of this caller's."""
    found = _ID.fullmatch(given)
    if found is None or not secrets.compare_digest(_check(f"{found[1]}-{found[2]}", principal), found[3]):
        return None
    return McpSession(found[2], found[1] == "y")


def _check(said: str, principal: Principal) -> str:
    return hashlib.sha256(f"{principal}\0{said}".encode()).hexdigest()[:16]
