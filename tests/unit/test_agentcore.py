"""AgentCore's contract: how requests are parsed, what is stored of them, and how every end of a run is answered."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from strandline._clock import Clock, SystemClock
from strandline._engine import events
from strandline._engine.events import Event, Numbered, Reason, RunFinished, TextDelta, Why
from strandline._engine.options import Options
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.dialects.agentcore.dialect import AgentCore
from strandline._http.dialects.agentcore.stream import Pieces
from strandline._http.dialects.agentcore.wire import (
    LONGEST,
    REQUEST_ID,
    SESSION,
    Invocation,
    named_session,
    prompt_of,
    refusal,
    runtime_metadata,
)
from strandline._http.dialects.endings import reason_of
from strandline._http.dialects.waiting import Waiting
from strandline._http.exchange.exchange import Exchange
from strandline._http.exchange.run_request import Responses, RunOptions, kept_with
from strandline._http.exchange.session_naming import SessionNaming
from strandline._http.middleware.auth import Access
from strandline._model import (
    ANONYMOUS,
    ErrorCode,
    InputRequest,
    Message,
    Outcome,
    RunError,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
)
from strandline._settings import AppSettings
from strandline.errors import Draining, Invalid, NoSession, NotFound, QueueFull, StrandlineError

RUN, HERE = RunId("run_1"), SessionId("ada")
SHARED = SessionNaming(shares=True)
ABOUT = {"run_id": RUN, "session_id": HERE}


def body(**given: Any) -> Invocation:
    return msgspec.json.decode(json.dumps(given), type=Invocation)


# -- requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ({"prompt": "a"}, "a"),
        ({"message": "b"}, "b"),
        ({"input": "c"}, "c"),
        ({"prompt": "a", "message": "b", "input": "c"}, "a"),
        ({"prompt": None, "input": "c", "message": "b"}, "b"),
        ({"prompt": "", "input": "c"}, ""),
        ({"prompt": "a", "user": {"name": "Ada"}}, "a"),
    ],
)
def test_the_prompt_goes_by_three_names(given: dict[str, Any], parsed: str) -> None:
    assert prompt_of(body(**given)) == parsed


def test_a_request_takes_every_run_option() -> None:
    assert {*RunOptions.__struct_fields__} <= {*Invocation.__struct_fields__}


def test_answers_stand_in_place_of_a_prompt() -> None:
    answers = {"responses": [{"id": "i1", "response": "yes"}]}
    parsed = prompt_of(body(**answers))
    assert isinstance(parsed, Responses)
    assert [(each.id, each.response) for each in parsed.responses] == [("i1", "yes")]
    with pytest.raises(Invalid, match="do not go together"):
        prompt_of(body(input="", **answers))


def test_a_missing_prompt_is_reported_by_the_usual_name() -> None:
    with pytest.raises(Invalid, match="missing required field `prompt`"):
        prompt_of(body(question="a"))


def test_the_session_is_named_by_a_header_whatever_its_case() -> None:
    long = "0b6c7e1e-6a53-4b7e-9d0e-3a4f5b6c7d8e"
    assert named_session(Headers({SESSION.lower(): long}), SHARED) == long
    assert named_session(Headers(), SHARED) == "default"
    with pytest.raises(NoSession, match=f"in the header {SESSION}"):
        named_session(Headers(), SessionNaming(shares=False))
    for wrong in ("", "a/b", "x" * 257):
        with pytest.raises(Invalid, match=SESSION):
            named_session(Headers({SESSION: wrong}), SHARED)


@pytest.mark.parametrize("second", ["first", "other", "", "a/b"])
def test_a_session_that_two_headers_name_is_refused(second: str) -> None:
    name = SESSION.lower().encode()  # (as servers hand it over, whatever its case was)
    headers = Headers(raw=[(name, b"first"), (name, second.encode())])
    with pytest.raises(Invalid, match=f"the request has two {SESSION} headers; send one"):
        named_session(headers, SHARED)


def test_agentcores_headers_are_stored_and_no_client_can_forge_them() -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    received = runtime_metadata(
        Headers({REQUEST_ID: "r1", "traceparent": trace, "baggage": "x" * (LONGEST + 1), "tracestate": ""})
    )
    assert received == {"request_id": "r1", "traceparent": trace}
    mine = {"agentcore": {"request_id": "made up"}, "colour": "blue"}
    assert kept_with(mine, received) == {"agentcore": received, "colour": "blue"}
    assert kept_with(mine, {}) == {"colour": "blue"}, "AgentCore has sent no headers"


# -- how it ends --------------------------------------------------------------------------------------


def test_every_end_is_an_answer_or_has_a_reason() -> None:
    assert reason_of(Outcome(status=RunStatus.SUCCEEDED, output="x")) is None
    assert reason_of(Outcome(status=RunStatus.NEEDS_INPUT)) is None
    assert reason_of(Outcome(status=RunStatus.CANCELLED)) == ("cancelled", "the run was cancelled")
    for code in ErrorCode:
        failed = Outcome(status=RunStatus.FAILED, error=RunError(code, "because"))
        assert reason_of(failed) == (code.value, "because")
        assert reason_of(msgspec.structs.replace(failed, error=RunError(code, ""))) == (code.value, code.value)


@pytest.mark.parametrize(
    ("error", "status", "received"),
    [
        (Invalid("wrong"), 400, {"error": "invalid", "details": "wrong"}),
        (wire.Malformed("no JSON"), 400, {"error": "malformed", "details": "no JSON"}),
        (NotFound("gone"), 404, {"error": "not_found", "details": "gone"}),
        (
            QueueFull("full", position=3, estimated_wait_s=1.5, retry_after_s=2),
            429,
            {"error": "queue_full", "details": "full", "position": 3, "estimated_wait_s": 1.5},
        ),
        (Draining("stops", retry_after_s=5), 503, {"error": "draining", "details": "stops"}),
    ],
)
def test_refusals_have_the_form_of_the_contract(error: StrandlineError, status: int, received: dict[str, Any]) -> None:
    answer = refusal(wire.error_response(error))
    assert (answer.status_code, json.loads(bytes(answer.body))) == (status, received)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert ("retry-after" in answer.headers) is (status in (429, 503))


# -- a stream -----------------------------------------------------------------------------------------


def message(text: str) -> Message:
    return {"role": "assistant", "content": [{"text": text}]}


def finished(status: RunStatus, output: str = "", **more: Any) -> RunFinished:
    given: dict[str, Any] = {"message": None, "error": None, "input_requests": [], "usage": None, **more}
    return RunFinished(status=status, output=output, **given)


def streamed(*received: Event) -> list[Any]:
    """Return what a client reads that knows of `data: ` lines only, as AgentCore's examples do."""
    pieces = Pieces(RUN, HERE, waiting=Waiting({}, HERE), later="later")
    sent = (
        b"".join(pieces.of(Numbered(number, 0.0, event)) for number, event in enumerate(received, 1)) + pieces.closing()
    )
    lines = sent.decode().split("\n")
    assert all(line.startswith("data: ") for line in lines[::2] if line)
    assert set(lines[1::2]) <= {""}
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def test_text_is_strings_and_nothing_else_of_a_run_that_succeeds() -> None:
    assert streamed(
        events.RunStarted(1),
        events.ReasoningDelta("hm"),
        TextDelta("It "),
        TextDelta("rains\n\nhere."),
        events.MessageAdded(message("It rains\n\nhere.")),
        finished(RunStatus.SUCCEEDED, "It rains\n\nhere."),
    ) == ["It ", "rains\n\nhere."]


