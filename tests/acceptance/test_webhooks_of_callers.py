"""Webhooks with API keys: no caller lists, sends again, signs or sees anything of another one's events."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.receiver import Receiver, receiving
from acceptance.server import TARGETS, Server, serving, until
from acceptance.test_webhooks import OTHER, SECRET
from strandline._access.keyring import new_key

AGENT = TARGETS / "agent.py"
(ADA, ADA_KEPT), (BOB, BOB_KEPT), (EVE, EVE_KEPT) = new_key("ada"), new_key("bob"), new_key("eve")
DEADLINE_S = 60.0


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


class Caller:
    """One who has a key."""

    def __init__(self, server: Server, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=DEADLINE_S)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def run(self, text: str, webhook: dict[str, Any] | None) -> httpx.Response:
        body = {"input": text} if webhook is None else {"input": text, "webhook": webhook}
        return self.http.post("/v1/sessions/s/runs", json=body)

    def left(self, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/v1/webhooks", params=query).json()["webhooks"]
        return found


def test_no_caller_has_anything_of_anothers_webhooks(at: Checkpoints, receiver: Receiver, tmp_path: Path) -> None:
    """The sessions of all have the same id, and the ids of events are known."""
    receiver.answers = lambda request: 500 if request.path == "/fails" else 204
    (tmp_path / "secrets").write_text(f"ada {SECRET}\nbob {OTHER}\n")
    keys = ",".join(each.line() for each in (ADA_KEPT, BOB_KEPT, EVE_KEPT))
    flags = ["--webhook-secrets", "secrets", "--webhook-allow-private", "--webhook-retries", "0.05", "--api-keys", keys]
    with (
        serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server,
        Caller(server, ADA) as ada,
        Caller(server, BOB) as bob,
        Caller(server, EVE) as eve,
    ):
        fails = {"url": f"{receiver.url}/fails", "events": ["run.queued", "run.finished"]}
        for caller in (ada, bob):
            assert caller.run("hello", fails).status_code == 202
        until(lambda: all(len(each.left(status="dead")) == 2 for each in (ada, bob)), "all are dead")
        of_ada, of_bob = ([each["id"] for each in caller.left()] for caller in (ada, bob))
        assert not set(of_ada) & set(of_bob)

        refused = eve.run("hello", fails)
        assert (refused.status_code, "strandline keys webhook eve" in refused.json()["detail"]) == (422, True)
        tested = eve.http.post("/v1/webhooks/test", json={"url": f"{receiver.url}/test"})
        assert (tested.status_code, "eve has no secret" in tested.json()["detail"]) == (422, True)
        assert eve.left() == eve.left(status="dead") == []
        for cursor in ("", of_ada[0], "run_"):
            assert {each["id"] for each in bob.left(cursor=cursor or "!", limit=100)} <= set(of_bob)

        came = len(receiver.received)
        receiver.answers = lambda _: 204
        for caller in (bob, eve):
            for event in of_ada:
                unknown = caller.http.post("/v1/webhooks/unknown/resend").json()["detail"]
                answer = caller.http.post(f"/v1/webhooks/{event}/resend")
                assert (answer.status_code, answer.json()["detail"]) == (404, unknown.replace("unknown", event))
        assert [each["id"] for each in ada.left(status="dead")] == of_ada
        assert len(receiver.received) == came

        assert bob.http.delete("/v1/sessions/s").status_code == 204
        assert (bob.left(), [each["id"] for each in ada.left()]) == ([], of_ada)
        assert ada.http.post(f"/v1/webhooks/{of_ada[0]}/resend").status_code == 204
        until(lambda: [each["id"] for each in ada.left()] == of_ada[1:], "hers is received")
        assert bob.http.post("/v1/webhooks/test", json={"url": f"{receiver.url}/test"}).json()["received"] is True
        last = receiver.received[-1]
        assert (last.type, last.is_signed_by(OTHER), last.is_signed_by(SECRET)) == ("webhook.test", True, False)
    for each in receiver.received:
        own = each.id in of_ada
        assert (each.is_signed_by(SECRET), each.is_signed_by(OTHER)) == (own, not own)
