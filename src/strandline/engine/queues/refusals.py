"""What the journal has refused and would refuse again, so that whoever hammers a full queue costs it nothing.

A refusal is remembered until anything changes in the queue of its session. What the journal does becomes known here a
moment later than it is done, so a queue may look full for that moment when it is not any more; never the other way
round, since only the journal accepts. Belongs to the serving loop. Plain sync code.
"""

from strandline.journal.port import AcceptAnswer, Refused
from strandline.model import IfBusy, Lane, NewRun, OnQuestion, SessionKey


class Refusals:
    """By session, priority, which together say where a run would have stood, and what it does to a question."""

    def __init__(self) -> None:
        self._known: dict[SessionKey, dict[tuple[int, OnQuestion], Refused]] = {}
        self.changes = 0
        """How often anything has changed; what was asked before the last time is not worth remembering."""

    def find(self, new: NewRun) -> Refused | None:
        """Return how such a run was refused that would be refused again."""
        known = self._known.get(new.key)
        return None if known is None else known.get((new.priority, new.on_question))

    def note(self, new: NewRun, answer: AcceptAnswer, *, asked_at: int) -> None:
        """Remember how the journal has answered a run, if that counts for others; `asked_at`: after how many changes.

        Only a full queue counts: whether the server is full, or a session busy, other sessions and runs decide.
        """
        if (
            isinstance(answer, Refused)
            and answer.reason == "queue_full"
            and asked_at == self.changes
            and new.lane == Lane.NORMAL
            and new.if_busy is IfBusy.ENQUEUE
        ):
            self._known.setdefault(new.key, {})[new.priority, new.on_question] = answer

    def changed(self, key: SessionKey) -> None:
        """Note that a run of a session has come, begun or ended, or may have: once too often does no harm."""
        self.changes += 1
        self._known.pop(key, None)

    def forget(self) -> None:
        """Note a change of which nobody knows in which session it was."""
        self.changes += 1
        self._known.clear()
