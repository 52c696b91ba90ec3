"""What a client does, without a client: plans are played against answers that are written down here."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest

from strandline._encoding import encode_messages
from strandline._engine import events as engine_events
from strandline._model import Message
from strandline.client import AsyncClient, Client
from strandline.client import _answers as answers
from strandline.client import _events as events
from strandline.client import _plans as plans
from strandline.client import _requests as requests
from strandline.client import _transport as transport
from strandline.client._answers import Reply
from strandline.client._errors import (
    ClientError,
    Conflict,
    NoServer,
    NotFound,
    NotNow,
    NotStrandline,
    Refused,
    Unauthorized,
)
from strandline.client._plans import Ask, Emit, Frame, Next, Open, Patience, Pause, Plan, PlanRunner

STREAM = Reply(200, {"content-type": "text/event-stream; charset=utf-8", "location": "/agent/v1/runs/run_1"})
GONE, NOBODY, END = "the connection breaks", "nobody listens", "the stream ends"


def json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def refused(status: int, code: str = "", **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, json({"code": code}))


def run(status: str, **more: Any) -> dict[str, Any]:
    return {"run_id": "run_1", "session_id": "ada", "status": status, **more}


def ended(output: str = "") -> Reply:
    return Reply(200, {}, json(run("succeeded", output=output)))


def frame(number: int, kind: str, **fields: Any) -> Frame:
    return Frame(json({"type": kind, "run_id": "run_1", "at": "2026-01-01T00:00:00Z", **fields}).decode(), str(number))


class Played:
    """A plan, played against what a server does: its answers, frames, ends and errors, in order."""

    def __init__(self, plan: Callable[[Patience], Plan[Any]], *happens: Any, patience_s: float = 60.0) -> None:
        self.now = 0.0
        self.sent: list[requests.Request] = []
        self.pauses: list[tuple[float, str]] = []
        self.events: list[events.Event] = []
        self.left = list(happens)
        course = PlanRunner(plan(Patience(patience_s, lambda: self.now, lambda: 1.0)))
        while (step := course.step) is not None:
            match step:
                case Emit(event):
                    self.events.append(event)
                    course.done()
                case Pause(seconds, error):
                    self.now += seconds
                    self.pauses.append((seconds, "" if error is None else error.code))
                    course.done()
                case Ask(request) | Open(request):
                    self.sent.append(request)
                    self._happen(course)
                case Next():
                    self._happen(course)
        self.result = course.result

    def _happen(self, course: PlanRunner[Any]) -> None:
        match self.left.pop(0):
            case str(what) if what is END:
                course.done(None)
            case str(what):
                course.failed(NoServer(what, reached=what is GONE))
            case happens:
                course.done(happens)

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Where the requests went, and after which event."""
        return [(f"{each.method} {each.path}", each.headers.get("Last-Event-ID", "")) for each in self.sent]


def new(patience: Patience) -> Plan[None]:
    request = requests.streamed(requests.new_run("ada", "hello", {"priority": 1}, "key-1"))
    return plans.follow(request, "", 0, patience)


def chat(patience: Patience) -> Plan[Any]:
    return plans.chat("hello", "ada", {}, "key-1", patience)


HELLO = [frame(1, "run.started", attempt=1), frame(2, "text.delta", text="hel"), frame(3, "text.delta", text="lo")]
FINISHED = frame(4, "run.finished", status="succeeded", output="hello")


# -- a stream -----------------------------------------------------------------------------------------


def test_the_events_of_a_run_are_emitted_up_to_its_end() -> None:
    played = Played(new, STREAM, Frame("", "", 1000), *HELLO, FINISHED)
    assert [type(event).__name__ for event in played.events] == ["RunStarted", "TextDelta", "TextDelta", "RunFinished"]
    assert [(event.id, event.run_id) for event in played.events] == [(n, "run_1") for n in (1, 2, 3, 4)]
    assert played.pauses == []
    (request,) = played.sent
    assert (request.method, request.path) == ("POST", "/v1/sessions/ada/runs")
    assert msgspec.json.decode(request.body or b"") == {"input": "hello", "priority": 1}
    assert request.headers["Idempotency-Key"] == '"key-1"'
    assert request.headers["Accept"] == "text/event-stream"


