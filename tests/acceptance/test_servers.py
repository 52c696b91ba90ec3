"""`strandline serve --servers 2`: several servers behind one address, and the process that starts and replaces them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import COMMAND, DEADLINE_S, TARGETS, Server, environment, ran, refused, texts, until
from ports import reserved_port
from postgres_support import lease_of
from strandline._exits import EXITED_AT_ONCE
from strandline._journal.postgres.roster import roster

AGENT = TARGETS / "agent.py"
LEASE_MS = 3_000
ANSWERING = """
import os


async def answer(message, session):
    return f"{os.getpid()}"
"""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@contextmanager
def servers(
    target: str | Path, *flags: str, folder: Path, journal: str, count: int = 2, **options: Any
) -> Iterator[Server]:
    """Serve by several servers; all have ended when the `with` does."""
    lease_of(journal, LEASE_MS)
    server = Server(target, "--servers", str(count), *flags, folder=folder, journal=journal, installed=True, **options)
    try:
        server.start()
        yield server
    finally:
        left = processes(journal)
        server.close()
        until(lambda: all(map(gone, left)), f"all have ended: {left}\n{server.stderr}")
    assert "Traceback" not in server.stderr, server.stderr


def processes(journal: str) -> list[int]:
    """Return the process of each server that is there, as the database says."""
    return [
        int(each.name.split()[1])
        for each in roster(journal).servers
        if each.lease_left_s > 0 and not gone(pid_of(each))
    ]


def pid_of(row: Any) -> int:
    return int(row.name.split()[1])


def gone(pid: int) -> bool:
    """Return whether a process has ended, even if its exit code was not read yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


def answer(server: Server, message: str = "hello", session_id: str = "default") -> str:
    """Return the answer to a message that is sent on a connection of its own."""
    body = {"message": message, "session_id": session_id}
    response = httpx.post(f"{server.url}/chat", json=body, timeout=DEADLINE_S, trust_env=False)
    assert response.status_code == 200, response.text
    return str(response.json()["response"])


def submitted(server: Server, message: str, session_id: str) -> str:
    """Submit a run on a connection of its own, and return its id."""
    place = f"{server.url}/v1/sessions/{session_id}/runs"
    response = httpx.post(place, json={"input": message}, timeout=DEADLINE_S, trust_env=False)
    assert response.status_code == 202, response.text
    return str(response.json()["run_id"])


def health(port: int) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).json()
    return found


def said(server: Server, text: str, times: int = 1) -> None:
    """Return when the server has said `text` so often."""
    until(lambda: server.stderr.count(text) >= times, f"{text!r} {times} times\n{server.stderr}")


def made_key(folder: Path, name: str) -> str:
    """Make a key in the file `keys`, and return it."""
    done = ran("keys", "new", name, "--file", "keys", folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder: Path) -> None:
    (folder / "agent.py").write_text(ANSWERING)


