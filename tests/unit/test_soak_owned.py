"""The judge of a soak with several servers knows who owned a session when, and finds out who worked for it besides."""

from collections import Counter
from itertools import groupby
from typing import Any

import pytest
from msgspec.structs import replace

from judging.evidence import End, StoredEnd
from soak.case import Case, Rules
from soak.judge import LOST_LEASE, NO_JOURNAL, READ_TOO_LATE
from soak.ledger import Line
from soak.owned import Owners, judge_owned
from soak.records import Exit, Owned, Pause, Sweep, Unanswered
from soak.strikes import CLOCK_S, HOWS, LEASE_S, WHATS, clock_s, strikes
from soak_support import BROKE, DONE, FAILED, SESSION, World, ran
from strandline._journal.partitions import partition_of
from strandline._model import Principal, SessionId, SessionKey

S = 1_000_000_000
PARTITION = partition_of(SessionKey(Principal("anonymous"), SessionId(SESSION)))
SEVERAL = Rules(lease_s=LEASE_S)


def owned(*changes: tuple[int, int]) -> list[Owned]:
    """Return when (in seconds) the session of the story got which owner."""
    return [Owned(partition=PARTITION, at_ns=at * S, pid=pid) for at, pid in changes]


def begun(at: int, pid: int, number: int = 1) -> Line:
    return replace(ran("c0-0", "work", number, None, pid=pid)[0], at_ns=at * S)


def test_a_tool_that_its_owner_starts_is_right_also_when_the_session_comes_back() -> None:
    owners = Owners(owned((1, 11), (10, 0), (11, 22), (20, 0), (21, 11)))
    assert list(judge_owned(owners, [begun(2, 11), begun(12, 22), begun(30, 11)])) == []


def test_a_tool_that_a_former_owner_starts_is_found() -> None:
    owners = Owners(owned((1, 11), (10, 0), (11, 22)))
    (fault,) = judge_owned(owners, [begun(12, 11)])
    assert "started by process 11" in fault
    assert "belonged to process 22" in fault


def test_a_tool_that_is_started_while_nobody_owns_its_session_is_found() -> None:
    owners = Owners(owned((1, 11), (10, 0), (15, 22)))
    (fault,) = judge_owned(owners, [begun(12, 11)])
    assert "belonged to nobody" in fault


def test_a_tool_that_was_allowed_to_begin_before_its_server_stood_still_is_nobodys_fault() -> None:
    owners = Owners(owned((1, 11), (10, 0), (11, 22)))
    late, too_late = replace(begun(12, 11), allowed_ns=9 * S), replace(begun(13, 11), allowed_ns=12 * S)
    (fault,) = judge_owned(owners, [late, too_late])
    assert "started by process 11" in fault
    assert [owners.is_late(each) for each in (late, too_late, begun(12, 22), begun(9, 11))] == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("allowed_s", [0, 90, 260])
def test_such_a_tool_executes_beside_nothing_and_has_no_place_in_the_order(allowed_s: int) -> None:
    """It begins at 350 s beside what its next owner executes; allowed at 260 s, it is one that was started too late."""
    story = World()
    story.lines = [replace(each, at_ns=each.at_ns * S, pid=2) for each in story.lines]
    story.records.owned = owned((1, 1), (95, 0), (96, 2))
    before = set(story.judged(SEVERAL))
    late = replace(begun(350, 1, number=4), run_id="run-c9-9", label="c9-9", token="late", allowed_ns=allowed_s * S)
    story.lines.insert(-2, late)
    found = [fault for fault in story.judged(SEVERAL) if fault not in before]
    is_told = any("started by process 1" in fault or "executed in another order" in fault for fault in found)
    assert is_told == (allowed_s != 90), found


def overlapping(*owners: tuple[int, int], second: int) -> list[str]:
    """Judge a story in which the first tool is at work until the end, and others are started at process `second`."""
    story = World()
    story.lines = [replace(each, at_ns=each.at_ns * S) for each in story.lines]
    first, end, *others = story.lines
    story.lines = [first, *(replace(each, pid=second) for each in others), replace(end, at_ns=1000 * S)]
    story.records.owned = owned(*owners)
    return [fault for fault in story.judged(SEVERAL) if "executed at once" in fault]


def test_runs_of_a_session_that_execute_at_once_are_found_whichever_servers_execute_them() -> None:
    assert overlapping((1, 1), second=1)
    assert overlapping((1, 1), second=2)


def test_a_tool_of_a_server_that_stood_still_counts_until_its_session_has_another_owner() -> None:
    assert overlapping((1, 1), (150, 0), (151, 2), second=2) == []
    assert overlapping((1, 1), (250, 0), (251, 2), second=2), "another tool was started before"


def paused(*owners: tuple[int, int], second: int) -> list[str]:
    """Judge a story in which `c1-0` works at process `second`, which left no line before, after a pause."""
    story = World()
    story.lines = [
        replace(each, at_ns=each.at_ns * S, pid=second if each.label == BROKE else each.pid) for each in story.lines
    ]
    story.records.owned = owned(*owners)
    story.records.pauses.append(Pause(session=SESSION, since_s=0, until_s=0, since=50 * S, until=400 * S))
    return [fault for fault in story.judged(SEVERAL) if "paused" in fault]


def test_a_server_that_had_a_session_before_its_pause_may_continue_a_run_there() -> None:
    assert paused((1, 1), (40, 2), second=2) == []


def test_a_server_that_gets_a_paused_session_continues_nothing_there() -> None:
    assert paused((1, 1), (150, 0), (151, 2), second=2)


