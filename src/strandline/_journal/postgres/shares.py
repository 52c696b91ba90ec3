"""Which partitions a server should own: decided by each server for itself, from what it sees in the database.

The servers that are alive, and renewed their leases lately, share the partitions by rendezvous hashing: when one comes
or goes, only its own share moves. A server adopts what is free and in its share at once, and anything that stays free.
It cedes what is in the share of another one. Servers that see different things may disagree for a moment; nothing is
ever owned twice, since the database decides. Pure.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from strandline._journal.cluster import Feature
from strandline._journal.partitions import PARTITIONS
from strandline._journal.postgres.schema import SCHEMA_VERSION
from strandline._model import Principal

FREE_S: Final = 1.0
"""After how long a partition that nobody owns may be adopted by any server."""
MOST_PUBLISHED: Final = 200
"""Of how many principals, those with the most waiting runs, a server publishes how many wait."""
FRESH_SHARE: Final = 0.6
"""How much of the lease of a server must be left for it to have a share: one that is frozen cannot adopt."""


SINCE: Final[Mapping[Feature, int]] = {
    "not_before": 4, "sender": 5, "schedules": 7, "options": 8, "steer": 9, "resolve": 10, "after": 11,
    "fork": 12, "webhook": 13, "collect": 14, "files": 15, "tools": 15, "response_format": 15,
}  # fmt: skip
"""The first schema whose servers know each. No released server of that schema lacks the tools and the form of an answer
that clients of some protocols want, which need no table of their own. One that they may do without (deletions, 6) is
none of them."""


class Queued(Struct, frozen=True):
    """What a server publishes to the others: how many runs wait there, and which schema it knows."""

    in_all: int = 0
    of: dict[Principal, int] = {}
    """By principal, for the largest `MOST_PUBLISHED`."""
    schema: int = 0
    """0: it does not say so, since it is older than what would have to be known."""

    @classmethod
    def at(cls, waiting: int, waiting_of: Mapping[Principal, int]) -> "Queued":
        """Return what to publish."""
        return cls(waiting, dict(Counter(waiting_of).most_common(MOST_PUBLISHED)), SCHEMA_VERSION)


class Seen(NamedTuple):
    """A server that is alive, as its row says."""

    id: int
    address: str
    name: str
    version: str
    leaving: bool
    left_s: float
    """How many seconds are left of its lease, on the database's clock."""
    owned: frozenset[int]
    queued: Queued = Queued()
    """What it published when it last looked."""


class View(NamedTuple):
    """Who owns what, at one moment."""

    servers: dict[int, Seen]
    free: frozenset[int]
    """The partitions that nobody owns."""
    stray: frozenset[int]
    """Those of servers that are over: they must be freed first."""
    at: float = 0.0
    """When that was, in seconds since the epoch, on the database's clock."""

    def owner(self, partition: int) -> Seen | None:
        """Return which server owns a partition."""
        return next((each for each in self.servers.values() if partition in each.owned), None)


def share(me: int, servers: Iterable[int]) -> frozenset[int]:
    """Return which partitions a server should own, of those that share them."""
    others = [each for each in servers if each != me]
    return frozenset(p for p in range(PARTITIONS) if all(_weight(me, p) > _weight(each, p) for each in others))


def _weight(server: int, partition: int) -> bytes:
    return hashlib.blake2b(b"%d:%d" % (server, partition), digest_size=8).digest()


def lease_shown(left_s: float) -> str:
    """Return how long a lease lasts, for people."""
    return f"lease ends in {left_s:.0f} s" if left_s >= 0 else "lease is over"


class Shares:
    """What one server makes of what it sees. `me` is its id."""

    def __init__(self, me: int, lease_s: float) -> None:
        self.me = me
        self._lease_s = lease_s
        self._sharing: frozenset[int] = frozenset()
        self._mine: frozenset[int] = frozenset()
        self._free_since: dict[int, float] = {}
        self._lively: set[int] = set()
        """Other servers that have renewed their leases since we looked first."""
        self.view = View({}, frozenset(), frozenset())

    def seen(self, view: View, now: float) -> None:
        """Note what was seen at a time, on any clock that is never set."""
        before, self.view = self.view.servers, view
        self._lively = {
            each.id
            for each in view.servers.values()
            if each.id in self._lively or (each.id in before and each.left_s > before[each.id].left_s)
        } - {self.me}
        self._free_since = {each: self._free_since.get(each, now) for each in view.free}
        fresh = FRESH_SHARE * self._lease_s
        sharing = frozenset(each.id for each in view.servers.values() if each.left_s > fresh and not each.leaving)
        if sharing != self._sharing:
            self._sharing = sharing
            self._mine = share(self.me, sharing) if self.me in sharing else frozenset()

    @property
    def has_company(self) -> bool:
        """Whether another server is there that renews its lease."""
        return any(each != self.me for each in self._sharing)

    @property
    def others_live(self) -> bool:
        """Whether another server has renewed its lease since we looked first: it is not dead."""
        return bool(self._lively)

    @property
    def others(self) -> str:
        """Which other servers there are, for people."""
        others = [each for each in self.view.servers.values() if each.id != self.me]
        return "; ".join(f"{each.name or each.address}, whose {lease_shown(each.left_s)}" for each in others)

    def knows(self, feature: Feature) -> bool:
        """Return whether all servers know a feature. No older server can come any more: it would be refused."""
        servers = self.view.servers.values()
        return bool(servers) and all(each.queued.schema >= SINCE[feature] for each in servers)

    def queued_elsewhere(self) -> Queued:
        """Return how many runs wait at other servers."""
        others = [each.queued for each in self.view.servers.values() if each.id != self.me]
        by_principal = Counter[Principal]()
        for each in others:
            by_principal.update(each.of)
        return Queued(sum(each.in_all for each in others), by_principal)

    @property
    def has_ended(self) -> bool:
        """Whether a server is there whose lease is over, or what it owned."""
        return bool(self.view.stray) or any(
            each.left_s < 0 for each in self.view.servers.values() if each.id != self.me
        )

    def to_adopt(self, owned: Collection[int], now: float) -> list[int]:
        """Return what to adopt; `owned` has what is ours already, or is on its way.

        A drained server has no share. If no other server has one, it adopts what stays free: sessions must have a
        server.
        """
        if self.me not in self._sharing and (self._sharing or self.me not in self.view.servers):
            return []
        ours = self.view.servers[self.me].owned
        old = (each for each, since in self._free_since.items() if each in self._mine or now - since >= FREE_S)
        return sorted({*old, *ours} - set(owned))

    def to_cede(self, owned: Collection[int]) -> list[int]:
        """Return what another server should have, of what is ours."""
        return sorted(set(owned) - self._mine) if self.has_company else []