def test_text_is_not_said_twice_if_the_model_starts_over() -> None:
    assert streamed(
        TextDelta("It "), events.TextReset(), TextDelta("It rains."), finished(RunStatus.SUCCEEDED, "It rains.")
    ) == ["It ", "rains."]


def test_an_ending_that_was_not_streamed_comes_whole() -> None:
    assert streamed(finished(RunStatus.SUCCEEDED, "It rains.")) == ["It rains."]


def test_a_question_to_a_person_is_the_last_event() -> None:
    end = finished(RunStatus.NEEDS_INPUT, "Well. ", input_requests=[InputRequest("i1", "pay", {"amount": 3})])
    parsed = {
        **ABOUT,
        "status": "needs_input",
        "input_requests": [{"id": "i1", "name": "pay", "reason": {"amount": 3}}],
    }
    assert streamed(TextDelta("Well. "), end) == ["Well. ", parsed]


def test_a_failure_is_the_last_event_by_the_names_of_the_contract() -> None:
    error = RunError(ErrorCode.AGENT_ERROR, "ValueError: no")
    failure = {"error": "ValueError: no", "error_type": "agent_error", "message": "The run has no answer"}
    end = finished(RunStatus.FAILED, "Well. (This run ended early: agent_error.)", error=error)
    assert streamed(TextDelta("Well. "), end) == ["Well. ", {**failure, **ABOUT, "status": "failed"}]
    assert streamed(finished(RunStatus.CANCELLED))[-1]["error_type"] == "cancelled"