def test_wherever_the_connection_breaks_it_resumes_after_the_last_event() -> None:
    frames = [*HELLO, FINISHED]
    for place in range(len(frames)):
        for broken in (GONE, END):
            played = Played(new, STREAM, *frames[:place], broken, NOBODY, STREAM, *frames[place:])
            assert [event.id for event in played.events] == [1, 2, 3, 4], "no gap, no repeat"
            again = ("GET /v1/runs/run_1/events", str(place) if place else "")
            assert played.routes == [("POST /v1/sessions/ada/runs", ""), again, again]


def test_as_long_as_nobody_has_said_which_run_it_is_the_request_is_sent_again_with_its_key() -> None:
    played = Played(new, GONE, NOBODY, refused(503, "draining", retry_after="2"), STREAM, FINISHED)
    assert [path for path, _ in played.routes] == ["POST /v1/sessions/ada/runs"] * 4
    assert {each.headers["Idempotency-Key"] for each in played.sent} == {'"key-1"'}
    assert len({each.body for each in played.sent}) == 1
    assert played.pauses == [(0.1, "no_server"), (0.2, "no_server"), (2.0, "draining")]


def test_a_run_that_waits_in_a_stopping_server_is_requested_until_the_next_one_answers() -> None:
    queued = frame(1, "run.queued", position=2, estimated_wait_s=1.5)
    restarted = frame(2**32 + 1, "run.restarted", attempt=2, messages=[])
    played = Played(new, STREAM, queued, END, STREAM, END, NOBODY, STREAM, restarted, GONE, STREAM, FINISHED)
    assert [event.id for event in played.events] == [1, 2**32 + 1, 4]
    assert [after for _, after in played.routes] == ["", "1", "1", "1", str(2**32 + 1)]
    assert [seconds for seconds, _ in played.pauses] == [0.1, 0.2, 0.4, 0.1], "something new begins it again"


def test_unnumbered_events_do_not_move_the_resume_point() -> None:
    passing = Frame(frame(0, "run.position", position=1, estimated_wait_s=None).data, "7")
    played = Played(lambda p: plans.follow(None, "run_1", 7, p), STREAM, passing, END, STREAM, FINISHED)
    assert [after for _, after in played.routes] == ["7", "7"]


def test_the_server_says_how_long_a_client_waits_at_most_before_it_comes_back() -> None:
    played = Played(new, STREAM, Frame("", "", 250), *[each for _ in range(4) for each in (GONE, STREAM)], FINISHED)
    assert [seconds for seconds, _ in played.pauses] == [0.1, 0.2, 0.25, 0.25]


def test_an_address_where_nobody_listens_fails_at_once() -> None:
    for plan in (new, chat):
        with pytest.raises(NoServer, match="nobody listens"):
            Played(plan, NOBODY)


def test_patience_ends() -> None:
    with pytest.raises(NotNow) as refusal:
        Played(new, *[refused(429, "queue_full", retry_after="25")] * 9)
    assert (refusal.value.code, refusal.value.status, refusal.value.retry_after_s) == ("queue_full", 429, 25.0)
    with pytest.raises(NotNow):
        Played(new, refused(503, retry_after="61"))
    with pytest.raises(NoServer, match="breaks"):
        Played(new, STREAM, HELLO[0], *[GONE] * 99)
    with pytest.raises(NotNow):
        Played(new, refused(503, retry_after="1"), patience_s=0)


def test_a_run_that_is_not_known_after_a_restart_is_an_error() -> None:
    with pytest.raises(NotFound):
        Played(new, STREAM, HELLO[0], GONE, refused(404, "not_found"))


def test_what_is_no_stream_is_no_server_of_ours() -> None:
    with pytest.raises(NotStrandline):
        Played(new, Reply(200, {"content-type": "text/html"}, b"<p>"))
    with pytest.raises(NotStrandline):
        Played(new, STREAM, Frame("no JSON", "1"))
    with pytest.raises(ClientError, match="sent before"):
        Played(lambda p: plans.follow(None, "run_1", 9, p), Reply(204))


# -- one answer ---------------------------------------------------------------------------------------


def test_a_chat_is_the_run_when_it_has_ended() -> None:
    played = Played(chat, ended("hello"))
    assert (played.result.output, played.result.ok) == ("hello", True)
    assert played.sent[0].headers["Prefer"] == "wait=30"
    assert played.sent[0].read_s > 30


