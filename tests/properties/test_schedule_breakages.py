"""Each defect of schedules is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from breakage_support import SEEDS, is_noticed
from simulation.journals import SlowJournal
from strandline._engine.schedules import schedules
from strandline._engine.schedules.instants import Missed, When
from strandline._journal.changes import Change, MoveSchedule
from strandline._journal.port import ScheduleTimesQuery
from strandline._journal.state import SessionState
from strandline._journal.table import SessionTable

Break = Callable[[pytest.MonkeyPatch], None]


def stand_still(patch: pytest.MonkeyPatch) -> None:
    """One move in five is not stored with the run, and the time fires again."""
    note, moves = SessionTable._note, iter(range(10**9))

    def forgetful(table: SessionTable, session: SessionState, change: Change) -> None:
        if isinstance(change, MoveSchedule) and next(moves) % 5 == 4:
            return
        note(table, session, change)

    patch.setattr(SessionTable, "_note", forgetful)


def leave_times_out(patch: pytest.MonkeyPatch) -> None:
    """Every other time is left out."""
    after = When.after

    def over_the_next(when: When, at: float) -> float | None:
        following = after(when, at)
        return following if following is None else after(when, following)

    patch.setattr(When, "after", over_the_next)


def forget_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A process knows no schedule that another one has made."""

    read = SlowJournal.read

    async def read_no_times(journal: SlowJournal, query: Any) -> Any:
        return [] if isinstance(query, ScheduleTimesQuery) else await read(journal, query)

    patch.setattr(SlowJournal, "read", read_no_times)


def fire_whatever_has_not_ended(patch: pytest.MonkeyPatch) -> None:
    """A run is accepted, and replaces nothing, whether the one before has ended or not."""
    patch.setattr(SessionTable, "_unended", lambda table, session, run_id: None)


def merge_all_that_was_missed(patch: pytest.MonkeyPatch) -> None:
    """Times that were missed have one run, also where each is to have its own."""
    patch.setattr(schedules, "Missed", SimpleNamespace(SKIP=Missed.SKIP, ALL=None))


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a time that fires twice": (stand_still, 1045, "became 2 runs"),
    "times that are left out": (leave_times_out, 1012, "has no run for second"),
    "a schedule that a crash forgets": (forget_in_a_crash, 1074, "has no run for second"),
    "a run that is not skipped": (fire_whatever_has_not_ended, 1173, "of its schedule had not ended"),
    "a run that is not replaced": (fire_whatever_has_not_ended, 1103, "was to be replaced by"),
    "times that were missed and are merged": (merge_all_that_was_missed, 1365, "has no run for second"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
