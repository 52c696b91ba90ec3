"""The session of a request that may name none: then it is refused, or shares one with all such requests."""

from typing import Final

from msgspec import Struct

from strandline._model import DEFAULT_SESSION
from strandline.errors import NoSession

SHARED: Final = "or let all requests without one share a session (setting default_session=shared)"


class SessionNaming(Struct, frozen=True):
    """`shares`: whether all requests without a session share the session `default`."""

    shares: bool

    def named(self, name: str | None, how: str) -> str:
        """Return the given name of a session, or the shared one; `how` says how to name one.

        Raises `NoSession`.
        """
        if name is not None:
            return name
        if self.shares:
            return DEFAULT_SESSION
        raise NoSession(f"name a session, {how}; {SHARED}")
