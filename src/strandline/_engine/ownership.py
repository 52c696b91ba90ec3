"""Which sessions this server answers for: all of its journal's, or with several servers those of its own partitions.

The service asks before it does anything for a session or a run, so that a request for one of another server changes
nothing here and can be passed on. Whatever is only read from storage (history, lists) any server answers.
"""

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from strandline._journal.cluster import Cluster, Feature, Shared
from strandline._journal.partitions import moved, partition_of, partition_of_run
from strandline._journal.port import Journal
from strandline._model import RunId, SessionKey
from strandline.errors import NotOwner, OlderServer

OLDER_S: Final = 10.0
"""When to try again what an older server does not know: servers are replaced within minutes."""


class Ownership(Struct, eq=False):
    """Belongs to the serving loop. `on_foreign` is called for each request that another server has to answer."""

    _shared: Shared | None
    _on_foreign: Callable[[], object]

    @classmethod
    def of(cls, journal: Journal, on_foreign: Callable[[], object]) -> "Ownership":
        """Return what is owned of a journal."""
        return cls(journal if isinstance(journal, Shared) else None, on_foreign)

    @property
    def is_shared(self) -> bool:
        """Whether other servers may use the journal too."""
        return self._shared is not None

    def others(self) -> Cluster:
        """Return the servers over a journal that `is_shared`, once it is open."""
        assert self._shared is not None
        return self._shared.cluster

    def owns(self, key: SessionKey) -> bool:
        """Return whether this server answers for a session."""
        return self._shared is None or self._shared.cluster.owns(partition_of(key))

    def is_ours_by_id(self, run_id: RunId) -> bool:
        """Return whether this server seems to answer for a run: an id that was copied may name any partition."""
        partition = None if self._shared is None else partition_of_run(run_id)
        return self._shared is None or (partition is not None and self._shared.cluster.owns(partition))

    def check(self, key: SessionKey) -> None:
        """Raise `NotOwner` unless this server answers for a session."""
        if not self.owns(key):
            self._on_foreign()
            raise self.moved(key)

    def knows(self, feature: Feature) -> bool:
        """Return whether all servers over the journal know this."""
        return self._shared is None or self._shared.cluster.knows(feature)

    def check_known(self, features: Iterable[Feature]) -> None:
        """Raise `OlderServer` unless all servers know these: one that does not would do something else instead,
        if the session is its own or becomes so."""
        if self._shared is None:
            return
        for each in features:
            if not self.knows(each):
                self._on_foreign()
                raise OlderServer(
                    f"a server of an older version is still there, which does not know {each}; try again once all have"
                    " been replaced",
                    retry_after_s=OLDER_S,
                )

    def moved(self, key: SessionKey) -> NotOwner:
        """Return the error for a session that another server has, or none."""
        return moved(partition_of(key))
