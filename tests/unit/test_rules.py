"""The rules that every journal shares, one by one: order, attempts, ends, cancels, answers, keys, pages and windows."""

from typing import Any

import pytest

from strandline._history import DISMISSED, UNKNOWN_OUTCOME
from strandline._journal.changes import SessionRef
from strandline._journal.errors import CancelRequested
from strandline._journal.port import Attached, Reused, Unanswerable, Unresolvable
from strandline._journal.rules import (
    Branch,
    PageBudget,
    answers_key,
    as_answer,
    branch_at,
    branch_of,
    cancelled,
    check_answer,
    check_cancel,
    check_end,
    check_names,
    check_resolution,
    clipped,
    course,
    drawn,
    is_last,
    is_on,
    last_with,
    rank,
    spans,
    stood_s,
    timed_out,
    without,
)
from strandline._journal.state import RunState, SessionState
from strandline._model import (
    ANONYMOUS,
    ErrorCode,
    Inline,
    InputRequest,
    Keyed,
    Lane,
    Message,
    NewRun,
    OnQuestion,
    Question,
    Range,
    Resolution,
    RoundStarted,
    Run,
    RunError,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
    ToolDone,
    ToolNotDone,
    responses,
)
from strandline.errors import InvariantBroken

S = SessionKey(ANONYMOUS, SessionId("s"))
HELLO: Message = {"role": "user", "content": [{"text": "hello"}]}
ASKING: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "a", "name": "pay", "input": {}}}]}


def new(**fields: Any) -> NewRun:
    whole: dict[str, Any] = {"run_id": RunId("r"), "key": S, "input": "x", "created_at": 1.0} | fields
    return NewRun(**whole)


def question(*ids: str) -> Question:
    return Question(requests=[InputRequest(each, "sure") for each in ids], message=ASKING, results={}, state={})


# -- order --------------------------------------------------------------------------------------------


def test_lanes_go_first_then_priority_then_arrival_and_in_the_front_lane_arrival_alone() -> None:
    runs = [
        (Lane.REQUEUED, 5, 9),
        (Lane.ANSWER, 5, 8),
        (Lane.FRONT, 5, 6),
        (Lane.FRONT, 1, 7),
        (Lane.NORMAL, 1, 5),
        (Lane.NORMAL, 2, 3),
        (Lane.NORMAL, 2, 4),
    ]
    assert sorted(runs, key=lambda each: rank(*each)) == runs
    assert rank(Lane.NORMAL, 2, 4) == (Lane.NORMAL, 2, 4)
    assert rank(Lane.FRONT, 2, 4) == (Lane.FRONT, drawn(4), 4)
    assert rank(Lane.ANSWER, 2, 4) == (Lane.ANSWER, 0, 4)


def test_a_place_in_the_front_lane_is_larger_than_every_priority_and_in_order() -> None:
    assert drawn(0) > 10**9
    assert drawn(1) - drawn(0) == 1


@pytest.mark.parametrize(
    ("attempt", "most", "last"), [(1, 1, False), (1, 3, False), (2, 3, False), (3, 3, True), (4, 3, True), (2, 2, True)]
)
def test_a_last_attempt_is_never_a_first_one(attempt: int, most: int, last: bool) -> None:
    assert is_last(attempt, most) is last


# -- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s", "Grüße", ""])
def test_text_of_whole_characters_is_a_name(name: str) -> None:
    check_names(new(run_id=RunId(name), keyed=Keyed(name, b"", 0.0)))


@pytest.mark.parametrize(
    "fields",
    [
        {"run_id": RunId("\ud800")},
        {"key": SessionKey(ANONYMOUS, SessionId("\ud800"))},
        {"keyed": Keyed("\ud800", b"", 0.0)},
    ],
)
def test_half_a_character_is_in_no_name(fields: dict[str, Any]) -> None:
    with pytest.raises(InvariantBroken, match=r"the name '\\ud800' cannot be kept: surrogates not allowed"):
        check_names(new(**fields))


# -- ends ---------------------------------------------------------------------------------------------


