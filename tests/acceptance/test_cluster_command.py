"""`strandline cluster`: the servers over one database, seen and drained from a terminal."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from acceptance.server import COMMAND, TARGETS, Server, environment, serving, until
from strandline._journal.postgres.wire import Wire

AGENT = TARGETS / "agent.py"
DEADLINE_S = 60


def cluster(database: str, *arguments: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, "cluster", *arguments, "--journal", database],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done


def shown(database: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster(database, "--json").stdout)
    return found


def metric(server: Server, name: str) -> float:
    text = server.client.get("/metrics").raise_for_status().text
    (found,) = re.findall(rf"^strandline_{name} (\S+)$", text, re.MULTILINE)
    return float(found)


def owned(server: Server) -> float:
    return metric(server, "cluster_partitions_owned")


def test_a_drained_server_hands_its_sessions_over_goes_on_answering_and_can_be_filled_again(
    database: str, tmp_path: Path
) -> None:
    second = Server(AGENT, folder=tmp_path, journal=database)
    with serving(AGENT, folder=tmp_path, journal=database) as first:
        try:
            second.start()
            until(lambda: all(each["partitions"] for each in shown(database)["servers"]), "each has a share")
            servers = shown(database)["servers"]
            assert [each["leaving"] for each in servers] == [False, False]
            assert sum(each["partitions"] for each in servers) == 256
            assert all(0 < each["lease_left_s"] <= 10 for each in servers)
            drained = servers[0]["id"]
            until(lambda: owned(first) + owned(second) == 256, "and says so")
            assert [metric(each, "cluster_servers") for each in (first, second)] == [2, 2]
            given = metric(first, "cluster_partitions_ceded_total")

            assert cluster(database, "drain", str(drained)).stdout == (
                f"Server {drained} takes no more sessions, and has none.\n"
            )
            table = cluster(database).stdout.splitlines()
            assert table[0].split()[:2] == ["SERVER", "OWNS"]
            assert [" ".join(line.split()[:5]).rstrip("0123456789 ") for line in table[1:]] == [
                f"{drained} 0 of 256, leaving",
                f"{servers[1]['id']} 256 of",
            ]
            assert metric(first, "cluster_partitions_ceded_total") == given + servers[0]["partitions"]
            until(lambda: owned(second) == 256, "the other one has everything")
            assert metric(second, "cluster_partitions_gained_total") >= servers[0]["partitions"]
            assert metric(second, "cluster_partitions_unowned") == 0
            assert "anonymous has no such session yet" in cluster(database, "owner", "s").stderr
            answer = first.client.post("/chat", json={"message": "hello", "session_id": "s"})
            assert answer.status_code == 200, answer.text
            owner = servers[1]
            found = json.loads(cluster(database, "owner", "s", "--json").stdout)
            assert found["server"]["id"] == owner["id"]
            assert (found["caller"], found["exists"], found["partition"]) == ("anonymous", True, 9)
            done = cluster(database, "owner", "s")
            head, row = done.stdout.splitlines()
            assert head.split() == ["SESSION", "PART", "SERVER", "LEASE", "ADDRESS", "PROCESS"]
            assert row.split()[:3] == ["s", str(found["partition"]), str(owner["id"])]
            assert row.endswith(owner["name"])
            assert owner["address"] in row
            assert done.stderr == ""
            assert json.loads(cluster(database, "owner", "s", "--caller", "bob", "--json").stdout)["exists"] is False
            assert "session_id must be" in cluster(database, "owner", "no spaces", expected=2).stderr

            cluster(database, "fill", str(drained))
            until(lambda: all(each["partitions"] for each in shown(database)["servers"]), "it has its share again")
        finally:
            second.close()
        assert "no server 99" in cluster(database, "drain", "99", expected=2).stderr
    wire = Wire(database)
    wire.execute("UPDATE partitions SET owner = NULL")
    wire.close()
    done = cluster(database, "owner", "s")
    assert done.stdout.splitlines()[1].split()[2:] == ["-", "-", "-", "-"]
    assert done.stderr.startswith("No server has it at the moment")


def test_without_a_database_it_says_what_to_name(database: str, tmp_path: Path) -> None:
    assert "--journal postgresql://" in cluster(f"sqlite:{tmp_path}/x.db", expected=2).stderr
    unused = cluster(database, expected=2).stderr
    assert unused.startswith("strandline: No server has used this database yet"), unused
    secret = cluster("postgresql://ada:secret@127.0.0.1:1/x", expected=2).stderr
    assert "secret" not in secret
