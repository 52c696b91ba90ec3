"""The common rules for delayed runs find what is wrong, and nothing else."""

from typing import Final

import pytest

from judging_stories import Change, ask, be, cancelled, given_up, moved, saw, seen, told

FALSE: Final[dict[str, tuple[str, list[Change]]]] = {
    "it started before its time": ("two (two) started 0.500 s before its time", [ask("two", not_before_s=20.5)]),
    "it was moved, and started before its time": (
        "started 0.500 s before its time", [ask("two", not_before_s=20.5), moved("two", (19.2, 19.4, 1), priority=1)],
    ),
    "it stands before what was there at its time": (
        "three (three) stands behind run two (two), and was there first",
        [ask("two", not_before_s=28.0), be("two", started_s=28.5, ended_s=29.0),
         be("three", created_s=24.0, accepted_s=24.0)],
    ),
    "it stands behind what came long after its time": (
        "three (three) stands behind run two (two), and was there first",
        [ask("three", not_before_s=10.0), be("three", created_s=9.5, accepted_s=9.5)],
    ),
    "it stands behind one of a later time": (
        "three (three) stands behind run two (two), and was there first",
        [ask("two", not_before_s=28.0), be("two", started_s=28.5, ended_s=29.0),
         ask("three", not_before_s=27.0), be("three", created_s=18.0, accepted_s=18.0)],
    ),
    "it was due, and another was to be refused by a busy session": (
        "two (two) was to be refused by a busy session",
        [ask("one", not_before_s=9.5), be("one", ended_s=20.0), ask("two", if_busy="reject")],
    ),
    "it was given up too early, as its time to wait began later": (
        "after 4.000 s that count, and had 4.5", [given_up(4.5), ask("two", not_before_s=12.0)],
    ),
}  # fmt: skip
TRUE: Final[dict[str, list[Change]]] = {
    "it started at its time": [ask("two", not_before_s=20.0)],
    "its time had passed": [ask("two", not_before_s=2.0)],
    "it was moved to the front before its time": [ask("two", not_before_s=28.0), moved("two", (19.2, 19.4, None))],
    "it stands behind what came soon after its time": [
        ask("three", not_before_s=15.0), be("three", created_s=9.5, accepted_s=9.5),
    ],
    "it was due when a server died": [
        ask("three", not_before_s=10.0), be("three", created_s=9.5, accepted_s=9.5), saw(interruptions=12.0),
    ],
    "it was cancelled before its time": [
        ask("two", not_before_s=60.0), cancelled(started=False, started_s=None, ended_s=50.0, has_checkpoints=False),
        seen(sweeps=[]), be("three", created_s=18.0, accepted_s=18.0), lambda story: story.cancel("two"),
    ],
    "it kept nobody waiting before its time": [
        ask("one", not_before_s=60.0), ask("two", if_busy="reject"),
        cancelled("one", started=False, started_s=None, ended_s=50.0, has_checkpoints=False),
        lambda story: story.cancel("one"),
    ],
    "its time to wait began later": [ask("two", queue_timeout_s=0.9, not_before_s=15.0), be("two", created_s=10.0)],
    "it was executed after what came before its time": [
        ask("three", not_before_s=30.0), be("three", created_s=5.0, accepted_s=5.0, accepted=5), ask("three", sent=4),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("said", "changes"), FALSE.values(), ids=FALSE.keys())
def test_what_is_wrong_is_found(said: str, changes: list[Change]) -> None:
    faults = told(*changes).judged()
    assert any(said in fault for fault in faults), faults


@pytest.mark.parametrize("changes", TRUE.values(), ids=TRUE.keys())
def test_what_may_be_is_no_fault(changes: list[Change]) -> None:
    assert told(*changes).judged() == []
