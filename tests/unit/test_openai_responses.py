"""A run's events as those of a response: withdrawn text, restarts, gaps, and numbers that say where to go on."""

import json
from typing import Any, Final

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from strandline._engine.events import (
    Event,
    MessageAdded,
    Numbered,
    ReasoningDelta,
    RunFinished,
    RunQueued,
    RunRestarted,
    RunStarted,
    StreamGap,
    TextDelta,
    TextReset,
)
from strandline._engine.streams import LAST, RunStream
from strandline._http.dialects.openai.responses.stream import EPOCH, GAP, NOTHING, ResponseEvents
from strandline._http.dialects.openai.responses.wire import AboutRun
from strandline._http.dialects.openai.wire import failed
from strandline._model import ErrorCode, InputRequest, Message, RunError, RunId, RunStatus, SessionId, session_key

RUN: Final = RunId("run_1")
ABOUT: Final = AboutRun(run_id=RUN, session_id=SessionId("s"), created_at=1.5, model="m", metadata={})
EVENT: Final[TypeAdapter[ResponseStreamEvent]] = TypeAdapter(ResponseStreamEvent)
STARTED: Final = RunStarted(1)


def answer(*texts: str, reasoning: str = "") -> Message:
    thought = [{"reasoningContent": {"reasoningText": {"text": reasoning}}}] if reasoning else []
    return {"role": "assistant", "content": [*thought, *({"text": text} for text in texts)]}


def end(
    text: str = "", status: RunStatus = RunStatus.SUCCEEDED, error: RunError | None = None, reasoning: str = ""
) -> RunFinished:
    return RunFinished(status, text, answer(text, reasoning=reasoning) if text else None, error, [], None)


def encoded(events: list[Event], *, first: int = 1, after: int = NOTHING, closes: bool = True) -> str:
    frames = ResponseEvents(
        ABOUT, RunStream(RUN, session_key("s"), first=first), after=after, later=failed("later", "goes_on_later", RUN)
    )
    numbered = [
        Numbered(None if isinstance(event, StreamGap) else number, 0.0, event)
        for number, event in enumerate(events, first)
    ]
    data = frames.opening() + b"".join(map(frames.of, numbered)) + (frames.closing() if closes else b"")
    return data.decode().replace(": alive\n\n", "")


def shown(text: str) -> list[dict[str, Any]]:
    events = [json.loads(block.partition("\ndata: ")[2]) for block in text.split("\n\n")[:-1]]
    for event in events:
        EVENT.validate_python(event)
    return events


def items(events: list[Event], **options: Any) -> list[tuple[int, str, str, str]]:
    """Return the items that were closed: index, type, status and text."""
    return [
        (each["output_index"], each["item"]["type"], each["item"]["status"], each["item"]["content"][0]["text"])
        for each in shown(encoded(events, **options))
        if each["type"] == "response.output_item.done"
    ]


def output(events: list[Event], **options: Any) -> list[tuple[str, str]]:
    last = shown(encoded(events, **options))[-1]["response"]["output"]
    return [(each["id"], each["content"][0]["text"]) for each in last]


