"""Several servers over one journal: who they are, and which of them owns which partition."""

from typing import Protocol, runtime_checkable

from msgspec import Struct


class Peer(Struct, frozen=True):
    """A server of the cluster. Ids rise from start to start: a server that starts again is another one."""

    id: int
    address: str
    """Where it listens for the other servers, as `host:port`."""
    version: str


class Cluster(Protocol):
    """The servers over one journal, as this one knows them: at most a second old. Nothing here blocks, but `refresh`.

    Use it on the loop that opened the journal.
    """

    @property
    def me(self) -> int:
        """The id of this server."""
        ...

    @property
    def secret(self) -> bytes:
        """What all servers of the cluster know, and nobody else: it signs their requests to each other."""
        ...

    @property
    def lease_s(self) -> float:
        """For how many seconds a server that says nothing keeps its partitions."""
        ...

    @property
    def peers(self) -> dict[int, Peer]:
        """The servers that are alive, with this one, by id."""
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


@runtime_checkable
class Shared(Protocol):
    """What a journal has besides that several servers may use at once."""

    @property
    def cluster(self) -> Cluster:
        """Who they are."""
        ...
