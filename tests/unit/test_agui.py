"""AG-UI: how requests are parsed or refused, and what a client makes of the events of a run."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx
import msgspec
import pytest
from ag_ui.core import Event as OfficialEvent
from ag_ui.core import Message as OfficialMessage
from ag_ui.core import RunErrorEvent
from pydantic import TypeAdapter

from cluster_support import pair, run, until
from strandline._agents.port import Attempt
from strandline._engine import events
from strandline._engine.events import (
    Event,
    MessageAdded,
    Numbered,
    Reason,
    ReasoningDelta,
    RunFinished,
    RunRestarted,
    StreamGap,
    TextDelta,
    TextReset,
    ToolFinished,
    ToolStarted,
    Why,
)
from strandline._engine.requests import request_id_of
from strandline._history.texts import ended_early
from strandline._http import wire
from strandline._http.app.errors import response_to
from strandline._http.dialects.agui.stream import AgUiEvents
from strandline._http.dialects.agui.transcript import ListedMessages, is_said_by
from strandline._http.dialects.agui.wire import RunAgentInput, client_options_of, options_of, prompt_of, refusal
from strandline._http.exchange.run_request import Response, Responses
from strandline._model import (
    ClientOptions,
    ClientTool,
    ErrorCode,
    IfBusy,
    InputRequest,
    Message,
    RunError,
    RunId,
    RunStatus,
    SessionId,
)
from strandline.errors import Invalid, JournalUnavailable, QueueFull

RUN, OTHER = RunId("run_1"), "run_2"
ASKED = {"id": "m1", "role": "user", "content": "hello"}
PIXEL = "iVBORw0KGgo="
_event = TypeAdapter(OfficialEvent)
_messages = TypeAdapter(list[OfficialMessage])


def body(**given: Any) -> RunAgentInput:
    sent = {"threadId": "t", "runId": "r", "messages": [ASKED], **given}
    return msgspec.json.decode(json.dumps(sent), type=RunAgentInput)


# -- requests -----------------------------------------------------------------------------------------


def test_the_users_last_message_is_the_input() -> None:
    said = [("system", "be kind"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "thr")]
    listed = [{"id": str(at), "role": role, "content": text} for at, (role, text) in enumerate(said)]
    assert prompt_of(body(messages=listed)) == "three"


def test_parts_become_blocks_in_the_forms_of_every_version() -> None:
    data = {"type": "data", "value": PIXEL, "mimeType": "image/jpg"}
    pdf = {"type": "data", "value": "JVBERi0=", "mimeType": "application/pdf"}
    parts = [
        {"type": "text", "text": "what is this?"},
        {"type": "image", "source": data},
        {"type": "document", "source": pdf, "metadata": {"filename": "a.pdf"}},
        {"type": "document", "source": {**pdf, "mimeType": "text/plain; charset=utf-8"}},
        {"type": "binary", "mimeType": "image/png", "data": PIXEL},
    ]
    assert prompt_of(body(messages=[{**ASKED, "content": parts}])) == [
        {"text": "what is this?"},
        {"image": {"format": "jpeg", "source": {"bytes": b"\x89PNG\r\n\x1a\n"}}},
        {"document": {"format": "pdf", "name": "a.pdf", "source": {"bytes": b"%PDF-"}}},
        {"document": {"format": "txt", "name": "document", "source": {"bytes": b"%PDF-"}}},
        {"image": {"format": "png", "source": {"bytes": b"\x89PNG\r\n\x1a\n"}}},
    ]


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        (None, "needs content", "content"),
        ([], "needs content", "content"),
        ({}, "needs content", "content"),
        ([{"type": "audio", "source": {"type": "data", "value": "", "mimeType": "audio/wav"}}], "must be a", "[0]"),
        ([{"type": "image", "source": {"type": "url", "value": "https://example.com/a.png"}}], "no URL", "[0]"),
        ([{"type": "image", "source": {"type": "file", "value": "file_1"}}], "no URL", "[0]"),
        ([{"type": "image", "source": {"type": "data", "value": "!", "mimeType": "image/png"}}], "base64", "[0]"),
        ([{"type": "image", "source": {"type": "data", "value": "", "mimeType": "image/tiff"}}], "image/webp", "[0]"),
        ([{"type": "text"}], "must be a", "[0]"),
        ([{"cachePoint": {"type": "default"}}], "must be a", "[0]"),
    ],
)
def test_unsupported_content_is_refused_with_its_place(content: Any, what: str, where: str) -> None:
    with pytest.raises(Invalid, match=what) as refused:
        prompt_of(body(messages=[ASKED, {**ASKED, "content": content}]))
    assert "$.messages[1].content" in str(refused.value)
    assert where in str(refused.value)


@pytest.mark.parametrize("roles", [[], ["system"], ["assistant"]])
def test_without_a_message_of_the_user_there_is_no_input(roles: list[str]) -> None:
    with pytest.raises(Invalid, match="must be the user's"):
        prompt_of(body(messages=[{"id": "m", "role": role, "content": "x"} for role in roles]))


CALLING = {"id": f"{RUN}-0", "role": "assistant", "content": ""}


def result(call_id: str, content: Any = "sunny", **more: Any) -> dict[str, Any]:
    return {"id": f"mine-{call_id}", "role": "tool", "toolCallId": call_id, "content": content, **more}


def test_results_of_the_clients_tools_at_the_end_are_the_input() -> None:
    ours = {**result("own"), "id": f"{RUN}-own"}
    earlier = [ASKED, CALLING, result("old"), CALLING]
    called = Responses([Response(request_id_of(each), "sunny") for each in ("a", "b")])
    for listed in (
        [*earlier, result("a"), ours, result("b")],
        [*earlier, ours, result("a"), result("b"), {**CALLING, "id": "run_2-0"}],  # (what the answer has said so far)
        [result("a"), result("b")],
    ):
        assert prompt_of(body(messages=listed)) == called
    for listed in ([*earlier, ASKED], [ASKED, CALLING, ours]):
        assert prompt_of(body(messages=listed)) == "hello"


def test_a_result_is_a_text_or_an_error() -> None:
    failed = body(messages=[ASKED, result("a", "", error="no network")])
    assert prompt_of(failed) == Responses([Response(request_id_of("a"), "no network")])
    with pytest.raises(Invalid, match=r"must be a text - at `\$\.messages\[1\]\.content`"):
        prompt_of(body(messages=[ASKED, result("a", {"x": 1})]))
    with pytest.raises(Invalid, match=r"the id of its call - at `\$\.messages\[1\]\.toolCallId`"):
        prompt_of(body(messages=[ASKED, {"id": "m", "role": "tool", "content": "x"}]))


def test_answers_and_results_of_one_round_go_together_and_earlier_ones_stay_out() -> None:
    resume = [{"interruptId": "i", "status": "resolved", "payload": "yes"}]
    both = body(messages=[ASKED, CALLING, result("a")], resume=resume)
    assert prompt_of(both) == Responses([Response("i", "yes"), Response(request_id_of("a"), "sunny")])
    later = body(messages=[ASKED, CALLING, result("a"), CALLING], resume=resume)
    assert prompt_of(later) == Responses([Response("i", "yes")])


def test_tools_are_wishes_of_the_client() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"name": "weather", "description": "d", "parameters": schema}, {"name": "bare"}]
    assert client_options_of(body(tools=tools)) == ClientOptions(
        tools=(ClientTool(name="weather", description="d", json_schema=schema), ClientTool(name="bare"))
    )
    assert client_options_of(body(tools=[])) is None
    assert client_options_of(body(tools=None)) is None
    with pytest.raises(msgspec.ValidationError):
        body(tools=[{"description": "without a name"}])


@pytest.mark.parametrize("run_id", ["", "x" * 256, "a\nb", "é"])
def test_the_id_of_a_run_has_to_be_a_key(run_id: str) -> None:
    with pytest.raises(Invalid, match=r"at `\$\.runId`"):
        prompt_of(body(runId=run_id))


def test_entries_to_resume_are_answers() -> None:
    resume = [
        {"interruptId": "a", "status": "resolved", "payload": {"ok": True}},
        {"interruptId": "b", "status": "cancelled", "payload": "ignored"},
    ]
    answers = Responses([Response("a", {"ok": True}), Response("b", False)])
    assert prompt_of(body(resume=resume, messages=[])) == answers
    with pytest.raises(Invalid, match=r"`payload`.* - at `\$\.resume\[0\]`"):
        prompt_of(body(resume=[{"interruptId": "a", "status": "resolved"}]))
    assert prompt_of(body(resume=[])) == "hello"


def test_options_are_in_the_forwarded_properties() -> None:
    assert options_of(body(forwardedProps={"strandline": {"if_busy": "steer"}, "x": 1})).if_busy is IfBusy.STEER
    for props in (None, {}, {"strandline": None}):
        assert options_of(body(forwardedProps=props)).if_busy is None


def test_a_refusal_has_the_form_of_an_error_that_clients_show() -> None:
    full = QueueFull("the queue is full", position=3, estimated_wait_s=1.5, retry_after_s=2)
    response = refusal(wire.error_response(full))
    said = RunErrorEvent.model_validate_json(bytes(response.body))
    assert (said.message, said.code) == ("the queue is full", full.code)
    assert said.metadata == {"strandline": {"position": 3, "estimated_wait_s": 1.5}}
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/json"
    assert response.headers["retry-after"] == "2"
    plain = response_to(Invalid("no"), {"type": "http", "path": "/agui", "method": "POST", "headers": []})
    assert json.loads(bytes(plain.body)) == {"type": "RUN_ERROR", "message": "no", "code": "invalid"}


# -- events -------------------------------------------------------------------------------------------


class Client:
    """A client's list of messages, as AG-UI's reducer makes it of the events; each is checked by the official types."""

    def __init__(
        self,
        listed: Iterable[dict[str, Any]] = (ASKED,),
        *,
        answers: bool = False,
        tools: Iterable[str] = (),
        results: Iterable[str] = (),
        state: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self.messages = list(listed)
        self.types: list[str] = []
        self.last: dict[str, Any] = {}
        self.open: set[str] = set()
        sent = json.dumps({"messages": self.messages}, indent=2).replace("\n", "\r\n\n").encode()
        has_some = any(is_said_by(RUN, each["id"]) for each in self.messages)
        self.frames = AgUiEvents(
            RUN,
            SessionId("t"),
            thread_id="t",
            run_id="r",
            parent_run_id=None,
            listed=ListedMessages(sent, RUN, has_some, frozenset(results)),
            answers=answers,
            tools=frozenset(tools),
            later="later",
            state=state,
        )
        self.bytes = self.read(self.frames.opening())

    def read(self, data: bytes) -> bytes:
        for frame in data.decode().split("\n\n")[:-1]:
            assert len(frame.splitlines()) == 1
            event = json.loads(frame.removeprefix("data: "))
            _event.validate_python(event)
            assert self.types[-1:] not in (["RUN_FINISHED"], ["RUN_ERROR"])
            self.types.append(event["type"])
            self.last = event
            self._apply(event)
        return data

    def hears(self, *heard: Event) -> "Client":
        for event in heard:
            self.bytes += self.read(self.frames.of(Numbered(1, 0.0, event)))
        return self

    def said(self) -> list[Any]:
        """What the client shows besides its own message."""
        return [
            each["content"] if each["role"] != "tool" else f"({each['content']})"
            for each in self.messages
            if each["id"] != "m1"
        ]

    def calls(self) -> list[str]:
        return [call["function"]["name"] for each in self.messages for call in each.get("toolCalls", ())]

    def _apply(self, event: dict[str, Any]) -> None:
        match event:
            case {"type": "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START", "messageId": message_id, "role": role}:
                assert message_id not in self.open
                self.open.add(message_id)
                if self._found(message_id) is None:
                    self.messages.append({"id": message_id, "role": role, "content": ""})
            case {"type": "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT", "messageId": message_id}:
                assert message_id in self.open
                found = self._found(message_id)
                assert found is not None
                found["content"] += event["delta"]
            case {"type": "TEXT_MESSAGE_END" | "REASONING_MESSAGE_END", "messageId": message_id}:
                self.open.remove(message_id)
            case {"type": "TOOL_CALL_START", "parentMessageId": parent}:
                if (found := self._found(parent)) is None:
                    found = {"id": parent, "role": "assistant", "content": ""}
                    self.messages.append(found)
                call = {"name": event["toolCallName"], "arguments": ""}
                found.setdefault("toolCalls", []).append({"id": event["toolCallId"], "function": call})
            case {"type": "TOOL_CALL_RESULT", "messageId": message_id, "content": content}:
                self.messages.append({"id": message_id, "role": "tool", "content": content})
            case {"type": "MESSAGES_SNAPSHOT", "messages": messages}:
                assert not self.open
                _messages.validate_python(messages)
                self.messages = json.loads(json.dumps(messages))
            case {"type": "RUN_FINISHED"}:
                assert not self.open

    def _found(self, message_id: str) -> dict[str, Any] | None:
        return next((each for each in self.messages if each["id"] == message_id), None)


def message(*texts: str, calls: Iterable[str] = ()) -> Message:
    uses = [{"toolUse": {"toolUseId": each, "name": each, "input": {"n": 1}}} for each in calls]
    return {"role": "assistant", "content": [*({"text": text} for text in texts), *uses]}


def results(*calls: str) -> Message:
    found = [{"toolUseId": each, "status": "success", "content": [{"text": f"did {each}"}]} for each in calls]
    return {"role": "user", "content": [{"toolResult": each} for each in found]}


def started(name: str) -> ToolStarted:
    return ToolStarted(name, name, {"n": 1})


def finished(name: str) -> ToolFinished:
    return ToolFinished(name, name, "success", 0.1, results(name)["content"][0]["toolResult"])


def end(
    status: RunStatus = RunStatus.SUCCEEDED, *texts: str, error: RunError | None = None, **more: Any
) -> RunFinished:
    last = message(*texts) if texts else None
    more = {"input_requests": [], "usage": None, **more}
    return RunFinished(status=status, output="\n".join(texts), message=last, error=error, **more)


ROUND = (
    TextDelta("Let me "),
    TextDelta("see."),
    MessageAdded(message("Let me see.", calls=["a", "b"])),
    started("a"),
    started("b"),
    finished("b"),
    finished("a"),
    MessageAdded(results("a", "b")),
    TextDelta("Done."),
    MessageAdded(message("Done.")),
    end(RunStatus.SUCCEEDED, "Done.", usage={"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokens": 1}),
)


def test_a_run_with_tools_is_what_a_client_shows() -> None:
    client = Client().hears(*ROUND)
    assert client.said() == ["Let me see.", "(did b)", "(did a)", "Done."]
    assert client.calls() == ["a", "b"]
    assert client.types[0] == "RUN_STARTED"
    assert "MESSAGES_SNAPSHOT" not in client.types
    assert client.last["outcome"] == {"type": "success"}
    assert client.last["usage"] == [{"inputTokens": 3, "outputTokens": 2, "totalTokens": 5, "cachedInputTokens": 1}]
    assert client.frames.closing() == b""


def test_a_repeated_request_gets_the_same_bytes_and_what_its_client_had_is_not_doubled() -> None:
    first = Client().hears(*ROUND)
    assert Client().hears(*ROUND).bytes == first.bytes
    half = Client().hears(*ROUND[:6])
    again = Client(half.messages).hears(*ROUND)
    assert again.types[:2] == ["RUN_STARTED", "MESSAGES_SNAPSHOT"]
    assert again.messages == first.messages


def test_a_message_without_pieces_is_sent_whole() -> None:
    assert Client().hears(MessageAdded(message("one", "two")), end(RunStatus.SUCCEEDED, "one", "two")).said() == [
        "onetwo"
    ]


def test_an_end_whose_events_are_gone_has_the_last_message() -> None:
    assert Client().hears(StreamGap(1, 9), end(RunStatus.SUCCEEDED, "all of it")).said() == ["all of it"]


@pytest.mark.parametrize("whole", ["Done.", "Done. "])
def test_pieces_that_were_missed_are_sent_with_the_whole_message(whole: str) -> None:
    client = Client().hears(TextDelta("Do"), StreamGap(2, 3), TextDelta("."), MessageAdded(message(whole)))
    assert client.hears(end(RunStatus.SUCCEEDED, whole)).said() == [whole]
    assert "MESSAGES_SNAPSHOT" not in client.types


def test_text_that_is_withdrawn_leaves_the_list() -> None:
    client = Client().hears(TextDelta("Wr"), TextReset())
    assert client.said() == []
    client.hears(ReasoningDelta("hm"), TextDelta("On"), TextReset(), TextReset())
    client.hears(TextDelta("Right."), MessageAdded(message("Right.")), end(RunStatus.SUCCEEDED, "Right."))
    assert client.said() == ["Right."]
    assert client.types.count("MESSAGES_SNAPSHOT") == 2
    assert client.messages[-1]["id"] == f"{RUN}-0.2", "an id of its own for each text that was begun"


def test_a_model_call_that_starts_over_before_its_first_text_withdraws_nothing() -> None:
    assert "MESSAGES_SNAPSHOT" not in Client().hears(*ROUND[:8], TextReset(), *ROUND[8:]).types


def test_text_that_a_guard_replaces_is_replaced() -> None:
    client = Client().hears(TextDelta("the secret"), MessageAdded(message("(withheld)")))
    assert client.hears(end(RunStatus.SUCCEEDED, "(withheld)")).said() == ["(withheld)"]


def test_the_ending_that_history_adds_is_shown() -> None:
    sentence = ended_early("limit")
    client = Client().hears(TextDelta("half"), MessageAdded(message("half")))
    client.hears(end(RunStatus.SUCCEEDED, "half", sentence))
    assert client.said() == [f"half{sentence}"]
    client = Client().hears(TextDelta("half"), end(RunStatus.SUCCEEDED, "half", sentence))
    assert client.said() == [f"half{sentence}"]


def test_a_run_that_executes_again_begins_from_the_messages_it_has() -> None:
    kept: list[Message] = [
        {"role": "user", "content": [{"text": "hello"}]},
        message("Let me see.", calls=["a"]),
        results("a"),
    ]
    late = Client().hears(RunRestarted(2, kept), *ROUND[8:])
    assert late.said() == ["Let me see.", "(did a)", "Done."]
    assert late.calls() == ["a"]
    connected = Client().hears(*ROUND[:6], RunRestarted(2, kept), *ROUND[8:])
    assert connected.messages == late.messages
    assert Client().hears(TextDelta("x"), RunRestarted(2, []), TextDelta("y")).said() == ["y"]


def test_reasoning_is_shown_apart_and_ends_before_the_text() -> None:
    heard = (ReasoningDelta("hm"), ReasoningDelta(", well"), TextDelta("Yes."), MessageAdded(message("Yes.")))
    client = Client().hears(*heard, end(RunStatus.SUCCEEDED, "Yes."))
    assert [(each["role"], each["content"]) for each in client.messages[1:]] == [
        ("reasoning", "hm, well"),
        ("assistant", "Yes."),
    ]
    assert [each for each in client.types if each.startswith("REASONING")] == [
        "REASONING_START",
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "REASONING_END",
    ]
    kept = Client().hears(*heard, TextDelta("x"), TextReset())
    assert [each["role"] for each in kept.messages] == ["user", "reasoning", "assistant"]


def test_tools_of_an_answered_question_have_started_before() -> None:
    heard = (started("a"), finished("a"), MessageAdded(results("a")), MessageAdded(message("Paid.")), end())
    client = Client(answers=True).hears(*heard)
    assert client.calls() == []
    assert client.said() == ["(did a)", "Paid."]


def test_results_that_the_client_has_are_not_sent_again() -> None:
    """Those of its own tools, and those of the agent's that ended before the question."""
    heard = (started("a"), finished("a"), MessageAdded(results("b", "a", "c")), MessageAdded(message("Done.")), end())
    assert Client(answers=True, results={"a", "b"}).hears(*heard).said() == ["(did c)", "Done."]
    again = (RunRestarted(2, [results("b", "a", "c")]), MessageAdded(message("Done.")), end())
    assert Client(answers=True, results={"a", "b"}).hears(*again).said() == ["(did c)", "Done."]
    later = (MessageAdded(message("Again.", calls=["a"])), started("a"), finished("a"), end())
    client = Client(answers=True, results={"a"}).hears(*later)
    assert client.said() == ["Again.", "(did a)"]


