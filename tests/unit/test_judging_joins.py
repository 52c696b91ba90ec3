"""The common rules for runs that join another find what is wrong, and nothing else."""

from typing import Any, Final

import pytest

from judging.evidence import Cancel, End, Joined, Pause
from judging_stories import ADA, BOB, Change, ask, be, cancelled, question, seen, told

JOINED: Final = {
    "attempts": 0,
    "parts": 1,
    "accepted": 10,
    "started_s": 10.5,
    "ended_s": 11.0,
    "created_s": 10.2,
    "accepted_s": 10.2,
    "join": "applied",
}


def joins(name: str = "two", host: str = "one", **changes: Any) -> Change:
    """Have a run join another while that executes, and end with it."""

    def change(story: Any) -> None:
        story.ask(name, if_busy="steer", sent=10, sent_s=10.0)
        story.be(name, host=host, **{**JOINED, **changes})
        story.seen["joined"] = [Joined(host=host, runs=[name])]

    return change


def stand(*runs: str) -> Change:
    """Have history show these as what has joined `one`, in this order."""
    return seen(joined=[Joined(host="one", runs=runs)])


HIDDEN = [
    ask("three", if_busy="rollback"),
    be("three", created_s=10.8, accepted_s=10.8),
    *(cancelled(each, ended_s=11.0) for each in ("one", "two")),
    be("one", rolled_back=True),
]
FALSE: Final[dict[str, tuple[str, list[Change]]]] = {
    "it ended otherwise": ("which it has joined, as End", [joins(), be("two", end=End("succeeded", "something else"))]),
    "it ended, and has joined none": ("and has joined none", [joins(join="pending"), stand()]),
    "its host is not stored": ("which is not stored", [joins(host="nobody")]),
    "only its host is hidden": ("only one is hidden", [joins(), *HIDDEN, be("two", rolled_back=False)]),
    "its message is nowhere": ("its message is with []", [joins(), stand()]),
    "its message is there twice": ("its message is with ['one', 'one']", [joins(), stand("two", "two")]),
    "it is in history once more": ("stands 2 times in history, not 1", [joins(parts=2)]),
    "it has not joined, and its message has": (
        "has joined [], and its message is with", [be("two", parts=1), stand("two")],
    ),
    "it was to wait": ("and was to enqueue", [joins(), ask("two", if_busy="enqueue")]),
    "another person said it": ("is of another session or sender", [joins(), ask("two", sender="Bob")]),
    "another session's run was joined": ("is of another session or sender", [joins(), be("two", session=BOB)]),
    "it joined another than it expected": ("was to join three", [joins(), ask("two", expected="three")]),
    "it joined before its host started": ("which had not started", [joins(started_s=9.0)]),
    "it joined after its host had ended": ("which had ended", [joins(started_s=11.5)]),
    "a later one stands before it": (
        "which was accepted earlier", [joins("three"), joins("two"), stand("three", "two")],
    ),
    "one that was sent later stands before it": (
        "which was accepted earlier",
        [joins("two"), joins("three"), stand("two", "three"), ask("two", sent=14), be("three", accepted=12)],
    ),
    "the next run goes behind another": (
        "which goes before it",
        [be("two", accepted_s=15.0, created_s=15.0), ask("three", if_busy="steer"),
         be("three", accepted_s=15.5, created_s=15.5, join="became_next_run")],
    ),
}  # fmt: skip
TRUE: Final[dict[str, list[Change]]] = {
    "it joined": [joins()],
    "two joined": [joins("two"), joins("three"), stand("two", "three")],
    "it joined the run that it expected": [joins(), ask("two", expected="one")],
    "it was hidden with its host": [joins(), *HIDDEN, be("two", rolled_back=True)],
    "it was cancelled with its host": [
        joins(), *(cancelled(each, ended_s=11.0) for each in ("one", "two")),
        seen(cancels=[Cancel(run_id="one", result="accepted", answered_s=10.7)]),
    ],
    "it was taken back": [
        joins(join="pending", started=False, started_s=None, has_checkpoints=False), stand(),
        cancelled(parts=0), seen(cancels=[Cancel(run_id="two", result="accepted")]),
    ],
    "it timed out with its host": [
        joins(), ask("one", timeout_s=1.0), ask("two", timeout_s=0.1),
        *(lambda story, each=each: story.end(each, "timeout") for each in ("one", "two")),
    ],
    "it joined in a pause": [joins(), seen(pauses=[Pause(session=ADA, since_s=10.3, until_s=15.0)])],
    "its host asked a person": [joins(), question("q"), be("two", status="needs_input", end=End("needs_input", "")),
                                ask("three", answers=("q",))],
    "it joined, and another is more urgent": [joins(), ask("two", priority=5), be("two", priority=5)],
    "it became the next run": [
        be("two", accepted_s=15.0, created_s=15.0, started_s=30.0, ended_s=31.0),
        ask("three", if_busy="steer"),
        be("three", accepted_s=15.5, created_s=15.5, started_s=20.0, ended_s=21.0, join="became_next_run"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("said", "changes"), FALSE.values(), ids=FALSE.keys())
def test_what_is_wrong_is_found(said: str, changes: list[Change]) -> None:
    faults = told(*changes).judged()
    assert any(said in fault for fault in faults), faults


@pytest.mark.parametrize("changes", TRUE.values(), ids=TRUE.keys())
def test_what_may_be_is_no_fault(changes: list[Change]) -> None:
    assert told(*changes).judged() == []
