"""Each defect of runs that are collected is found by the simulation: see `test_breakages.py`."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from breakage_support import SEEDS, is_noticed
from strandline._engine.execution import runner
from strandline._journal import live, transitions
from strandline._journal.rules import one_turn
from strandline._journal.state import RunState
from strandline._model import Collecting, JoinedInput, RunsCollected

Break = Callable[[pytest.MonkeyPatch], None]


def wait_for_nobody(patch: pytest.MonkeyPatch) -> None:
    """A turn starts at once, with what is there."""
    patch.setattr(live, "one_turn", lambda queue: (one_turn(queue)[0], 0.0))


def collect_nothing(patch: pytest.MonkeyPatch) -> None:
    """Each is a turn of its own, after its wait."""
    patch.setattr(live, "one_turn", lambda queue: (one_turn(queue)[0][:1], one_turn(queue)[1]))


def collect_any_sender(patch: pytest.MonkeyPatch) -> None:
    """What one person says is put beside what another one said."""
    patch.setattr(Collecting, "takes", lambda own, other: True)


def collect_whatever_waits(patch: pytest.MonkeyPatch) -> None:
    """What is no part of a turn is, if it waits behind one that collects."""

    def all_of(queue: Sequence[RunState]) -> tuple[Sequence[RunState], float]:
        turn, until = one_turn(queue)
        return (turn if queue[0].collect is None else queue), until

    patch.setattr(live, "one_turn", all_of)


def collect_in_reverse(patch: pytest.MonkeyPatch) -> None:
    """The last that was said comes first, behind the host's."""
    collected = transitions.Transitions._collected
    patch.setattr(transitions.Transitions, "_collected", lambda table, session: collected(table, session)[::-1])


def say_nothing_of_it(patch: pytest.MonkeyPatch) -> None:
    """What was collected ends with its host, and its agent does not hear it."""
    patch.setattr(runner, "with_collected", lambda given, sender, checkpoints, *more: (given, sender))


def forget_one(patch: pytest.MonkeyPatch) -> None:
    """The last that was collected is not said."""

    def all_but_one(runs: Sequence[JoinedInput]) -> RunsCollected:
        return RunsCollected([*runs][:-1] or [*runs])

    patch.setattr(transitions, "RunsCollected", all_but_one)


def collect_one_too_many(patch: pytest.MonkeyPatch) -> None:
    """A turn has one run more than its bound."""

    def unbounded(queue: Sequence[Any]) -> Any:
        turn, until = one_turn(queue)
        return (list(queue[: len(turn) + 1]) if len(queue) > len(turn) and queue[len(turn)].collects else turn), until

    patch.setattr(live, "one_turn", unbounded)


BREAKAGES: dict[str, tuple[Break, int, str]] = {
    "a turn that waits for nobody": (wait_for_nobody, 1015, "before its turn was gathered"),
    "a turn that leaves out what waits": (collect_nothing, 1016, "and was not collected"),
    "a turn of several senders": (collect_any_sender, 1089, "is of another session or sender"),
    "a turn of whatever waits": (collect_whatever_waits, 1056, "and was to enqueue"),
    "a turn in reverse": (collect_in_reverse, 1015, "which waited before it"),
    "a turn that is not heard": (say_nothing_of_it, 1015, "its message is with"),
    "a message that a turn forgets": (forget_one, 1015, "no part of that turn in the end"),
    "a turn of too many": (collect_one_too_many, 1015, "in its turn, and may have"),
}
"""Each with the seed at which the search begins: the first that shows it, which saves playing the others."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, first, reported = BREAKAGES[name]
    make(monkeypatch)
    seeds = range(first, first + SEEDS)
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"
