"""Many streams at once, and clients that read slowly: nothing is lost, no run waits, and memory has a bound."""

import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from acceptance.events import ACCEPT, Sent, ids_of_a_run, listening
from acceptance.server import DEADLINE_S, TARGETS, Server, serving

SESSIONS = 50
PIECES = 200
SLOW = 5
LONG, WIDE = 150_000, 10
"""Pieces and their size: the events of such a run have 22 MB, of which 1.5 MB are stored."""
GROWTH = 40_000_000
"""What the server may grow by. It is 10 MB, and 80 if clients that do not read are written to all the same."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(f"{TARGETS / 'talking.py'}:answer", folder=tmp_path, installed=True) as made:
        yield made


def test_fifty_sessions_that_talk_at_once_are_each_heard_whole_and_in_order(server: Server) -> None:
    def hear(number: int) -> list[Sent]:
        body = {"input": f"{PIECES} 6 in step at {rendezvous.getsockname()[1]}"}
        with listening(server, "POST", f"/v1/sessions/s{number}/runs", json=body) as ear:
            return ear.rest()

    with (
        closing(socket.create_server(("127.0.0.1", 0), backlog=SESSIONS)) as rendezvous,
        ThreadPoolExecutor(SESSIONS + 1) as pool,
    ):
        rendezvous.settimeout(DEADLINE_S)
        steps = pool.submit(keep_in_step, rendezvous)
        all_heard = list(pool.map(hear, range(SESSIONS)))
        assert steps.result(DEADLINE_S) == PIECES
    whole = [f"{number} ".ljust(6, ".") for number in range(PIECES)]
    for heard in all_heard:
        assert ids_of_a_run(heard)
        assert [each.data["text"] for each in heard if each.type == "text.delta"] == whole
        assert len({each.data["run_id"] for each in heard}) == 1
        assert heard[-1].data["output"] == "".join(whole)
    assert len({heard[0].data["run_id"] for heard in all_heard}) == SESSIONS


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_clients_that_do_not_read_slow_no_run_and_take_no_memory_and_hear_of_what_they_missed(server: Server) -> None:
    talk = {"input": f"{LONG} {WIDE}"}
    for _ in range(2):  # what such a run takes by itself
        run = server.client.post("/v1/sessions/long/runs", json=talk, headers={"Prefer": "wait=30"}).json()
        assert run["status"] == "succeeded"
    before = memory(server.pid)
    run_id = server.client.post("/v1/sessions/long/runs", json=talk).json()["run_id"]
    with ExitStack() as stack:
        slow = [stack.enter_context(not_reading(server, run_id)) for _ in range(SLOW)]
        assert server.run(run_id, wait_s=int(DEADLINE_S))["status"] == "succeeded"
        assert memory(server.pid) - before < GROWTH, f"{SLOW} times its events would be {SLOW * 22} MB"
        heard = unchunked(b"".join(iter(lambda: slow[0].recv(1 << 20), b"")))
    events = [json.loads(line[6:]) for line in heard.split(b"\n") if line.startswith(b"data: ") and line.endswith(b"}")]
    kinds = [each["type"] for each in events]
    assert "stream.gap" in kinds
    assert kinds[-1] == "run.finished"
    assert len(events[-1]["output"]) == LONG * WIDE


def keep_in_step(rendezvous: socket.socket) -> int:
    """Let all sessions say each piece when all have said the one before; return how many pieces that were."""
    with ExitStack() as stack:
        talking = [stack.enter_context(rendezvous.accept()[0]) for _ in range(SESSIONS)]
        for each in talking:
            each.settimeout(DEADLINE_S)
        steps = 0
        while all(each.recv(1) for each in talking):
            for each in talking:
                each.sendall(b".")
            steps += 1
        return steps


def unchunked(answer: bytes) -> bytes:
    """Return the body of an answer, whose pieces (RFC 9112, section 7.1) may begin anywhere in an event."""
    parts, at = [], answer.index(b"\r\n\r\n") + 4
    while size := int(answer[at : (end := answer.index(b"\r\n", at))], 16):
        parts.append(answer[end + 2 : end + 2 + size])
        at = end + size + 4
    return b"".join(parts)


def not_reading(server: Server, run_id: str) -> socket.socket:
    """Ask for the events of a run, and read nothing."""
    parts = urlsplit(server.url)
    client = socket.socket()
    client.settimeout(DEADLINE_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((parts.hostname, parts.port))
    head = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
    client.sendall(f"{head}Accept: {ACCEPT['Accept']}\r\n\r\n".encode())
    return client


def memory(pid: int) -> int:
    """Return the bytes that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
