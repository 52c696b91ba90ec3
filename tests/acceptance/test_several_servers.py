"""Several installed servers on one PostgreSQL: each owns some sessions, and what one loses another one continues.

A client may use any of them; who owns a session is seen by who has accepted its runs.
"""

import itertools
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, serving, texts, until
from postgres_support import lease_of

AGENT = TARGETS / "agent.py"
LEASE_MS = 4_000
"""Of servers that are killed or frozen: another one waits for so long."""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.fixture
def leased(database: str) -> str:
    """Where a database is whose servers hold short leases."""
    lease_of(database, LEASE_MS)
    return database


def submitted(message: str, session_id: str, *servers: Server) -> tuple[str, Server | None]:
    """Submit a run to the first server; return its id, and which of the servers owns its session, if one does."""
    before = [accepted(each) for each in servers]
    response = servers[0].client.post(f"/v1/sessions/{session_id}/runs", json={"input": message})
    assert response.status_code == 202, response.text
    after = [accepted(each) for each in servers]
    owners = [each for each, was, now in zip(servers, before, after, strict=True) if now > was]
    return str(response.json()["run_id"]), owners[0] if owners else None


def accepted(server: Server) -> int:
    """Return how many runs a server has accepted as their owner."""
    found = re.search(r"^strandline_runs_accepted_total (\d+)", server.client.get("/metrics").text, re.M)
    assert found is not None
    return int(found[1])


def owns(server: Server, session_id: str) -> bool:
    """Return whether a server answers for a session itself, without asking another one."""
    before = accepted(server)
    response = server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": "hello"})
    return response.status_code == 202 and accepted(server) > before


def shared(first: Server, second: Server) -> dict[Server, list[str]]:
    """Return some sessions of each of two servers, once both have their share."""
    owned: dict[Server, list[str]] = {first: [], second: []}

    def both_own() -> bool:
        owned[first].clear()
        owned[second].clear()
        for number in range(12):
            _, server = submitted("hello", f"s{number}", first, second)
            assert server is not None
            owned[server].append(f"s{number}")
        return min(map(len, owned.values())) >= 2

    until(both_own, "owned by both")
    return owned


def test_a_killed_servers_sessions_go_on_at_the_other_one(at: Checkpoints, leased: str, tmp_path: Path) -> None:
    second = Server(AGENT, folder=tmp_path, journal=leased, variables=at.environment)
    with serving(AGENT, folder=tmp_path, journal=leased, variables=at.environment) as first:
        try:
            second.start()
            (mine, *_), (between, tool, *_) = (each[:2] for each in shared(first, second).values())
            at.hold("mine-1 model 0", "between-1 model 1", "tool-1 b")
            runs = {
                name: [submitted(f"{name}-1 a b", session, first, second)[0],
                       submitted(f"{name}-2", session, first, second)[0]]
                for name, session in (("mine", mine), ("between", between), ("tool", tool))
            }  # fmt: skip
            at.reached("mine-1 model 0", "between-1 model 1", "tool-1 b")
            second.kill()
            at.release()
            every = [each for ids in runs.values() for each in ids]
            until(lambda: all(first.run(each)["status"] in ("succeeded", "failed") for each in every), "ended")
            ended = {name: [first.run(each) for each in ids] for name, ids in runs.items()}
        finally:
            second.close()
        assert [each["output"] for each in ended["mine"]] == ["mine-1: did a, did b", "mine-2"]
        assert [each["attempt"] for each in ended["mine"]] == [1, 1]
        assert [each["output"] for each in ended["between"]] == ["between-1: did a, did b", "between-2"]
        crashed, after = ended["tool"]
        assert (crashed["status"], crashed["error"]["code"], after["status"]) == ("failed", "crashed", "succeeded")
        assert texts(first.history(between), "user")[-2:] == ["between-1 a b", "between-2"]
    begun = [step for step in at.steps if step.split()[-1] in ("a", "b")]
    assert len(begun) == len(set(begun)), "a tool was started twice"


