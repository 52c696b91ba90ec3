"""AgentCore's contract at a real server, asked by AWS's own client: answers, pieces, errors, and the one line.

The client speaks to the platform, which asks the server; what the platform does to a request in between, which is to
ask at another path, is done here by `at_the_container`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3  # type: ignore[import-untyped]
import httpx
import pytest
from botocore.config import Config
from botocore.endpoint import DEFAULT_TIMEOUT
from botocore.exceptions import ReadTimeoutError

from acceptance.checkpoints import Checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts, until
from ports import reserved_port
from strandline._check.adapters import SESSION_HEADER
from strandline._http.dialects.agentcore.wire import REQUEST_ID, SESSION

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"
MAX_BODY = 100_000
LIMITS = ("--max-queued-per-session", "1", "--max-body-bytes", str(MAX_BODY))
ARN = "arn:aws:bedrock-agentcore:us-east-1:123456789012:runtime/mine-0123456789"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(AGENT, *LIMITS, folder=tmp_path_factory.mktemp("agentcore"), variables=at.environment) as made:
        yield made


def at_the_container(request: Any, **_: Any) -> None:
    url = urlsplit(request.url)
    assert url.path.startswith("/runtimes/arn")
    request.url = f"{url.scheme}://{url.netloc}/invocations"
    request.headers[REQUEST_ID] = "request-1"


def connected(server: Server, **options: Any) -> Any:
    """Return AWS's own client of this server."""
    client = boto3.client(
        "bedrock-agentcore",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(proxies={}, **{"read_timeout": DEADLINE_S, "retries": {"total_max_attempts": 1}, **options}),
    )
    client.meta.events.register("before-send.bedrock-agentcore.InvokeAgentRuntime", at_the_container)
    return client


@pytest.fixture(scope="module")
def aws(server: Server) -> Iterator[Any]:
    client = connected(server)
    yield client
    client.close()


def session(name: str) -> str:
    """Return a session id that is as long as AgentCore's have to be."""
    return name.ljust(40, "-")


def invoke(server: Server, prompt: str, name: str, **headers: str) -> httpx.Response:
    return server.client.post("/invocations", json={"prompt": prompt}, headers={SESSION: session(name), **headers})


def data(lines: Iterator[str] | Any) -> list[Any]:
    """Return what stands in the lines of a stream, read as AWS's examples read it."""
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that this is an error in the form of the contract, and return it."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["error"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/json"
    assert isinstance(body["details"], str)
    assert body["details"]
    return body


# -- answers ------------------------------------------------------------------------------------------


def test_an_answer_to_awss_own_client_is_that_of_the_run(server: Server, aws: Any) -> None:
    said = aws.invoke_agent_runtime(
        agentRuntimeArn=ARN,
        runtimeSessionId=session("whole"),
        payload=json.dumps({"prompt": "q1 a", "metadata": {"colour": "blue"}}).encode(),
        traceParent=TRACE,
    )
    answer = json.loads(said["response"].read())
    assert said["contentType"] == "application/json"
    assert said["runtimeSessionId"] == session("whole")
    run_id = answer.pop("run_id")
    assert answer == {"result": "q1: did a", "session_id": session("whole"), "status": "succeeded"}
    run = server.run(run_id)
    assert run["metadata"].pop("colour") == "blue"
    metadata = run["metadata"]["agentcore"]
    assert (metadata["request_id"], metadata["traceparent"]) == ("request-1", TRACE)


def test_pieces_reach_awss_own_client_while_the_run_executes(aws: Any, at: Checkpoints) -> None:
    at.hold("s1 a")
    said = aws.invoke_agent_runtime(
        agentRuntimeArn=ARN,
        runtimeSessionId=session("pieces"),
        payload=json.dumps({"prompt": "s1 a"}).encode(),
        accept="text/event-stream",
    )
    assert said["contentType"].startswith("text/event-stream")
    text = ""
    for line in said["response"].iter_lines(chunk_size=1):
        if line.startswith(b"data: "):
            text += json.loads(line[6:])  # strings only, as if an entrypoint yielded text
        if text == "Round 0. ":
            at.reached("s1 a")
            at.release()
    assert text == "Round 0. \n\ns1: did a"


def test_who_names_no_session_talks_in_the_same_as_in_chat(server: Server) -> None:
    server.chat("said before")
    sent = server.client.post("/invocations", content='{"input": "and now"}')  # (of no content type)
    assert sent.json()["session_id"] == "default"
    assert texts(server.history(), "user") == ["said before", "and now"]


