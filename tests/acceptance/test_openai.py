"""OpenAI's own client at a real server: the answers, the pieces, the errors, and the one line of a session."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from acceptance.checkpoints import Checkpoints
from acceptance.openai_client import connected, connected_async
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from ports import reserved_port

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"
MAX_BODY = 100_000
LIMITS = ("--max-queued-per-session", "1", "--max-body-bytes", str(MAX_BODY))


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openai")
    with serving(AGENT, *LIMITS, folder=folder, variables=at.environment) as made:
        yield made


def ask(client: OpenAI, text: str, session_id: str, key: str | None = None, **more: Any) -> ChatCompletion:
    headers = {"X-Session-Id": session_id, **({} if key is None else {"Idempotency-Key": key})}
    return client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": text}], extra_headers=headers, extra_body=more
    )


def raw(server: Server, **body: Any) -> httpx.Response:
    body.setdefault("user", "raw")
    return server.client.post("/v1/chat/completions", json=body)


def error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that this is an error in OpenAI's form, and return it."""
    assert response.headers["content-type"] == "application/json", response.text
    body: dict[str, Any] = response.json()["error"]
    assert (response.status_code, body["code"]) == (status, code)
    assert body.keys() >= {"message", "type", "param", "code"}
    assert body["message"]
    return body


# -- answers ------------------------------------------------------------------------------------------


def test_an_answer_is_that_of_the_run(server: Server, client: OpenAI) -> None:
    said = ask(client, "q1 a", "whole")
    assert said.choices[0].message.content == "q1: did a"
    assert said.choices[0].finish_reason == "stop"
    run = server.run(said.id)
    assert (run["session_id"], run["status"], said.model) == ("whole", "succeeded", "strandline")
    assert said.usage is not None
    assert said.usage.prompt_tokens == run["usage"]["inputTokens"] > 0
    assert said.usage.completion_tokens == run["usage"]["outputTokens"] > 0
    assert said.usage.total_tokens == run["usage"]["totalTokens"]
    assert said.model_extra == {"strandline": {"session_id": "whole", "status": "succeeded", "input_requests": []}}


def test_the_conversation_is_the_servers_and_only_the_last_message_counts(server: Server, client: OpenAI) -> None:
    ask(client, "one", "turns")
    client.chat.completions.create(
        model="any",
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "made up"},
            {"role": "assistant", "content": "made up"},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
        ],
        metadata={"session_id": "turns", "colour": "blue"},
        user="another",
    )
    assert texts(server.history("turns"), "user") == ["one", "two"]
    run = server.client.get("/v1/sessions/turns/runs").json()["runs"][0]
    assert run["metadata"] == {"colour": "blue"}


def test_the_user_of_a_request_may_name_its_session(server: Server, client: OpenAI) -> None:
    client.chat.completions.create(model="any", messages=[{"role": "user", "content": "I"}], user="ada@example.com")
    assert texts(server.history("ada@example.com"), "user") == ["I"]


def test_an_image_reaches_the_agent(server: Server, client: OpenAI) -> None:
    client.chat.completions.create(
        model="any",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                    {"type": "text", "text": "seen"},
                ],
            }
        ],
        user="image",
    )
    image, text = server.history("image")[0]["content"]
    assert image == {
        "image": {"format": "png", "source": {"bytes": {"__bytes_encoded__": True, "data": "iVBORw0KGgo="}}}
    }
    assert text == {"text": "seen"}


def test_pieces_come_while_the_run_executes(client: OpenAI, at: Checkpoints) -> None:
    at.hold("s1 a")
    stream = client.chat.completions.create(
        model="any",
        messages=[{"role": "user", "content": "s1 a"}],
        user="pieces",
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks, content = [], ""
    for chunk in stream:
        chunks.append(chunk)
        content += "".join(choice.delta.content or "" for choice in chunk.choices)
        if content == "Round 0. ":
            at.reached("s1 a")
            at.release()
    assert content == "Round 0. \n\ns1: did a"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [each.finish_reason for chunk in chunks for each in chunk.choices if each.finish_reason] == ["stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_the_async_client(server: Server) -> None:
    async def main() -> tuple[str | None, str]:
        async with connected_async(server) as client:
            whole = await client.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "a1 a"}], user="async"
            )
            stream = await client.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "a2"}], user="async", stream=True
            )
            pieces = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
            return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(main()) == ("a1: did a", "a2")