def test_several_servers_behind_one_port_answer_for_all_sessions_in_order(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    own = reserved_port(2)
    with servers(AGENT, "--own-port", str(own), folder=tmp_path, journal=database, variables=at.environment) as server:
        announced = [line for line in server.stderr.splitlines() if " at http://" in line]
        assert len(announced) == 1
        assert re.search(r"serves .*agent.py:make_agent by 2 servers at http://127.0.0.1:\d+$", announced[0])
        names = [f"s{number}" for number in range(12)]
        runs = [(f"{name}-{turn}", submitted(server, f"{name}-{turn} a", name)) for turn in range(3) for name in names]
        for label, run_id in runs:
            assert server.run(run_id, wait_s=30)["output"] == f"{label}: did a"
        counts = []
        for port in (own, own + 1):
            assert health(port)["cluster"]["servers"] == 2
            metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
            found = re.search(r"^strandline_runs_accepted_total (\d+)", metrics, re.M)
            assert found is not None
            counts.append(int(found[1]))
        assert sum(counts) == 36
        assert min(counts) > 0
        for name in names:
            assert texts(server.history(name), "user") == [f"{name}-{turn} a" for turn in range(3)]


def test_a_killed_server_is_replaced_and_nothing_that_was_accepted_is_lost(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    """Its clients lose their connections, and send again with the same key."""
    names = [f"s{number}" for number in range(8)]
    with servers(AGENT, folder=tmp_path, journal=database, variables=at.environment) as server:
        before = processes(database)
        at.hold(*(f"{name}-1 a" for name in names))

        def talk(name: str) -> list[str]:
            answers = [insisted(server, f"{name}-{turn} a", name).json() for turn in range(4)]
            runs = [server.run(each["run_id"]) for each in answers]
            return [each["error"]["code"] if each["status"] == "failed" else each["status"] for each in runs]

        with ThreadPoolExecutor(len(names)) as pool:
            talks = {name: pool.submit(talk, name) for name in names}
            at.reached(*(f"{name}-1 a" for name in names))
            os.kill(before[0], signal.SIGKILL)
            said(server, f"process {before[0]} has ended: killed by SIGKILL; another one starts")
            at.release()
            outcomes = {name: each.result(DEADLINE_S) for name, each in talks.items()}
        until(lambda: len(processes(database)) == 2, "another one has come")
        assert before[0] not in processes(database)
        assert before[1] in processes(database)
        for name in names:
            assert texts(server.history(name), "user") == [f"{name}-{turn} a" for turn in range(4)]
        crashed = [name for name, found in outcomes.items() if found[1] == "crashed"]
        assert 0 < len(crashed) < len(names), outcomes
        assert {each for found in outcomes.values() for turn, each in enumerate(found) if turn != 1} == {"succeeded"}
    begun = [step for step in at.steps if step.endswith(" a")]
    assert len(begun) == len(set(begun)), "a tool was started twice"


def insisted(server: Server, message: str, session_id: str) -> httpx.Response:
    """Send a message until it is answered, as one request."""
    end = time.monotonic() + DEADLINE_S
    while True:
        with suppress(httpx.TransportError):
            response = httpx.post(
                f"{server.url}/chat",
                json={"message": message, "session_id": session_id},
                headers={"Idempotency-Key": message},
                timeout=DEADLINE_S,
                trust_env=False,
            )
            if response.status_code not in (202, 502, 503):
                return response
        assert time.monotonic() < end, f"{message!r} was not answered\n{server.stderr}"


def test_a_stop_lets_what_executes_finish_at_all_servers_and_refuses_the_rest(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    names = [f"s{number}" for number in range(6)]
    with servers(AGENT, "--drain-grace", "60", folder=tmp_path, journal=database, variables=at.environment) as server:
        at.hold(*(f"{name} model 0" for name in names))
        pending = [server.ask(name, name) for name in names]
        at.reached(*(f"{name} model 0" for name in names))
        server.terminate()
        said(server, ": stopping", 2)
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            for number in range(8):
                late = client.post("/chat", json={"message": "late", "session_id": f"late{number}"})
                assert late.status_code == 503
                assert late.json()["code"] in ("draining", "moved")
            assert client.get("/readyz").json()["status"] == "draining"
        server.terminate()  # (supervisors repeat it)
        at.release()
        assert [each.result().json()["response"] for each in pending] == names
        assert server.ended() == 0
        assert server.stderr.count(": stopped") == 2


def test_a_second_ctrl_c_ends_all_at_once(at: Checkpoints, database: str, tmp_path: Path) -> None:
    with servers(AGENT, "--drain-grace", "60", folder=tmp_path, journal=database, variables=at.environment) as server:
        at.hold("one model 0")
        server.ask("one")
        at.reached("one model 0")
        server.signal(signal.SIGINT)
        said(server, ": stopping", 2)
        server.signal(signal.SIGINT)
        assert server.ended() == 130
        assert EXITED_AT_ONCE in server.stderr


def test_what_a_terminal_sends_reaches_all_and_ends_them_cleanly(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    command = [str(COMMAND), "serve", str(AGENT), "--servers", "2", "--port", "0", "--journal", database]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(at.environment), stderr=subprocess.PIPE, text=True, process_group=0
    ) as parent:
        assert parent.stderr is not None
        lines = iter(parent.stderr.readline, "")
        url = next(line for line in lines if " at http://" in line).split(" at ")[1].strip()
        at.hold("one model 0")
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(
                httpx.post, f"{url}/chat", json={"message": "one"}, timeout=DEADLINE_S, trust_env=False
            )
            at.reached("one model 0")
            os.killpg(parent.pid, signal.SIGINT)
            next(line for line in lines if line.endswith(": stopping\n"))
            at.release()
            assert pending.result(DEADLINE_S).json()["response"] == "one"
        rest = "".join(lines)
        assert parent.wait(DEADLINE_S) == 0
        assert "Traceback" not in rest


def test_no_server_outlives_a_parent_that_is_killed_and_the_next_one_resumes_their_runs(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    port = reserved_port()
    names = [f"s{number}" for number in range(6)]
    with servers(
        AGENT, "--drain-grace", "0.2", folder=tmp_path, journal=database, port=port, variables=at.environment
    ) as server:
        children = processes(database)
        assert len(children) == 2
        at.hold(*(f"{name} model 1" for name in names))
        runs = [
            server.client.post(f"/v1/sessions/{name}/runs", json={"input": f"{name} a"}).json()["run_id"]
            for name in names
        ]
        at.reached(*(f"{name} model 1" for name in names))
        server.signal(signal.SIGKILL)
        until(lambda: all(map(gone, children)), "the servers have ended")
        server.ended()
        at.release()
        server.start()
        assert not set(children) & set(processes(database))
        assert [server.run(each, wait_s=30)["output"] for each in runs] == [f"{name}: did a" for name in names]
    assert sorted(step for step in at.steps if step.endswith(" a")) == sorted(f"{name} a" for name in names)


def test_a_server_that_is_stopped_alone_is_replaced_and_no_client_is_refused(
    at: Checkpoints, database: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with servers("agent.py:answer", folder=tmp_path, journal=database) as server:
        first, second = processes(database)
        os.kill(first, signal.SIGTERM)
        while f"process {first} has ended: exit code 0; another one starts" not in server.stderr:
            answer(server)
        until(lambda: len(processes(database)) == 2, "another one has come")
        assert second in processes(database)


def test_a_server_that_has_lost_its_lease_is_replaced(at: Checkpoints, database: str, tmp_path: Path) -> None:
    write(tmp_path)
    with servers("agent.py:answer", folder=tmp_path, journal=database) as server:
        first, second = processes(database)
        os.kill(first, signal.SIGSTOP)
        try:
            until(lambda: len(roster(database).servers) == 1, "it is over")
        finally:
            os.kill(first, signal.SIGCONT)
        said(server, f"process {first} has ended: its lease on the journal was lost; another one starts")
        until(lambda: len(processes(database)) == 2, "another one has come")
        assert second in processes(database)


def test_a_server_that_replaces_another_has_its_ports_and_the_settings_of_the_start(
    database: str, tmp_path: Path
) -> None:
    write(tmp_path)
    own, inner = reserved_port(2), reserved_port(2)
    (tmp_path / "strandline.toml").write_text('agent_id = "before"\n')
    flags = ["--own-port", str(own), "--cluster-listen", f"127.0.0.1:{inner}"]
    with servers("agent.py:answer", *flags, folder=tmp_path, journal=database) as server:
        addresses = [f"127.0.0.1:{inner}", f"127.0.0.1:{inner + 1}"]
        assert sorted(each.address for each in roster(database).servers) == addresses
        (tmp_path / "strandline.toml").write_text('agent_id = "after"\n')
        killed = next(pid_of(each) for each in roster(database).servers if each.address == addresses[1])
        os.kill(killed, signal.SIGKILL)
        said(server, " is ready")
        assert [health(port)["agent_id"] for port in (own, own + 1)] == ["before", "before"]
        replaced = [each.address for each in roster(database).servers if pid_of(each) != killed]
        assert sorted(replaced) == addresses


def test_each_line_of_the_log_names_its_server(at: Checkpoints, database: str, tmp_path: Path) -> None:
    flags = ["--workers", "2", "--log-format", "json"]
    server = Server(AGENT, "--servers", "2", *flags, folder=tmp_path, journal=database, variables=at.environment)
    server.announcement = re.compile(r' at http://[\w.]+:(\d+)"')
    lease_of(database, LEASE_MS)
    try:
        server.start()
        both = set(processes(database))
        for number in range(8):
            assert server.client.post("/chat", json={"message": "x !a", "session_id": f"s{number}"}).status_code in (
                200,
                500,
            )
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    assert {line["server"] for line in lines if line["message"] == "stopped"} == both
    assert {line.get("server") for line in lines} == both | {None}
    assert [line["message"] for line in lines if "server" not in line] == [
        next(line["message"] for line in lines if " by 2 servers at http://" in line["message"])
    ]


@pytest.mark.parametrize("keys", [False, True])
def test_a_hangup_stops_all_unless_there_is_a_file_of_keys_to_read_again(
    database: str, tmp_path: Path, keys: bool
) -> None:
    write(tmp_path)
    made = made_key(tmp_path, "ada")
    flags = ["--api-keys-file", "keys"] if keys else []
    with servers("agent.py:answer", *flags, folder=tmp_path, journal=database) as server:
        if keys:
            (tmp_path / "keys").write_text("")
            made_key(tmp_path, "bob")
            shown = {"Authorization": f"Bearer {made}"}
            server.signal(signal.SIGHUP)
            said(server, "the keys have changed: 1 new, 1 gone, 1 in all", 2)
            assert httpx.get(f"{server.url}/v1/runs", headers=shown, trust_env=False).status_code == 401
        else:
            server.signal(signal.SIGHUP)
            assert server.ended() == 0


def test_all_stop_when_none_has_anything_to_do(database: str, tmp_path: Path) -> None:
    write(tmp_path)
    with servers("agent.py:answer", "--idle-timeout-minutes", "0.02", folder=tmp_path, journal=database) as server:
        assert server.ended() == 0
        assert "no server has had a run or a request for 0.02 minutes" in server.stderr
        assert server.stderr.count(": stopped") == 2


def test_the_library_starts_several_servers_too_and_shows_their_settings_to_nobody(
    database: str, tmp_path: Path
) -> None:
    write(tmp_path)
    program = tmp_path / "program.py"
    program.write_text(
        "import os, strandline\n"
        "raise SystemExit(strandline.serve('agent.py:answer', servers=2, port=0, journal=os.environ['PLACE']))\n"
    )
    lease_of(database, LEASE_MS)
    with subprocess.Popen(
        [sys.executable, program], cwd=tmp_path, env=environment({"PLACE": database}), stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stderr is not None
        lines = iter(parent.stderr.readline, "")
        url = next(line for line in lines if " by 2 servers at http://" in line).split(" at ")[1].strip()
        children = processes(database)
        body = {"message": "x", "session_id": "s"}
        answered = httpx.post(f"{url}/chat", json=body, timeout=DEADLINE_S, trust_env=False)
        assert int(answered.json()["response"]) in children
        for pid in children:
            arguments = Path(f"/proc/{pid}/cmdline")
            assert not arguments.exists() or database.encode() not in arguments.read_bytes()
        parent.terminate()
        rest = "".join(lines)
        assert parent.wait(DEADLINE_S) == 0
        assert "Traceback" not in rest


def test_several_servers_need_a_journal_that_they_can_share(tmp_path: Path) -> None:
    write(tmp_path)
    for journal in ("sqlite:journal.db", "memory:"):
        message = refused("agent.py:answer", "--servers", "2", "--journal", journal, folder=tmp_path)
        assert f"servers is 2, and the journal is {journal}" in message
        assert "PostgreSQL" in message
        assert "`workers`" in message
    assert not (tmp_path / "journal.db").exists()


def test_reloading_needs_one_server(tmp_path: Path) -> None:
    write(tmp_path)
    message = refused("agent.py:answer", "--reload", folder=tmp_path, STRANDLINE_SERVERS="2")
    assert "servers is 2 (STRANDLINE_SERVERS), and --reload has one server after the other" in message


def test_what_keeps_a_server_from_starting_is_said_once_and_ends_the_command(database: str, tmp_path: Path) -> None:
    write(tmp_path)
    several = ["--servers", "3", "--port", "0", "--journal", database]
    message = refused("nothing.py", *several, folder=tmp_path)
    assert message.count("nothing.py") == 1
    away = "postgresql://strandline@/none?host=/nowhere"
    message = refused("agent.py:answer", "--servers", "3", "--port", "0", "--journal", away, folder=tmp_path)
    assert message.count("the database cannot be reached") == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused("agent.py:answer", *several[:2], "--port", port, "--journal", database, folder=tmp_path)
        assert message.count(f"cannot listen on 127.0.0.1 port {port}") == 1
        flags = [*several, "--own-port", port]
        assert message.count("cannot listen") == refused("agent.py:answer", *flags, folder=tmp_path).count(
            "cannot listen"
        )
    assert "own_port has port 65535" in refused("agent.py:answer", *several, "--own-port", "65535", folder=tmp_path)