def asks_client(*calls: str, of_people: Iterable[InputRequest] = ()) -> RunFinished:
    requests = [InputRequest(request_id_of(each), each, {"n": 1}, client_tool=True) for each in calls]
    last = message("Look.", calls=calls)
    return RunFinished(
        status=RunStatus.NEEDS_INPUT,
        output="Look.",
        message=last,
        error=None,
        input_requests=[*requests, *of_people],
        usage=None,
    )


def test_calls_of_the_clients_tools_end_the_run_as_a_success() -> None:
    client = Client().hears(MessageAdded(message("Look.", calls=["a"])), started("a"), asks_client("a"))
    assert (client.calls(), client.last["outcome"]) == (["a"], {"type": "success"})
    question = InputRequest("q", "pay", "really?")
    client = Client().hears(asks_client("a", of_people=[question]))
    assert client.calls() == ["a"]
    assert [each["id"] for each in client.last["outcome"]["interrupts"]] == ["q"]


def test_large_arguments_of_the_clients_tools_are_sent_whole() -> None:
    large = ToolStarted("a", "a", None, truncated=True)
    for client in (Client(tools={"a"}), Client(answers=True)):
        client.hears(MessageAdded(message("Look.", calls=["a"])), large)
        assert client.calls() == []
        client.hears(asks_client("a"))
        assert client.calls() == ["a"]
        assert b'"TOOL_CALL_ARGS","toolCallId":"a","delta":"{\\"n\\":1}"' in client.bytes
    own = Client(answers=True).hears(MessageAdded(message("Look.", calls=["a"])), large, finished("a"))
    assert own.calls() == ["a"]


