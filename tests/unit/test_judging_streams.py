"""The rules about streams find what a client missed, or got twice, of a run and of all runs, and nothing else."""

from typing import Any, Final

import pytest

from judging.evidence import End, Event, Evidence, Feed, FeedEvent, Limits, Request, Run, StoredEnd, Stream
from judging.judge import judge

LAST: Final = 2**53 - 1
RUN: Final = "one"


LIMITS: Final = Limits(
    max_attempts=3, cancel_grace_s=1.0, input_timeout_s=10.0, key_retention_s=100.0, soon_s=0.01, slack_s=0.5,
    drain_s=5.0, noticed_s=0.1, late_s=5.0, undisturbed_s=2.0, closed_s=0.05,
)  # fmt: skip
ENDED: Final = {"one": 11, "two": 21, "three": 31}
"""The runs of a session, and when they ended: each was requested three seconds before, in places that are seconds."""


def judged(**seen: Any) -> list[str]:
    """Judge three runs that are all right, and what was seen of them besides."""
    runs = {
        name: Run(
            id=name, session="ada", sequence=ended, attempts=1, priority=3, started=True, status="succeeded",
            request=Request(name=name, session="ada", sent=ended - 3), end=End("succeeded", "It is 5."),
        )
        for name, ended in ENDED.items()
    }  # fmt: skip
    lists = ("cancels", "sweeps", "pauses", "deletions", "questions", "refused_answers", "tools", "views")
    more: dict[str, Any] = {name: [] for name in (*lists, "histories", "strangers", "interruptions")}
    more |= {name: {} for name in ("acknowledged", "reported", "executed", "work")}
    more |= {name: frozenset() for name in ("missing", "refused", "happened", "became")}
    requests = {name: run.request for name, run in runs.items()}
    return judge(Evidence(limits=LIMITS, requests=requests, runs=runs, name_of={}, **{**more, **seen}))


