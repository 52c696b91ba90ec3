"""Owns partitions: the sessions that are cached, and what another server, or this one before, has left claimed."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec.structs import replace

from strandline._journal.changes import CedePartitions
from strandline._journal.records import DamagedSession
from strandline._journal.state import SessionState
from strandline._journal.transitions import Transitions, in_order
from strandline._model import Claim, FencingToken, SessionKey
from strandline.errors import RecordDamaged

_log = logging.getLogger("strandline.journal")


class Owning(Transitions):
    """Takes partitions over, and gives them up."""

    def install(self, sessions: Iterable[SessionState | DamagedSession]) -> None:
        """Cache sessions as they are stored. A damaged one is left out, and refused."""
        for session in sessions:
            if isinstance(session, DamagedSession):
                self._refuse(session)
            else:
                self._install(session)

    def _refuse(self, damaged: DamagedSession) -> None:
        """Refuse everything in a damaged session from now on; nothing of it is known, or it is forgotten."""
        _log.error("%s; everything else continues", damaged.error)
        if damaged.key is not None:
            self._forget(damaged.key)
            self._damaged[damaged.key] = str(damaged.error)

    def take_over(self, epochs: Mapping[int, int], now: float, *, top: int = 0) -> list[Claim]:
        """Own partitions: end all holds and fence every older owner; return new claims on what was executing, in order
        of sequence.

        `epochs` says of each partition how many owners it has had, with this one; `top` as in `Numbers.begin`.
        """
        self._now = now
        self._epochs = dict(epochs)
        self.numbers.begin(max(epochs.values(), default=0), top)
        claimed = in_order(run for run in self._runs.values() if run.fence is not None)
        for held in [run for run in claimed if run.held_since is not None]:
            self._end_hold(held)
        claims = []
        for run in [run for run in claimed if run.fence is not None]:
            try:
                found, checkpoints, _ = self._stored(run)
                question = None
                if run.session.answered_by(run) is not None:
                    question, error = self._question(run.session)
                    found = found if error is None else replace(found, resumable=False)
            except RecordDamaged as error:
                self._refuse(DamagedSession(run.session.key, error))
                continue
            was, run.fence = run.fence, self.numbers.fence(self._partition(run.session))
            self._change_run(run, was=was)
            claims.append(
                Claim(token=FencingToken(run.run_id, run.fence), run=found, checkpoints=checkpoints, question=question)
            )
        return claims

    def epoch_of(self, key: SessionKey) -> int:
        """Return how many owners the partition of a session has had. Raises `NotOwner` if it is not ours."""
        self._check_owned(key)
        return self._epochs[self.partition(key)]

    def join(self, gained: "Owning") -> None:
        """Own the partitions of another table too, with their sessions, which it has no more."""
        sessions = gained.drop_all()
        self._damaged.update(gained.damaged)
        self._epochs.update(gained._epochs)
        self.numbers.begin(0, gained.numbers.top)
        self.install(sessions)

    def close(self, partitions: Collection[int], rests: Callable[[], object] = lambda: None) -> None:
        """Claim nothing in partitions of ours any more; runs are accepted, and wait.

        `rests` is called each time when nothing is left that is claimed in one of them, in the middle of an operation.
        """
        self._closing.update(dict.fromkeys(partitions, rests))

    def reopen(self, partitions: Collection[int]) -> None:
        """Claim in partitions again."""
        for each in partitions:
            self._closing.pop(each, None)
        ours = self._epochs.keys() & set(partitions)
        if not ours:
            return
        for run in self._runs.values():
            if run.fence is None and self._partition(run.session) in ours:
                self._moved(run.session.key)

    def stay(self, key: SessionKey) -> None:
        """Cede the partition of a session no more: it counts as one in which a run is claimed."""
        self._claimed_in[self.partition(key)] += 1

    def cede(self, partitions: Collection[int]) -> frozenset[int]:
        """Own partitions no longer, those of them in which nothing is claimed; return these."""
        ceded = frozenset(self.at_rest(partitions))
        if not ceded:
            return ceded
        for session in [each for each in self._sessions.values() if self._partition(each) in ceded]:
            self._touch(session)  # (to be read again if this cannot be stored)
            self._forget(session.key)
        for key in [each for each in self._damaged if self.partition(each) in ceded]:
            del self._damaged[key]
        for partition in ceded:
            self._ceded[partition] = self._epochs.pop(partition)
        self._changes.append(CedePartitions(tuple(sorted(ceded))))
        return ceded