def test_a_server_that_stops_hands_over_at_once_what_rests_and_the_rest_when_its_run_has_ended(
    at: Checkpoints, leased: str, tmp_path: Path
) -> None:
    old = Server(AGENT, folder=tmp_path, journal=leased, variables=at.environment)
    with serving(AGENT, folder=tmp_path, journal=leased, variables=at.environment) as new:
        try:
            old.start()
            busy, resting = shared(new, old)[old][:2]
            at.hold("q model 0")
            run, _ = submitted("q a", busy, new)
            at.reached("q model 0")
            old.terminate()
            until(lambda: owns(new, resting), "handed over")
            assert new.run(run)["status"] == "running"
            at.release()
            assert old.ended() == 0
            assert new.run(run, wait_s=30)["output"] == "q: did a"
        finally:
            old.close()
    assert at.steps.count("q a") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_was_frozen_past_its_lease_starts_no_tool_and_calls_no_model(
    at: Checkpoints, leased: str, tmp_path: Path, workers: str
) -> None:
    """Everything before was durable. With workers it is the serving process that is frozen, and they go on."""
    names = [f"f{number}" for number in range(4)]
    frozen = Server(AGENT, "--workers", workers, folder=tmp_path, journal=leased, variables=at.environment)
    try:
        frozen.start()
        at.hold(*(f"{each} a" for each in names))
        runs = [submitted(f"{each} a b", each, frozen)[0] for each in names]
        at.reached(*(f"{each} a" for each in names))
        frozen.signal(signal.SIGSTOP)
        with serving(AGENT, folder=tmp_path, journal=leased, variables=at.environment) as other:
            at.release()  # (the lease is over: another server is ready)
            until(lambda: all(other.run(each)["status"] == "failed" for each in runs), "ended by the other server")
            if workers != "1":
                at.reached(*(f"{each} a ended" for each in names))
            frozen.signal(signal.SIGCONT)
            assert frozen.ended() == 75
            assert {other.run(each)["error"]["code"] for each in runs} == {"crashed"}
    finally:
        frozen.close()
    started = {step for step in at.steps if step.endswith((" b", "model 1"))}
    assert not started, "started at a server that had lost its lease"


def test_servers_that_come_and_go_in_turn_lose_nothing_and_keep_the_order(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    accepted: dict[str, list[str]] = {f"r{number}": [] for number in range(6)}
    count = 0

    def submit(*servers: Server) -> None:
        nonlocal count
        for session in accepted:
            count += 1
            submitted(f"q{count} a", session, *servers)
            accepted[session].append(f"q{count} a")

    servers = [Server(AGENT, folder=tmp_path, journal=database, variables=at.environment) for _ in range(3)]
    try:
        servers[0].start()
        submit(servers[0])
        for old, new in itertools.pairwise(servers):
            new.start()
            submit(old, new)
            submit(old, new)
            old.terminate()
            submit(new)
            assert old.ended() == 0
            assert "Traceback" not in old.stderr
            submit(new)
        last = servers[-1]
        for session, sent in accepted.items():
            until(lambda: len(texts(last.history(session), "user")) == len(sent), "ended")  # noqa: B023
            assert texts(last.history(session), "user") == sent
    finally:
        for each in servers:
            each.close()


def test_limits_of_what_waits_are_of_all_servers_and_of_what_executes_of_each(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    """Through whichever door runs come: one executes at each server, and all that a caller has waiting is counted."""
    per_session, per_caller = 15, 20
    flags = ("--max-running=1", f"--max-queued-per-caller={per_caller}", f"--max-queued-per-session={per_session}")
    second = Server(AGENT, *flags, folder=tmp_path, journal=database, variables=at.environment)
    with serving(AGENT, *flags, folder=tmp_path, journal=database, variables=at.environment) as first:
        try:
            second.start()
            servers = (first, second)
            (mine, *_), (theirs, *others) = shared(*servers).values()
            doors, sessions = itertools.cycle(servers), itertools.cycle([*others, theirs])

            def accepted_for(session: str) -> tuple[int, str]:
                """Fill a session's queue; return how many runs were accepted, and why the next one was not."""
                for count in itertools.count():
                    response = next(doors).client.post(f"/v1/sessions/{session}/runs", json={"input": f"{session} a"})
                    if response.status_code != 202:
                        return count, response.json()["code"]
                raise AssertionError

            until(lambda: not any(each.health()["queue_depth"] for each in servers), "they are at rest")
            at.hold(f"{mine} model 0", f"{theirs} model 0")
            submitted(f"{theirs} a", theirs, *servers)
            assert accepted_for(mine) == (1 + per_session, "queue_full")
            assert accepted_for(mine) == (0, "queue_full"), "exact, through both doors"

            def is_known() -> bool:
                """Return whether the second server takes nothing more, since it knows what waits at the first."""
                return accepted_for(next(sessions)) == (0, "principal_full")

            until(is_known, "it knows")
            states = [each.health() for each in servers]
            assert [each["running"] for each in states] == [1, 1]
            waiting = sum(each["queue_depth"] for each in states)
            assert per_caller <= waiting <= 2 * per_caller, "within a second each may take as much as one may"
            at.release()
        finally:
            second.close()
