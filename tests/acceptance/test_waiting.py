"""A real agent is told how many messages wait and from whom, and reads them while it works (`tell_waiting`)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, serving
from acceptance.test_any_server import sessions_of, two
from acceptance.test_keys import made, shown
from acceptance.test_steer import accepted

TOLD = TARGETS / "told.py"
ON = ("--tell-waiting", "--trusted-senders")
ADA, BOB = {"id": "u1", "name": "Ada"}, {"id": "u2", "name": "Bob"}


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def lines(server: Server, run: dict[str, Any]) -> list[Any]:
    """Return what each line of a run's answer says, once it has ended."""
    ended = server.run(run["run_id"], wait_s=60)
    assert ended["status"] == "succeeded", ended
    return [json.loads(line) for line in ended["output"].splitlines()]


def said(read: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Return text, way and sender of each message that was read."""
    return [(each["text"], each["how"], each["sender"]) for each in read["messages"]]


@pytest.mark.parametrize("flags", [(), ("--workers", "1")], ids=["threads", "workers"])
def test_an_agent_is_told_who_waits_and_reads_what_they_say_at_that_moment(
    at: Checkpoints, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    with serving(TOLD, *ON, *flags, folder=tmp_path, variables=at.environment, installed=True) as server:
        at.hold("p model 0", "p model 1")
        run = accepted(server, "plan p read told read told")
        at.reached("p model 0")
        queued = accepted(server, "to be edited", sender=ADA)
        accepted(server, "be brief", if_busy="steer")
        collecting = accepted(server, "and more", if_busy="collect", collect={"quiet": 60}, sender=BOB)
        accepted(server, "tomorrow", not_before="2090-01-01T00:00:00Z", sender=BOB)
        accepted(server, "elsewhere", "another", sender=BOB)
        at.release("p model 0")
        at.reached("p model 1")
        assert server.client.patch(f"/v1/runs/{queued['run_id']}", json={"input": "edited"}).status_code == 200
        assert server.client.post(f"/v1/runs/{collecting['run_id']}/cancel").status_code == 200
        at.release()
        read, told, later, end = lines(server, run)
        assert said(read) == [
            ("be brief", "steer", None),
            ("to be edited", "queue", ADA),
            ("and more", "collect", BOB),
        ]
        assert read["messages"][1]["run_id"] == queued["run_id"]
        assert (read["count"], read["more"]) == (3, 0)
        assert told == {"count": 2, "senders": [ADA, BOB]}, "as its last model call began: one has joined it since"
        assert said(later) == [("edited", "queue", ADA)]
        assert end == {"count": 1, "senders": [ADA]}
        assert server.run(queued["run_id"], wait_s=60)["output"] == "alone: edited", "reading it is not its turn"


def test_without_the_setting_the_agent_knows_nothing_and_its_tool_says_what_turns_it_on(
    at: Checkpoints, tmp_path: Path
) -> None:
    with serving(TOLD, folder=tmp_path, variables=at.environment) as server:
        at.hold("p model 0")
        run = accepted(server, "plan p told read")
        at.reached("p model 0")
        accepted(server, "a secret")
        at.release()
        told, read = server.run(run["run_id"], wait_s=60)["output"].splitlines()
        assert told == "null"
        assert "`tell_waiting` is off" in read
        assert "--tell-waiting" in read
        assert "secret" not in read


@pytest.mark.parametrize("name", ["make_graph", "make_swarm", "answer"])
def test_nodes_and_functions_know_too(at: Checkpoints, tmp_path: Path, name: str) -> None:
    with serving(f"{TOLD}:{name}", *ON, folder=tmp_path, variables=at.environment) as server:
        at.hold("p model 0")
        run = accepted(server, "plan p read told")
        at.reached("p model 0")
        accepted(server, "and now?", sender=ADA)
        at.release()
        *_, read, told = lines(server, run)
        assert said(read) == [("and now?", "queue", ADA)]
        assert told == {"count": 1, "senders": [ADA]}


def test_no_other_session_nor_caller_is_shown(at: Checkpoints, tmp_path: Path) -> None:
    keys = [made(tmp_path, "ada"), made(tmp_path, "bob")]
    with serving(TOLD, *ON, "--api-keys-file", "keys", folder=tmp_path, variables=at.environment) as server:
        at.hold("ada model 0", "bob model 0")
        runs = []
        for name, key in zip(("ada", "bob"), keys, strict=True):
            server.client.headers.update(shown(key))
            runs.append(accepted(server, f"plan {name} read told"))
            at.reached(f"{name} model 0")
            accepted(server, f"of {name}")
            accepted(server, "elsewhere", "another")
        at.release()
        for name, key, run in zip(("ada", "bob"), keys, runs, strict=True):
            server.client.headers.update(shown(key))
            read, told = lines(server, run)
            by = {"id": name, "name": name}
            assert said(read) == [(f"of {name}", "queue", by)]
            assert told == {"count": 1, "senders": [by]}


def test_several_servers_tell_what_any_of_them_has_accepted(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with two(at, database, tmp_path, target=TOLD, flags=(ON, ON)) as (first, second):
        (session,) = sessions_of(first, second, most=1)
        at.hold("p model 0")
        run = accepted(second, "plan p read told", session)
        at.reached("p model 0")
        accepted(first, "here", session, sender=ADA)
        accepted(second, "there", session, sender=BOB)
        at.release()
        read, told = lines(second, run)
        assert said(read) == [("here", "queue", ADA), ("there", "queue", BOB)]
        assert told == {"count": 2, "senders": [ADA, BOB]}