def test_a_run_ends_only_as_its_status_allows() -> None:
    for end in (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.NEEDS_INPUT):
        check_end(RunStatus.RUNNING, end)
    check_end(RunStatus.QUEUED, RunStatus.FAILED)
    check_end(RunStatus.QUEUED, RunStatus.CANCELLED)
    with pytest.raises(InvariantBroken):
        check_end(RunStatus.QUEUED, RunStatus.SUCCEEDED)
    with pytest.raises(InvariantBroken, match="a run cannot end as running"):
        check_end(RunStatus.RUNNING, RunStatus.RUNNING)


def run(*, cancel_requested: bool = True, discard: bool = False) -> RunState:
    session = SessionState(SessionRef(1, S, 0))
    return RunState(session, RunId("r"), 1, 3, 0, 1.0, cancel_requested=cancel_requested, discard=discard)


def test_an_accepted_cancel_allows_no_other_end_and_no_less_discarding() -> None:
    check_cancel(run(cancel_requested=False), RunStatus.SUCCEEDED, discarded=False)
    check_cancel(run(), RunStatus.CANCELLED, discarded=False)
    check_cancel(run(), RunStatus.CANCELLED, discarded=True)
    check_cancel(run(discard=True), RunStatus.CANCELLED, discarded=True)
    with pytest.raises(CancelRequested, match="a cancel of this run was accepted before") as wanted:
        check_cancel(run(), RunStatus.SUCCEEDED, discarded=False)
    assert wanted.value.discard is False
    with pytest.raises(CancelRequested) as wanted:
        check_cancel(run(discard=True), RunStatus.CANCELLED, discarded=False)
    assert wanted.value.discard is True


def texts(messages: list[Message]) -> list[str]:
    return [block["text"] for message in messages for block in message["content"] if "text" in block]


def test_a_cancelled_waiting_run_leaves_messages_only_if_it_has_begun() -> None:
    outcome, messages = cancelled([])
    assert (outcome.status, outcome.message, messages) == (RunStatus.CANCELLED, None, [])
    outcome, messages = cancelled([RoundStarted([HELLO, ASKING])])
    assert texts(messages) == ["hello", "(This run ended early: cancelled.)"]
    assert outcome.message == messages[-1]


@pytest.mark.parametrize(("checkpoints", "shown"), [([], DISMISSED), ([RoundStarted([])], UNKNOWN_OUTCOME)])
def test_a_cancelled_answer_closes_the_round_that_asked(checkpoints: list[Any], shown: str) -> None:
    outcome, messages = cancelled(checkpoints, question=question("i"))

    assert messages[0]["content"][0]["toolResult"]["content"] == [{"text": shown}]
    assert texts(messages[1:]) == ["(This run ended early: cancelled.)"]
    assert outcome.message == messages[-1]


def test_results_of_a_cancelled_answer_stay() -> None:
    result: Any = {"toolUseId": "a", "status": "success", "content": [{"text": "paid"}]}
    _, messages = cancelled([RoundStarted([]), ToolDone("a", result)], question=question("i"))

    assert messages[0]["content"] == [{"toolResult": result}]


# -- answers ------------------------------------------------------------------------------------------


def waited_too_long(*, resumable: bool = True) -> Run:
    return Run(
        run_id=RunId("r"), key=S, lane=Lane.REQUEUED, priority=3, resumable=resumable, metadata={}, sequence=1,
        status=RunStatus.QUEUED, attempt=1, created_at=0.0, started_at=1.0, timeout_s=2.5, input="go",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("resumable", "checkpoints", "roles"),
    [
        (True, [], ["user", "assistant"]),
        (True, [RoundStarted([HELLO, ASKING])], ["user", "assistant", "user", "assistant"]),
        (False, [], []),
    ],
)
def test_a_run_whose_time_is_over_while_it_waits_again_leaves_what_it_did(
    resumable: bool, checkpoints: list[Any], roles: list[str]
) -> None:
    """One whose tools cannot be seen may keep its own history: it leaves nothing."""
    outcome, closed = timed_out(waited_too_long(resumable=resumable), checkpoints)
    assert (outcome.status, outcome.error) == (
        RunStatus.FAILED, RunError(ErrorCode.TIMEOUT, "the run took longer than 2.5 s")
    )  # fmt: skip
    assert [message["role"] for message in closed] == roles
    assert outcome.message == (closed[-1] if closed else None)
    if closed:
        assert closed[0]["content"] == (HELLO["content"] if checkpoints else [{"text": "go"}])
        assert "timeout" in str(closed[-1])