def untimed(*owners: tuple[int, int], ended: int = 1000) -> set[str]:
    """Return the runs of a story whose times are unknown, where the clock of process 22 is off."""
    story = World()
    story.records.owned = owned(*owners)
    story.records.exits.append(Exit(server=9, signals=("KILL",), phase="ready", code=-9, pid=22, clock_s=CLOCK_S))
    story.records.ends = [StoredEnd(run_id=each.run_id, server=1, place=ended * S) for each in story.records.stored]
    return Case(story.records, story.lines, SEVERAL).untimed


def test_times_are_unknown_where_a_server_had_a_session_whose_clock_is_off() -> None:
    assert len(untimed((0, 11), (10, 0), (11, 22), (20, 11))) == len(untimed((0, 22), (1, 11))) == 5
    assert untimed((0, 11), (500, 22), ended=400) == untimed((0, 11), (10, 33)) == set()


def test_a_seed_has_some_servers_with_a_clock_that_is_off_each_way() -> None:
    clocks = [clock_s(7, number) for number in range(300)]
    assert clocks == [clock_s(7, number) for number in range(300)]
    assert {0.0, CLOCK_S, -CLOCK_S} == set(clocks)
    assert 200 < clocks.count(0.0) < 300


def test_a_run_of_unknown_times_is_judged_by_what_needs_none() -> None:
    story = World()
    story.view(DONE, ended_s=1e12)  # at a server whose clock was off, say
    story.records.owned = owned((0, 22))
    story.records.exits.append(Exit(server=9, signals=("KILL",), phase="ready", code=-9, pid=22, clock_s=CLOCK_S))
    story.ask(DONE, timeout_s=0.1)
    assert [fault for fault in story.judged(SEVERAL) if "its time was up" in fault] == []
    story.end(DONE, End(kind="succeeded", text="something else"))
    assert story.judged(SEVERAL)


@pytest.mark.parametrize("whole", [False, True])
def test_a_cancel_that_a_lost_server_may_have_made_may_be_why_a_run_was_cancelled(whole: bool) -> None:
    def judged(rules: Rules) -> list[str]:
        story = World()
        story.be_cancelled()
        if whole:
            sweep = Sweep(
                session=SESSION, running=True, force=False, sent=1, answered=2, answered_s=1.0, status_code=503
            )
            story.records.sweeps.append(sweep)
        else:
            story.cancel(FAILED, 503)
        return [fault for fault in story.judged(rules) if "nobody requested it" in fault]

    assert judged(SEVERAL) == []
    assert len(judged(Rules())) == 1


def exits(rules: Rules, **exit_: Any) -> list[str]:
    story = World()
    story.records.exits.append(Exit(server=9, **exit_))
    story.records.unanswered.append(Unanswered(server=9, what="POST /chat"))
    return [fault for fault in story.judged(rules) if "server 9" in fault]


def test_a_server_may_lose_its_lease_where_there_is_one_and_leave_its_clients_then() -> None:
    lost: dict[str, Any] = {"signals": ("STOP",), "phase": "ready", "code": LOST_LEASE}
    assert exits(SEVERAL, **lost) == []
    assert len(exits(Rules(), **lost)) == 2


def test_only_a_server_that_has_lost_its_lease_may_misread_what_is_not_its_own_any_more() -> None:
    said: dict[str, Any] = {"signals": ("STOP",), "phase": "ready", "complaints": (f"run r1{READ_TOO_LATE}damaged",)}
    assert exits(SEVERAL, code=LOST_LEASE, **said) == []
    assert any("damaged" in fault for fault in exits(SEVERAL, code=1, **said))
    other = said | {"complaints": ("the disk is full",)}
    assert any("disk" in fault for fault in exits(SEVERAL, code=LOST_LEASE, **other))


def test_a_server_that_fails_otherwise_is_found() -> None:
    failed: dict[str, Any] = {"signals": ("STOP",), "phase": "ready", "code": 1}
    assert len(exits(SEVERAL, **failed)) == 2
    assert len(exits(SEVERAL, signals=(), phase="ready", code=NO_JOURNAL)) == 2


def test_a_seed_gives_the_same_strikes_of_all_kinds() -> None:
    drawn = list(strikes(7, 520))
    assert drawn == list(strikes(7, 520))
    assert {each.what for each in drawn} == set(WHATS)
    freezes = [each.still_s for each in drawn if each.what == "freeze"]
    assert min(freezes) < LEASE_S < max(freezes)
    for what, hows in HOWS.items():
        assert {each.how for each in drawn if each.what == what} == set(hows)


def test_five_hundred_and_twenty_strikes_have_exactly_what_is_to_be_survived_in_half_an_hour() -> None:
    for seed in (1, 2, 3):
        drawn = list(strikes(seed, 520))
        counts: Counter[str] = Counter(each.what for each in drawn)
        assert counts == {
            "kill": 300,
            "freeze": 100,
            "half": 50,
            "cut": 18,
            "part": 12,
            "restart": 6,
            "crash": 4,
            "stop": 20,
            "deploy": 10,
        }
        assert sum(each.after_s for each in drawn) < 520 * 4


def test_kills_come_while_servers_stand_still_and_not_only_one_after_the_other() -> None:
    drawn = list(strikes(1, 520))
    now_s, still_until_s, beside = 0.0, 0.0, 0
    for each in drawn:
        now_s += each.after_s
        beside += each.what == "kill" and now_s < still_until_s
        if each.what == "freeze":
            still_until_s = max(still_until_s, now_s + each.still_s)
    assert 60 < beside < 200
    runs = [len(list(each)) for what, each in groupby(drawn, key=lambda each: each.what) if what == "kill"]
    assert max(runs) < 15
    assert sum(1 for run in runs if run == 1) > 30