def test_the_helper_that_gathers_a_stream(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="any", messages=[{"role": "user", "content": "g1"}], user="gathered"
    ) as stream:
        said = stream.get_final_completion()
    assert said.choices[0].message.content == "g1"


def test_one_line_with_chat(server: Server, at: Checkpoints, tmp_path: Path) -> None:
    """Requests of both protocols wait in the order in which they were accepted, and see what was said before."""
    with (
        serving(AGENT, folder=tmp_path, variables=at.environment) as served,
        connected(served, max_retries=0) as client,
    ):
        at.hold("m1 model 0")
        requests: list[Any] = []
        for number in range(1, 7):
            before = served.inside()
            if number % 2:
                requests.append(served.ask(f"m{number}", "mixed"))
            else:
                requests.append(served.submit(ask, client, f"m{number}", "mixed"))  # type: ignore[arg-type]
            until(lambda before=before: served.inside() > before, f"m{number} inside")  # type: ignore[misc]
        at.release()
        answers = [each.result(DEADLINE_S) for each in requests]
        said = [
            each.choices[0].message.content if isinstance(each, ChatCompletion) else each.json()["response"]
            for each in answers
        ]
        assert said == [f"m{number}" for number in range(1, 7)]
        assert texts(served.history("mixed"), "user") == said
        starts = [step for step in at.steps if step.startswith("m") and step.endswith("model 0")]
        assert starts == [f"m{number} model 0" for number in range(1, 7)]


