"""OpenAI's chat completions: how requests are parsed or refused, and how every end of a run is answered."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletionChunk

from strandline._engine import events
from strandline._engine.events import Event, MessageAdded, Numbered, Reason, RunFinished, TextDelta, Why
from strandline._http import wire
from strandline._http.app.errors import response_to
from strandline._http.dialects.openai.answer import Answer, NoAnswer, answer_of
from strandline._http.dialects.openai.dialect import is_spoken_at, named_session
from strandline._http.dialects.openai.stream import Chunks
from strandline._http.dialects.openai.wire import CompletionBody, failed, prompt_of, refusal, tokens
from strandline._http.dialects.waiting import Waiting
from strandline._model import (
    ErrorCode,
    InputRequest,
    Message,
    Outcome,
    RunError,
    RunId,
    RunStatus,
    SessionId,
)
from strandline.errors import Invalid

RUN = RunId("run_1")
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def body(**given: Any) -> CompletionBody:
    given.setdefault("messages", [{"role": "user", "content": "hello"}])
    return msgspec.json.decode(json.dumps(given), type=CompletionBody)


def message(*texts: str) -> Message:
    return {"role": "assistant", "content": [{"text": text} for text in texts]}


# -- requests -----------------------------------------------------------------------------------------


def test_the_last_message_is_the_input() -> None:
    said = [("system", "be kind"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("developer", "be brief")]
    assert prompt_of(body(messages=[{"role": role, "content": text} for role, text in said])) == "three"


def test_parts_become_blocks() -> None:
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    assert prompt_of(body(messages=[{"role": "user", "content": parts}])) == [
        {"text": "what is this?"},
        {"image": {"format": "png", "source": {"bytes": b"\x89PNG\r\n\x1a\n"}}},
    ]


def test_what_everybody_calls_jpg_has_the_name_that_providers_know() -> None:
    parts = [{"type": "image_url", "image_url": {"url": PIXEL.replace("png", kind)}} for kind in ("jpg", "jpeg", "gif")]
    blocks = prompt_of(body(messages=[{"role": "user", "content": parts}]))
    assert isinstance(blocks, list)
    assert [block["image"]["format"] for block in blocks] == ["jpeg", "jpeg", "gif"]


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        (None, "needs content", "content"),
        ([], "needs content", "content"),
        ([{"type": "input_audio", "input_audio": {}}], "of type text or image_url", "content[0]"),
        ([{"type": "text"}], "of type text or image_url", "content[0]"),
        ([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}], "no URL is fetched", "content[0]"),
        ([{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA=="}}], "png, jpeg, gif", "content[0]"),
        ([{"type": "text", "text": ""}, {"type": "image_url", "image_url": PIXEL + "!"}], "not base64", "content[1]"),
    ],
)
def test_unsupported_content_is_refused_with_its_place(content: Any, what: str, where: str) -> None:
    request_body = body(messages=[{"role": "user", "content": "x"}, {"role": "user", "content": content}])
    with pytest.raises(Invalid, match=what) as refused:
        prompt_of(request_body)
    received = json.loads(bytes(refusal(wire.error_response(refused.value)).body))["error"]
    assert received["param"] == f"messages[1].{where}"


@pytest.mark.parametrize("roles", [[], ["system"], ["user", "assistant"]])
def test_without_a_last_message_of_the_user_there_is_no_input(roles: list[str]) -> None:
    with pytest.raises(Invalid, match="must be the user's"):
        prompt_of(body(messages=[{"role": role, "content": "x"} for role in roles]))


@pytest.mark.parametrize(
    ("name", "harmless", "refused"),
    [
        ("n", 1, 2),
        ("functions", None, [{"name": "f"}]),
        ("logprobs", False, True),
        ("modalities", ["text"], ["text", "audio"]),
        ("temperature", 0.5, None),
        ("metadata", None, None),
    ],
)
def test_what_would_change_the_form_of_the_answer_is_refused(name: str, harmless: Any, refused: Any) -> None:
    assert prompt_of(body(**{name: harmless})) == "hello"
    if refused is not None:
        with pytest.raises(Invalid, match=rf"\$\.{name}`"):
            prompt_of(body(**{name: refused}))


def test_the_session_is_named_by_the_header_else_the_metadata_else_the_user() -> None:
    everything = body(metadata={"session_id": "m"}, user="u")
    assert named_session("X-S", "h", everything) == "h"
    assert named_session("X-S", None, everything) == "m"
    assert named_session("X-S", None, body(metadata={"other": "x"}, user="u")) == "u"
    assert named_session("X-S", None, body()) is None
    for header, named in (("a/b", everything), (None, body(user="a b")), (None, body(metadata={"session_id": 7}))):
        with pytest.raises(Invalid, match="session_id must be"):
            named_session("X-S", header, named)


# -- how a run ends -----------------------------------------------------------------------------------


def end(status: RunStatus, *texts: str, error: RunError | None = None, **more: Any) -> Outcome:
    received = message(*texts) if texts else None
    return Outcome(status=status, output="\n".join(texts), message=received, error=error, **more)


def test_an_answer_stops() -> None:
    answer = answer_of(end(RunStatus.SUCCEEDED, "one", "two"), RUN)
    assert answer == Answer(text="one\ntwo", finish_reason="stop")


def test_the_reasoning_of_an_answer_has_a_field_of_its_own() -> None:
    odd: list[dict[str, Any]] = [{"reasoningContent": None}, {"reasoningContent": {"redactedContent": "x"}}]
    thought = [{"reasoningContent": {"reasoningText": {"text": text}}} for text in ("hm, ", "well")]
    received: Message = {"role": "assistant", "content": [*thought, *odd, {"text": "yes"}]}
    answer = answer_of(Outcome(status=RunStatus.SUCCEEDED, output="yes", message=received), RUN)
    assert answer == Answer(text="yes", finish_reason="stop", reasoning="hm, well")


def test_an_answer_of_nothing_is_one() -> None:
    nothing: Message = {"role": "assistant", "content": []}
    for received in (None, nothing):
        assert answer_of(Outcome(status=RunStatus.SUCCEEDED, message=received), RUN) == Answer(
            text="", finish_reason="stop"
        )


def test_a_limit_is_length_and_historys_sentence_stays_only_without_other_text() -> None:
    sentence = "(This run ended early: limit.)"
    assert answer_of(end(RunStatus.SUCCEEDED, "half", sentence), RUN) == Answer(text="half", finish_reason="length")
    assert answer_of(end(RunStatus.SUCCEEDED, sentence), RUN) == Answer(text=sentence, finish_reason="length")


def test_a_model_out_of_tokens_is_length_with_its_text() -> None:
    sentence = "(This run ended early: agent_error.)"
    for received in ("strands.types.exceptions.MaxTokensReachedException: too long", "err_1", ""):
        error = RunError(ErrorCode.AGENT_ERROR, received, out_of_tokens=True)
        reason = [received] if received else []
        ended = end(RunStatus.FAILED, "half an ans", sentence, *reason, error=error)
        assert answer_of(ended, RUN) == Answer(text="half an ans", finish_reason="length")
        ended = end(RunStatus.FAILED, sentence, *reason, error=error)
        assert answer_of(ended, RUN) == Answer(text=sentence, finish_reason="length")


def test_a_question_to_a_person_can_be_read() -> None:
    requests = [InputRequest("1", "refund", {"order": "B2"}), InputRequest("2", "call", "may I?")]
    answer = answer_of(end(RunStatus.NEEDS_INPUT, "Let me see.", input_requests=requests), RUN)
    assert isinstance(answer, Answer)
    assert answer.content == (
        'Let me see.\n\n(This waits for a person\'s answer. refund: {"order":"B2"}; call: may I?)'
    )
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_run_that_failed_is_an_error(code: ErrorCode) -> None:
    answer = answer_of(end(RunStatus.FAILED, error=RunError(code, "what went wrong")), RUN)
    assert answer == NoAnswer(failed("what went wrong", code, RUN))


def test_a_run_that_was_cancelled_is_an_error_that_is_not_the_servers() -> None:
    answer = answer_of(end(RunStatus.CANCELLED), RUN)
    assert isinstance(answer, NoAnswer)
    assert (answer.error.type, answer.error.code, answer.error.run_id) == ("invalid_request_error", "cancelled", RUN)


def test_only_what_is_to_be_sent_again_is_a_server_error() -> None:
    """Vercel's client sends again what has this type, as the first that comes of a stream."""
    assert failed("later", "goes_on_later", RUN, again=True).type == "server_error"
    assert failed("later", "goes_on_later", RUN).type == "invalid_request_error"


