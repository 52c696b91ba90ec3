"""Each defect of delayed runs is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from breakage_support import SEEDS, is_noticed
from strandline._engine.requests.run_builder import RunBuilder
from strandline._journal import accepting
from strandline._journal.memory import MemoryJournal
from strandline._journal.rules import delayed_priority, first_rank
from strandline._journal.state import RunState, SessionState
from strandline._journal.table import SessionTable
from strandline._model import Claim, Lane, NewRun

Break = Callable[[pytest.MonkeyPatch], None]


def begin_at_once(patch: pytest.MonkeyPatch) -> None:
    """A run waits for its turn, and not for its time."""

    def undelayed(new: NewRun, sequence: int, now: float, join: Any = None) -> Any:
        return first_rank(replace(new, not_before=None), sequence, now, join)

    patch.setattr(accepting, "first_rank", undelayed)


def stand_where_it_was_accepted(patch: pytest.MonkeyPatch) -> None:
    """A run that is due stands where it would have without a delay."""

    def become_due(table: SessionTable, run: RunState) -> None:
        session = run.session
        session.queue.remove(run)
        run.lane, run.urgency = Lane.NORMAL, delayed_priority(run.urgency)
        session.queue.add(run)
        table._watch(run)
        table._change_run(run, was=None)
        table._moved(session.key)

    patch.setattr(SessionTable, "_become_due", become_due)


def count_none_that_is_delayed(patch: pytest.MonkeyPatch) -> None:
    """What is delayed counts in no bound."""
    waiting = property(lambda session: sum(run.lane != Lane.DELAYED for run in session.queue) + len(session.pending))
    patch.setattr(SessionState, "waiting", waiting)


def count_from_the_beginning(patch: pytest.MonkeyPatch) -> None:
    """The time to wait counts from the acceptance on."""
    build = RunBuilder.build

    def impatient(builder: RunBuilder, request: Any, *given: Any, **more: Any) -> NewRun:
        new = build(builder, request, *given, **more)
        if new.queue_deadline is None or new.not_before is None:
            return new
        return replace(new, queue_deadline=new.queue_deadline - max(0.0, new.not_before - new.created_at))

    patch.setattr(RunBuilder, "build", impatient)


def forget_what_is_delayed(patch: pytest.MonkeyPatch) -> None:
    """A process knows nothing of the time of a run that another one has accepted: it is due at once."""
    opens = MemoryJournal.open

    async def forgetful(journal: MemoryJournal, owner: str, *, max_attempts: int) -> list[Claim]:
        claims = await opens(journal, owner, max_attempts=max_attempts)
        table = journal._table
        assert table is not None
        for run in [run for run in table._runs.values() if run.is_delayed]:
            table._become_due(run)
        return claims

    patch.setattr(MemoryJournal, "open", forgetful)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a run that does not wait for its time": (begin_at_once, 1003, "s before its time"),
    "a run that stands where it was accepted": (stand_where_it_was_accepted, 1003, "and was there first"),
    "runs that are delayed beyond the bound": (count_none_that_is_delayed, 1003, "waited in its session|waited$"),
    "a delay that counts as waiting": (count_from_the_beginning, 1003, "that count, and had"),
    "a time that a crash forgets": (forget_what_is_delayed, 1006, "s before its time"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