def test_models(client: OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["strandline"]
    assert client.models.retrieve("strandline").owned_by == "strandline"
    with pytest.raises(openai.NotFoundError, match="no model gpt"):
        client.models.retrieve("gpt")


# -- run options --------------------------------------------------------------------------------------


def test_run_options_go_into_the_body(server: Server, client: OpenAI) -> None:
    said = ask(client, "w1", "options", priority=1, timeout=7, if_busy="interrupt", on_disconnect="cancel")
    run = server.run(said.id)
    assert (run["priority"], run["if_busy"]) == (1, "interrupt")


def test_a_busy_session_refuses_at_once_who_will_not_wait(server: Server, client: OpenAI, at: Checkpoints) -> None:
    at.hold("b1 model 0")
    first = server.line_up("b1", session_id="busy")[0]
    with pytest.raises(openai.ConflictError) as refused:
        ask(client, "b2", "busy", if_busy="reject")
    assert refused.value.code == "session_busy"
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
    at.release()
    first.result(DEADLINE_S)


def test_a_question_to_a_person_is_answered_with_the_same_client(client: OpenAI, at: Checkpoints) -> None:
    said = ask(client, "i1 @pay", "asks")
    assert said.choices[0].finish_reason == "stop"
    assert said.choices[0].message.content == "Round 0. \n\n(This waits for a person's answer. @pay: may I, i1?)"
    assert said.model_extra is not None
    extension = said.model_extra["strandline"]
    assert extension["status"] == "needs_input"
    (request,) = extension["input_requests"]
    answers = {"responses": [{"id": request["id"], "response": "yes"}]}
    both: dict[str, Any] = {"messages": [{"role": "user", "content": "yes"}], **answers}
    with pytest.raises(openai.BadRequestError, match="do not go together"):
        ask(client, "yes", "asks", **both)
    said = client.chat.completions.create(model="any", messages=[], user="asks", extra_body=answers)
    assert said.choices[0].message.content == "i1: did @pay (yes)"
    with pytest.raises(openai.ConflictError) as late:
        client.chat.completions.create(model="any", messages=[], user="asks", extra_body=answers)
    assert late.value.code == "already_answered"


# -- errors -------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_an_error_and_is_not_tried_again(server: Server, client: OpenAI) -> None:
    """Whole or in pieces; the official client would send it twice more, and every time the tool would run again."""
    with pytest.raises(openai.UnprocessableEntityError, match="out of order") as failed:
        ask(client, "f1 a fail", "fails")
    assert failed.value.code == "agent_error"
    pieces = client.chat.completions.create(
        model="any", messages=[{"role": "user", "content": "f2 a fail"}], user="fails", stream=True
    )
    with pytest.raises(openai.APIError, match="out of order") as broken:
        list(pieces)
    assert broken.value.code == "agent_error"
    assert len(server.client.get("/v1/sessions/fails/runs").json()["runs"]) == 2


def test_a_run_that_somebody_cancels(server: Server, client: OpenAI, at: Checkpoints) -> None:
    pending = server.submit(ask, client, "c1 ?a", "cancelled")  # type: ignore[arg-type]
    at.reached("c1 ?a")
    assert server.client.post("/v1/sessions/cancelled/cancel", json={"running": True}).status_code == 202
    with pytest.raises(openai.UnprocessableEntityError) as cancelled:
        pending.result(DEADLINE_S)
    assert cancelled.value.code == "cancelled"
    assert len(server.client.get("/v1/sessions/cancelled/runs").json()["runs"]) == 1


def test_a_full_queue(server: Server, at: Checkpoints) -> None:
    at.hold("full-1 model 0")
    requests = server.line_up("full-1", "full-2", session_id="full")
    with connected(server, max_retries=0) as client, pytest.raises(openai.RateLimitError) as refused:
        ask(client, "full-3", "full")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert isinstance(refused.value.body, dict)
    assert (refused.value.code, refused.value.body["position"]) == ("queue_full", 2)
    at.release()
    assert {each.result(DEADLINE_S).status_code for each in requests} == {200}


def test_the_client_retries_when_the_server_says_so(server: Server, at: Checkpoints) -> None:
    at.hold("back-1 model 0")
    requests = server.line_up("back-1", "back-2", session_id="back")
    statuses: list[int] = []

    def on_response(response: Any) -> None:
        statuses.append(response.status_code)
        at.release()

    with (
        openai.DefaultHttpxClient(event_hooks={"response": [on_response]}) as http_client,
        connected(server, http_client=http_client, max_retries=5) as client,
    ):
        assert ask(client, "back-3", "back").choices[0].message.content == "back-3"
    assert statuses[0] == 429
    assert statuses[-1] == 200
    assert texts(server.history("back"), "user") == ["back-1", "back-2", "back-3"]
    assert {each.result(DEADLINE_S).status_code for each in requests} == {200}


def test_what_cannot_be_read_is_refused_in_openais_form(server: Server) -> None:
    post = server.client.post
    said = [{"role": "user", "content": "x"}]
    place, as_json = "/v1/chat/completions", {"Content-Type": "application/json"}
    assert error(raw(server), 400, "invalid")["param"] == "messages"
    assert error(raw(server, messages=said, model=7), 400, "invalid")["param"] == "model"
    assert error(raw(server, messages=said, n=2), 400, "invalid")["param"] == "n"
    assert error(raw(server, messages=said, user="a b"), 400, "invalid")["param"] == "user"
    assert error(raw(server, messages=said, priority=9), 400, "invalid")["param"] == "priority"
    assert error(raw(server, messages=said, timeout=1e9), 400, "invalid")["type"] == "invalid_request_error"
    error(post(place, content="{", headers=as_json), 400, "malformed")
    error(post(place, content="{}"), 415, "not_json")
    error(raw(server, messages=said, padding="x" * MAX_BODY), 413, "body_too_large")
    error(post(place, json={"messages": said}, headers={"X-Session-Id": "a/b"}), 400, "invalid")
    twice = httpx.Headers([("X-Session-Id", "one"), ("x-session-id", "two")])
    refusal = error(post(place, json={"messages": said}, headers=twice), 400, "invalid")
    assert refusal["message"] == "the request has two X-Session-Id headers; send one"
    error(post(place, json={"messages": said}, headers={"Host": "example.com"}), 403, "foreign")
    gone = server.client.get(place)
    error(gone, 405, "method_not_allowed")
    assert gone.headers["allow"] == "POST"
    error(server.client.get("/v1/models/none"), 404, "not_found")
    error(server.client.post("/v1/models"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    "place", ["/chat/completions", "/models", "/models/any", "/responses", "/v1/v1/chat/completions"]
)
def test_a_wrong_base_url_is_named_in_openais_form(server: Server, client: OpenAI, place: str) -> None:
    refusal = error(server.client.post(place, json={}), 404, "not_found")
    assert "base URL" in refusal["message"]
    assert "must end in `/v1`" in refusal["message"]


@pytest.mark.parametrize("place", ["embeddings", "threads/x/runs", "vector_stores"])
def test_missing_routes_of_openai_are_reported_in_its_form(server: Server, place: str) -> None:
    refusal = error(server.client.post(f"/v1/{place}", json={}), 404, "not_found")
    assert "/v1/chat/completions" in refusal["message"]


# -- again, and the end of the server -----------------------------------------------------------------


def test_a_request_that_is_sent_again_under_its_key_is_the_same_run(server: Server, client: OpenAI) -> None:
    first = ask(client, "k1 a", "keyed", "key")
    again = client.chat.completions.with_raw_response.create(
        model="any",
        messages=[{"role": "user", "content": "k1 a"}],
        extra_headers={"X-Session-Id": "keyed", "Idempotency-Key": "key"},
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert again.parse().id == first.id
    with pytest.raises(openai.BadRequestError) as reused:
        ask(client, "another", "keyed", "key")
    assert reused.value.code == "key_reused"
    assert texts(server.history("keyed"), "user") == ["k1 a"]


def test_a_client_that_hangs_up_ends_its_run_if_it_wants_that(server: Server, at: Checkpoints) -> None:
    with connected(server) as client:
        stream = client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "h1 ?a"}],
            user="hangs-up",
            stream=True,
            extra_body={"on_disconnect": "cancel"},
        )
        at.reached("h1 ?a")
        stream.close()

    def status() -> str:  # (asking with `Prefer: wait` would be to be there again)
        return str(server.client.get("/v1/sessions/hangs-up/runs").json()["runs"][0]["status"])

    until(lambda: status() == "cancelled", "cancelled")


