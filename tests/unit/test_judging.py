"""The common rules find what is wrong with a record of evidence, whoever made it, and nothing else."""

from typing import Final

import pytest

from judging.evidence import (
    Cancel,
    End,
    Pause,
    ToolStarts,
    View,
    Work,
)
from judging_stories import (
    ADA,
    BOB,
    Change,
    add_bob,
    ask,
    be,
    cancelled,
    deletion,
    given_up,
    history,
    left,
    lose,
    moved,
    question,
    saw,
    seen,
    sweep,
    told,
)

NOBODY = "was cancelled, though nobody requested it"
STAYS = "although its cancel was accepted"
FALSE: Final[dict[str, tuple[str, list[Change]]]] = {
    # -- cancels
    "its client lets it continue": (NOBODY, [cancelled(), left(5.0, "continue")]),
    "its client left just before": (NOBODY, [cancelled(), left(19.15, "cancel")]),
    "it had started when its client left": (NOBODY, [cancelled(), left(15.0, "cancel_if_queued")]),
    "another session was cancelled": (NOBODY, [cancelled(), saw(sweeps=sweep(session=BOB, stopped=("two",)))]),
    "its session was cancelled before it was sent": (
        NOBODY, [cancelled(), saw(sweeps=sweep(sent=4, answered=5, answered_s=5.0, stopped=("two",)))],
    ),
    "an earlier run interrupts": (NOBODY, [cancelled(), ask("one", if_busy="interrupt")]),
    "it had ended when another run interrupted": (NOBODY, [cancelled(), ask("three", if_busy="interrupt")]),
    "a cancel after its end was accepted": (
        STAYS, [saw(cancels=Cancel(run_id="two", result="accepted", answered_s=25.0))],
    ),
    "a cancel with force before its end was accepted": (
        STAYS, [saw(cancels=Cancel(run_id="two", result="accepted", answered_s=20.5, force=True))],
    ),
    "a cancelled session lets a waiting run start": (
        "waited when its session ada was cancelled, and began",
        [saw(sweeps=sweep(answered_s=19.5)), be("two", accepted=19)],
    ),
    "a run ends otherwise than its session was cancelled": (
        "and was cancelled with its session", [saw(sweeps=sweep(stopped=("two",)))],
    ),
    "an executing run ignores that its session is cancelled": (
        "had not ended when ada was cancelled", [saw(sweeps=sweep(running=True))],
    ),
    "it works long after its client has left": (
        "after its client was lost", [left(20.0, "cancel"), be("two", ended_s=23.6)],
    ),
    # -- durability
    "a run is lost": ("was answered 200, and is lost", [lose("two")]),
    "a run is lost, and another session was deleted": ("is lost", [lose("two"), saw(deletions=deletion(session=BOB))]),
    "a run is lost that was sent after its session was deleted": (
        "is lost", [lose("two"), saw(deletions=deletion(sent=3, answered=4))],
    ),
    "a stored run could not be found": (
        "was known, and could not be found", [seen(missing=frozenset({"two"})), saw(deletions=deletion(answered=-1))],
    ),
    "a run could not be found, and is not stored": (
        "was known, and could not be found",
        [lose("two"), seen(acknowledged={}, missing=frozenset({"two"}))],
    ),
    "a run ended without an outcome": ("has no outcome", [be("two", end=None)]),
    "a key became two runs": ("the key k belonged to run one", [ask("one", key="k"), ask("three", key="k")]),
    "a key became two runs while the first executed": (
        "the key k belonged to run one",
        [ask("one", key="k"), ask("two", key="k"), be("one", status="running", end=None, ended_s=None)],
    ),
    "a deleted run is stored": ("and is still stored", [saw(deletions=deletion())]),
    # -- order
    "a more urgent run waited": (
        "which goes before it", [ask("three", priority=1), be("three", priority=1, accepted_s=15.0)],
    ),
    "a more urgent run waited that was accepted earlier": (
        "run two (two) started while one (one) waited",
        [ask("one", priority=1), be("one", accepted_s=None, started_s=30.0, ended_s=31.0)],
    ),
    "an earlier interrupt waited": (
        "which goes before it",
        [
            *(ask(name, if_busy="interrupt") for name in ("two", "three")),
            be("two", accepted_s=15.0, created_s=15.0, started_s=30.0, ended_s=31.0),
            be("three", accepted_s=16.0, created_s=16.0, started_s=20.0, ended_s=21.0),
        ],
    ),
    "it was accepted before one was sent that came after others": (
        "three (three) of ada was accepted before two (two) was sent",
        [ask("two", sent=50), be("two", accepted=51), ask("three", sent=40), be("three", accepted=45)],
    ),
    "it has another priority than it was given": ("has priority 4, and was to have ['3']", [be("two", priority=4)]),
    "it started in a pause": ("had been paused for", [saw(pauses=Pause(session=ADA, since_s=19.0, until_s=21.0))]),
    "two execute at once": (
        "executed at once",
        [seen(work={ADA: [Work(run_id=each, unit=each, began=1, ended=9) for each in ("one", "two")]})],
    ),
    "a tool started twice": (
        "was started 2 times", [saw(tools=ToolStarts(run_id="two", tool="t", times=2, idempotent=False))],
    ),
    # -- policies
    "what was rolled back succeeded": (
        "is hidden, and ended as succeeded",
        [be("two", rolled_back=True), ask("three", if_busy="rollback"), be("three", created_s=20.5)],
    ),
    "what was rolled back is shown": (
        "is not hidden, although",
        [cancelled(rolled_back=False), ask("three", if_busy="rollback"), be("three", created_s=20.5, accepted_s=20.5)],
    ),
    "it was to be refused by a busy session": (
        "was to be refused by a busy session", [ask("two", if_busy="reject"), be("one", ended_s=20.0)],
    ),
    # -- questions
    "an answer is not whole": (
        "does not answer the question of run one", [question("q", "r"), ask("two", answers=("q",))],
    ),
    "an answer is to another session's question": (
        "answers what no run has asked", [add_bob, question("q", by="bobs"), ask("two", answers=("q",))],
    ),
    "something starts while a person is asked": ("started while its session waited for one", [question("q")]),
    "a whole answer was refused": (
        "answers the whole question",
        [question("q"), ask("two", answers=("q",)), lose("two"), seen(acknowledged={}),
         saw(refused_answers=("two", "invalid"))],
    ),
    # -- times and histories
    "it timed out early": ("and had 1.5", [lambda story: story.end("two", "timeout"), ask("two", timeout_s=1.5)]),
    "it succeeded long after its time": (
        "ended as succeeded 3.1 s after its time was up", [ask("two", timeout_s=1.0), be("two", ended_s=24.1)],
    ),
    "it failed long after its time": (
        "ended as agent_error 6.1 s after",
        [ask("two", timeout_s=1.0), lambda story: story.end("two", "agent_error", ended_s=27.1)],
    ),
    "it was resumed, and succeeded long after its time": (
        "ended as succeeded 6.1 s after", [ask("two", timeout_s=1.0), be("two", attempts=2, ended_s=27.1)],
    ),
    "it was resumed when its time was over, and worked on": (
        "ended as succeeded 6.1 s after",
        [ask("two", timeout_s=1.0), be("two", attempts=2, resumed_s=23.0, ended_s=29.1)],
    ),
    "it waited too long": (
        "waited for 10.0 s, and had 4.9", [ask("two", queue_timeout_s=4.9), be("two", created_s=10.0)],
    ),
    "it was cancelled when it had waited too long": (
        "waited for 10.0 s, and had 4.9",
        [
            ask("two", queue_timeout_s=4.9), saw(cancels=Cancel(run_id="two", result="accepted")),
            cancelled(started=False, started_s=None, created_s=10.0, ended_s=20.0),
        ],
    ),
    "it waited too long, even without the time when its session was closed": (
        "waited for 6.0 s, and had 0.9",
        [ask("two", queue_timeout_s=0.9), be("two", created_s=10.0, closed_s=(3.0, 4.0))],
    ),
    "it was given up too early": ("after 6.000 s that count, and had 6.02", [given_up(6.02)]),
    "it was given up too early, for its session was closed": (
        "after 4.000 s that count, and had 4.06", [given_up(4.06, closed_s=(2.0, 3.0))],
    ),
    "it crashed, and could resume": (
        "though it could have continued", [lambda story: story.end("two", "crashed", can_resume=True)],
    ),
    "its status is not that of its outcome": (
        "is stored as cancelled, and its outcome as succeeded", [be("two", status="cancelled")],
    ),
    "a provider would refuse the history": ("is malformed: the roles", [history("user")]),
    "a tool that asks nobody has no result": ("is malformed: u is called", [history("user", "asker", tool="u")]),
    "an open end is shown as closed": ("is open, and shown otherwise", [history("user", "asker", pending=False)]),
    "a closed end is shown as open": ("is not open, and shown otherwise", [history("user", "assistant", pending=True)]),
    "it is twice in history": ("two (two) stands 2 times in history, not 1", [be("two", parts=2)]),
    "it is not in history": ("two (two) stands 0 times in history, not 1", [be("two", parts=0)]),
    "it never started, and is in history": ("stands 1 times in history, not 0", [given_up(5.0, parts=1)]),
    "it was cancelled while it waited, and is in history": (
        "stands 1 times in history, not 0",
        [
            cancelled(started=False, started_s=None, has_checkpoints=False, parts=1),
            saw(cancels=Cancel(run_id="two", result="accepted")),
        ],
    ),
    "it was cancelled, and what it did is not in history": (
        "stands 0 times in history, not 1",
        [cancelled(parts=0), saw(cancels=Cancel(run_id="two", result="accepted"))],
    ),
    "history has what is no run": ("has 'who is there', which is no run", [saw(strangers=(ADA, "who is there"))]),
    "a history was changed": (
        "was changed in its first 2 messages", [saw(views=View(session=ADA, place=5, count=2, is_beginning=False))],
    ),
    "a history was changed, and another session deleted": (
        "was changed in its first 2 messages",
        [saw(views=View(session=ADA, place=5, count=2, is_beginning=False), deletions=deletion(session=BOB))],
    ),
    "a history was changed after it had been deleted": (
        "was changed in its first 2 messages",
        [saw(views=View(session=ADA, place=5, count=2, is_beginning=False), deletions=deletion(sent=1, answered=2))],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("said", "changes"), FALSE.values(), ids=FALSE.keys())
def test_what_is_wrong_is_found(said: str, changes: list[Change]) -> None:
    faults = told(*changes).judged()
    assert any(said in fault for fault in faults), faults


WAITS = be("three", accepted_s=15.0, created_s=15.0)
"""It is accepted before `two`, and starts after it."""
ASKED = question("q")
ANSWERED = ask("two", answers=("q",))
TRUE: Final[dict[str, list[Change]]] = {
    "all is well": [],
    # -- cancels
    "it waited when its client left": [
        cancelled(started=False, started_s=None), left(15.0, "cancel_if_queued"),
    ],
    "its client was seen to leave a little before it knew": [cancelled(), left(19.05, "cancel")],
    "its client has left at some time": [cancelled(ended_s=None), left(19.5, "cancel")],
    "its client left, and it had no end for a while": [left(20.0, "cancel"), be("two", ended_s=23.4)],
    "its client left, and others may wait": [left(20.0, "cancel", key="k"), be("two", ended_s=29.0)],
    "its client left, and others wait": [left(20.0, "cancel"), be("two", ended_s=29.0, waits_alone=False)],
    "its client left, and it may continue": [left(20.0, "continue"), be("two", ended_s=29.0)],
    "its client stayed": [ask("two", on_disconnect="cancel")],
    "its client left, and nobody knows when it ended": [left(20.0, "cancel"), be("two", ended_s=None)],
    "its client left, and nobody knows when it came": [left(20.0, "cancel"), be("two", created_s=None, ended_s=29.0)],
    "its client left, and its server died": [left(20.0, "cancel"), be("two", ended_s=29.0), saw(interruptions=22.0)],
    "its client left a server that was stopping": [
        left(20.0, "cancel"), be("two", ended_s=29.0), saw(interruptions=16.0),
    ],
    "its session may have been cancelled": [cancelled(), saw(sweeps=sweep(answered=-1, answered_s=-1.0))],
    "its session was cancelled": [cancelled(), saw(sweeps=sweep(running=True, stopped=("two", "deleted since")))],
    "its session was cancelled while it waited": [
        cancelled("three", started=False, started_s=None, ended_s=30.2),
        saw(sweeps=sweep(sent=30, answered=31, answered_s=30.5, stopped=("three",))),
    ],
    "its session was cancelled, and nobody knows when it ended": [
        cancelled(ended_s=None), saw(sweeps=sweep(sent=20, running=True, stopped=("two",))),
    ],
    "its session was cancelled, and it executed": [saw(sweeps=sweep())],
    "its session was cancelled as it started": [saw(sweeps=sweep(answered_s=19.995))],
    "its session was cancelled as it ended": [saw(sweeps=sweep(running=True, answered_s=20.995))],
    "its lock was ended by force": [
        saw(cancels=Cancel(run_id="two", result="accepted", answered_s=20.995, force=True)),
    ],
    "its lock was ended by force, and nobody knows when it ended": [
        saw(cancels=Cancel(run_id="two", result="accepted", answered_s=20.5, force=True)), be("two", ended_s=None),
    ],
    "a cancel was repeated after its end": [
        cancelled(), saw(cancels=Cancel(run_id="two", result="accepted")),
        saw(cancels=Cancel(run_id="two", result="too_late")),
    ],
    # -- durability
    "a run was perhaps deleted": [lose("two"), saw(deletions=deletion(answered=-1)), be("three", accepted=-1)],
    "the end of a deleted run was reported": [
        lose("two"), seen(acknowledged={}, reported={"two": {End("succeeded", "done")}}), saw(deletions=deletion()),
        be("one", accepted=-1), be("three", accepted=-1),
    ],
    "a deleted run could not be found": [
        lose("two"), seen(missing=frozenset({"two"})), saw(deletions=deletion(answered=-1)),
    ],
    "a key was used again after its time": [
        ask("one", key="k"), ask("three", key="k"), be("three", created_s=112.0, started_s=113.0, ended_s=114.0),
    ],
    "a key was used again, and nobody knows when its run ended": [
        ask("one", key="k"), ask("three", key="k"), be("one", ended_s=None),
    ],
    "a key was used again, nobody knows when": [
        ask("one", key="k"), ask("three", key="k"), be("three", created_s=None),
    ],
    "two sessions use a key": [add_bob, ask("one", key="k"), ask("bobs", key="k")],
    "a deletion was perhaps another one": [saw(deletions=deletion(is_certain=False))],
    "a deletion was sent before they were accepted": [saw(deletions=deletion(sent=5))],
    "a request was sent again after a deletion": [
        saw(deletions=deletion(sent=15)), be("one", accepted=-1), ask("one", resent=True),
    ],
    "what is known of a run is of one deleted before": [
        saw(deletions=deletion()), *(ask(name, resent=True) for name in ("one", "two", "three")),
    ],
    # -- order
    "a more urgent run came too late": [ask("three", priority=1), be("three", priority=1, accepted_s=19.995)],
    "a more urgent run came, nobody knows when": [ask("three", priority=1), be("three", priority=1, accepted_s=None)],
    "a run was perhaps moved": [WAITS, moved("three", (16.0, -1.0, 1))],
    "a run was moved twice": [WAITS, moved("three", (16.0, 16.5, 1), (17.0, 17.5, 5), priority=5)],
    "what started was perhaps moved": [
        ask("three", priority=2), be("three", priority=2), WAITS, moved("two", (18.0, -1.0, 1)),
    ],
    "one interrupts, and one was moved to the front": [
        WAITS, ask("three", if_busy="interrupt"), moved("two", (19.0, 19.5, None)),
    ],
    "the first of two moves may have been made last": [moved("two", (16.0, -1.0, 4), (17.0, 17.5, 5), priority=4)],
    "the second of two moves may not have been made": [moved("two", (16.0, 16.5, 4), (17.0, -1.0, 5), priority=4)],
    "an answer was moved": [ASKED, ANSWERED, moved("two", (16.0, 16.5, 4))],
    "a pause began as it started": [saw(pauses=Pause(session=ADA, since_s=19.995, until_s=25.0))],
    "a pause ended as it started": [saw(pauses=Pause(session=ADA, since_s=15.0, until_s=20.005))],
    # -- policies
    "it waits behind an executing run": [be("two", accepted_s=10.5, created_s=10.5)],
    "it interrupts": [cancelled(), ask("three", if_busy="interrupt"), be("three", created_s=21.005, accepted_s=21.005)],
    "it interrupts, and does not roll back": [
        cancelled(rolled_back=False), ask("three", if_busy="interrupt"), be("three", created_s=20.5, accepted_s=20.5),
    ],
    "it rolls back, and nothing shows it": [
        cancelled(), ask("three", if_busy="rollback"), be("three", created_s=20.5, accepted_s=20.5),
    ],
    "it interrupts, nobody knows when": [cancelled(), ask("three", if_busy="interrupt"), be("three", created_s=None)],
    "it interrupts, and nobody knows when the other ended": [
        cancelled(ended_s=None), ask("three", if_busy="interrupt"),
    ],
    "it interrupts what begins at the same time": [
        ask("three", if_busy="interrupt"), be("three", created_s=20.005, accepted_s=20.5),
    ],
    "it interrupts what waits": [
        cancelled(started=False, started_s=None, ended_s=30.5), saw(cancels=Cancel(run_id="two", result="accepted")),
        ask("three", if_busy="interrupt"),
    ],
    "what may not wait was accepted as the other ended": [
        ask("three", if_busy="reject"), be("three", accepted_s=20.995),
    ],
    "what may not wait was perhaps there first": [ask("two", if_busy="reject"), be("one", accepted=-1, ended_s=19.5)],
    "an answer may not wait, and goes first anyway": [
        ASKED, ask("two", answers=("q",), if_busy="reject"), be("two", sequence=3),
        WAITS, ask("three", sent=11), be("three", sequence=2, accepted=12),
    ],
    # -- questions
    "a question is answered": [ASKED, ANSWERED],
    "nobody knows when it asked": [ASKED, be("one", ended_s=None)],
    "a question is over as the next one starts": [ASKED, be("two", started_s=20.995)],
    "an answer ended without a start": [
        ASKED, ANSWERED, cancelled("two", started=False, started_s=None, ended_s=15.0),
        saw(cancels=Cancel(run_id="two", result="accepted")),
        be("three", accepted_s=14.0, created_s=14.0, started_s=16.0, ended_s=17.0),
    ],
    "a part of an answer was refused": [
        question("q", "r"), ANSWERED, lose("two"), seen(acknowledged={}), saw(refused_answers=("two", "invalid")),
    ],
    "an answer was refused whose session may be deleted": [
        ASKED, ANSWERED, lose("two"), seen(acknowledged={}), saw(refused_answers=("two", "invalid")),
        saw(deletions=deletion(answered=-1)),
    ],
    # -- times and histories
    "it timed out in time": [lambda story: story.end("two", "timeout"), ask("two", timeout_s=1.005)],
    "it timed out, nobody knows when": [
        lambda story: story.end("two", "timeout", ended_s=None), ask("two", timeout_s=9.0),
    ],
    "it timed out, and nobody knows when it started": [
        lambda story: story.end("two", "timeout", started_s=None), ask("two", timeout_s=9.0),
    ],
    "it ended a little after its time": [ask("two", timeout_s=1.0), be("two", ended_s=23.9)],
    "it was resumed, and ended somewhat after its time": [
        ask("two", timeout_s=1.0), be("two", attempts=2, resumed_s=23.0, ended_s=28.9),
    ],
    "it was cut off, and ended when a server came": [
        ask("two", timeout_s=1.0), be("two", was_cut_off=True, ended_s=29.0),
    ],
    "it has no end of time": [be("two", ended_s=29.0)],
    "it executed, nobody knows until when": [ask("two", timeout_s=1.0), be("two", ended_s=None)],
    "it waited for nearly too long": [ask("two", queue_timeout_s=5.1), be("two", created_s=10.0)],
    "its session was closed while it waited": [
        ask("two", queue_timeout_s=0.9), be("two", created_s=10.0, closed_s=(3.0, 4.2)),
    ],
    "nobody knows for how long its session was closed": [
        ask("two", queue_timeout_s=0.9), be("two", created_s=10.0, closed_s=None),
    ],
    "nobody knows when it came": [ask("two", queue_timeout_s=0.9), be("two", created_s=None)],
    "it was given up at its time": [given_up(6.005)],
    "it was given up at its time, that of its session left out": [given_up(4.04, closed_s=(2.0, 3.0))],
    "it was given up, and nobody knows when its session was closed": [given_up(5.0, closed_s=None)],
    "it failed somewhat after its time": [
        ask("two", timeout_s=1.0), lambda story: story.end("two", "agent_error", ended_s=26.9),
    ],
    "it succeeded, and could have resumed": [be("two", can_resume=True)],
    "it crashed in a tool": [lambda story: story.end("two", "crashed", can_resume=False)],
    "it crashed, nobody knows in what": [lambda story: story.end("two", "crashed", can_resume=None)],
    "its last attempt crashed": [lambda story: story.end("two", "crashed", can_resume=True, attempts=3)],
    "a history is as it should be": [history("user", "assistant", pending=False), history("user", "assistant")],
    "a history waits for input": [history("user", "asker", pending=True), history("user", "asker")],
    "each is once in history": [be("two", parts=1)],
    "it was given up, and is not in history": [given_up(5.0, parts=0)],
    "it was cancelled with nothing stored, and is or is not in history": [
        cancelled(has_checkpoints=False, parts=0), cancelled("one", has_checkpoints=False, parts=1),
        *(saw(cancels=Cancel(run_id=each, result="accepted")) for each in ("one", "two")),
    ],
    "it was cancelled while it waited, and is not in history": [
        cancelled(started=False, started_s=None, has_checkpoints=False, parts=0),
        saw(cancels=Cancel(run_id="two", result="accepted")),
    ],
    "an answer was left alone while it waited, and is not in history": [
        ASKED, ANSWERED, cancelled("two", started=False, started_s=None, ended_s=18.0, parts=0),
        left(15.0, "cancel"),
    ],
    "an answer asked again in the same round": [
        ASKED, ANSWERED, question("r", by="two"), be("two", parts=0), be("three", started_s=35.0, ended_s=36.0),
    ],
    "a history was perhaps deleted": [
        saw(views=View(session=ADA, place=5, count=2, is_beginning=False), deletions=deletion(answered=-1)),
    ],
    "a history was deleted after it was shown": [
        saw(views=View(session=ADA, place=5, count=2, is_beginning=False), deletions=deletion(sent=5, answered=8)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("changes", TRUE.values(), ids=TRUE.keys())
def test_what_may_be_is_no_fault(changes: list[Change]) -> None:
    assert told(*changes).judged() == []