STORIES: Final[dict[str, list[Event]]] = {
    "pieces": [STARTED, TextDelta("he"), TextDelta("llo"), MessageAdded(answer("hello")), end("hello")],
    "withdrawn": [STARTED, TextDelta("he"), TextReset(), TextDelta("bye"), MessageAdded(answer("bye")), end("bye")],
    "thinks": [STARTED, ReasoningDelta("hm"), TextDelta("a"), MessageAdded(answer("a")), end("a", reasoning="hm")],
    "replaced": [STARTED, TextDelta("bad"), MessageAdded(answer("[blocked]")), end("[blocked]")],
    "whole": [STARTED, MessageAdded(answer("at once")), end("at once")],
    "cut off": [STARTED, TextDelta("so far"), end("so far\n(This run ended early: limit.)")],
    "fails": [STARTED, TextDelta("so"), end(status=RunStatus.FAILED, error=RunError(ErrorCode.AGENT_ERROR, "no"))],
    "twice": [
        RunQueued(1, None), STARTED, TextDelta("one"), MessageAdded(answer("one")), TextDelta("tw"),
        RunRestarted(2, [answer("one")]), TextDelta("two"), MessageAdded(answer("two")), end("two"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("story", "closed"),
    [
        ("pieces", [(0, "message", "completed", "hello")]),
        ("withdrawn", [(0, "message", "incomplete", "he"), (1, "message", "completed", "bye")]),
        ("thinks", [(0, "reasoning", "completed", "hm"), (1, "message", "completed", "a")]),
        ("replaced", [(0, "message", "incomplete", "bad"), (1, "message", "completed", "[blocked]")]),
        ("whole", [(0, "message", "completed", "at once")]),
        ("cut off", [(0, "message", "completed", "so far\n(This run ended early: limit.)")]),
        ("fails", [(0, "message", "incomplete", "so")]),
        (
            "twice",
            [
                (0, "message", "completed", "one"),
                (1, "message", "incomplete", "tw"),
                (2, "message", "completed", "two"),
            ],
        ),
    ],
)
def test_items(story: str, closed: list[tuple[int, str, str, str]]) -> None:
    assert items(STORIES[story]) == closed


@pytest.mark.parametrize("story", STORIES)
def test_a_client_resumes_after_any_event_with_the_same_bytes(story: str) -> None:
    whole = encoded(STORIES[story])
    blocks = [f"{block}\n\n" for block in whole.split("\n\n")[:-1]]
    assert [each["sequence_number"] for each in shown(whole)] == list(range(len(blocks)))
    for number in range(len(blocks)):
        assert encoded(STORIES[story], after=number) == "".join(blocks[number + 1 :])


def test_the_output_is_the_last_message_with_the_ids_that_were_streamed() -> None:
    assert output(STORIES["twice"]) == [("msg_run_1_2", "two")]
    assert output(STORIES["thinks"]) == [("rs_run_1_0", "hm"), ("msg_run_1_1", "a")]
    assert output(STORIES["fails"]) == []


def test_questions_are_items_after_the_text() -> None:
    asked = [
        InputRequest("q1", "refund", {"amount": 5}),
        InputRequest("q2", "sure", "really?"),
        InputRequest("q3", "x"),
    ]
    ended = RunFinished(RunStatus.NEEDS_INPUT, "So", answer("So"), None, asked, None)
    events = shown(encoded([STARTED, TextDelta("So"), MessageAdded(answer("So")), ended]))
    calls = events[-1]["response"]["output"][1:]
    assert [(each["type"], each["call_id"], each["name"], each["arguments"]) for each in calls] == [
        ("function_call", "q1", "refund", '{"amount":5}'),
        ("function_call", "q2", "sure", '{"reason":"really?"}'),
        ("function_call", "q3", "x", "{}"),
    ]
    done = [each["item"] for each in events if each["type"] == "response.output_item.done"]
    assert done[1:] == calls
    assert items([STARTED, RunFinished(RunStatus.NEEDS_INPUT, "", None, None, asked[:0], None)]) == [
        (0, "message", "completed", "")
    ]
    silent = shown(encoded([STARTED, RunFinished(RunStatus.NEEDS_INPUT, "", None, None, asked, None)]))
    assert [each["type"] for each in silent[-1]["response"]["output"]] == ["function_call"] * 3


def test_the_events_of_another_process_are_above_those_before() -> None:
    again: list[Event] = [RunRestarted(2, [answer("one")]), TextDelta("two"), MessageAdded(answer("two")), end("two")]
    events = shown(encoded(again, first=3 * EPOCH + 1))
    assert events[0]["type"] == "response.created"
    assert events[0]["sequence_number"] == 3 * EPOCH
    assert items(again, first=3 * EPOCH + 1) == [(0, "message", "completed", "one"), (1, "message", "completed", "two")]
    assert encoded(again, first=3 * EPOCH + 1, after=17) == encoded(again, first=3 * EPOCH + 1)


def test_the_end_alone_is_above_all_and_exact_in_every_reader() -> None:
    events = shown(encoded([end("done")], first=LAST))
    numbers = [each["sequence_number"] for each in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert LAST - EPOCH < numbers[0] < numbers[-1] < LAST
    assert output([end("done")], first=LAST) == [("msg_run_1_0", "done")]


def test_after_a_gap_a_message_comes_whole_and_numbers_rise() -> None:
    story: list[Event] = [
        STARTED, TextDelta("a"), StreamGap(3, 9), TextDelta("c"), MessageAdded(answer("abc")), end("abc"),
    ]  # fmt: skip
    assert items(story) == [(0, "message", "incomplete", "a"), (1, "message", "completed", "abc")]
    numbers = [each["sequence_number"] for each in shown(encoded(story))]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 9 * GAP


def test_a_stream_that_ends_before_its_run_says_so_and_takes_no_number() -> None:
    events = shown(encoded([STARTED, TextDelta("a")]))
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "goes_on_later")
    more = shown(encoded([STARTED, TextDelta("a"), TextDelta("b")], closes=False))
    assert more[-1]["sequence_number"] == events[-1]["sequence_number"]
