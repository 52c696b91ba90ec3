"""Which session a request is about that may leave that open: the one that it names, or one that all such share."""

from typing import Final

from msgspec import Struct

from strandline._model import DEFAULT_SESSION
from strandline.errors import NoSession

SHARED: Final = "or have all requests that name none share one (setting default_session=shared)"


class SessionNaming(Struct, frozen=True):
    """`shares`: whether requests that name no session talk in `default`, all of them in one conversation."""

    shares: bool

    def named(self, name: str | None, how: str) -> str:
        """Return the name of a session as it was given, or the one that all share; `how` says how to give one.

        Raises `NoSession`.
        """
        if name is not None:
            return name
        if self.shares:
            return DEFAULT_SESSION
        raise NoSession(f"name a session, {how}; {SHARED}")
