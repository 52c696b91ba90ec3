"""Servers that others cannot reach are named: by `strandline doctor`, and in the log of a server that starts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.server import TARGETS, Server, ran, serving, until
from acceptance.test_doctor import BARE
from postgres_support import lease_of

AGENT = TARGETS / "agent.py"
NOWHERE = "127.0.0.1:1"
LEASE_MS = 3_000


@pytest.fixture
def lost(database: str, tmp_path: Path) -> Iterator[Server]:
    """A server of two, at which the others look at a wrong address."""
    lease_of(database, LEASE_MS)
    server = Server(AGENT, folder=tmp_path, journal=database, variables={"STRANDLINE_CLUSTER_ADDRESS": NOWHERE})
    try:
        server.start()
        yield server
    finally:
        server.close()


def said_of_servers(database: str, folder: Path, *, expected: int) -> list[dict[str, str]]:
    done = ran("doctor", str(AGENT), "--json", folder=folder, variables={**BARE, "STRANDLINE_JOURNAL": database})
    assert done.returncode == expected, done.stdout + done.stderr
    return [each for each in json.loads(done.stdout) if each["about"] == "servers"]


def test_doctor_names_the_server_that_is_not_reached_and_says_what_to_set(
    database: str, lost: Server, tmp_path: Path
) -> None:
    with serving(AGENT, folder=tmp_path, journal=database) as well:
        (found,) = said_of_servers(database, tmp_path, expected=1)
        assert found["level"] == "problem"
        assert re.search(rf"^server \d+ \(process {lost.pid} on .*\) cannot be reached", found["message"])
        assert NOWHERE in found["message"]
        assert "cluster_listen" in found["fix"]
        assert "cluster_address" in found["fix"]
        lost.terminate()
        assert lost.ended() == 0
        (found,) = said_of_servers(database, tmp_path, expected=0)
        assert (found["level"], found["message"]) == (
            "ok", "the only server is reached from here at the address that others use"
        )  # fmt: skip
        denied = re.search(r'^strandline_requests_denied_total\{reason="no_server"\} (\S+)$',
                           well.client.get("/metrics").text, re.M)  # fmt: skip
        assert denied is not None
        assert float(denied[1]) == 0, "it was believed"


def test_a_server_that_starts_says_once_which_it_cannot_reach_and_that_it_is_not_reached(
    database: str, lost: Server, tmp_path: Path
) -> None:
    until(lambda: f"this server cannot be reached at {NOWHERE}" in lost.stderr, "it has looked")
    with serving(AGENT, folder=tmp_path, journal=database) as second:
        until(lambda: f"cannot be reached at {NOWHERE}" in second.stderr, "it has looked")
        assert "cluster_address" in second.stderr
        assert second.stderr.count("cannot be reached") == 1
        assert "this server" not in second.stderr