def test_tools_without_a_message_have_one() -> None:
    """Those of a graph's nodes."""
    client = Client().hears(
        started("a"), finished("a"), MessageAdded(message("Done.")), end(RunStatus.SUCCEEDED, "Done.")
    )
    assert client.calls() == ["a"]
    assert client.said() == ["", "(did a)", "Done."]


def test_calls_of_the_same_id_one_after_another_are_several() -> None:
    """Some models have nothing else to tell them apart than the name of the tool."""
    again = (started("a"), finished("a"), MessageAdded(results("a")))
    first, second = message("One.", calls=["a"]), message("Two.", calls=["a"])
    client = Client().hears(MessageAdded(first), *again, MessageAdded(second), *again)
    assert client.said() == ["One.", "(did a)", "Two.", "(did a)"]
    assert client.calls() == ["a", "a"]
    assert len({each["id"] for each in client.messages}) == 5


def test_results_are_texts_and_large_arguments_are_left_out() -> None:
    content = [{"json": {"n": 1}}, {"image": {"format": "png"}}, {"text": "x"}]
    result = {"toolUseId": "a", "status": "success", "content": content}
    client = Client().hears(
        ToolStarted("a", "a", None, truncated=True), ToolFinished("a", "a", "success", None, result)
    )
    assert client.messages[-1]["content"] == '{"n":1}\n(image)\nx'
    assert client.frames.of(Numbered(1, 0.0, TextReset())) == b""
    snapshot = client.hears(RunRestarted(2, [message("x", calls=["a"])])).messages
    assert snapshot[-1]["toolCalls"][0]["function"] == {"name": "a", "arguments": '{"n":1}'}