def test_a_chat_that_is_cut_off_is_sent_again_with_its_key_and_waits_for_the_run() -> None:
    accepted = Reply(202, {}, json(run("queued", position=1)))
    played = Played(chat, GONE, accepted, accepted, NOBODY, ended("hello"))
    assert played.result.output == "hello"
    assert [path for path, _ in played.routes] == ["POST /v1/sessions/ada/runs"] * 2 + ["GET /v1/runs/run_1"] * 3
    assert {each.headers.get("Idempotency-Key") for each in played.sent[:2]} == {'"key-1"'}
    assert played.pauses[1] == (plans.SOON_S, ""), "a server that does not wait is not asked without end"


def test_a_key_of_ones_own_is_used_and_is_no_part_of_the_body() -> None:
    played = Played(lambda p: plans.chat("x", "s", {"idempotency_key": 'a"b'}, "key-1", p), ended())
    assert played.sent[0].headers["Idempotency-Key"] == '"a\\"b"'
    assert played.sent[0].body == b'{"input":"x"}'


@pytest.mark.parametrize("wrong", ["", "ä", "a\nb", "x" * 256])
def test_a_key_of_ones_own_that_no_header_can_carry_is_refused_before_anything_is_sent(wrong: str) -> None:
    with pytest.raises(ClientError, match="idempotency_key must be 1 to 255 printable ASCII characters") as error:
        requests.new_run("ada", "hello", {"idempotency_key": wrong}, "key-1")
    assert error.value.code == "invalid"


@pytest.mark.parametrize("path", ["http://elsewhere.example/", "//elsewhere.example/v1", "https:/x"])
def test_a_key_goes_to_no_other_server_than_that_of_the_client(path: str) -> None:
    with pytest.raises(ClientError, match="must be a path of the server") as error:
        requests.anything("GET", path)
    assert error.value.code == "invalid"


def test_a_route_that_answers_without_a_body_gives_an_empty_object() -> None:
    assert answers.json_object(Reply(204)) == {}
    assert answers.json_object(Reply(200, body=b'{"a": 1}')) == {"a": 1}
    for wrong in (b"", b"[]", b"x"):
        with pytest.raises(NotStrandline):
            answers.json_object(Reply(200, body=wrong))


def test_a_closed_client_says_so() -> None:
    client, async_client = Client("http://x"), AsyncClient("http://x")
    client.close()
    client.close()
    with pytest.raises(ClientError, match="this client is closed") as error:
        client.chat("hello")
    assert error.value.code == "closed"
    with pytest.raises(ClientError, match="this client is closed"):
        list(client.run("hello"))

    async def main() -> None:
        await async_client.close()
        with pytest.raises(ClientError, match="this client is closed"):
            await async_client.chat("hello")

    asyncio.run(main())


@pytest.mark.parametrize("address", ["", "localhost:8080", "127.0.0.1:8080", "ftp://x", "http://", "http:///v1"])
def test_what_is_no_address_of_a_server_is_refused_at_once(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ClientError, match="is not a server address") as error:
            kind(address)
        assert error.value.code == "bad_address"


def test_an_answer_goes_to_the_session_with_the_question() -> None:
    accepted = Reply(202, {}, json(run("queued")))
    played = Played(
        lambda p: plans.answer("run_1", {"q1": "yes"}, "key-2", p), Reply(200, {}, json(run("needs_input"))), accepted
    )
    assert [path for path, _ in played.routes] == ["GET /v1/runs/run_1", "POST /v1/sessions/ada/runs"]
    assert played.sent[1].body == b'{"input":{"responses":[{"id":"q1","response":"yes"}]}}'


def test_history_is_read_page_by_page_from_its_end() -> None:
    def page(*texts: str, cursor: str | None = None) -> Reply:
        messages = [
            {"role": "user", "content": [{"text": text}], "discarded": False, "pending": False} for text in texts
        ]
        return Reply(200, {}, json({"messages": messages, "next_cursor": cursor}))

    played = Played(lambda p: plans.history("ada", None, True, True, p), page("c", cursor="2"), page("a", "b"))
    assert [message["content"][0]["text"] for message in played.result] == ["a", "b", "c"]
    assert [dict(each.query) for each in played.sent] == [
        {"limit": "1000", "discarded": "true", "superseded": "true"},
        {"limit": "1000", "discarded": "true", "superseded": "true", "cursor": "2"},
    ]
    assert len(Played(lambda p: plans.history("ada", 1, False, False, p), page("c", cursor="2")).result) == 1