def test_a_stream_that_ends_before_its_run_says_that_the_run_goes_on() -> None:
    *_, last = streamed(TextDelta("Well. "))
    assert last == {
        "error": "later",
        "error_type": "goes_on_later",
        "message": "The run has no answer yet",
        **ABOUT,
        "status": "queued",
    }


# -- ping ---------------------------------------------------------------------------------------------


def test_ping_takes_the_time_when_the_status_changes_and_not_otherwise() -> None:
    """A time that moves on while nothing happens keeps idle machines; one that stands still kills busy ones."""
    health = SimpleNamespace(running=0, queue_depth=0)
    time = SimpleNamespace(at=100.9)
    service = cast("Service", SimpleNamespace(health=lambda: health))
    clock = cast("Clock", SimpleNamespace(now=lambda: time.at))
    routes = AgentCore(service, clock, SHARED, AppSettings())

    def ping(at: float, running: int = 0, waiting: int = 0) -> tuple[str, int]:
        time.at, health.running, health.queue_depth = at, running, waiting
        answer = asyncio.run(routes.ping(Request({"type": "http"})))
        received = json.loads(bytes(answer.body))
        return received["status"], received["time_of_last_update"]

    assert ping(200) == ("Healthy", 100)
    assert ping(300.9, running=1) == ("HealthyBusy", 300)
    assert ping(400, waiting=2) == ("HealthyBusy", 300)
    assert ping(500) == ("Healthy", 500)
    assert ping(600) == ("Healthy", 500)


def test_a_run_that_comes_and_goes_between_two_pings_is_seen() -> None:
    """AgentCore would take the machine for idle since long before."""
    health = SimpleNamespace(running=0, queue_depth=0)
    times = iter([100.0, 200.0, 300.0])
    sent: list[dict[str, Any]] = [{"type": "http.request", "body": b'{"prompt": "x"}'}]

    async def submit(_: object, **forwarded: object) -> object:
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        ended.set_result(Outcome(status=RunStatus.SUCCEEDED, output="y"))
        health.running = 1
        stream = SimpleNamespace(outcome=lambda: ended)
        return SimpleNamespace(run_id=RUN, key=SessionKey(ANONYMOUS, HERE), stream=stream, replayed=False, stopped=())

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else await asyncio.get_running_loop().create_future()

    def ignored(*_: object, **__: object) -> None:
        pass

    service = SimpleNamespace(health=lambda: health, submit=submit, joined=ignored, left=ignored, options=Options())
    clock = SimpleNamespace(now=lambda: next(times))
    routes = AgentCore(cast("Service", service), cast("Clock", clock), SHARED, AppSettings())

    async def main() -> Any:
        scope = {"type": "http", "method": "POST", "path": "/invocations", "headers": []}
        Access(None, AppSettings(), bytes, SystemClock()).admit(scope)
        answer = await Exchange(cast("Service", service)).handle(routes, Request(scope, receive))
        assert answer.status_code == 200
        health.running = 0
        return json.loads(bytes((await routes.ping(Request(scope))).body))

    assert asyncio.run(main()) == {"status": "Healthy", "time_of_last_update": 300}


def test_what_a_run_waits_to_be_answered_is_said_once_and_before_the_answer() -> None:
    why, needed = Why(Reason.WAITS_FOR_INPUT, "the session waits for an answer"), [InputRequest("i1", "refund", "B2")]
    waits = events.RunQueued(1, None, why, needed)
    said, *rest = streamed(waits, waits, TextDelta("It rains."), finished(RunStatus.SUCCEEDED, "It rains."))
    assert said == (
        "(The session waits for a person's answer, and so does this message. refund: B2 - to answer it, POST"
        f' /v1/sessions/{HERE}/runs with {{"input":{{"responses":[{{"id":"i1","response":null}}]}}}}, its null filled'
        " in.)\n\n"
    )
    assert rest == ["It rains."]