def test_questions_interrupt() -> None:
    requests = [InputRequest("1", "pay", "may I?"), InputRequest("2", "ship", {"to": "x"}), InputRequest("3", "go")]
    client = Client().hears(*ROUND[:3], end(RunStatus.NEEDS_INPUT, "Let me see.", input_requests=requests))
    assert client.said() == ["Let me see."]
    shown = [(each["id"], each["reason"], each["message"]) for each in client.last["outcome"]["interrupts"]]
    assert shown == [("1", "pay", "may I?"), ("2", "ship", '{"to":"x"}'), ("3", "go", "go")]
    assert client.last["outcome"]["interrupts"][1]["metadata"]["strandline"]["reason"] == {"to": "x"}


def test_a_run_that_was_stopped_is_cancelled_and_one_that_failed_an_error() -> None:
    client = Client().hears(TextDelta("half"), end(RunStatus.CANCELLED, "half", ended_early("cancelled")))
    assert client.last["outcome"] == {"type": "cancelled"}
    assert client.said() == ["half"]
    broken = RunError(ErrorCode.AGENT_ERROR, "out of order")
    client = Client().hears(ReasoningDelta("hm"), TextDelta("half"), end(RunStatus.FAILED, "half", error=broken))
    assert (client.last["type"], client.last["message"], client.last["code"]) == (
        "RUN_ERROR",
        "out of order",
        "agent_error",
    )
    assert client.last["metadata"]["strandline"]["run_id"] == RUN
    assert client.types[-2] == "TEXT_MESSAGE_END"