def test_usage() -> None:
    received = msgspec.to_builtins(tokens({"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}))
    assert received == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert msgspec.to_builtins(tokens({"inputTokens": 3, "cacheReadInputTokens": 2})) == {
        "prompt_tokens": 3,
        "completion_tokens": 0,
        "total_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert tokens(None) is msgspec.UNSET


# -- pieces -------------------------------------------------------------------------------------------


def streamed(*received: Event, agent: str = "strandline", with_usage: bool = False) -> list[dict[str, Any]]:
    """Return the data of a stream in which these events come; a string is text that is no JSON."""
    later = failed("later", "goes_on_later", RUN)
    chunks = Chunks(
        RUN,
        SessionId("s"),
        model=agent,
        created=7,
        with_usage=with_usage,
        waiting=Waiting({"root_path": "/below"}, SessionId("s")),
        later=later,
    )
    sent = chunks.opening() + b"".join(chunks.of(Numbered(1, 0.0, each)) for each in received) + chunks.closing()
    lines = [line.removeprefix("data: ") for line in sent.decode().split("\n\n")[:-1]]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def text(chunks: list[dict[str, Any]]) -> str:
    deltas = [choice["delta"] for each in chunks for choice in each.get("choices", ())]
    return "".join(delta.get("content", "") for delta in deltas)


def finished(status: RunStatus, *texts: str, error: RunError | None = None, **more: Any) -> RunFinished:
    received = message(*texts) if texts else None
    return RunFinished(status, "\n".join(texts), received, error, more.get("input_requests", []), more.get("usage"))


@pytest.mark.parametrize("agent", ["strandline", "?", '"'])
def test_a_stream_begins_with_the_role_and_ends_with_the_reason(agent: str) -> None:
    received = streamed(
        TextDelta('say "é"'),
        MessageAdded(message('say "é"')),
        finished(RunStatus.SUCCEEDED, 'say "é"'),
        agent=agent,
    )
    for each in received:
        ChatCompletionChunk.model_validate(each)
        assert (each["id"], each["object"], each["created"], each["model"]) == (RUN, "chat.completion.chunk", 7, agent)
        assert "usage" not in each
    assert received[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text(received) == 'say "é"'
    assert received[-1]["choices"][0]["finish_reason"] == "stop"
    assert received[-1]["strandline"] == {"session_id": "s", "status": "succeeded", "input_requests": []}


def test_usage_comes_last_and_only_if_requested_and_known() -> None:
    end = finished(RunStatus.SUCCEEDED, "x", usage={"inputTokens": 1, "outputTokens": 2, "totalTokens": 3})
    received = streamed(end, with_usage=True)
    assert [each["usage"] for each in received[:-1]] == [None] * (len(received) - 1)
    assert received[-1]["choices"] == []
    assert received[-1]["usage"]["total_tokens"] == 3
    assert streamed(finished(RunStatus.SUCCEEDED, "x"), with_usage=True)[-1]["choices"][0]["finish_reason"] == "stop"


def test_text_that_was_withdrawn_is_not_sent_twice() -> None:
    received = streamed(
        TextDelta("It ra"),
        events.TextReset(),
        TextDelta("It rains"),
        MessageAdded(message("It rains")),
        finished(RunStatus.SUCCEEDED, "It rains"),
    )
    assert text(received) == "It rains"


def test_reasoning_has_its_own_field_and_tools_are_not_shown() -> None:
    use: Message = {
        "role": "assistant",
        "content": [{"text": "Let me look."}, {"toolUse": {"toolUseId": "t", "name": "look", "input": {}}}],
    }
    result = {"toolUseId": "t", "status": "success", "content": [{"text": "rain"}]}
    received = streamed(
        events.RunStarted(1),
        events.ReasoningDelta("hm"),
        TextDelta("Let me look."),
        MessageAdded(use),
        events.ToolStarted("t", "look", {}),
        events.ToolFinished("t", "look", "success", 0.1, result),
        MessageAdded({"role": "user", "content": [{"toolResult": result}]}),
        events.Usage({"inputTokens": 1}, None, None),
        MessageAdded(message("It rains.")),
        finished(RunStatus.SUCCEEDED, "It rains."),
    )
    assert text(received) == "Let me look.\n\nIt rains."
    assert received[1]["choices"][0]["delta"] == {"reasoning_content": "hm"}
    assert len(received) == 5


def test_what_is_missing_of_a_stream_is_in_the_message() -> None:
    received = streamed(
        events.RunRestarted(2, [{"role": "user", "content": [{"text": "q"}]}, message("kept")]),
        events.StreamGap(2, 3),
        TextDelta("ns"),
        MessageAdded(message("It rains")),
        finished(RunStatus.SUCCEEDED, "It rains"),
    )
    assert text(received) == "kept\n\nIt rains"


def test_a_question_ends_a_stream() -> None:
    input_requests = [InputRequest("1", "refund", "may I?")]
    received = streamed(TextDelta("Well."), finished(RunStatus.NEEDS_INPUT, "Well.", input_requests=input_requests))
    assert text(received) == "Well.\n\n(This waits for a person's answer. refund: may I?)"
    assert received[-1]["strandline"]["input_requests"] == [{"id": "1", "name": "refund", "reason": "may I?"}]


def test_a_run_that_failed_ends_its_stream_with_an_error() -> None:
    received = streamed(TextDelta("It"), finished(RunStatus.FAILED, error=RunError(ErrorCode.TIMEOUT, "too long")))
    assert received[-1] == {
        "error": {
            "message": "too long",
            "type": "invalid_request_error",
            "param": None,
            "code": "timeout",
            "run_id": RUN,
        }
    }


def test_a_stream_that_ends_before_its_run_says_so() -> None:
    assert streamed(TextDelta("It"))[-1]["error"]["code"] == "goes_on_later"


# -- refusals -----------------------------------------------------------------------------------------


def test_a_problem_becomes_an_error_with_the_headers_that_count() -> None:
    made = refusal(wire.problem(429, "queue_full", "no room", {"Retry-After": "3"}, position=4, estimated_wait_s=None))
    assert (made.status_code, made.headers["retry-after"]) == (429, "3")
    assert made.headers["content-type"] == "application/json"
    assert int(made.headers["content-length"]) == len(made.body)
    assert json.loads(bytes(made.body)) == {
        "error": {
            "message": "no room",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
            "position": 4,
            "estimated_wait_s": None,
        }
    }


@pytest.mark.parametrize(
    ("status", "received", "kind", "again"),
    [
        (400, 400, "invalid_request_error", None),
        (409, 409, "invalid_request_error", "false"),
        (422, 400, "invalid_request_error", None),
        (500, 500, "server_error", "false"),
        (503, 503, "server_error", None),
    ],
)
def test_the_status_of_an_error(status: int, received: int, kind: str, again: str | None) -> None:
    made = refusal(wire.problem(status, "code", "why"))
    assert (made.status_code, json.loads(bytes(made.body))["error"]["type"]) == (received, kind)
    assert made.headers.get("x-should-retry") == again


@pytest.mark.parametrize(("headers", "again"), [([], "false"), ([(b"idempotency-key", b"k")], None)])
def test_a_request_whose_answer_was_lost_is_repeated_only_with_a_key(
    headers: list[tuple[bytes, bytes]], again: str | None
) -> None:
    """It may have been accepted: without a key the client's retry would be another run."""
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "root_path": "", "headers": headers}
    made = response_to(wire.AnswerLost("it was lost"), scope)
    assert made.status_code == 502
    assert made.headers.get("x-should-retry") == again


def test_where_the_protocol_is_spoken() -> None:
    assert all(map(is_spoken_at, ("/v1/chat/completions", "/v1/models", "/v1/models/x")))
    assert all(map(is_spoken_at, ("/v1/responses", "/v1/embeddings", "/v1/files/x\ny"))), "to say that it is not there"
    assert not any(map(is_spoken_at, ("/chat", "/v1/chat", "/v1/sessions/models", "/v1/modelsx", "/v1/runs/models")))


def test_what_a_run_waits_to_be_answered_is_said_once_and_before_the_answer() -> None:
    why = Why(Reason.WAITS_FOR_INPUT, "the session waits for an answer")
    input_requests = [InputRequest("i1", "refund", {"order": "B2"}), InputRequest("i2", "sure")]
    chunks = streamed(
        events.RunQueued(1, None, why, input_requests),
        events.RunPosition(2, None, why, input_requests),
        events.RunStarted(1),
        TextDelta("It rains."),
        MessageAdded(message("It rains.")),
        finished(RunStatus.SUCCEEDED, "It rains."),
    )
    assert text(chunks) == (
        '(The session waits for a person\'s answer, and so does this message. refund: {"order":"B2"}; sure - to answer'
        ' it, POST /below/v1/sessions/s/runs with {"input":{"responses":[{"id":"i1","response":null},'
        '{"id":"i2","response":null}]}}, its null filled in.)\n\nIt rains.'
    )
    assert chunks[1]["strandline"]["status"] == "queued"
    assert [each["id"] for each in chunks[1]["strandline"]["input_requests"]] == ["i1", "i2"]
    for each in chunks:
        ChatCompletionChunk.model_validate(each)
    behind = events.RunQueued(2, None, Why(Reason.BEHIND, "1 run is ahead"))
    assert text(streamed(behind, finished(RunStatus.SUCCEEDED, "It rains."))) == "It rains.", "no other wait is shown"
