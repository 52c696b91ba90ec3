"""Each defect of runs that join another is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from breakage_support import SEEDS, is_noticed
from strandline._engine.execution.attempt import LiveAttempt
from strandline._history import with_joined
from strandline._journal import accepting, transitions
from strandline._journal.memory import MemoryJournal
from strandline._journal.rules import rank
from strandline._journal.state import RunState, SessionState
from strandline._journal.table import SessionTable
from strandline._model import Block, FencingToken, JoinedInput, Message

Break = Callable[[pytest.MonkeyPatch], None]


def join_nothing(patch: pytest.MonkeyPatch) -> None:
    """A run waits for its turn although one executes that it could join."""
    patch.setattr(SessionTable, "_host_for", lambda table, new, executing: None)


def join_any_sender(patch: pytest.MonkeyPatch) -> None:
    """What one person says is put beside what another one said."""
    patch.setattr(accepting, "may_join", lambda new, host: True)


def join_whatever_executes(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether the run that is expected to execute does."""
    accept = SessionTable.accept

    def heedless(table: SessionTable, new: Any, *given: Any, **more: Any) -> Any:
        return accept(table, replace(new, expected_run_id=None), *given, **more)

    patch.setattr(SessionTable, "accept", heedless)


def keep_no_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """What has joined is known to one process only: its host's checkpoints lack it."""
    apply = MemoryJournal.apply_joins

    async def unkept(
        journal: MemoryJournal, token: FencingToken, messages: list[Message], *as_read: Any
    ) -> list[JoinedInput]:
        patch.setattr(SessionTable, "checkpoint", lambda table, token, checkpoint: None)
        try:
            return await apply(journal, token, messages, *as_read)
        finally:
            patch.setattr(SessionTable, "checkpoint", checkpoint)

    checkpoint = SessionTable.checkpoint
    patch.setattr(MemoryJournal, "apply_joins", unkept)


def join_in_reverse(patch: pytest.MonkeyPatch) -> None:
    """The last that was said comes first."""
    own: Callable[[SessionState], list[RunState]] = vars(SessionState)["pending"].fget
    patch.setattr(SessionState, "pending", property(lambda session: own(session)[::-1]))


def count_none_that_joins(patch: pytest.MonkeyPatch) -> None:
    """What waits to join another counts in no bound."""
    patch.setattr(SessionState, "waiting", property(lambda session: len(session.queue)))


def let_it_run_as_well(patch: pytest.MonkeyPatch) -> None:
    """What has joined becomes the next run as well when its host ends."""
    end = SessionTable._end_joins

    def again(table: SessionTable, host: RunState, status: Any, outcome: bytes, joined: Any, **more: Any) -> None:
        end(table, host, status, outcome, (), **more)

    patch.setattr(SessionTable, "_end_joins", again)


def line_up_behind_others(patch: pytest.MonkeyPatch) -> None:
    """What no model call came for waits behind others of its priority."""
    patch.setattr(RunState, "rank", property(lambda run: (run.lane, run.urgency, run.seq)))
    patch.setattr(accepting, "first_rank", lambda new, sequence, now, join: rank(new.lane, new.priority, sequence))


def show_what_joined(patch: pytest.MonkeyPatch) -> None:
    """A rollback of a host hides what it did, and not that others had joined it."""
    end = SessionTable._end_joins

    def shown(table: SessionTable, *given: Any, discarded: bool) -> None:
        end(table, *given, discarded=False)

    patch.setattr(SessionTable, "_end_joins", shown)


def end_as_before(patch: pytest.MonkeyPatch) -> None:
    """What waits again and is ended takes nothing with it that had joined."""
    patch.setattr(transitions, "joined_in", lambda checkpoints: ())


def say_it_twice(patch: pytest.MonkeyPatch) -> None:
    """A message is added once more to what the model reads."""
    take = LiveAttempt.take_joins

    async def twice(attempt: LiveAttempt) -> list[Block]:
        said = await take(attempt)
        if said:
            attempt.messages[-1]["content"] += said
        return said

    patch.setattr(LiveAttempt, "take_joins", twice)


def say_it_too_late(patch: pytest.MonkeyPatch) -> None:
    """What still waits to join when its host ends is added to the host's messages, and no model call follows."""
    closed = LiveAttempt.closed

    def late(attempt: LiveAttempt, finished: Any) -> Any:
        sessions: SessionTable = attempt._journal._inner._table  # type: ignore[attr-defined]
        host = sessions._runs[attempt.claim.run.run_id]
        waiting: Sequence[RunState] = [] if host.cancel_requested else host.session.pending
        said = [JoinedInput(run.run_id, run.new.input) for run in waiting if run.new is not None]
        for run, _ in zip(waiting, said, strict=False):
            sessions._apply(run)
        messages, exactly = closed(attempt, finished)
        attempt.joined += tuple(run.run_id for run in said)
        last = max(n for n, each in enumerate(messages) if each["role"] == "user")
        return [*messages[:last], *with_joined([messages[last]], said), *messages[last + 1 :]], exactly and not said

    patch.setattr(LiveAttempt, "closed", late)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a run that joins nothing": (join_nothing, 1016, "which executed, and did not"),
    "a run that joins another sender's": (join_any_sender, 1079, "is of another session or sender"),
    "a run that joins another than it expects": (join_whatever_executes, 1021, "was to join"),
    "a join that a crash forgets": (keep_no_checkpoint, 1367, "its message is with|stands 0 times"),
    "runs that join in reverse": (join_in_reverse, 1021, "which was accepted earlier"),
    "runs that join beyond the bound": (count_none_that_joins, 1021, "waited in its session|waited$"),
    "a run that joins and runs as well": (
        let_it_run_as_well,
        1008,
        "stands 2 times|has not joined it",
    ),
    "a next run that goes behind others": (line_up_behind_others, 1016, "which goes before it"),
    "a rollback that shows what had joined": (show_what_joined, 1073, "only one is hidden"),
    "an end that leaves out what had joined": (
        end_as_before,
        1224,
        "has not joined it|is with|stands 2 times",
    ),
    "a message that joins twice": (say_it_twice, 1008, r"is with \['r\d+', 'r\d+'\]|stands 2 times|had heard"),
    "a message that joins too late": (say_it_too_late, 1031, "at its last model call"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
