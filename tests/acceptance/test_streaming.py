"""Runs that are followed over real HTTP: from the queue to the end, from any event, and after reconnects."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import httpx_sse
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.events import ACCEPT, ids_of_a_run, listening, spoken
from acceptance.server import TARGETS, Server, serving, until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(AGENT, folder=tmp_path_factory.mktemp("streaming"), variables=at.environment) as made:
        yield made


def ask(server: Server, session_id: str, text: str, **headers: str) -> str:
    answer = server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": text}, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def test_a_run_is_streamed_from_its_place_in_the_queue_to_its_end(server: Server, at: Checkpoints) -> None:
    at.hold("first model 0")
    ask(server, "streamed", "first")
    at.reached("first model 0")
    with listening(server, "POST", "/v1/sessions/streamed/runs", json={"input": "second a ~b"}) as ear:
        queued = ear.until("run.queued")
        assert queued.data["position"] == 1
        assert "estimated_wait_s" in queued.data
        at.release()
        heard = ear.rest()
    assert ear.response.headers["location"] == f"/v1/runs/{queued.data['run_id']}"
    assert ear.response.headers["cache-control"] == "no-store"
    assert ear.response.headers["x-accel-buffering"] == "no"
    numbered = [each for each in heard if each.id is not None]
    assert [each.id for each in numbered] == ids_of_a_run(heard)
    assert {each.data["run_id"] for each in heard} == {queued.data["run_id"]}
    kinds = [each.type for each in numbered if each.type not in ("text.delta", "usage")]
    a_round = ["message.added", "tool.started", "tool.finished", "message.added"]
    assert kinds == ["run.queued", "run.started", "message.added", *a_round, *a_round, "message.added", "run.finished"]
    started, ended = (
        next(each.data for each in heard if each.type == kind) for kind in ("tool.started", "tool.finished")
    )
    assert started["name"] == ended["name"] == "work"
    assert started["input"] == {"label": "second", "name": "a"}
    assert started["tool_use_id"] == ended["tool_use_id"]
    assert ended["status"] == "success"
    assert ended["duration_s"] >= 0
    assert ended["result"]["content"] == [{"text": "did a"}]
    usage = [each.data for each in heard if each.type == "usage"]
    assert len(usage) == 3
    assert all(each["tokens"]["totalTokens"] > 0 and each["model_s"] >= each["first_text_s"] > 0 for each in usage)
    end = heard[-1].data
    assert (end["status"], end["output"]) == ("succeeded", "second: did a, did ~b")
    assert spoken(heard) == end["output"]
    assert server.client.get(f"/v1/runs/{end['run_id']}").json()["status"] == "succeeded", (
        "published events are durable"
    )


def test_late_and_parallel_clients_get_the_same_events(server: Server, at: Checkpoints) -> None:
    at.hold("late b")
    run_id = ask(server, "late", "late a b")
    with listening(server, "GET", f"/v1/runs/{run_id}/events") as early:
        early.until("tool.started", lambda data: data["input"]["name"] == "b")
        with listening(server, "GET", f"/v1/runs/{run_id}/events") as late:
            late.until("tool.started", lambda data: data["input"]["name"] == "b")
            at.release()
            assert late.rest() == early.rest()
    with listening(server, "GET", f"/v1/runs/{run_id}/events") as after:
        assert after.rest() == early.heard


def test_a_connection_that_breaks_is_resumed_without_a_gap_or_a_repeat(server: Server, at: Checkpoints) -> None:
    at.hold("back a")
    with listening(server, "POST", "/v1/sessions/back/runs", json={"input": "back a b"}) as ear:
        run_id = ear.until("tool.started").data["run_id"]
    at.reached("back a")
    first, heard = ear.last_id, list(ear.heard)
    at.release()
    with listening(server, "GET", f"/v1/runs/{run_id}/events", after=first) as ear:
        heard += ear.rest()
    with listening(server, "GET", f"/v1/runs/{run_id}/events") as whole:
        assert whole.rest() == heard
    read = server.client.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": whole.last_id, **ACCEPT})
    assert (read.status_code, read.content) == (204, b"")


def test_a_client_that_has_read_the_end_gets_nothing_more_when_the_events_are_gone(tmp_path: Path) -> None:
    with serving(AGENT, "--stream-retention", "0", folder=tmp_path) as server:
        with listening(server, "POST", "/v1/sessions/end/runs", json={"input": "end"}) as ear:
            heard = ear.rest()
        run_id, end = heard[-1].data["run_id"], heard[-1].id
        assert end is not None
        read = server.client.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": end, **ACCEPT})
        assert (read.status_code, read.content) == (204, b"")
        with listening(server, "GET", f"/v1/runs/{run_id}/events", after=heard[0].id) as ear:
            assert [each.type for each in ear.rest()] == ["stream.gap", "run.finished"]


def test_a_reader_that_hands_on_every_block_gets_events_alone(server: Server, at: Checkpoints) -> None:
    """As httpx-sse does, also a block in which nothing stands but when to come back."""
    at.hold("r1 model 0")
    (first,) = server.line_up("r1", session_id="blocks")
    sse = httpx_sse.connect_sse
    body = {"message": "r2", "session_id": "blocks"}
    with sse(server.client, "POST", "/chat", json=body) as source:
        events = source.iter_sse()
        heard = [next(events)]
        at.release()
        heard += events
    assert all(each.json()["type"] == each.event for each in heard)
    assert heard[0].retry == 1000
    with server.client.stream("GET", "/v1/events", headers=ACCEPT) as nothing_yet:
        assert next(nothing_yet.iter_raw()) == b": alive\n\n"
    assert first.result().status_code == 200


def test_a_new_run_is_streamed_from_its_beginning_despite_the_last_event_id_of_another(server: Server) -> None:
    """A client that repeats a key resumes its stream: that is the same run."""
    again = {"Idempotency-Key": "stray"}
    with listening(server, "POST", "/v1/sessions/stray/runs", json={"input": "s1 a"}, headers=again, after="3") as ear:
        first = ear.rest()
    assert [first[0].type, first[-1].type] == ["run.started", "run.finished"]
    with listening(server, "POST", "/chat", json={"message": "s2", "session_id": "stray"}, after=first[-1].id) as ear:
        assert ear.rest()[-1].data["output"] == "s2"
    with listening(
        server, "POST", "/v1/sessions/stray/runs", json={"input": "s1 a"}, headers=again, after=first[2].id
    ) as ear:
        assert ear.rest() == first[3:]


def test_a_run_continues_without_listeners(server: Server, at: Checkpoints) -> None:
    at.hold("alone a")
    with listening(server, "POST", "/v1/sessions/alone/runs", json={"input": "alone a"}) as ear:
        run_id = ear.until("tool.started").data["run_id"]
    at.release()
    ended = server.client.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=30"}).json()
    assert ended["status"] == "succeeded"


def test_a_run_whose_only_listener_is_lost_is_cancelled_on_request(server: Server, at: Checkpoints) -> None:
    at.hold("lost model 0")
    body = {"input": "lost a", "on_disconnect": "cancel"}
    with listening(server, "POST", "/v1/sessions/lost/runs", json=body) as ear:
        run_id = ear.until("run.started").data["run_id"]
        at.reached("lost model 0")
    until(lambda: server.client.get(f"/v1/runs/{run_id}").json()["cancel_requested"], "the cancel")
    at.release()
    ended = server.client.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=30"}).json()
    assert ended["status"] == "cancelled"


def test_chat_is_streamed_on_request(server: Server) -> None:
    with listening(server, "POST", "/chat", json={"message": "hello a", "session_id": "chat"}) as ear:
        heard = ear.rest()
    assert heard[-1].type == "run.finished"
    assert spoken(heard) == heard[-1].data["output"] == "hello: did a"
    both = {"Accept": "application/json, text/event-stream;q=0.5"}
    answer = server.client.post("/chat", json={"message": "hello", "session_id": "chat"}, headers=both)
    assert answer.json()["response"] == "hello"


def test_a_failed_run_says_so_in_its_last_event(server: Server) -> None:
    with listening(server, "POST", "/v1/sessions/fails/runs", json={"input": "bad a fail"}) as ear:
        end = ear.rest()[-1].data
    assert (end["type"], end["status"], end["error"]["code"]) == ("run.finished", "failed", "agent_error")


def test_the_same_key_is_the_same_stream(server: Server, at: Checkpoints) -> None:
    at.hold("keyed a")
    body = {"json": {"input": "keyed a"}, "headers": {"Idempotency-Key": "k"}}
    with listening(server, "POST", "/v1/sessions/keyed/runs", **body) as first:  # type: ignore[arg-type]
        first.until("tool.started")
        with listening(server, "POST", "/v1/sessions/keyed/runs", **body, after=first.last_id) as second:
            at.release()
            heard = [*first.heard, *second.rest()]
        assert first.rest() == heard
    with listening(server, "POST", "/v1/sessions/keyed/runs", **body) as replayed:  # type: ignore[arg-type]
        assert replayed.rest() == heard
    assert replayed.response.headers["idempotency-replayed"] == "true"


def test_the_position_of_a_run_is_published_when_it_changes(server: Server, at: Checkpoints) -> None:
    at.hold("p1 model 0", "p2 model 0")
    ask(server, "places", "p1")
    at.reached("p1 model 0")
    ask(server, "places", "p2")
    with listening(server, "POST", "/v1/sessions/places/runs", json={"input": "p3"}) as ear:
        assert ear.until("run.queued").data["position"] == 2
        at.release("p1 model 0")
        event = ear.until("run.position")
        assert (event.id, event.data["position"]) == (None, 1)
        at.release()
        heard = ear.rest()
    assert len(ids_of_a_run(heard)) == len(heard) - 1


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "1" * 17, "١"])
def test_an_id_that_is_none_is_refused(server: Server, text: str) -> None:
    run_id = ask(server, "refused", "x")
    answer = server.client.get(f"/v1/runs/{run_id}/events", headers={b"Last-Event-ID": text.encode()})
    assert answer.status_code == 422
    assert "Last-Event-ID" in answer.json()["detail"]


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/sessions/astray/runs", {"input": "x"}),
    ("/chat", {"message": "x", "session_id": "astray"}),
    ("/invocations", {"prompt": "x"}),
])  # fmt: skip
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_a_request_for_a_run_is_taken_whatever_id_of_another_stream_comes_with_it(
    server: Server, path: str, body: dict[str, str], accept: str
) -> None:
    """Libraries that read several streams send the last id of any, such as a UUID or a cursor of another server."""
    headers = {"Accept": accept, "Last-Event-ID": "01J9Z-7f/x", "Idempotency-Key": f"{path} {accept}"}
    answers = [server.client.post(path, json=body, headers=headers) for _ in range(2)]
    assert [answer.is_success for answer in answers] == [True, True]
    if path != "/invocations" and accept == ACCEPT["Accept"]:
        numbers, again = (re.findall(rb"^id: (\d+)$", answer.content, re.MULTILINE) for answer in answers)
        assert len(numbers) > 1
        assert numbers == again, "the same run again, from its beginning"


def test_head_of_events_is_answered_at_once(server: Server) -> None:
    answer = server.client.head("/v1/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert server.client.get("/health").status_code == 200, "the connection is free again"


def test_events_of_an_unknown_run_are_not_found(server: Server) -> None:
    assert server.client.get("/v1/runs/run_none/events").status_code == 404


def test_the_feed_publishes_the_requested_changes(server: Server) -> None:
    with (
        listening(server, "GET", "/v1/events") as all_,
        listening(server, "GET", "/v1/events?session_id=y&type=run.finished,session.paused") as some,
    ):
        first, second = ask(server, "x", "x1 a"), ask(server, "y", "y1 a")
        all_.until("run.finished")
        all_.until("run.finished")
        some.until("run.finished")
        server.client.post("/v1/sessions/y/pause")
        server.client.post("/v1/sessions/y/resume")
        some.until("session.paused")
        all_.until("session.resumed")
    assert {each.data.get("run_id") for each in all_.heard} == {first, second, None}
    assert "text.delta" not in {each.type for each in all_.heard}
    assert {each.data["session_id"] for each in all_.heard} == {"x", "y"}
    assert [(each.type, each.data["session_id"]) for each in some.heard] == [
        ("run.finished", "y"),
        ("session.paused", "y"),
    ]
    of_x = [each for each in all_.heard if each.data["session_id"] == "x"]
    assert [each.type for each in of_x][:2] == ["run.started", "message.added"]
    with listening(server, "GET", "/v1/events", after=all_.heard[0].id) as back:
        back.until("session.resumed")
    assert back.heard == all_.heard[1:]


def test_invalid_stream_requests_are_refused(server: Server) -> None:
    refused = server.client.get("/v1/events?type=text.delta")
    assert refused.status_code == 422
    assert "run.finished" in refused.json()["detail"]
    assert server.client.get("/v1/events?session_id=..").status_code == 422


def test_clients_that_return_after_a_crash_get_the_stored_messages_and_the_rest(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        checkpoints() as at,
        serving(AGENT, folder=tmp_path_factory.mktemp("crash"), variables=at.environment) as server,
    ):
        at.hold("c model 1", "w model 0")
        with listening(server, "POST", "/v1/sessions/s/runs", json={"input": "c a"}) as ear:
            run_id = ear.until("message.added", lambda data: "toolResult" in str(data)).data["run_id"]
            waits = ask(server, "s", "w")
            at.reached("c model 1")
            server.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                ear.rest()
        last = ear.last_id
        server.start()
        with listening(server, "GET", f"/v1/runs/{run_id}/events", after=last) as ear:
            restarted = next(iter(ear))
            assert restarted.type == "run.restarted"
            assert restarted.data["attempt"] == 2
            assert [message["role"] for message in restarted.data["messages"]] == ["user", "assistant", "user"]
            with listening(server, "GET", f"/v1/runs/{waits}/events", after="1") as waiting:
                assert waiting.until("run.queued").data["position"] == 1
                at.release()
                assert waiting.rest()[-1].data["output"] == "w"
            heard = ear.rest()
        ids = [int(each.id) for each in heard if each.id is not None]
        assert int(last) < ids[0]
        assert ids == sorted(set(ids))
        assert spoken(heard) == heard[-1].data["output"] == "c: did a"
        server.kill()
        server.start()
        with listening(server, "GET", f"/v1/runs/{run_id}/events", after=str(ids[-2])) as ear:
            gap, end = ear.rest()
        assert (gap.type, gap.id, gap.data["first"]) == ("stream.gap", None, ids[-2] + 1)
        assert end.data["output"] == "c: did a"
        assert end.id == str(ids[-1])
        read = server.client.get(f"/v1/runs/{run_id}/events", headers={"Last-Event-ID": end.id})
        assert read.status_code == 204
