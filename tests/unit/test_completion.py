"""What is stored of each ending of a run, and what a policy leaves out."""

from typing import Any

import pytest
from msgspec.structs import replace

from strandline._agents.port import Finished
from strandline._engine.execution.completion import (
    closed,
    completion_of,
    last_resort,
    outcome_of,
    resume_point_of,
    timed_out,
)
from strandline._engine.options import Options
from strandline._history import DISMISSED, UNKNOWN_OUTCOME, Progress, prompt_message
from strandline._model import (
    ANONYMOUS,
    Cancelled,
    Claim,
    Ending,
    ErrorCode,
    Failed,
    FencingToken,
    InputRequest,
    Message,
    NeedsInput,
    Outcome,
    Question,
    Range,
    RoundStarted,
    Run,
    RunError,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
    Succeeded,
)

HELLO = prompt_message("hello")
ANSWER: Message = {"role": "assistant", "content": [{"text": "hi"}]}
ASKING: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "a", "name": "pay", "input": {}}}]}
REQUESTS = [InputRequest("i", "sure")]
QUESTION = Question(requests=REQUESTS, message=ASKING, results={}, state={"n": 1})
FAILED = Failed(ErrorCode.AGENT_ERROR, "no luck", out_of_tokens=True)


def claim(**fields: Any) -> Claim:
    run = Run(
        run_id=RunId("r"),
        key=SessionKey(ANONYMOUS, SessionId("s")),
        input="hello",
        lane=3,
        priority=3,
        resumable=True,
        sequence=1,
        status=RunStatus.RUNNING,
        attempt=1,
        created_at=1.0,
        metadata={},
        timeout_s=2.5,
    )
    return Claim(token=FencingToken(RunId("r"), 1), run=run, **fields)


def texts(messages: list[Message]) -> list[str]:
    return [block["text"] for message in messages for block in message["content"] if "text" in block]


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (Succeeded(), Outcome(status=RunStatus.SUCCEEDED, output="hi")),
        (FAILED, Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.AGENT_ERROR, "no luck", True))),
        (Cancelled(), Outcome(status=RunStatus.CANCELLED)),
        (
            NeedsInput(requests=REQUESTS, state={}),
            Outcome(status=RunStatus.NEEDS_INPUT, output="hi", input_requests=REQUESTS),
        ),
    ],
)
def test_each_ending_has_its_outcome_with_the_last_answer_and_the_usage(ending: Ending, outcome: Outcome) -> None:
    usage = {"inputTokens": 3}

    found = outcome_of(ending, [HELLO, ANSWER], usage)

    assert (found.message, found.usage) == (ANSWER, usage)
    assert (found.status, found.output, found.error, found.input_requests) == (
        outcome.status,
        outcome.output,
        outcome.error,
        outcome.input_requests,
    )


def test_what_a_person_said_is_no_answer() -> None:
    assert outcome_of(Succeeded(), [HELLO]) == outcome_of(Succeeded(), []) == Outcome(status=RunStatus.SUCCEEDED)


def test_an_ended_run_leaves_its_messages_and_what_its_agent_is_rebuilt_from() -> None:
    finished = Finished(ending=Succeeded(), usage={"n": 1}, window=(Range(0, None),), state={"n": 1})

    left = completion_of(finished, [HELLO, ANSWER], Options(input_timeout_s=60), QUESTION)

    assert left.outcome == outcome_of(finished.ending, [HELLO, ANSWER], {"n": 1})
    assert (left.messages, left.discarded) == ([HELLO, ANSWER], False)
    assert left.window == (Range(0, None),)
    assert left.state == {"n": 1}
    assert (left.question, left.answer_within_s) == (QUESTION, 60)


@pytest.mark.parametrize(
    ("ending", "on_failure", "discarded"),
    [
        (Succeeded(), "drop", False),
        (FAILED, "keep", False),
        (FAILED, "drop", True),
        (Cancelled(), "drop", False),
        (Cancelled(discard=True), "keep", True),
    ],
)
def test_a_discarded_run_changes_neither_window_nor_state(ending: Ending, on_failure: Any, discarded: bool) -> None:
    finished = Finished(ending=ending, window=(Range(0, None),), state={"n": 1})

    left = completion_of(finished, [HELLO, ANSWER], Options(on_failure=on_failure))

    assert (left.messages, left.discarded) == ([HELLO, ANSWER], discarded), "they stay in history, flagged"
    assert (left.window is None, left.state is None) == (discarded, discarded)
    assert left.outcome == outcome_of(ending, [HELLO, ANSWER])


