"""What a person is shown of a run, event by event."""

from typing import Any

from strandline._chat.progress import Note, RunProgress, Said, ToolUsed, question
from strandline._chat.turns import ToolCall
from strandline._model import InputRequest
from strandline.client._answers import Why
from strandline.client._events import (
    Event,
    MessageAdded,
    RunFinished,
    RunPosition,
    RunQueued,
    RunRestarted,
    RunStalled,
    RunStarted,
    StreamGap,
    TextDelta,
    TextReset,
    ToolFinished,
    ToolStarted,
    Unknown,
)


def said(text: str) -> MessageAdded:
    return MessageAdded({"role": "assistant", "content": [{"text": text}]})


def result(text: str, status: str = "success") -> dict[str, Any]:
    return {"toolUseId": "t1", "status": status, "content": [{"text": text}]}


def shown(*events: Event) -> list[Said | ToolUsed | Note]:
    progress = RunProgress("desk")
    return [each for event in events for each in progress.apply(event)]


def test_text_is_there_as_it_comes_and_shown_for_good_when_its_message_is_whole() -> None:
    progress = RunProgress("desk")
    assert progress.apply(TextDelta("It is ", run_id="run_1")) == []
    assert progress.apply(TextDelta("3.")) == []
    assert (progress.text, progress.run_id) == ("It is 3.", "run_1")
    assert progress.apply(said("It is 3.")) == [Said("It is 3.")]
    assert progress.text == ""
    assert progress.apply(RunFinished("succeeded", output="It is 3.")) == [], "it is not said twice"
    assert progress.end is not None


def test_the_end_says_what_was_not_said() -> None:
    assert shown(said("Let me see."), RunFinished("succeeded", output="It is 3.")) == [
        Said("Let me see."),
        Said("It is 3."),
    ]
    assert shown(RunFinished("failed", output="half")) == []


def test_a_model_that_starts_over_takes_back_what_it_has_said_since_its_last_message() -> None:
    progress = RunProgress("desk")
    progress.apply(TextDelta("wro"))
    (note,) = progress.apply(TextReset())
    assert isinstance(note, Note)
    assert progress.text == ""
    assert progress.apply(TextReset()) == [], "there is nothing to take back"


def test_a_tool_is_a_line_when_it_has_ended() -> None:
    assert shown(
        ToolStarted("t1", "add", {"a": 1}), ToolFinished("t1", "add", "success", 0.25, result("3"))
    ) == [ToolUsed(ToolCall("add", {"a": 1}, "3"), 0.25)]  # fmt: skip
    assert shown(ToolFinished("t1", "add", "error", None, result("no", "error"))) == [
        ToolUsed(ToolCall("add", None, "no", failed=True), None)
    ]


def test_how_it_stands() -> None:
    progress = RunProgress("desk")
    assert progress.status(0.4) == "0 s"
    steps: list[tuple[Event, str]] = [
        (RunQueued(3, 4.2), "2 runs before it, about 4 s"),
        (RunPosition(2), "1 run before it"),
        (RunPosition(2, 3.0, Why("behind", "1 run is ahead of it in its session")), "1 run before it, about 3 s"),
        (RunPosition(1), "next in its queue"),
        (RunPosition(1, None, Why("paused", "the session is paused")), "next in its queue; the session is paused"),
        (RunStarted(1), "executing"),
        (TextDelta("x"), "the model is answering"),
        (ToolStarted("t1", "add"), "using add"),
        (ToolStarted("t2", "sub"), "using sub"),
        (ToolFinished("t2", "sub", "success", 1.0, result("1")), "using add"),
        (RunStalled(120.0, "tool add"), "no sign of life for 120 s (tool add)"),
        (Unknown(kind="run.dreamt"), "no sign of life for 120 s (tool add)"),
    ]
    for event, status in steps:
        progress.apply(event)
        assert progress.status(7.0) == f"7 s · {status}"


def test_a_restart_and_a_gap_are_shown() -> None:
    progress = RunProgress("desk")
    progress.apply(TextDelta("half an"))
    (note,) = progress.apply(RunRestarted(2))
    assert isinstance(note, Note)
    assert "attempt 2" in note.text
    assert progress.text == ""
    (gap,) = progress.apply(StreamGap(4, 2**53 - 2))  # as after a kill of its server, when it cannot resume
    assert isinstance(gap, Note)
    assert not any(each.isdigit() for each in gap.text)


def test_a_question_is_one_line() -> None:
    assert question(InputRequest("q1", "refund", {"order": "B2"})) == 'refund: {"order": "B2"}'
    assert question(InputRequest("q1", "refund", "may I?")) == "refund: may I?"
    assert question(InputRequest("q1", "refund")) == "refund"


def test_a_wait_for_an_answer_shows_the_question_and_the_command_once() -> None:
    why = Why("waits_for_input", "the session waits for an answer to its question, until 12:00:00 UTC")
    first, next_ = InputRequest("i1", "refund", {"order": "B2"}), InputRequest("i2", "sure")
    note = 'It waits for an answer to refund: {"order": "B2"} (strandline answer desk TEXT)'
    assert shown(
        RunQueued(1, why=why, input_requests=[first]),
        RunPosition(2, why=why, input_requests=[first]),
        RunPosition(2, why=Why("behind", "1 run is ahead of it in its session")),
        RunPosition(1, why=why, input_requests=[next_]),
    ) == [Note(note), Note("It waits for an answer to sure (strandline answer desk TEXT)")]
