"""A real server whose log nobody takes: a pipe that is not read, a disk that is full."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from acceptance.server import COMMAND, DEADLINE_S, environment, until
from ports import reserved_port

AGENT = """
import logging, sys

async def answer(message, session):
    log = logging.getLogger("agent")
    for number in range(200):
        log.warning("%s %d %s", message, number, "x" * 10_000)
    return message
"""


class Process:
    """`strandline serve`, with a standard error output of the test's choice."""

    def __init__(self, folder: Path, stderr: int, *flags: str) -> None:
        (folder / "agent.py").write_text(AGENT)
        self.port = reserved_port()
        self.process = subprocess.Popen(
            [COMMAND, "serve", "agent.py:answer", "--port", str(self.port), "--journal", "memory:", *flags],
            cwd=folder, env=environment({}), stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
        )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=DEADLINE_S, trust_env=False)
        until(self._ready, "ready")

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}"
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)


@pytest.fixture
def unread() -> Iterator[tuple[int, int]]:
    """A pipe, as small as one can be."""
    reader, writer = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_reader_who_stops_reading_freezes_nothing(tmp_path: Path, unread: tuple[int, int], form: str) -> None:
    """Requests are answered, probes too, and the server stops on SIGTERM."""
    server = Process(tmp_path, unread[1], "--log-format", form)
    try:
        for number in range(4):
            answer = server.client.post("/chat", json={"message": f"m{number}"})
            assert answer.json()["status"] == "success"
        assert server.client.get("/health").json()["status"] == "healthy"
        metrics = server.client.get("/metrics").text
        dropped = next(line for line in metrics.splitlines() if line.startswith("strandline_log_lines_dropped_total "))
        assert float(dropped.split()[1]) > 0
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(DEADLINE_S) == 0
    finally:
        server.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no such device")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_log_on_a_full_disk_ends_no_server(tmp_path: Path, form: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        server = Process(tmp_path, full, "--log-format", form)
        try:
            assert server.client.post("/chat", json={"message": "hi"}).json()["status"] == "success"
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(DEADLINE_S) == 0
        finally:
            server.close()
    finally:
        os.close(full)
