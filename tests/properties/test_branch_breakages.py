"""Each defect of conversations that go back is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from breakage_support import SEEDS, is_noticed
from strandline._journal import going_back, reader
from strandline._journal.accepting import Accepting
from strandline._journal.going_back import GoingBack
from strandline._journal.port import Restored, Unreachable
from strandline._journal.table import SessionTable
from strandline._journal.transitions import Transitions
from strandline._model import Place, Range

Break = Callable[[pytest.MonkeyPatch], None]


def show_all(patch: pytest.MonkeyPatch) -> None:
    """What is superseded is in the window of agents, and in history."""
    patch.setattr(reader, "course_of", lambda connection, session: [Range(0, None)])


def go_back_beside_others(patch: pytest.MonkeyPatch) -> None:
    """A run goes back in a session in which others execute or wait."""
    patch.setattr(going_back, "_is_at_rest", lambda session, now: True)


def forget_state(patch: pytest.MonkeyPatch) -> None:
    """An agent has no state after going back, though it was kept."""
    patch.setattr(Transitions, "_kept", lambda table, session, agent: None)


def keep_later_state(patch: pytest.MonkeyPatch) -> None:
    """An agent keeps the state that it had in what is superseded."""
    go_back = Transitions._go_back

    def keeping(table: Transitions, session: Any, place: Place, *more: Any) -> None:
        go_back(table, session, replace(place, agent=session.end.agent), *more)

    patch.setattr(Transitions, "_go_back", keeping)


def go_back_when_accepted(patch: pytest.MonkeyPatch) -> None:
    """A run supersedes what came later before it has started."""
    add = Accepting._add_run

    def early(table: Any, arrival: Any, run: Any) -> None:
        if not arrival.at_once and arrival.new.back is not None:
            table._go_back(run.session, arrival.new.back.at, arrival.branches, run.seq)
        add(table, arrival, run)

    patch.setattr(SessionTable, "_add_run", early)


def go_back_too_far(patch: pytest.MonkeyPatch) -> None:
    """A run that continues after another one replaces it."""
    after = GoingBack._after

    def before(table: GoingBack, session: Any, turn: Any) -> Place | Unreachable:
        place = after(table, session, turn)
        return place if isinstance(place, Unreachable) else replace(place, upto=turn.first)

    patch.setattr(GoingBack, "_after", before)


def refuse_to_go_back(patch: pytest.MonkeyPatch) -> None:
    """No run is a place to go back to."""
    patch.setattr(GoingBack, "_after", lambda table, session, turn: Unreachable("left_nothing"))


def restore_nothing(patch: pytest.MonkeyPatch) -> None:
    """What was to be restored stays superseded."""
    go_back = Transitions._go_back

    def only_for_runs(table: Transitions, session: Any, place: Place, branches: Any, run: int | None) -> None:
        if run is not None:
            go_back(table, session, place, branches, run)

    patch.setattr(Transitions, "_go_back", only_for_runs)


def restore_in_vain(patch: pytest.MonkeyPatch) -> None:
    """What is superseded is said to be in the conversation already."""
    patch.setattr(SessionTable, "_restore", lambda table, change: Restored(table._locate_run(change.run_id).key))


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "an agent that knows what is superseded": (show_all, 1004, "the session had|not what its last branch continues"),
    "a run that goes back beside others": (go_back_beside_others, 1024, "was to go back in a session at rest"),
    "a state that is forgotten": (forget_state, 1009, "had the state of ''"),
    "a state of what is superseded": (keep_later_state, 1004, "had the state of"),
    "a run that goes back when it is accepted": (go_back_when_accepted, 1085, "not what its last branch continues"),
    "a run that goes back too far": (go_back_too_far, 1036, "the session had"),
    "a place that is refused": (refuse_to_go_back, 1004, "nothing can continue after run"),
    "messages that stay superseded": (restore_nothing, 1009, "the session had|not what its last branch continues"),
    "messages that are said to be there": (restore_in_vain, 1004, "was answered as if it was not superseded"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