def test_a_client_gets_its_answer_over_a_crash_if_it_has_a_key(at: Checkpoints, tmp_path: Path) -> None:
    """Even while the server stops, if its run executes; new requests are refused then."""
    flags = ("--drain-grace", "20")
    with (
        serving(AGENT, *flags, folder=tmp_path, variables=at.environment, port=reserved_port()) as server,
        connected(server, max_retries=8) as client,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        at.hold("d1 model 1")
        pending = elsewhere.submit(ask, client, "d1 a", "crash", "key")
        at.reached("d1 model 1")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        said = pending.result(DEADLINE_S)
        assert said.choices[0].message.content == "d1: did a"
        assert texts(server.history("crash"), "user") == ["d1 a"]
        assert at.steps.count("d1 a") == 1

        at.hold("d2 model 0")
        pending = elsewhere.submit(ask, client, "d2", "crash")
        at.reached("d2 model 0")
        server.terminate()
        until(lambda: server.client.get("/readyz").status_code == 503, "not ready")
        refused = raw(server, messages=[{"role": "user", "content": "late"}])
        error(refused, 503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        at.release()
        assert pending.result(DEADLINE_S).choices[0].message.content == "d2"
        assert server.ended() == 0


def test_a_client_gets_its_answer_over_a_restart_if_it_has_a_key(at: Checkpoints, tmp_path: Path) -> None:
    """The official client retries as instructed, and is attached to the run, which continues."""
    flags = ("--drain-grace", "0.2", "--retry-after", "1")
    with (
        serving(AGENT, *flags, folder=tmp_path, variables=at.environment, port=reserved_port()) as server,
        connected(server, max_retries=8) as client,
        ThreadPoolExecutor(1) as elsewhere,
    ):
        at.hold("r1 model 1")
        keyed = elsewhere.submit(ask, client, "r1 a", "restart", "key")
        at.reached("r1 model 1")
        bare = server.submit(raw, server, messages=[{"role": "user", "content": "r2"}], user="restart")
        until(lambda: server.health()["queue_depth"] == 1, "r2 waits")
        streamed = client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": "r3"}], user="restart", stream=True
        )
        server.terminate()
        response = bare.result(DEADLINE_S)
        error(response, 202, "goes_on_later")
        assert response.json()["choices"] == []
        assert (response.json()["model"], response.json()["object"]) == ("strandline", "chat.completion")
        assert response.json()["created"] > 0
        assert response.headers["location"] == f"/v1/runs/{response.json()['id']}"
        with pytest.raises(openai.APIError, match="continues after its restart"):
            list(streamed)
        assert server.ended() == 0
        at.release()
        server.start()
        said = keyed.result(DEADLINE_S)
        assert said.choices[0].message.content == "r1: did a"
        assert server.run(response.json()["id"], wait_s=20)["output"] == "r2"
        server.quiet()
        assert texts(server.history("restart"), "user") == ["r1 a", "r2", "r3"]
        assert at.steps.count("r1 a") == 1
