"""The common rules for runs that are collected find what is wrong, and nothing else."""

from typing import Any, Final

import pytest

from judging.evidence import Gathering, Joined
from judging_stories import Change, ask, be, cancelled, moved, told

WAITS: Final = Gathering(quiet_s=2.0, max_wait_s=5.0, max_items=3)


def collects(name: str, created_s: float, **changes: Any) -> Change:
    """Have a run of Ada's be one that collects, accepted at that second."""

    def change(story: Any) -> None:
        story.ask(name, if_busy="collect", gathers=WAITS, sent=created_s - 1, sent_s=created_s - 1)
        known = {"created_s": created_s, "accepted_s": created_s, "accepted": created_s}
        story.be(name, **{**known, **changes})

    return change


def turn(*names: str, starts_s: float = 14.0, host: str = "one") -> Change:
    """Have these runs be collected by `one`, which starts then."""

    def change(story: Any) -> None:
        story.be(host, started_s=starts_s, ended_s=starts_s + 1)
        for name in names:
            story.be(name, started_s=starts_s, ended_s=starts_s + 1, join="applied", host=host, attempts=0, parts=1)
        story.seen["joined"] = [Joined(host=host, runs=names)] if names else []

    return change


ONE: Final = collects("one", 10.0)
TWO: Final = collects("two", 12.0)
FALSE: Final[dict[str, tuple[str, list[Change]]]] = {
    "its host does not collect": ("which does not collect", [ONE, TWO, turn("two"), ask("one", if_busy="enqueue")]),
    "it was collected later": ("and not when that started", [ONE, TWO, turn("two"), be("two", started_s=14.5)]),
    "a later one stands before it": (
        "which waited before it", [ONE, TWO, collects("three", 12.0), turn("three", "two")],
    ),
    "a less urgent one stands before it": (
        "which waited before it",
        [ONE, TWO, collects("three", 12.0), turn("two", "three"), ask("two", priority=4), be("two", priority=4)],
    ),
    "it was not quiet for long enough": (
        "0.500 s before its turn was gathered", [ONE, TWO, turn("two", starts_s=13.5)],
    ),
    "one alone did not wait": ("before its turn was gathered", [ONE, turn(starts_s=11.0)]),
    "one that waited was left out": ("and was not collected", [ONE, TWO, turn(), be("two", started_s=20.0)]),
    "there are too many": (
        "has 3 in its turn, and may have 2",
        [ONE, TWO, collects("three", 12.0), turn("two", "three"),
         ask("one", gathers=Gathering(quiet_s=2.0, max_wait_s=5.0, max_items=2))],
    ),
    "another person said it": ("is of another session or sender", [ONE, TWO, turn("two"), ask("two", sender="Bob")]),
    "it became a turn of its own": (
        "no part of that turn in the end", [ONE, TWO, turn(), be("two", join="became_next_run")],
    ),
}  # fmt: skip
TRUE: Final[dict[str, list[Change]]] = {
    "one was quiet for long enough": [ONE, TWO, turn("two")],
    "one alone waited": [ONE, turn(starts_s=12.0)],
    "there was no time to wait for more": [ONE, collects("two", 14.5), turn("two", starts_s=15.0)],
    "no more could be collected": [
        ONE, collects("two", 10.5), collects("three", 11.0), turn("two", "three", starts_s=11.0),
    ],
    "another sender's waited behind it": [ONE, TWO, turn(), ask("two", sender="Bob"), be("two", started_s=20.0)],
    "another kind of run waited between them": [
        ONE, collects("three", 12.0), turn(starts_s=14.0),
        be("two", created_s=11.0, accepted_s=11.0, started_s=20.0, ended_s=21.0), ask("two", sent=10),
        be("three", started_s=30.0),
    ],
    "one that waited behind it was delayed": [
        ONE, TWO, turn(), be("two", started_s=20.0), ask("two", not_before_s=16.0),
    ],
    "it was moved before one that gathers, and started at once": [
        ONE, ask("one", priority=2), be("one", priority=2), TWO, turn(starts_s=14.0), ask("two", sender="Bob"),
        moved("two", (12.5, 12.6, 1), priority=1), be("two", started_s=12.5, ended_s=12.9),
    ],
    "one that waited behind it ended at that moment": [
        ONE, TWO, turn(), ask("two", queue_timeout_s=2.0),
        lambda story: story.end("two", "queue_timeout", started=False, started_s=None, ended_s=14.0),
    ],
    "they were cancelled together": [
        ONE, TWO, turn("two"), *(cancelled(each) for each in ("one", "two")),
        ask("three", if_busy="interrupt"), be("three", created_s=14.5, accepted_s=14.5),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("said", "changes"), FALSE.values(), ids=FALSE.keys())
def test_what_is_wrong_is_found(said: str, changes: list[Change]) -> None:
    faults = told(*changes).judged()
    assert any(said in fault for fault in faults), faults


@pytest.mark.parametrize("changes", TRUE.values(), ids=TRUE.keys())
def test_what_may_be_is_no_fault(changes: list[Change]) -> None:
    assert told(*changes).judged() == []
