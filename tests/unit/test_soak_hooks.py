"""The soak's receiver of webhooks: what it writes down, which signatures it takes, and how it fails."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from judging.evidence import Delivery, End
from soak import hooks
from soak.hooks import OLD_S, SECRET, Hooks, delivery_of
from soak.records import Deletion, Pause
from soak.wire import Broken, ask
from soak_support import DONE, SESSION, World
from strandline._webhooks.signing import headers

NOW_S = 1_000_000.0
PAIR = ("session.paused", "session.resumed")


def body(kind: str = "run.finished", **changes: Any) -> bytes:
    """Return an event as a server sends it."""
    run = {"run_id": f"run-{DONE}", "session_id": SESSION, "status": "succeeded", "attempt": 1, "output": "done"}
    return json.dumps({"type": kind, "timestamp": "2026-01-01T00:00:00Z", "data": {**run, **changes}}).encode()


def signed(payload: bytes, at_s: float = NOW_S, secret: bytes = SECRET) -> dict[str, str]:
    return headers("event-1", int(at_s), payload, [secret])


def test_what_the_product_signs_is_signed_by_the_standard() -> None:
    came = delivery_of(signed(body()), body(), NOW_S)
    assert (came.id, came.run_id, came.session, came.is_signed) == ("event-1", f"run-{DONE}", SESSION, True)
    assert (came.status, came.end) == ("succeeded", End(kind="succeeded", text="done"))
    assert delivery_of(signed(body("run.started")), body("run.started"), NOW_S).end is None


def test_an_error_and_a_question_are_ends() -> None:
    failed = body(status="failed", output=None, error={"code": "crashed", "detail": "the server died"})
    assert delivery_of(signed(failed), failed, NOW_S).end == End(kind="crashed", text="the server died")
    requests = [{"id": "q1", "name": "c0-0.0", "reason": None}]
    asks = body(status="needs_input", output=None, input_requests=requests)
    assert delivery_of(signed(asks), asks, NOW_S).end == End(kind="needs_input", text="q1 c0-0.0")


def test_a_wrong_signature_is_found() -> None:
    payload = body()
    wrong = [
        signed(body(status="failed")),
        signed(payload, secret=b"another secret, which is long enough for anything"),
        signed(payload, at_s=NOW_S - OLD_S - 1),
        {**signed(payload), "webhook-id": "event-2"},
        {**signed(payload), "webhook-timestamp": "soon"},
        {},
    ]
    assert [delivery_of(each, payload, NOW_S).is_signed for each in wrong] == [False] * len(wrong)
    two = {**signed(payload), "webhook-signature": f"v1,other {signed(payload)['webhook-signature']}"}
    assert delivery_of(two, payload, NOW_S).is_signed


@pytest.mark.parametrize("how", ["answers", "refuses", "hangs up", "forgets"])
def test_it_writes_down_what_it_has_answered_and_may_have_more(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "FAILS", 0.0 if how == "answers" else 1.1)
    receiver = Hooks(tmp_path, seed=1)
    port = int(receiver.flags[1].split(":")[2].split("/")[0])
    monkeypatch.setattr(receiver._chance, "choice", lambda _: how)

    async def sent() -> int:
        await receiver.start()
        try:
            return (await ask(port, "POST", "/events", json.loads(body()))).status_code
        except Broken:
            return 0
        finally:
            await receiver.stop()

    status = asyncio.run(sent())
    assert status == {"answers": 204, "refuses": 500}.get(how, 0)
    assert len(receiver.deliveries) == (how in ("answers", "forgets"))
    assert receiver.faults == []


def test_what_is_no_event_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "FAILS", 0.0)
    receiver = Hooks(tmp_path, seed=1)
    port = int(receiver.flags[1].split(":")[2].split("/")[0])

    async def sent() -> None:
        await receiver.start()
        with pytest.raises(Broken):
            await ask(port, "POST", "/events", {"no": "event"})
        await receiver.stop()

    asyncio.run(sent())
    assert len(receiver.faults) == 1
    assert "cannot be read" in receiver.faults[0]


def test_the_judge_of_a_soak_misses_an_end_that_did_not_come() -> None:
    world = World()
    world.records.has_webhook = True
    faults = world.judged()
    assert len(faults) == len(world.records.stored)
    assert all("was not received" in fault for fault in faults)


def test_an_event_of_a_session_has_no_run() -> None:
    payload = json.dumps({"type": "session.paused", "timestamp": "now", "data": {"session_id": SESSION}}).encode()
    came = delivery_of(signed(payload), payload, NOW_S)
    assert (came.kind, came.run_id, came.session, came.end) == ("session.paused", "", SESSION, None)


def of_session(kind: str, name: str, session: str = SESSION) -> Delivery:
    return Delivery(id=name, kind=kind, run_id="", session=session, content=name.encode())


def judged(*deliveries: Delivery) -> list[str]:
    """Return what is wrong with the events of sessions: one was paused once or twice, one deleted or perhaps not."""
    world = World()
    records = world.records
    records.has_webhook, records.deliveries = True, [*deliveries]
    records.tried_to_pause = [SESSION, SESSION]
    records.pauses = [Pause(session=SESSION, since_s=1.0, until_s=2.0, since=1, until=2)]
    records.deletions = [
        Deletion(session="gone-1", sent=1, answered=2, status_code=204),
        Deletion(session="gone-2", sent=1, answered=2, status_code=404, unsure=True),
    ]
    return [fault for fault in world.judged() if "was not received" not in fault]


TOLD = (of_session("session.paused", "p1"), of_session("session.resumed", "r1"))
GONE = of_session("session.deleted", "d1", "gone-1")
MAYBE = of_session("session.deleted", "d2", "gone-2")


@pytest.mark.parametrize(
    ("deliveries", "fault"),
    [
        ((*TOLD, GONE), ""),
        ((*TOLD, *TOLD, GONE, GONE, MAYBE), ""),
        (TOLD, "session.deleted came 0 times of gone-1"),
        ((GONE,), "session.paused came 0 times"),
        ((TOLD[0], GONE), "was paused 1 times and resumed 0 times"),
        ((*TOLD, GONE, *(of_session(kind, f"x{kind}{n}") for kind in PAIR for n in "12")), "came 3 times"),
        ((*TOLD, GONE, of_session("session.deleted", "d3", SESSION)), "to which nobody did that"),
        ((*TOLD, GONE, MAYBE, of_session("session.deleted", "d4", "gone-2")), "came 2 times of gone-2"),
    ],
)
def test_the_judge_of_a_soak_counts_the_events_of_sessions(deliveries: tuple[Delivery, ...], fault: str) -> None:
    faults = judged(*deliveries)
    assert any(fault in each for each in faults) if fault else faults == [], faults
