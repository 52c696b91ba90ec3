"""Each defect of crashed runs that are taken up is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from breakage_support import SEEDS, is_noticed
from strandline._engine.requests import checked_tools, run_builder
from strandline._engine.requests.checked_tools import CheckedTool, ToolOutcome
from strandline._history import done_result
from strandline._journal.accepting import Accepting
from strandline._journal.port import Unresolvable
from strandline._journal.transitions import Crashed, Transitions
from strandline._model import Lane, Resolution, ToolDone, ToolNotDone

Break = Callable[[pytest.MonkeyPatch], None]

_checkpoint = checked_tools._checkpoint


def take_up_twice(patch: pytest.MonkeyPatch) -> None:
    """A crashed run can be taken up by everybody who has seen that it can."""
    to_continue, resolved = Accepting._to_continue, Transitions._resolved
    known: WeakKeyDictionary[Accepting, dict[str, Crashed]] = WeakKeyDictionary()  # (of one world each)

    def continued(table: Accepting, session: Any, resolution: Resolution) -> Crashed | Unresolvable:
        found = to_continue(table, session, resolution)
        of_table = known.setdefault(table, {})
        if isinstance(found, Crashed):
            of_table[resolution.run_id] = found
        before = of_table.get(resolution.run_id)
        return found if before is None else before._replace(branches=table._branches(session))

    patch.setattr(Accepting, "_to_continue", continued)
    patch.setattr(
        Transitions, "_resolved", lambda table, session: session.unresolved is not None and resolved(table, session)
    )


def start_what_is_done(patch: pytest.MonkeyPatch) -> None:
    """A tool that has taken effect starts again."""
    patch.setattr(checked_tools, "_checkpoint", lambda tool, by: ToolNotDone(tool.tool_use_id, by))


def start_nothing(patch: pytest.MonkeyPatch) -> None:
    """A tool that has done nothing counts as one that has taken effect."""

    def checkpoint(tool: CheckedTool, by: str) -> ToolDone | ToolNotDone:
        if tool.outcome is ToolOutcome.NOT_DONE:
            return ToolDone(tool.tool_use_id, done_result(tool.tool_use_id, by))
        return _checkpoint(tool, by)

    patch.setattr(checked_tools, "_checkpoint", checkpoint)


def name_nobody(patch: pytest.MonkeyPatch) -> None:
    """History does not say who checked a tool."""
    patch.setattr(checked_tools, "_checkpoint", lambda tool, by: _checkpoint(tool, "somebody"))


def forget_what_it_returned(patch: pytest.MonkeyPatch) -> None:
    """What somebody saw that a tool returned is lost."""
    patch.setattr(checked_tools, "_content", lambda result: [])


def begin_anew(patch: pytest.MonkeyPatch) -> None:
    """A run that continues another one has the last round of that alone."""
    continue_ = Transitions._continue

    def continued(table: Any, run: Any, crashed: Crashed) -> None:
        continue_(table, run, crashed._replace(checkpoints=crashed.checkpoints[:1]))

    patch.setattr(Transitions, "_continue", continued)


def keep_both(patch: pytest.MonkeyPatch) -> None:
    """What a crashed run has left stays in the conversation beside what continues it."""
    continue_ = Transitions._continue

    def continued(table: Any, run: Any, crashed: Crashed) -> None:
        with pytest.MonkeyPatch.context() as within:
            within.setattr(Transitions, "_branch", lambda *given, **more: None)
            continue_(table, run, crashed)

    patch.setattr(Transitions, "_continue", continued)


def take_up_too_late(patch: pytest.MonkeyPatch) -> None:
    """A crashed run can still be taken up when its session has continued."""
    append = Transitions._append

    def added(table: Any, session: Any, *given: Any, **more: Any) -> None:
        was = session.unresolved
        session.unresolved = None
        append(table, session, *given, **more)
        session.unresolved = was

    patch.setattr(Transitions, "_append", added)


def wait_in_line(patch: pytest.MonkeyPatch) -> None:
    """A run that continues another one waits behind those that were there before."""
    lanes = SimpleNamespace(REQUEUED=Lane.NORMAL, ANSWER=Lane.ANSWER, FRONT=Lane.FRONT, NORMAL=Lane.NORMAL)
    patch.setattr(run_builder, "Lane", lanes)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a run that is taken up twice": (
        take_up_twice,
        2320,
        "was taken up 2 times|stands 2 times in history|and stands behind run",
    ),
    "a tool that starts again": (start_what_is_done, 1009, "which had taken effect"),
    "a tool that never starts": (start_nothing, 1009, "had ended with another result"),
    "a tool that nobody checked": (name_nobody, 1009, "had ended with another result"),
    "what a tool returned": (forget_what_it_returned, 1009, "had ended with another result"),
    "a run that begins anew": (begin_anew, 1111, "which had taken effect"),
    "two runs in place of one": (keep_both, 1028, "is not what its last branch"),
    "a run that is taken up too late": (take_up_too_late, 1045, "and stands behind run"),
    "a run that waits behind others": (wait_in_line, 1135, "which continues a crashed one"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
