"""Schedules of installed servers: over HTTP, with the client and the command, over kills, and with several servers."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import TARGETS, Server, ran, serving, until
from postgres_support import lease_of
from strandline.client import Client

AGENT = TARGETS / "agent.py"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("schedules")
    with serving(AGENT, "--max-schedules-per-caller", "5", folder=folder, variables=at.environment) as made:
        yield made


def post(server: Server, **body: Any) -> httpx.Response:
    return server.client.post("/v1/schedules", json={"session_id": "s", "input": "tick", **body})


def made(server: Server, **body: Any) -> dict[str, Any]:
    answer = post(server, **body)
    assert answer.status_code == 201, answer.text
    schedule: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/schedules/{schedule['schedule_id']}"
    return schedule


def fired(server: Server, schedule: dict[str, Any]) -> list[float]:
    """Return the times that have a run of a schedule, in the order of the runs."""
    found = server.client.get(f"/v1/sessions/{schedule['session_id']}/runs", params={"limit": 1000}).json()["runs"]
    of = [run["metadata"]["schedule"] for run in sorted(found, key=lambda run: run["created_at"])]
    return [each["at"] for each in of if each["schedule_id"] == schedule["schedule_id"] and each["at"] is not None]


def test_a_schedule_is_made_read_changed_run_and_deleted(server: Server) -> None:
    schedule = made(server, cron="0 9 * * MON-FRI", timezone="Europe/Berlin", metadata={"k": 1})
    path = f"/v1/schedules/{schedule['schedule_id']}"
    assert (schedule["overlap"], schedule["missed"], schedule["paused"], len(schedule["next"])) == (
        "enqueue", "once", False, 5,
    )  # fmt: skip
    assert server.client.get(path).json() == schedule
    assert server.client.get("/v1/schedules", params={"session_id": "s"}).json()["schedules"] == [schedule]
    assert server.client.get("/v1/schedules", params={"session_id": "t"}).json()["schedules"] == []
    run = server.client.post(f"{path}/run")
    assert (run.status_code, run.json()["session_id"], run.json()["metadata"]["k"]) == (202, "s", 1)
    assert server.run(run.json()["run_id"], 20)["output"] == "tick"
    paused = server.client.patch(path, json={"paused": True, "input": "tock"}).json()
    assert (paused["paused"], paused["next"], paused["input"], paused["cron"]) == (True, [], "tock", schedule["cron"])
    assert server.client.patch(path, json={"every": 0.5}).status_code == 422
    assert server.client.delete(path).status_code == 204
    assert [server.client.request(each, path).status_code for each in ("GET", "PATCH", "DELETE")] == [404] * 3
    assert server.client.post(f"{path}/run").status_code == 404


def test_what_is_no_schedule_is_refused(server: Server) -> None:
    for body in ({}, {"cron": "x"}, {"every": 1, "cron": "* * * * *"}, {"cron": "* * * * *", "timezone": "Mars"}):
        refused = post(server, **body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid"), body
    schedules = [made(server, every=1000) for _ in range(5)]
    full = post(server, every=1000)
    assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (429, "too_many_schedules", "60")
    for each in schedules:
        server.client.delete(f"/v1/schedules/{each['schedule_id']}")


def test_a_client_and_the_command_make_show_and_delete_schedules(server: Server) -> None:
    url = server.url
    with Client(url) as client:
        one = client.schedule("from a client", "cli", cron="30 8 * * *")
        assert [each.schedule_id for each in client.schedules("cli")] == [one.schedule_id]
        client.delete_schedule(one.schedule_id)
    added = ran(
        "schedules",
        "add",
        "cli",
        "say hello",
        "--every",
        "1000",
        "--option",
        "priority=1",
        "--url",
        url,
        folder=server.folder,
    )
    assert added.returncode == 0, added.stderr
    schedule_id = added.stdout.split()[0]
    assert server.client.get(f"/v1/schedules/{schedule_id}").json()["priority"] == 1
    listed = ran("schedules", "--session", "cli", "--url", url, folder=server.folder).stdout.splitlines()
    assert listed[0].split() == ["SCHEDULE", "SESSION", "WHEN", "NEXT", "LAST", "RUN", "WHAT"]
    assert listed[1].startswith(schedule_id)
    assert listed[1].endswith("say hello")
    changes = ("--text", "say bye", "--cron", "0 9 * * MON", "--overlap", "skip")
    changed = ran("schedules", "change", schedule_id, *changes, "--url", url, folder=server.folder)
    assert (changed.returncode, "is changed. It fires next at" in changed.stdout) == (0, True), changed.stderr
    shown = ran("schedules", "show", schedule_id, "--url", url, folder=server.folder).stdout
    assert re.search(r"^session +cli$", shown, re.M)
    assert re.search(r"^when +0 9 \* \* MON UTC$", shown, re.M)
    assert re.search(r"^overlap +skip$", shown, re.M)
    assert re.search(r"^what +say bye$", shown, re.M)
    as_json = ran("schedules", "show", schedule_id, "--json", "--url", url, folder=server.folder).stdout
    assert json.loads(as_json) == server.client.get(f"/v1/schedules/{schedule_id}").json()
    options = ("--option", 'metadata={"team": "blue"}', "--option", "queue-timeout=60", "--option", "priority=null")
    ran("schedules", "change", schedule_id, *options, "--url", url, folder=server.folder)
    has = server.client.get(f"/v1/schedules/{schedule_id}").json()
    assert (has["metadata"], has["queue_timeout"], has["priority"]) == ({"team": "blue"}, 60, None)
    for wrong, says in (
        (("--option", "webhok=null"), "priority, timeout, queue_timeout, metadata, sender, webhook"),
        (("--option", "priority=1", "--option", "priority=2"), "say once"),
        (("--option", "webhook=x"), "as JSON"),
    ):
        refused = ran("schedules", "change", schedule_id, *wrong, "--url", url, folder=server.folder)
        assert (refused.returncode, says in " ".join(refused.stderr.split())) == (2, True), refused.stderr
    nothing = ran("schedules", "change", schedule_id, "--url", url, folder=server.folder)
    assert (nothing.returncode, "say what to change" in nothing.stderr) == (2, True)
    for verb, answer in (
        ("pause", "is paused."),
        ("resume", "is resumed."),
        ("run", "run_"),
        ("delete", "is deleted."),
    ):
        done = ran("schedules", verb, schedule_id, "--url", url, folder=server.folder)
        assert (done.returncode, answer in done.stdout) == (0, True), done.stderr
    gone = ran("schedules", "pause", schedule_id, "--url", url, folder=server.folder)
    assert (gone.returncode, "`strandline schedules` lists the schedules" in gone.stderr) == (2, True)
    assert "There are no schedules" in ran("schedules", "--session", "cli", "--url", url, folder=server.folder).stderr


def test_each_time_fires_once_although_the_server_is_killed(at: Checkpoints, tmp_path: Path) -> None:
    """With `all` every time has its one run, whatever a kill comes upon."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        schedule = made(server, every=1, missed="all")
        for _ in range(3):
            before = len(fired(server, schedule))
            until(lambda: len(fired(server, schedule)) >= before + 2, "fired")  # noqa: B023  (called at once)
            server.kill()
            server.start()
        until(lambda: len(fired(server, schedule)) >= 8, "fired")
        times = fired(server, schedule)
    assert len(set(times)) == len(times)
    assert [round(after - before) for before, after in itertools.pairwise(times)] == [1] * (len(times) - 1)