def test_of_an_agent_that_keeps_its_own_history_only_the_outcome_is_stored() -> None:
    finished = Finished(ending=Succeeded(), window=(Range(0, None),), state={"n": 1})

    left = completion_of(finished, [HELLO, ANSWER], Options(self_managed=True), QUESTION)

    assert (left.messages, left.window, left.state, left.question) == ([], None, None, None)
    assert left.outcome.output == "hi"
    assert left.discarded is False


def test_a_run_that_has_done_nothing_leaves_its_prompt() -> None:
    assert texts(closed(claim(), [], {}, Cancelled(), begun=True)) == ["hello", "(This run ended early: cancelled.)"]


@pytest.mark.parametrize(("begun", "outcome"), [(False, DISMISSED), (True, UNKNOWN_OUTCOME)])
def test_the_run_of_an_answer_leaves_what_comes_after_the_question(begun: bool, outcome: str) -> None:
    result, end = closed(claim(question=QUESTION), [ASKING], {}, Cancelled(), begun=begun)

    assert result["content"][0]["toolResult"]["content"] == [{"text": outcome}]
    assert texts([end]) == ["(This run ended early: cancelled.)"]


def test_what_cannot_be_ended_properly_ends_with_its_prompt_and_a_word_about_the_log() -> None:
    left = last_resort(claim(), None, Options())

    detail = "the run could not be ended properly; the server's log says more"
    assert left.outcome.error == RunError(ErrorCode.AGENT_ERROR, detail)
    assert texts(left.messages) == ["hello", "(This run ended early: agent_error.)", detail]
    assert last_resort(claim(), Cancelled(), Options()).outcome.status is RunStatus.CANCELLED


@pytest.mark.parametrize(("checkpoints", "outcome"), [((), DISMISSED), ((RoundStarted([]),), UNKNOWN_OUTCOME)])
def test_the_last_resort_closes_the_round_that_a_run_answers(checkpoints: Any, outcome: str) -> None:
    left = last_resort(claim(question=QUESTION, checkpoints=checkpoints), Cancelled(), Options())

    assert left.messages[0]["content"][0]["toolResult"]["content"] == [{"text": outcome}]


def test_a_run_that_took_too_long_says_how_long_it_may_take_and_what_it_did_meanwhile() -> None:
    assert timed_out(claim().run) == Failed(ErrorCode.TIMEOUT, "the run took longer than 2.5 s")
    assert timed_out(claim().run, "; it was in pay").detail == "the run took longer than 2.5 s; it was in pay"


def test_what_resumes_follows_the_settings() -> None:
    progress = Progress(messages=[HELLO, ASKING], results={})

    assert resume_point_of(claim().run, progress, Options()) is None
    resumed = resume_point_of(claim().run, progress, Options(unknown_tool="resume"))
    assert resumed is not None
    assert resumed.results["a"]["content"] == [{"text": UNKNOWN_OUTCOME}]
    again = resume_point_of(claim().run, progress, Options(idempotent_tools=["pay"]))
    assert again is not None
    assert again.to_restart == frozenset({"a"})


def test_a_tool_of_the_client_is_not_executed_here_and_so_is_called_again() -> None:
    progress, options = Progress(messages=[HELLO, ASKING], results={}), Options()
    stored = {"$client_options": {"tools": [{"name": "pay"}]}}
    for run, done in (
        (replace(claim().run, metadata=stored), progress),
        (claim().run, replace(progress, question_state=stored)),
    ):
        again = resume_point_of(run, done, options)
        assert again is not None
        assert again.to_restart == frozenset({"a"})


def test_the_tool_that_gives_an_answer_a_form_is_called_again_only_where_a_form_is_wanted() -> None:
    call = {"toolUseId": "a", "name": "structured_answer", "input": {}}
    asking: Message = {"role": "assistant", "content": [{"toolUse": call}]}
    progress, options = Progress(messages=[HELLO, asking], results={}), Options()
    stored: dict[str, Any] = {"$client_options": {"format": {"json_schema": {}}}}
    assert resume_point_of(claim().run, progress, options) is None
    again = resume_point_of(replace(claim().run, metadata=stored), progress, options)
    assert again is not None
    assert again.to_restart == frozenset({"a"})
