"""Judges who worked for a session: its owner at that time, and nobody else. Pure."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from soak.ledger import Line
from soak.records import Owned
from strandline._journal.partitions import partition_of
from strandline._model import Principal, SessionId, SessionKey

CLOCKS_NS: Final = 10_000_000
"""By how much the database's clock and that of the ledger may differ."""
NOBODY: Final = 0


class Owners:
    """Which process owned a session when."""

    def __init__(self, owned: Sequence[Owned]) -> None:
        self._times: dict[int, list[int]] = defaultdict(list)
        self._pids: dict[int, list[int]] = defaultdict(list)
        for each in owned:
            self._times[each.partition].append(each.at_ns)
            self._pids[each.partition].append(each.pid)

    def at(self, session: str, at_ns: int) -> set[int]:
        """Return who owned a session at a time, as far as clocks can say."""
        partition = _partition(session)
        times, pids = self._times[partition], [NOBODY, *self._pids[partition]]
        first, last = (bisect_right(times, at_ns + by) for by in (-CLOCKS_NS, CLOCKS_NS))
        return set(pids[first : last + 1])

    def during(self, session: str, since_ns: int, until_ns: int) -> set[int]:
        """Return who owned a session between two times, as far as clocks can say."""
        partition = _partition(session)
        times, pids = self._times[partition], [NOBODY, *self._pids[partition]]
        return set(pids[bisect_right(times, since_ns - CLOCKS_NS) : bisect_right(times, until_ns + CLOCKS_NS) + 1])

    def since_ns(self, session: str, at_ns: int) -> int:
        """Return since when a session has had the owner that it has at a time; 0: nothing is known."""
        times = self._times[_partition(session)]
        place = bisect_right(times, at_ns + CLOCKS_NS) - 1
        return times[place] if place >= 0 else 0

    def lost_ns(self, session: str, pid: int, at_ns: int) -> int | None:
        """Return when a process lost a session that it had at a time; None: it never did."""
        partition = _partition(session)
        times, pids = self._times[partition], self._pids[partition]
        later = range(bisect_right(times, at_ns + CLOCKS_NS), len(times))
        return next((times[place] for place in later if pids[place] != pid), None)

    def is_late(self, line: Line) -> bool:
        """Return whether the process of a tool stood still from when the tool was allowed to begin until it had lost
        its session. Nothing can keep such a tool from beginning; no run of the session has its result."""
        lost_ns = self.lost_ns(line.session, line.server, line.begun_ns)
        return line.kind == "begin" and lost_ns is not None and lost_ns < line.at_ns


def _partition(session: str) -> int:
    return partition_of(SessionKey(Principal("anonymous"), SessionId(session)))


def judge_owned(owned: Owners, lines: Sequence[Line]) -> Iterator[str]:
    """Yield the tools that were started by a server that did not own their session then."""
    for line in lines:
        if line.kind == "begin" and line.server not in (owners := owned.at(line.session, line.begun_ns)):
            yield (
                f"{line.tool} of run {line.run_id} ({line.label}) in {line.session} was started by process"
                f" {line.server}, and the session belonged to {_named(owners)}"
            )


def _named(owners: set[int]) -> str:
    return " or ".join(f"process {pid}" if pid else "nobody" for pid in sorted(owners))
