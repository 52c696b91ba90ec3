"""Several servers over one journal: who they are, and which of them owns which partition."""

from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct

Feature = Literal[
    "not_before",
    "sender",
    "schedules",
    "options",
    "steer",
    "resolve",
    "after",
    "fork",
    "webhook",
    "collect",
    "files",
    "tools",
    "response_format",
]
"""What a journal stores that servers of an earlier schema do not know: they would do something else with it."""


class Peer(Struct, frozen=True):
    """A server of the cluster. Ids rise from start to start: a server that starts again is another one."""

    id: int
    address: str
    """Where it listens for the other servers, as `host:port`."""
    version: str
    proves: bool = True
    """Whether it proves with each answer that it is its own; older versions do not."""


class DatabaseVitals(Struct, frozen=True):
    """How the journal's database does, for monitoring. All servers but the owner of the first partition know the clock
    only: one of them asks for the rest."""

    clock_ahead_s: float
    """How far the clock of this server is ahead of the database's."""
    oldest_xmin_age: int | None = None
    """How many transactions have begun since the oldest snapshot that somebody keeps; 0: nobody keeps one."""
    dead_rows: int | None = None
    """How many dead versions of rows there are in the table that has the most."""
    live_rows: int | None = None
    """How many rows that table has."""


class Members(Protocol):
    """Who the servers over one journal are, and who it is that asks."""

    @property
    def me(self) -> int:
        """The id of this server; 0 for a command, which is none."""
        ...

    @property
    def secret(self) -> bytes:
        """What all servers of the cluster know, and nobody else: it signs their requests to each other."""
        ...

    @property
    def peers(self) -> dict[int, Peer]:
        """The servers that are alive, with this one, by id."""
        ...


class Cluster(Members, Protocol):
    """The servers over one journal, as this one knows them: at most a second old. Only `refresh` and `database`
    ask it.

    Use it on the loop that opened the journal.
    """

    @property
    def lease_s(self) -> float:
        """For how many seconds a server that says nothing keeps its partitions."""
        ...

    @property
    def lease_left_s(self) -> float:
        """For how many seconds runs may execute here without another renewal of the lease."""
        ...

    @property
    def takeovers(self) -> int:
        """How many servers this one has ended since its start, because they had not renewed their leases."""
        ...

    def knows(self, feature: Feature) -> bool:
        """Return whether every server that is alive knows this, so that it may be stored."""
        ...

    def owner(self, partition: int) -> Peer | None:
        """Return the server that owns a partition, maybe this one; None: none does, or it is not known yet."""
        ...

    def owns(self, partition: int) -> bool:
        """Return whether this server owns a partition, and has read what is stored in it."""
        ...

    async def refresh(self) -> None:
        """Read anew who owns what. Raises `JournalUnavailable`."""
        ...

    async def database(self) -> DatabaseVitals | None:
        """Return how the database does, at most a minute old; None: there is none. Raises `JournalUnavailable`."""
        ...


@runtime_checkable
class Shared(Protocol):
    """What a journal has besides that several servers may use at once."""

    @property
    def cluster(self) -> Cluster:
        """Who they are."""
        ...