def test_what_changes_something_and_has_no_key_is_sent_once() -> None:
    def pause(patience: Patience) -> Plan[Reply]:
        return plans.ask(requests.anything("POST", "/v1/sessions/ada/pause"), patience)

    with pytest.raises(NoServer):
        Played(pause, GONE)
    assert len(Played(pause, refused(503), Reply(200)).sent) == 2, "refused: nothing was done"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Unauthorized),
        (404, NotFound),
        (409, Conflict),
        (422, Refused),
        (429, NotNow),
        (502, NotNow),
        (503, NotNow),
    ],
)
def test_an_error_has_the_code_of_the_server(status: int, kind: type[ClientError]) -> None:
    body = json({"code": "some_code", "detail": "what is wrong", "title": "Not now"})
    with pytest.raises(kind) as error:
        Played(chat, Reply(status, {"retry-after": "7"}, body), patience_s=0)
    assert (error.value.code, error.value.detail, error.value.status) == ("some_code", "what is wrong", status)
    assert error.value.retry_after_s == (7.0 if kind is NotNow else None)


def test_a_refusal_that_is_no_problem_document_is_one_all_the_same() -> None:
    with pytest.raises(NotNow) as error:
        Played(chat, Reply(502, {"retry-after": "soon"}, b"<html>"), patience_s=0)
    assert (error.value.code, error.value.detail, error.value.retry_after_s) == ("", "the server says 502", 1.0)
    with pytest.raises(NotStrandline):
        Played(chat, Reply(200, {}, b"<html>"))


@pytest.mark.parametrize(
    ("said", "waits_s"), [("0", 0.1), ("-5", 0.1), ("1e9", 300.0), ("inf", 300.0), ("nan", 1.0), ("", 1.0)]
)
def test_no_server_makes_a_client_wait_for_ever_or_not_at_all(said: str, waits_s: float) -> None:
    with pytest.raises(NotNow) as error:
        Played(chat, Reply(503, {"retry-after": said}), patience_s=0)
    assert error.value.retry_after_s == waits_s


# -- events -------------------------------------------------------------------------------------------


def test_every_event_of_the_engine_is_known_with_all_its_fields() -> None:
    def shapes(union: Any) -> dict[Any, set[str]]:
        return {each.__struct_config__.tag: set(each.__struct_fields__) for each in get_args(union)}

    ours = {kind: fields - {"run_id", "at", "id"} for kind, fields in shapes(events.Event).items()}
    del ours["unknown"]
    assert ours == shapes(engine_events.RunEvent)


def test_an_event_of_a_newer_server_is_unknown_and_breaks_nothing() -> None:
    read = events.read('{"type":"run.dreamt","run_id":"run_1","at":"2026-01-01T00:00:00Z","of":"sheep"}', "5")
    assert isinstance(read, events.Unknown)
    assert (read.kind, read.run_id, read.id, read.data["of"]) == ("run.dreamt", "run_1", 5, "sheep")
    changed = events.read('{"type":"text.delta","text":null}', "6")
    assert isinstance(changed, events.Unknown), "its fields are others"
    more = events.read('{"type":"text.delta","text":"x","lang":"en"}', "7")
    assert more == events.TextDelta(text="x", id=7)
    with pytest.raises(NotStrandline):
        events.read('{"type":"run.finished","status":7}', "8")
    with pytest.raises(NotStrandline):
        events.read("[1]", "8")


def test_bytes_of_a_message_come_as_bytes() -> None:
    message: Message = {"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}]}
    sent = encode_messages({"type": "message.added", "message": message}).decode()
    assert events.read(sent, "1") == events.MessageAdded(message=message, id=1)


def test_the_client_costs_little_and_brings_no_server() -> None:
    code = (
        "import sys, strandline; assert 'httpx' not in sys.modules; strandline.Client; "
        "print([m for m in ('strands', 'starlette', 'uvicorn', 'strandline._engine', 'sqlite3') if m in sys.modules])"
    )
    # (what measures coverage brings sqlite3)
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", code], env=unmeasured, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_key_is_shown_without_the_space_around_it_and_one_that_is_none_is_not_shown_at_all() -> None:
    assert transport.options("http://x", " a-key\n")["headers"]["Authorization"] == "Bearer a-key"
    assert "Authorization" not in transport.options("http://x", None)["headers"]
    for wrong in ("", " \n", "SECRET key", "SECRET\nkey", "SECRETé", "SECRET\x00"):
        with pytest.raises(ClientError) as error:
            Client("http://x", wrong)
        assert error.value.code == "bad_key"
        assert "SECRET" not in str(error.value)