def message(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


USE: Final = message("assistant", {"text": "I add."}, {"toolUse": {"toolUseId": "t1", "name": "add", "input": {}}})
RESULT: Final = message("user", {"toolResult": {"toolUseId": "t1", "status": "success", "content": []}})
HISTORY: Final = [message("user", {"text": "add"}), USE, RESULT, message("assistant", {"text": "It is 5."})]


def event(number: int | None, kind: str, **more: Any) -> Event:
    return Event(number=number, kind=kind, **more)


def added(number: int, place: int) -> Event:
    return event(number, "message.added", messages=[HISTORY[place]])


def delta(number: int, text: str) -> Event:
    return event(number, "text.delta", text=text)


def end() -> Event:
    return event(LAST, "run.finished", end=End("succeeded", "It is 5."))


def resumed(number: int, messages: int) -> Event:
    return event(number, "run.restarted", messages=HISTORY[:messages])


FIRST: Final = [event(1, "run.started"), added(2, 0), delta(3, "I "), delta(4, "add."), added(5, 1)]
TOOL: Final = [event(6, "tool.started", tool="t1"), event(7, "tool.finished", tool="t1"), added(8, 2)]
REST: Final = [delta(9, "It is 5."), added(10, 3), end()]
TRUE: Final = {
    "from its beginning": [*FIRST, *TOOL, *REST],
    "with a failed model call": [*FIRST, *TOOL, delta(9, "It"), event(10, "text.reset"), delta(11, "It is 5."),
                                 added(12, 3), end()],
    "with a position": [event(None, "run.position"), *FIRST, *TOOL, *REST],
    "over a takeover": [*FIRST, event(6, "tool.started", tool="t1"), resumed(1000, 3), delta(1001, "It is 5."),
                        added(1002, 3), end()],
    "over a takeover in the middle of a text": [*FIRST, *TOOL, delta(9, "It i"), resumed(1000, 3),
                                                delta(1001, "It is 5."), added(1002, 3), end()],
    "of which the end alone is stored": [*FIRST, event(None, "stream.gap"), end()],
}  # fmt: skip
WRONG: Final = {
    "numbers go back": ([*FIRST, *TOOL, delta(7, "It is 5."), added(10, 3), end()], "do not rise"),
    "an event comes twice": ([*FIRST, FIRST[-1], *TOOL, *REST], "do not rise"),
    "the end is missing": ([*FIRST, *TOOL, *REST[:-1]], "received 0 ends"),
    "something comes after the end": ([*FIRST, *TOOL, *REST, event(None, "run.position")], "received 1 ends"),
    "a piece of text is missing": ([*FIRST[:2], *FIRST[3:], *TOOL, *REST], "read 'add.'"),
    "text comes twice over a takeover": ([*FIRST, *TOOL, delta(9, "It i"), delta(1001, "It is 5."), added(1002, 3),
                                          end()], "read 'It iIt is 5.'"),
    "text that was reset comes twice": ([*FIRST, *TOOL, delta(9, "It"), delta(10, "It is 5."), added(12, 3), end()],
                                        "read 'ItIt is 5.'"),
    "a message is missing": ([*FIRST, *TOOL[:2], *REST], "and they are not the 4"),
    "a takeover leaves a message out": ([*FIRST, resumed(1000, 2), delta(1001, "It is 5."), added(1002, 3), end()],
                                        "and they are not the 4"),
    "a tool finishes that never started": ([*FIRST, *TOOL[1:], *REST], "not that it started"),
    "a tool starts twice": ([*FIRST, TOOL[0], event(7, "tool.started", tool="t1"), *REST], "received twice"),
    "a gap is in the middle": ([*FIRST, event(None, "stream.gap"), *TOOL, *REST], "a gap, and then tool.started"),
}  # fmt: skip


def followed(events: list[Event], *, is_whole: bool = True) -> list[str]:
    return judged(streams=[Stream(run_id=RUN, events=events, is_whole=is_whole, history=HISTORY)])


@pytest.mark.parametrize("events", TRUE.values(), ids=TRUE)
def test_a_stream_that_tells_a_run_whole_is_right(events: list[Event]) -> None:
    assert followed(events) == []


@pytest.mark.parametrize(("events", "fault"), WRONG.values(), ids=WRONG)
def test_a_stream_that_leaves_something_out_or_repeats_it_is_found(events: list[Event], fault: str) -> None:
    assert any(fault in each for each in followed(events)), followed(events)


SAID: Final = message("user", {"text": "(Said meanwhile)"}, {"text": "twice"})
STEERED: Final = [*HISTORY[:2], {**RESULT, "content": [*RESULT["content"], *SAID["content"]]}, HISTORY[3]]
JOINED: Final = event(9, "run.joined", joining="two", messages=[SAID])
THEN: Final = [delta(10, "It is 5."), added(11, 3), end()]


def steered(events: list[Event], *, run_id: str = RUN) -> list[str]:
    history = STEERED if run_id == RUN else None
    return judged(streams=[Stream(run_id=run_id, events=events, is_whole=True, history=history)])


def test_a_client_adds_what_a_run_says_that_joins_to_the_last_message() -> None:
    assert steered([*FIRST, *TOOL, JOINED, *THEN]) == []
    assert any("and they are not the 4" in each for each in steered([*FIRST, *TOOL, *THEN]))
    assert any("and they are not the 4" in each for each in steered([*FIRST, *TOOL[:2], JOINED, added(10, 2), *THEN]))


def test_a_client_whose_run_joins_another_has_the_rest_of_that_ones_events() -> None:
    began = [event(1, "run.queued"), event(2, "run.position")]
    assert steered([*began, JOINED, *THEN], run_id="two") == []
    assert steered([*began, JOINED, event(10, "tool.finished", tool="t1"), added(11, 3), end()], run_id="two") == []
    assert any("received 0 ends" in each for each in steered([*began, JOINED, *THEN[:-1]], run_id="two"))


def test_a_client_that_is_not_shown_all_that_a_run_says_does_not_have_it_whole() -> None:
    assert steered([*FIRST, *TOOL, event(9, "run.joined", joining="two"), *THEN]) == []


def test_a_client_that_left_before_the_end_need_not_be_told_of_it() -> None:
    assert followed(FIRST, is_whole=False) == []


# -- all runs ------------------------------------------------------------------------------------------

SERVERS: Final = {"one": 1, "two": 2, "three": 1}


def fed(*events: FeedEvent, began: int = 0, ended: int = 100) -> list[str]:
    """Judge a feed of three runs, which servers 1 and 2 ended."""
    feed = Feed(name="a feed", began=began, ended=ended, events=list(events))
    ends = [StoredEnd(run_id=run_id, server=server, place=ENDED[run_id]) for run_id, server in SERVERS.items()]
    return judged(feeds=[feed], stored_ends=ends)


def of(run_id: str, **numbers: int) -> FeedEvent:
    named = {int(server.removeprefix("s")): number for server, number in numbers.items()}
    return FeedEvent(kind="run.finished", run_id=run_id, numbers=named)


def gap(server: int, **numbers: int) -> FeedEvent:
    return FeedEvent(
        kind="stream.gap", servers=frozenset({server}), numbers={int(name[1:]): n for name, n in numbers.items()}
    )


def test_a_feed_that_tells_every_end_once_is_right() -> None:
    assert fed(of("one", s1=5, s2=3), of("two", s1=5, s2=4), of("three", s1=6, s2=4)) == []


def test_a_feed_tells_what_was_requested_and_ended_while_it_was_there() -> None:
    assert fed(of("two", s2=4), began=10, ended=30) == []
    assert len(fed(of("two", s2=4), began=0, ended=30)) == 1


def test_a_feed_may_begin_with_a_gap_of_a_server_and_show_what_comes_after_it() -> None:
    assert fed(of("two", s2=4), gap(1, s2=4), of("three", s1=6, s2=4)) == []


def test_a_feed_may_leave_out_ends_of_a_server_of_which_it_tells_a_gap() -> None:
    assert fed(of("one", s1=5, s2=3), of("three", s1=6, s2=3), gap(2, s1=6)) == []


def test_a_gap_may_have_the_id_before_it_since_no_client_can_have_had_what_is_lost() -> None:
    assert fed(of("one", s1=5), gap(2, s1=5), of("three", s1=6)) == []


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([of("one", s1=5, s2=3), of("three", s1=6, s2=3)], "neither the end of run two"),
        ([of("one", s1=5, s2=3), of("three", s1=6, s2=3), gap(1, s2=3)], "neither the end of run two"),
        ([of("two", s1=4, s2=3), of("three", s1=6, s2=3), gap(1, s2=3)], "before that neither one (one)"),
        ([of("one", s1=5), of("two", s1=5, s2=4), of("three", s1=6, s2=4), of("one", s1=7, s2=4)], "one 2 times"),
        ([of("one", s1=5), of("two", s1=5, s2=4), of("three", s1=4, s2=5)], "goes back"),
        ([of("one", s1=5), of("two", s1=5, s2=4), of("three", s1=5, s2=4)], "two events with the id"),
    ],
    ids=["a missing end", "a gap of another server", "a gap after later ends", "twice", "back", "the same id"],
)
def test_a_feed_that_leaves_ends_out_or_repeats_them_is_found(events: list[FeedEvent], fault: str) -> None:
    assert any(fault in each for each in fed(*events)), fed(*events)


def test_nothing_is_expected_of_a_run_that_is_not_stored_any_more() -> None:
    feed = Feed(name="a feed", began=0, ended=100, events=[])
    assert judged(feeds=[feed], stored_ends=[StoredEnd(run_id="gone", server=1, place=5)]) == []
