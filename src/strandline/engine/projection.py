"""What keeps a copy of the journal's conversations for others: told of what changes, and never waited for by a run.

Belongs to the serving loop. It raises nothing; what it cannot do it does later.
"""

from typing import Final, Protocol

from strandline.model import SessionKey


class Projection(Protocol):
    """Follows the journal, which is the truth."""

    @property
    def behind(self) -> int:
        """How many sessions have something that is not in the copy, as far as is known."""
        ...

    @property
    def failures(self) -> int:
        """How often something could not be copied or removed."""
        ...

    def start(self) -> None:
        """Begin to follow, with what was missed; the journal is open."""
        ...

    def changed(self, key: SessionKey) -> None:
        """Note that the history of a session is longer."""
        ...

    async def deleting(self, key: SessionKey) -> None:
        """Note that a session is about to be deleted; `deleted` follows, unless this process dies."""
        ...

    async def deleted(self, key: SessionKey, *, done: bool) -> None:
        """Remove what is copied of a session, if it was deleted (`done`)."""
        ...

    async def finish(self, within_s: float) -> None:
        """Copy what is new, for no longer than this, and end. The journal is open until then."""
        ...


class Unprojected:
    """Copies nothing."""

    behind = 0
    failures = 0

    def start(self) -> None:
        """Begin nothing."""

    def changed(self, key: SessionKey) -> None:
        """Take no notice."""

    async def deleting(self, key: SessionKey) -> None:
        """Take no notice."""

    async def deleted(self, key: SessionKey, *, done: bool) -> None:
        """Take no notice."""

    async def finish(self, within_s: float) -> None:
        """End nothing."""


UNPROJECTED: Final = Unprojected()