def test_a_run_that_continues_later_says_so_at_the_end_of_its_stream() -> None:
    client = Client().hears(TextDelta("half"))
    client.read(client.frames.closing())
    assert (client.types[-2:], client.last["code"]) == (["TEXT_MESSAGE_END", "RUN_ERROR"], "goes_on_later")


@pytest.mark.parametrize("state", [{"cart": [b"x"]}, {}, None])
def test_the_state_comes_before_the_end_and_a_run_ends_without_it(state: dict[str, Any] | None) -> None:
    async def read() -> dict[str, Any]:
        if state is None:
            raise JournalUnavailable("the disk is full", retry_after_s=1)
        return state

    client = Client(state=read).hears(*ROUND)
    assert client.types[-1] == "TEXT_MESSAGE_END"
    asyncio.run(client.frames.before_closing())
    client.read(client.frames.closing())
    assert client.types[-2:] == ["STATE_SNAPSHOT" if state else "TEXT_MESSAGE_END", "RUN_FINISHED"]
    failed = Client(state=read).hears(end(RunStatus.FAILED, error=RunError(ErrorCode.AGENT_ERROR, "x")))
    asyncio.run(failed.frames.before_closing())
    assert (failed.last["type"], failed.frames.closing()) == ("RUN_ERROR", b"")


