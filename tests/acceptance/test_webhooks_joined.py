"""The webhooks of runs that join another one: each has its own events, and they name the run that it has joined."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.receiver import Received, Receiver, receiving
from acceptance.server import serving, until
from acceptance.test_collect import collect
from acceptance.test_steer import TARGET, accepted, ended, steer
from acceptance.test_webhooks import flags, left

EVENTS = ["run.queued", "run.started", "run.joined", "run.finished"]


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def said(receiver: Receiver, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the events of a run say, by type."""
    came: list[Received] = receiver.of(run["run_id"])
    assert len({each.id for each in came}) == len({each.type for each in came})
    return {each.type: each.event["data"] for each in came}


def test_a_run_that_steers_reports_that_it_has_reached_the_one_that_executes(at: Checkpoints, tmp_path: Path) -> None:
    """When it has, and not before; a kill in between changes nothing. One that comes too late starts like any other."""
    with (
        receiving() as receiver,
        serving(TARGET, *flags(tmp_path), folder=tmp_path, variables=at.environment) as server,
    ):
        webhook = {"url": receiver.url, "events": EVENTS}
        at.hold("q a")
        host = accepted(server, "plan q a b", webhook=webhook)
        at.reached("q a")
        joins = steer(server, "be brief", webhook={"url": receiver.url, "events": ["run.joined", "run.finished"]})
        receiver.until(lambda _: set(said(receiver, host)) == {"run.queued", "run.started"}, "the host has started")
        assert said(receiver, joins) == {}
        at.hold("q model 1")
        at.release("q a")
        at.reached("q model 1")
        receiver.until(lambda _: said(receiver, joins), "it has joined")
        (joined,) = said(receiver, joins).values()
        assert (joined["joined"], joined["status"], joined["session_id"]) == (host["run_id"], "running", "s")
        server.kill()
        at.hold("alone late")
        at.release("q model 1")
        server.start()
        host_end, end = ended(server, host, joins)
        late = steer(server, "late", webhook=webhook)
        at.release()
        (late_end,) = ended(server, late)
        assert (host_end["output"], late_end["join"]) == ("q: be brief", "became_next_run")
        until(lambda: not left(server), "all events are received")
        assert set(said(receiver, joins)) == {"run.joined", "run.finished"}
        finished = said(receiver, joins)["run.finished"]
        assert (finished["output"], finished["joined"], finished["usage"]) == (end["output"], host["run_id"], None)
        assert set(said(receiver, late)) == {"run.queued", "run.started", "run.finished"}
        assert "joined" not in said(receiver, late)["run.finished"]


def test_each_run_of_a_collected_turn_has_its_own_events(at: Checkpoints, tmp_path: Path) -> None:
    """Only the first one starts; the others have joined it."""
    with (
        receiving() as receiver,
        receiving() as other,
        serving(TARGET, *flags(tmp_path), folder=tmp_path, variables=at.environment) as server,
    ):
        at.hold("alone first")
        first = accepted(server, "first")
        at.reached("alone first")
        head = collect(server, "a", webhook={"url": receiver.url, "events": EVENTS})
        second = collect(server, "b", webhook={"url": other.url, "events": EVENTS})
        third = collect(server, "c", webhook={"url": receiver.url, "events": EVENTS})
        quiet = collect(server, "d")
        at.release()
        _, *ends = ended(server, first, head, second, third, quiet)
        assert {each["output"] for each in ends} == {"alone: a; b; c; d"}
        until(lambda: not left(server), "all events are received")
        assert set(said(receiver, head)) == {"run.queued", "run.started", "run.finished"}
        for run, where in ((second, other), (third, receiver)):
            events = said(where, run)
            assert set(events) == {"run.queued", "run.joined", "run.finished"}
            assert events["run.joined"]["joined"] == head["run_id"]
            assert events["run.finished"]["output"] == "alone: a; b; c; d"
        assert {each.event["data"]["run_id"] for each in other.received} == {second["run_id"]}
        assert receiver.of(quiet["run_id"]) == []