def test_another_server_fires_once_the_one_that_did_is_killed(at: Checkpoints, database: str, tmp_path: Path) -> None:
    """Any server makes, changes and shows them; each time fires once over the takeover."""
    lease_of(database, 4_000)
    second = Server(AGENT, folder=tmp_path, journal=database, variables=at.environment)
    with serving(AGENT, folder=tmp_path, journal=database, variables=at.environment) as first:
        try:
            second.start()
            until(lambda: first.health()["cluster"]["partitions"] < 200, "shared")
            all_of = [made(first, session_id=f"s{number}", every=1, missed="all") for number in range(6)]
            for each in all_of:
                path = f"/v1/schedules/{each['schedule_id']}"
                assert second.client.get(path).json()["input"] == "tick"
                assert second.client.patch(path, json={"input": "tock"}).status_code == 200
            assert len(second.client.get("/v1/schedules").json()["schedules"]) == 6
            until(lambda: all(len(fired(first, each)) >= 2 for each in all_of), "fired")
            second.kill()
            fresh = [len(fired(first, each)) for each in all_of]
            until(
                lambda: all(len(fired(first, each)) > was + 1 for each, was in zip(all_of, fresh, strict=True)),
                "fired by the other one",
            )
            for each in all_of:
                times = fired(first, each)
                assert [round(after - before) for before, after in itertools.pairwise(times)] == [1] * (len(times) - 1)
        finally:
            second.close()