@pytest.mark.parametrize(
    ("checkpoints", "shown"), [([], DISMISSED), ([RoundStarted([])], UNKNOWN_OUTCOME)], ids=["not begun", "begun"]
)
def test_an_answer_whose_time_is_over_closes_the_round_that_asked(checkpoints: list[Any], shown: str) -> None:
    outcome, closed = timed_out(waited_too_long(), checkpoints, question=question("i"))
    assert [message["role"] for message in closed] == ["user", "assistant"]
    assert shown in str(closed[0])
    assert outcome.message == closed[-1]


def test_an_answer_answers_all_that_is_open_and_nothing_else() -> None:
    was: Any = {"old": "answered", "late": "dismissed"}.get

    assert check_answer(["i", "j"], question("i", "j"), was) is None
    assert check_answer(["i"], question("i", "j", "k"), was) == Unanswerable("incomplete", ["j", "k"])
    assert check_answer(["i", "old"], question("i"), was) == Unanswerable("answered", ["old"])
    assert check_answer(["late"], question("i"), was) == Unanswerable("dismissed", ["late"])
    assert check_answer(["x"], None, was) == Unanswerable("unknown", ["x"])
    assert check_answer([], None, was) is None


def test_a_text_becomes_the_answer_to_exactly_one_request() -> None:
    text = new(on_question=OnQuestion.ANSWER)
    answer = as_answer(text, question("i"))

    assert answer is not None
    assert (answer.lane, answer.input, answer.run_id) == (Lane.ANSWER, responses({"i": "x"}), text.run_id)
    assert as_answer(text, question("i", "j")) is None
    assert as_answer(text, question()) is None
    assert as_answer(new(on_question=OnQuestion.WAIT), question("i")) is None


# -- keys and time ------------------------------------------------------------------------------------


def test_a_key_stands_for_its_run_until_it_has_expired() -> None:
    keyed = Keyed("k", b"f", 50.0)

    assert answers_key(keyed, RunId("r"), None, b"f") == Attached(RunId("r"))
    assert answers_key(keyed, RunId("r"), 50.0, b"f") == Attached(RunId("r"))
    assert answers_key(keyed, RunId("r"), 50.0, b"g") == Reused()
    assert answers_key(keyed, RunId("r"), 49.9, b"f") is None


def test_a_deadline_stands_still_since_the_hold_began_or_the_run_came() -> None:
    assert stood_s(10.0, 4.0, 30.0) == 20.0
    assert stood_s(10.0, 25.0, 30.0) == 5.0
    assert stood_s(40.0, 4.0, 30.0) == 0.0, "the clock was set back"


# -- pages and windows --------------------------------------------------------------------------------


def test_a_page_ends_before_the_message_that_does_not_fit_but_has_one_at_least() -> None:
    room = PageBudget(10)
    assert [room.takes(size) for size in (4, 6, 1)] == [True, True, False]
    room = PageBudget(10)
    assert [room.takes(size) for size in (11, 1)] == [True, False]
    room = PageBudget(None)
    assert all(room.takes(10**9) for _ in range(3))


def test_a_window_is_its_ranges_that_are_not_empty_and_its_inline_messages() -> None:
    inline = Inline(HELLO)
    window = (Range(0, 2), inline, Range(4, None))

    assert list(spans(window, 9)) == [(0, 2), inline, (4, 9)]
    assert list(spans(window, 4)) == [(0, 2), inline]
    assert list(spans(window, 1)) == [(0, 1), inline]
    assert list(spans(window, 0)) == [inline]


# -- branches ------------------------------------------------------------------------------------------