def test_one_line_with_chat(server: Server, at: Checkpoints, tmp_path: Path) -> None:
    """Requests of both contracts wait in the order in which they were accepted, and see what was said before."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as served:
        at.hold("m1 model 0")
        requests: list[Any] = []
        for number in range(1, 7):
            before = served.inside()
            if number % 2:
                requests.append(served.ask(f"m{number}", session("mixed")))
            else:
                accept = EVENTS if number == 4 else {}
                requests.append(served.submit(invoke, served, f"m{number}", "mixed", **accept))
            until(lambda before=before: served.inside() > before, f"m{number} inside")  # type: ignore[misc]
        at.release()
        answers = [each.result(DEADLINE_S) for each in requests]
        assert [each.status_code for each in answers] == [200] * 6
        assert answers[1].json()["result"] == "m2"
        assert data(answers[3].iter_lines()) == ["m4"]
        assert texts(served.history(session("mixed")), "user") == [f"m{number}" for number in range(1, 7)]
        starts = [step for step in at.steps if step.startswith("m") and step.endswith("model 0")]
        assert starts == [f"m{number} model 0" for number in range(1, 7)]


def test_a_question_to_a_person_is_answered_in_the_same_way(server: Server) -> None:
    run = invoke(server, "i1 @pay", "asks").json()
    assert (run["status"], run["result"]) == ("needs_input", "Round 0. ")
    (request,) = run["input_requests"]
    assert request["reason"] == "may I, i1?"
    answers = {"responses": [{"id": request["id"], "response": "yes"}]}
    headers = {SESSION: session("asks")}
    said = server.client.post("/invocations", json=answers, headers=headers)
    assert said.json()["result"] == "i1: did @pay (yes)"
    error(server.client.post("/invocations", json=answers, headers=headers), 409, "already_answered")
    *_, last = data(invoke(server, "i2 @pay", "asks", **EVENTS).iter_lines())
    assert (last["status"], last["input_requests"][0]["name"]) == ("needs_input", "@pay")


def test_the_header_is_the_one_that_check_sends() -> None:
    assert SESSION == SESSION_HEADER


# -- ping ---------------------------------------------------------------------------------------------


def test_ping_is_busy_while_runs_execute_or_wait_and_says_since_when(server: Server, at: Checkpoints) -> None:
    def ping() -> tuple[str, int]:
        body = server.client.get("/ping").json()
        assert body.keys() == {"status", "time_of_last_update"}
        assert isinstance(body["time_of_last_update"], int)
        return body["status"], body["time_of_last_update"]

    at.hold("p1 model 0", "p2 model 0")
    first = server.submit(invoke, server, "p1", "pinged")
    at.reached("p1 model 0")
    busy, since = ping()
    second = server.submit(invoke, server, "p2", "pinged")
    until(lambda: server.inside() == 2, "both inside")
    at.release("p1 model 0")
    at.reached("p2 model 0")
    assert first.result(DEADLINE_S).status_code == 200
    assert (busy, ping()) == ("HealthyBusy", (busy, since))
    at.release()
    assert second.result(DEADLINE_S).status_code == 200
    until(lambda: ping()[0] == "Healthy", "idle")
    assert ping()[1] >= since
    assert ping() == ping()


def test_ping_needs_no_key(server: Server) -> None:
    foreign = {"Host": "169.254.169.254", "Origin": "http://evil.example"}
    assert server.client.get("/ping", headers=foreign).status_code == 200
    error(server.client.post("/invocations", json={"prompt": "x"}, headers=foreign), 403, "foreign")


# -- errors -------------------------------------------------------------------------------------------


def test_an_agent_that_fails_is_500_and_in_a_stream_the_last_event(server: Server) -> None:
    refusal = error(invoke(server, "f1 a fail", "fails"), 500, "agent_error")
    assert "out of order" in refusal["details"]
    assert (refusal["session_id"], refusal["status"]) == (session("fails"), "failed")
    assert server.run(refusal["run_id"])["error"]["detail"] == refusal["details"]
    *_, last = data(invoke(server, "f2 a fail", "fails", **EVENTS).iter_lines())
    assert "out of order" in last["error"]
    assert last["error_type"] == "agent_error"


def test_a_run_that_somebody_cancels_is_an_error_too(server: Server, at: Checkpoints) -> None:
    pending = server.submit(invoke, server, "c1 ?a", "cancelled")
    at.reached("c1 ?a")
    place = f"/v1/sessions/{session('cancelled')}/cancel"
    assert server.client.post(place, json={"running": True}).status_code == 202
    error(pending.result(DEADLINE_S), 500, "cancelled")


def test_a_full_queue(server: Server, at: Checkpoints) -> None:
    at.hold("full-1 model 0")
    requests = server.line_up("full-1", "full-2", session_id=session("full"))
    for accept in ({}, EVENTS):
        refused = invoke(server, "full-3", "full", **accept)
        assert error(refused, 429, "queue_full")["position"] == 2
        assert int(refused.headers["retry-after"]) >= 1
    at.release()
    assert {each.result(DEADLINE_S).status_code for each in requests} == {200}


def test_what_cannot_be_read_is_refused_with_400(server: Server) -> None:
    post = server.client.post
    error(post("/invocations", content="{"), 400, "malformed")
    error(post("/invocations", json={}), 400, "invalid")
    error(post("/invocations", json="hello"), 400, "invalid")
    error(post("/invocations", json={"prompt": 7}), 400, "invalid")
    error(post("/invocations", json={"prompt": "x", "priority": 9}), 400, "invalid")
    error(post("/invocations", json={"prompt": "x"}, headers={SESSION: "a/b"}), 400, "invalid")
    twice = httpx.Headers([(SESSION, session("one")), (SESSION.lower(), session("two"))])
    refusal = error(post("/invocations", json={"prompt": "x"}, headers=twice), 400, "invalid")
    assert refusal["details"] == f"the request has two {SESSION} headers; send one"
    for name in ("one", "two"):
        assert server.client.get(f"/v1/sessions/{session(name)}").status_code == 404
    error(post("/invocations", json={"prompt": "x" * MAX_BODY}), 413, "body_too_large")
    error(server.client.get("/invocations"), 405, "method_not_allowed")


def test_awss_own_client_retries_after_its_timeout_unless_configured_otherwise(server: Server, at: Checkpoints) -> None:
    """What the page warns of: to the server the second request is another one."""

    def runs(name: str) -> int:
        return len(server.client.get(f"/v1/sessions/{session(name)}/runs").json()["runs"])

    at.hold("t1 model 0")
    for attempts, name in ((2, "twice"), (1, "once")):
        client = connected(server, read_timeout=0.5, retries={"total_max_attempts": attempts})
        with pytest.raises(ReadTimeoutError):
            client.invoke_agent_runtime(
                agentRuntimeArn=ARN, runtimeSessionId=session(name), payload=json.dumps({"prompt": "t1"}).encode()
            )
        client.close()
        until(lambda name=name, attempts=attempts: runs(name) == attempts, f"{attempts} runs")  # type: ignore[misc]
    assert DEFAULT_TIMEOUT == 60


# -- again, and the end of the server -----------------------------------------------------------------


def test_a_request_that_is_sent_again_under_its_key_is_the_same_run(server: Server) -> None:
    key = {"Idempotency-Key": "key"}
    first = invoke(server, "k1 a", "keyed", **key)
    again = invoke(server, "k1 a", "keyed", **key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    pieces = invoke(server, "k1 a", "keyed", Accept="text/event-stream", **key)
    assert pieces.headers["idempotency-replayed"] == "true"
    assert "".join(data(pieces.text.splitlines())).endswith(first.json()["result"])
    error(invoke(server, "another", "keyed", **key), 400, "key_reused")


def test_a_run_outlives_a_server_that_stops_and_its_clients_know(at: Checkpoints, tmp_path: Path) -> None:
    flags = ("--drain-grace", "0.2")
    with serving(AGENT, *flags, folder=tmp_path, variables=at.environment, port=reserved_port()) as server:
        at.hold("r1 model 1", "r2 model 1")
        whole = server.submit(invoke, server, "r1 a", "restart")
        pieces = server.submit(invoke, server, "r2 a", "restart-2", **EVENTS)
        at.reached("r1 model 1", "r2 model 1")
        server.terminate()
        queued = whole.result(DEADLINE_S)
        assert queued.status_code == 202
        assert (queued.json()["status"], queued.json()["result"]) == ("queued", "")
        assert int(queued.headers["retry-after"]) >= 1
        *_, last = data(pieces.result(DEADLINE_S).iter_lines())
        assert (last["error_type"], last["status"]) == ("goes_on_later", "queued")
        at.release()
        assert server.ended() == 0
        server.start()
        for run_id, place in ((queued.json()["run_id"], queued.headers["location"]), (last["run_id"], None)):
            assert place in (None, f"/v1/runs/{run_id}")
            assert server.run(run_id, wait_s=20)["status"] == "succeeded"
        assert [at.steps.count(step) for step in ("r1 a", "r2 a")] == [1, 1]


def test_requests_are_refused_while_the_server_stops(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, "--drain-grace", "20", folder=tmp_path, variables=at.environment) as server:
        at.hold("d1 model 0")
        pending = server.submit(invoke, server, "d1", "drained")
        at.reached("d1 model 0")
        server.terminate()
        until(lambda: server.client.get("/readyz").status_code == 503, "not ready")
        refused = invoke(server, "late", "drained")
        error(refused, 503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert server.client.get("/ping").json()["status"] == "HealthyBusy"
        at.release()
        assert pending.result(DEADLINE_S).json()["result"] == "d1"
        assert server.ended() == 0