def test_places_in_the_queue_and_other_events_of_ours_are_custom() -> None:
    why = Why(Reason.BEHIND, "behind")
    client = Client().hears(
        events.RunQueued(2, 1.5, why),
        events.RunPosition(1, 0.5, why),
        events.RunStarted(1),
        events.Usage({"inputTokens": 1}, None, None),
    )
    assert client.types == ["RUN_STARTED", "CUSTOM", "CUSTOM", "CUSTOM"]
    assert (client.last["name"], client.last["value"]["attempt"]) == ("strandline.run.started", 1)


def test_any_server_answers_for_a_thread_of_another_one_with_the_same_bytes() -> None:
    async def answering(_: Attempt) -> str:
        return "done"

    async def scene() -> None:
        async with pair(answering) as (_, first, owner, client):
            asked = {"threadId": "t", "runId": "r", "messages": [ASKED]}

            async def sent(url: str, **more: Any) -> httpx.Response:
                return await client.post(f"{url}/agui", json={**asked, **more}, headers={"X-Client-History": "follow"})

            answers = [await sent(each.url) for each in (first, owner, first)]
            assert len({each.content for each in answers}) == 1
            assert b'"delta":"done"' in answers[0].content
            refused = await sent(first.url, messages=[{**ASKED, "content": "another"}])
            assert (refused.status_code, refused.json()["code"]) == (422, "key_reused")
            await until(lambda: not owner.service.health().running, "all have ended")

    run(scene)
