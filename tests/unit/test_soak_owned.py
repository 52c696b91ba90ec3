"""The judge of a soak with several servers knows who owned a session when, and finds out who worked for it besides."""

from typing import Any

from msgspec.structs import replace

from soak.case import Rules
from soak.judge import LOST_LEASE, NO_JOURNAL
from soak.ledger import Line
from soak.owned import Owners, judge_owned
from soak.records import Exit, Owned, Pause, Unanswered
from soak.strikes import LEASE_S, WHATS, strikes
from soak_support import BROKE, SESSION, World, ran
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


def exits(rules: Rules, **exit_: Any) -> list[str]:
    story = World()
    story.records.exits.append(Exit(server=9, **exit_))
    story.records.unanswered.append(Unanswered(server=9, what="POST /chat"))
    return [fault for fault in story.judged(rules) if "server 9" in fault]


def test_a_server_may_lose_its_lease_where_there_is_one_and_leave_its_clients_then() -> None:
    lost: dict[str, Any] = {"signals": ("STOP",), "phase": "ready", "code": LOST_LEASE}
    assert exits(SEVERAL, **lost) == []
    assert len(exits(Rules(), **lost)) == 2


def test_a_server_that_fails_otherwise_is_found() -> None:
    failed: dict[str, Any] = {"signals": ("STOP",), "phase": "ready", "code": 1}
    assert len(exits(SEVERAL, **failed)) == 2
    assert len(exits(SEVERAL, signals=(), phase="ready", code=NO_JOURNAL)) == 2


def test_a_seed_gives_the_same_strikes_of_all_kinds() -> None:
    drawn = list(strikes(7, 300))
    assert drawn == list(strikes(7, 300))
    assert {each.what for each in drawn} == set(WHATS)
    freezes = [each.still_s for each in drawn if each.what == "freeze"]
    assert min(freezes) < LEASE_S < max(freezes)