def test_a_course_goes_back_through_what_each_branch_goes_on_from() -> None:
    # 0..5, then from 2 on 6..7, then from the old line's 4 on 8..9, then from the second branch's 7 on
    branches = [Branch(6, 0, 2), Branch(8, 0, 4), Branch(10, 6, 7)]
    assert course(branches[:1]) == [Range(0, 2), Range(6, None)]
    assert course(branches[:2]) == [Range(0, 4), Range(8, None)]
    assert course(branches) == [Range(0, 2), Range(6, 7), Range(10, None)]
    assert course([Branch(4, 0, 0)]) == [Range(4, None)]
    assert [index for index in range(12) if is_on(course(branches), index)] == [0, 1, 6, 10, 11]


def test_a_branch_of_which_nothing_is_left_is_passed_over() -> None:
    branches = [Branch(6, 0, 2), Branch(8, 6, 7)]
    assert branch_at(branches, 10, 8, 9) == Branch(10, 8, 9)
    assert branch_at(branches, 10, 8, 8) == Branch(10, 6, 7)
    assert branch_at(branches, 10, 6, 6) == Branch(10, 0, 2)
    assert branch_at([], 4, 0, 0) == Branch(4, 0, 0)
    again = branch_at(branches, 8, 8, 8)  # (nothing was added to the last one)
    assert course([branches[0], again]) == [Range(0, 2), Range(6, 7), Range(8, None)]


def test_what_a_branch_supersedes_is_what_was_on_the_course_before_it() -> None:
    branches = [Branch(6, 0, 2), Branch(8, 0, 4), Branch(10, 6, 7)]
    ends = [*(each.start for each in branches), 12]
    before = [clipped(course(branches[:number]), end) for number, end in enumerate(ends)]
    assert before[0] == [Range(0, 6)]
    assert before[1] == [Range(0, 2), Range(6, 8)]
    assert before[2] == [Range(0, 4), Range(8, 10)]
    assert before[3] == [Range(0, 2), Range(6, 7), Range(10, 12)]
    assert without(before[0], clipped(course(branches[:1]), 6)) == [Range(2, 6)]
    assert without(before[2], clipped(course(branches), 10)) == [Range(2, 4), Range(8, 10)]
    assert without([Range(0, 9)], [Range(2, 3), Range(5, 6)]) == [Range(0, 2), Range(3, 5), Range(6, 9)]
    assert without([Range(0, 9)], []) == [Range(0, 9)]
    assert without([Range(3, 5)], [Range(0, 9)]) == []


def test_each_message_is_of_one_branch_and_was_on_a_course_last_at_some_time() -> None:
    branches = [Branch(6, 0, 2), Branch(8, 0, 4), Branch(10, 6, 7)]
    assert [branch_of(branches, index) for index in (0, 5, 6, 7, 8, 9, 10, 99)] == [0, 0, 6, 6, 8, 8, 10, 10]
    ends = [last_with(branches, {}, index) for index in (0, 1, 2, 4, 6, 7, 8, 10)]
    assert ends == [None, None, (8, 10), (0, 6), None, (6, 8), (8, 10), None]
    assert last_with([], {}, 0) is None
    replaced = {8: Branch(8, 6, 8), 10: Branch(10, 0, 6)}
    assert [last_with(branches, replaced, index) for index in (2, 5, 7)] == [(0, 6), (0, 6), (6, 8)]


def test_a_window_has_what_is_on_its_course() -> None:
    on = course([Branch(6, 0, 2)])
    assert list(spans((Range(0, None),), 9, on)) == [(0, 2), (6, 9)]
    assert list(spans((Range(1, 3), Inline(HELLO), Range(4, None)), 9, on)) == [(1, 2), Inline(HELLO), (6, 9)]
    assert list(spans((Range(0, None),), 6, on)) == [(0, 2)]


def test_a_resolution_is_about_all_open_tools_and_no_other() -> None:
    begun = [RoundStarted([HELLO, ASKING])]
    done, other = ToolDone("a", {}), ToolNotDone("b", "ada")

    def check(*tools: ToolDone | ToolNotDone) -> Unresolvable | None:
        return check_resolution(Resolution(run_id=RunId("r"), tools=tools), begun)

    assert check(done) is None
    assert check(ToolNotDone("a", "ada")) is None
    assert check() == Unresolvable("incomplete", ["a"])
    assert check(done, other) == Unresolvable("known", ["b"])
