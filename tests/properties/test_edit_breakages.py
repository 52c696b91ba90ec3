"""Each defect of edits is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from breakage_support import SEEDS, is_noticed
from strandline._journal.changes import EditRun
from strandline._journal.changing import Changing
from strandline._journal.port import Busy, Edit, Edited
from strandline._journal.state import RunState

Break = Callable[[pytest.MonkeyPatch], None]

_edit = Changing._edit


def start_as_it_was(patch: pytest.MonkeyPatch) -> None:
    """An edit is stored, and its run starts as it was."""

    def edit(table: Changing, change: Edit) -> Any:
        run = table._runs.get(change.run_id)
        new = None if run is None else run.new
        answer = _edit(table, change)
        if isinstance(answer, Edited) and isinstance(run, RunState) and new is not None and run.new is not None:
            run.new = new
        return answer

    patch.setattr(Changing, "_edit", edit)


def store_no_edit(patch: pytest.MonkeyPatch) -> None:
    """An edit is answered, and counts until the run is read again."""

    def edit(table: Changing, change: Edit) -> Any:
        answer = _edit(table, change)
        table._changes[:] = [each for each in table._changes if not isinstance(each, EditRun)]
        return answer

    patch.setattr(Changing, "_edit", edit)


def edit_whatever_it_is(patch: pytest.MonkeyPatch) -> None:
    """An edit is made also if the run is not as its client has seen it."""
    patch.setattr(Changing, "_edit", lambda table, change: _edit(table, replace(change, expected=None)))


def edit_too_late(patch: pytest.MonkeyPatch) -> None:
    """An edit of a run that executes is answered as if it was made."""

    def edit(table: Changing, change: Edit) -> Any:
        answer = _edit(table, change)
        return Edited(("metadata",)) if isinstance(answer, Busy) else answer

    patch.setattr(Changing, "_edit", edit)


def keep_the_words(patch: pytest.MonkeyPatch) -> None:
    """An edit of what a run says changes all but that."""
    patch.setattr(Changing, "_edit", lambda table, change: _edit(table, replace(change, input=None)))


def say_it_as_it_was(patch: pytest.MonkeyPatch) -> None:
    """An edit of what a run says is stored, and its run starts with what it said before."""

    def edit(table: Changing, change: Edit) -> Any:
        run = table._runs.get(change.run_id)
        new = None if run is None else run.new
        answer = _edit(table, change)
        if isinstance(answer, Edited) and isinstance(run, RunState) and new is not None and run.new is not None:
            run.new = replace(run.new, input=new.input)
        return answer

    patch.setattr(Changing, "_edit", edit)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "an edit that its run does not see": (start_as_it_was, 1009, "and it by"),
    "an edit that is not stored": (store_no_edit, 1009, "last, and not by one of"),
    "an edit of what has changed since": (edit_whatever_it_is, 1026, "each time"),
    "an edit of words that is not made": (keep_the_words, 1009, "says what edit"),
    "an edit of words that its run does not say": (say_it_as_it_was, 1009, "says what edit"),
    "an edit that comes too late": (edit_too_late, 1001, "when it had begun"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
