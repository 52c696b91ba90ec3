"""Webhooks of installed servers: events that are sent to a real receiver, over failures, kills and takeovers."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.receiver import Receiver, receiving
from acceptance.server import TARGETS, Server, ran, serving, until
from postgres_support import lease_of

AGENT = TARGETS / "agent.py"
SECRET = "whsec_" + "c3RyYW5kbGluZS1zZWNyZXQtb2YtdGVzdHM="
OTHER = "whsec_" + "YW5vdGhlci1zZWNyZXQtb2Ytc29tZS10ZXN0"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def flags(folder: Path, *more: str, secrets: Sequence[str] = (SECRET,)) -> list[str]:
    """Return the flags of a server that sends to receivers of this machine, with these secrets."""
    file = folder / "secrets"
    file.write_text("".join(f"anonymous {each}\n" for each in secrets))
    return ["--webhook-secrets", str(file), "--webhook-allow-private", *more]


def sent(server: Server, webhook: dict[str, Any] | None, session: str = "s", text: str = "hello") -> str:
    """Have a run accepted; return its id."""
    body = {"input": text} if webhook is None else {"input": text, "webhook": webhook}
    answer = server.client.post(f"/v1/sessions/{session}/runs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def left(server: Server, **query: str) -> list[dict[str, Any]]:
    """Return the events that wait to be sent, or are dead."""
    found: list[dict[str, Any]] = server.client.get("/v1/webhooks", params=query).json()["webhooks"]
    return found


def test_the_events_of_a_run_are_sent_and_signed(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    events = ["run.queued", "run.started", "run.finished"]
    with serving(AGENT, *flags(tmp_path), folder=tmp_path, variables=at.environment) as server:
        webhook = {"url": f"{receiver.url}/hook?token=1", "events": events}
        run_id = sent(server, webhook)
        assert server.client.get(f"/v1/runs/{run_id}").json()["webhook"] == webhook
        came = receiver.until(lambda found: len(found) >= 3, "all events")
        until(lambda: not left(server), "all are received")
    assert sorted(each.type for each in came) == sorted(events)
    assert len({each.id for each in came}) == 3
    assert {each.path for each in came} == {"/hook?token=1"}
    assert all(each.is_signed_by(SECRET) and not each.is_signed_by(OTHER) for each in came)
    (end,) = [each.event for each in came if each.type == "run.finished"]
    data = end["data"]
    assert (data["run_id"], data["session_id"], data["status"]) == (run_id, "s", "succeeded")
    assert data["output"] == "hello"
    assert "token" not in server.stderr


def test_events_of_the_runs_of_a_schedule_are_sent_where_it_says(
    at: Checkpoints, receiver: Receiver, tmp_path: Path
) -> None:
    webhook = {"url": f"{receiver.url}/schedule", "events": ["run.started", "run.finished"]}
    body = {"session_id": "s", "input": "tick", "every": 3600}
    with serving(AGENT, *flags(tmp_path), folder=tmp_path, variables=at.environment) as server:
        wrong = server.client.post("/v1/schedules", json={**body, "webhook": {"url": "ftp://example.com"}})
        assert (wrong.status_code, "webhook.url" in wrong.json()["detail"]) == (422, True)
        made = server.client.post("/v1/schedules", json={**body, "webhook": webhook})
        assert (made.status_code, made.json()["webhook"]) == (201, webhook)
        path = f"/v1/schedules/{made.json()['schedule_id']}"
        run = server.client.post(f"{path}/run").raise_for_status().json()
        assert run["webhook"] == webhook
        came = receiver.until(lambda found: len(found) >= 2, "both events")
        assert {(each.type, each.event["data"]["run_id"]) for each in came} == {
            ("run.started", run["run_id"]),
            ("run.finished", run["run_id"]),
        }
        other = {"url": f"{receiver.url}/other"}
        changed = server.client.patch(path, json={"webhook": other}).json()["webhook"]
        assert changed == {**other, "events": ["run.finished"]}
        server.kill()
        server.start()
        assert server.client.get(path).json()["webhook"] == changed
        assert server.client.patch(path, json={"webhook": {"url": "x"}}).status_code == 422
        assert server.client.patch(path, json={"timeout": 5}).json()["webhook"] == changed
        server.client.post(f"{path}/run").raise_for_status()
        assert receiver.until(lambda found: len(found) >= 3, "the event of the other one")[2].path == "/other"
        assert server.client.patch(path, json={"webhook": None}).json()["webhook"] is None
        assert "webhook" not in server.client.post(f"{path}/run").raise_for_status().json()
        server.quiet()
    assert len(receiver.received) == 3


def test_what_is_refused_says_what_to_do(at: Checkpoints, tmp_path: Path) -> None:
    def refusal(server: Server, **webhook: Any) -> str:
        answer = server.client.post("/v1/sessions/s/runs", json={"input": "hello", "webhook": webhook})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
        return str(answer.json()["detail"])

    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        assert "sets webhook_secrets" in refusal(server, url="https://example.com")
        assert left(server) == []
        tested = server.client.post("/v1/webhooks/test", json={"url": "https://example.com"}).json()
        assert (tested["received"], "sets webhook_secrets" in tested["detail"]) == (False, True)
        assert server.client.post("/v1/webhooks/x/resend").status_code == 404
    file = tmp_path / "secrets"
    file.write_text(f"ada {SECRET}\n")
    with serving(AGENT, "--webhook-secrets", str(file), folder=tmp_path, variables=at.environment) as server:
        assert "strandline keys webhook anonymous" in refusal(server, url="https://example.com")
        for url, why in (
            ("http://example.com/", "begin with https://"),
            ("https://me:secret@example.com/", "user name"),
            ("https://example.com/#part", "fragment"),
            ("https:///path", "name a host"),
            ("https://exa mple.com/", "without spaces"),
        ):
            assert why in refusal(server, url=url), url
        assert "events" in refusal(server, url="https://example.com", events=["run.position"])
        assert "events" in refusal(server, url="https://example.com", events=[])
        assert "`event`" in refusal(server, url="https://example.com", event=["run.started"])
        misspelt = {"options": {"webhook": {"url": "https://example.com/", "evnts": ["run.started"]}}}
        refused = server.client.patch("/v1/sessions/s", json=misspelt)
        assert (refused.status_code, "`evnts`" in refused.json()["detail"]) == (422, True), refused.text
        body = {"options": {"webhook": {"url": "http://example.com/"}}}
        server.chat("hello", "s")
        assert server.client.patch("/v1/sessions/s", json=body).status_code == 422
        assert "secret@" not in server.stderr


def test_an_address_that_is_not_public_is_not_connected_to(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    """Whatever it is written as."""
    port = receiver.url.rpartition(":")[2]
    file = tmp_path / "secrets"
    file.write_text(f"anonymous {SECRET}\n")
    with serving(AGENT, "--webhook-secrets", str(file), folder=tmp_path, variables=at.environment) as server:
        for host in ("127.0.0.1", "localhost", "127.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0"):
            tested = server.client.post("/v1/webhooks/test", json={"url": f"https://{host}:{port}/"}).json()
            assert (tested["received"], "not public" in tested["detail"]) == (False, True), (host, tested)
    assert receiver.received == []


def test_an_event_is_sent_again_until_it_is_dead_and_by_hand(
    at: Checkpoints, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.answers = lambda _: 500
    more = flags(tmp_path, "--webhook-retries", "0.05,0.05")
    with serving(AGENT, *more, folder=tmp_path, variables=at.environment) as server:
        run_id = sent(server, {"url": receiver.url})
        until(lambda: left(server, status="dead"), "it is dead")
        (dead,) = left(server)
        assert (dead["run_id"], dead["attempts"], dead["next_at"], dead["type"]) == (run_id, 3, None, "run.finished")
        assert dead["error"] == "the answer was status 500"
        assert left(server, status="waiting") == []
        shown = ran("webhooks", "--dead", "--url", server.url, folder=tmp_path).stdout.splitlines()
        assert shown[1].split()[:4] == [dead["id"], "s", "3", "dead"]
        receiver.answers = lambda _: 200
        assert server.client.post("/v1/webhooks/unknown/resend").status_code == 404
        again = ran("webhooks", "resend", "--dead", "--url", server.url, folder=tmp_path)
        assert again.stdout == "1 event is sent again.\n"
        until(lambda: not left(server), "it is received")
        assert "No event waits" in ran("webhooks", "--url", server.url, folder=tmp_path).stderr
    assert [each.id for each in receiver.received] == [dead["id"]] * 4
    assert len({each.body for each in receiver.received}) == 1


def test_a_redirect_is_not_followed_and_gone_is_final(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    receiver.answers = lambda request: 410 if request.path == "/gone" else 307
    with serving(AGENT, *flags(tmp_path), folder=tmp_path, variables=at.environment) as server:
        moved = sent(server, {"url": f"{receiver.url}/moved"}, "a")
        gone = sent(server, {"url": f"{receiver.url}/gone"}, "b")
        until(lambda: len([each for each in left(server) if each["attempts"]]) == 2, "both failed")
        of = {each["run_id"]: each for each in left(server)}
    assert of[moved]["error"] == "the answer was status 307, and redirects are not followed"
    assert (of[moved]["status"], of[gone]["status"]) == ("waiting", "dead")
    assert {each.path for each in receiver.received} == {"/moved", "/gone"}


def test_a_receiver_that_hangs_delays_no_other(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    """Also if much waits for it, and none that is known to answer."""
    receiver.answers = lambda _: -1
    with receiving() as other, serving(AGENT, *flags(tmp_path), folder=tmp_path, variables=at.environment) as server:
        events = ["run.queued", "run.started", "run.finished"]
        for number in range(8):
            sent(server, {"url": receiver.url, "events": events}, f"s{number}")
        receiver.until(lambda found: found, "one for the receiver that hangs")
        for _ in range(3):
            run_id = sent(server, {"url": other.url}, "other")
            other.until(lambda found: run_id in found[-1].id if found else False, "the other one")  # noqa: B023
        assert len(other.received) == 3
        assert len(receiver.received) < 8
        receiver.release.set()


def test_secrets_are_rotated_while_the_server_runs(receiver: Receiver, tmp_path: Path) -> None:
    made = [ran("keys", "webhook", "anonymous", folder=tmp_path).stdout for _ in range(2)]
    first, second = (line.split()[1] for line in made)
    assert all(line.startswith("anonymous whsec_") for line in made)
    assert first != second
    with closing(Server(AGENT, *flags(tmp_path, secrets=[first]), folder=tmp_path)) as server:
        server.start()

        def signed() -> tuple[bool, bool]:
            tested = ran("webhooks", "test", receiver.url, "--url", server.url, folder=tmp_path)
            assert (tested.returncode, "was received: the answer was status 204." in tested.stdout) == (0, True)
            (event,) = [each for each in receiver.received if each.id == tested.stdout.split()[0]]
            assert event.type == "webhook.test"
            return event.is_signed_by(first), event.is_signed_by(second)

        assert signed() == (True, False)
        added = ran("keys", "webhook", "anonymous", "--file", "secrets", folder=tmp_path).stdout.split()[1]
        (tmp_path / "secrets").write_text(f"anonymous {first}\nanonymous {second}\n")
        assert added not in (first, second)
        until(lambda: signed() == (True, True), "both sign")
        (tmp_path / "secrets").write_text("anonymous whsec_TooShort\n")
        until(lambda: "the previous ones stay in use" in server.stderr, "the log says so")
        assert "TooShort" not in server.stderr
        (tmp_path / "secrets").write_text(f"anonymous {second}\n")
        until(lambda: signed() == (False, True), "the new one signs")


def test_the_server_and_a_session_may_name_a_webhook(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    """A run's own wins, then that of its session; nobody sees the server's."""
    more = flags(tmp_path, "--webhook", f"{receiver.url}/server", "--webhook-events", "run.started,run.finished")
    (tmp_path / "secrets").write_text(f"anonymous {SECRET}\n* {OTHER}\n")
    with serving(AGENT, *more, folder=tmp_path, variables=at.environment) as server:
        plain = sent(server, None)
        assert "webhook" not in server.client.get(f"/v1/runs/{plain}").json()
        receiver.until(lambda found: len(found) == 2, "two events for the server")
        options = {"webhook": {"url": f"{receiver.url}/session", "events": ["run.finished"]}}
        changed = server.client.patch("/v1/sessions/s", json={"options": options})
        assert changed.json()["options"] == options
        by_session = sent(server, None)
        own = sent(server, {"url": f"{receiver.url}/own"})
        receiver.until(lambda found: len(found) == 4, "two more")
    assert {each.path for each in receiver.of(plain)} == {"/server"}
    assert all(each.is_signed_by(OTHER) and not each.is_signed_by(SECRET) for each in receiver.of(plain))
    ((session,), (run,)) = receiver.of(by_session), receiver.of(own)
    assert (session.path, run.path) == ("/session", "/own")
    assert session.is_signed_by(SECRET)


def test_every_event_is_sent_although_the_server_is_killed(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    """Whatever the kill comes upon: runs that execute, events that wait, and such that are being sent."""
    receiver.answers = lambda request: 503 if len(receiver.received) % 3 else 204
    events = ["run.queued", "run.finished"]
    more = flags(tmp_path, "--webhook-retries", ",".join(["0.1"] * 50))
    with serving(AGENT, *more, folder=tmp_path, variables=at.environment) as server:
        runs = []
        for _ in range(3):
            before = len(receiver.received)
            runs += [sent(server, {"url": receiver.url, "events": events}, f"s{number % 4}") for number in range(20)]
            receiver.until(lambda found: len(found) > before + 5, "some came")  # noqa: B023  (called at once)
            server.kill()
            server.start()
        expected = {f"{run_id}_{kind}" for run_id in runs for kind in ("queued", "finished")}
        until(lambda: not left(server) and not server.health()["running"], "all are sent")
    assert {each.id for each in receiver.received} == expected


def test_another_server_sends_what_a_killed_one_leaves(
    at: Checkpoints, receiver: Receiver, database: str, tmp_path: Path
) -> None:
    """With several servers over PostgreSQL; any of them lists all events and sends them again."""
    lease_of(database, 4_000)
    receiver.answers = lambda _: 503
    more = flags(tmp_path, "--webhook-retries", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1")
    second = Server(AGENT, *more, folder=tmp_path, journal=database, variables=at.environment)
    with serving(AGENT, *more, folder=tmp_path, journal=database, variables=at.environment) as first:
        try:
            second.start()
            until(lambda: first.health()["cluster"]["partitions"] < 200, "shared")
            runs = [sent(first, {"url": receiver.url}, f"s{number}") for number in range(16)]
            expected = {f"{run_id}_finished" for run_id in runs}
            receiver.until(lambda found: {each.id for each in found} == expected, "all were tried")
            assert {each["id"] for each in left(second)} == {each["id"] for each in left(first)} == expected
            second.kill()
            receiver.answers = lambda _: 204
            until(lambda: not left(first), "the other one sends them")
        finally:
            second.close()
    assert {each.id for each in receiver.received} == expected


SESSION_EVENTS = ["session.paused", "session.resumed", "session.deleted"]


def test_the_events_of_a_session_are_sent_although_the_server_is_killed(
    at: Checkpoints, receiver: Receiver, tmp_path: Path
) -> None:
    """Killed between their commit and their arrival; that of a deletion outlives its session."""
    receiver.answers = lambda _: 503
    more = flags(tmp_path, "--webhook-retries", ",".join(["0.1"] * 100))
    with serving(AGENT, *more, folder=tmp_path, variables=at.environment) as server:
        server.chat("hello", "s")
        server.chat("hello", "t")
        options = {"webhook": {"url": receiver.url, "events": SESSION_EVENTS}}
        for session in ("s", "t"):
            assert server.client.patch(f"/v1/sessions/{session}", json={"options": options}).status_code == 200
        refused = server.client.post("/v1/sessions/s/runs", json={"input": "hello", "webhook": options["webhook"]})
        assert (refused.status_code, "events of a session are sent to" in refused.json()["detail"]) == (422, True)
        run_id = sent(server, None)
        assert "webhook" not in server.client.get(f"/v1/runs/{run_id}", params={"wait": 30}).json()
        assert server.client.post("/v1/sessions/s/pause").status_code == 200
        assert server.client.post("/v1/sessions/s/resume").status_code == 200
        assert server.client.delete("/v1/sessions/t").status_code == 204
        server.kill()
        receiver.answers = lambda _: 204
        server.start()
        came = receiver.until(lambda found: {each.type for each in found} == set(SESSION_EVENTS), "all")
        until(lambda: not left(server), "all are received")
        receiver.answers = lambda _: 503
        server.client.post("/v1/sessions/s/pause")
        (waits,) = left(server)
        assert (waits["type"], waits["run_id"], waits["session_id"]) == ("session.paused", None, "s")
        assert server.client.delete("/v1/sessions/s").status_code == 204
        (last,) = left(server)
        assert (last["type"], last["session_id"]) == ("session.deleted", "s")
    assert all(each.is_signed_by(SECRET) for each in came)
    of = {each.type: each.event for each in came}
    assert {kind: event["data"] for kind, event in of.items()} == {
        "session.paused": {"session_id": "s"}, "session.resumed": {"session_id": "s"},
        "session.deleted": {"session_id": "t"},
    }  # fmt: skip


def test_the_servers_webhook_gets_events_of_sessions(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    """Those that the settings name, of sessions whose options have no webhook."""
    more = flags(tmp_path, "--webhook", receiver.url, "--webhook-events", "session.deleted")
    with serving(AGENT, *more, folder=tmp_path, variables=at.environment) as server:
        server.chat("hello", "s")
        server.client.post("/v1/sessions/s/pause")
        assert server.client.delete("/v1/sessions/s").status_code == 204
        (came,) = receiver.until(lambda found: found, "the deletion")
    assert (came.type, came.event["data"]) == ("session.deleted", {"session_id": "s"})
