"""A server whose disk is full says so, loses nothing, and resumes by itself when there is space again.

Two kinds of full disk: a small one that is really full, where this process may mount one, and a limit for the size of
files that is set on the running server, which works everywhere on Linux.
"""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, serving, texts, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mount or prlimit")

DISK_BYTES: Final = 2 << 20
REQUESTS: Final = 200


class Disk(Protocol):
    folder: Path

    def fill(self, server: Server) -> None: ...
    def make_room(self, server: Server) -> None: ...


class SmallDisk:
    """A file system in memory, filled up with one large file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: Server) -> None:
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError as full:
                assert full.errno == errno.ENOSPC, full  # noqa: PT017

    def make_room(self, server: Server) -> None:
        (self.folder / "ballast").unlink()


class LimitedFiles:
    """No file of the server may grow beyond a page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: Server) -> None:
        self._limit(server, 4096)

    def make_room(self, server: Server) -> None:
        with suppress(AssertionError):  # a new process has no limit
            self._limit(server, -1)

    def _limit(self, server: Server, most: int) -> None:
        import resource

        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard if most < 0 else most, hard))


@pytest.fixture(params=["mounted", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "limited":
        yield LimitedFiles(tmp_path)
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "strandline-test", str(tmp_path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield SmallDisk(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def to_the_last_byte(at: Checkpoints) -> dict[str, str]:
    """Return the variables of a server that leaves no room to what was accepted."""
    return at.environment | {"STRANDLINE_DISK_RESERVE_BYTES": "0"}


def ask_until_refused(server: Server, disk: Disk) -> list[str]:
    """Ask in sessions of their own until the disk is full; return those of runs that were accepted, who must be kept.

    What room the server still finds in its own files is taken away too. A run may be accepted with the last of it: then
    its end waits for room, and its client with it.
    """
    accepted: list[str] = []
    for n in range(REQUESTS):
        disk.fill(server)
        session = f"while-full-{n}"
        pending = server.ask("more", session)
        until(lambda sent=pending: sent.done() or "cannot be stored yet" in server.stderr, "an answer, or none")  # type: ignore[misc]
        if not pending.done() or pending.result().status_code == 200:
            accepted.append(session)
            if pending.done():
                continue
            disk.fill(server)
            return accepted
        response = pending.result()
        assert response.status_code == 503, response.text
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["code"] == "journal_unavailable"
        assert int(response.headers["Retry-After"]) >= 1
        assert server.history(session) == []
        disk.fill(server)
        return accepted
    raise AssertionError(f"the disk was not full after {REQUESTS} runs")


def readiness(server: Server) -> tuple[int, str]:
    answer = server.client.get("/readyz")
    return answer.status_code, answer.json()["status"]


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "killed"])
def test_a_full_disk_loses_nothing_and_needs_no_restart(disk: Disk, at: Checkpoints, killed: bool) -> None:
    server = Server(TARGETS / "agent.py", folder=disk.folder, variables=to_the_last_byte(at))
    try:
        server.start()
        server.chat("before")
        at.hold("running model 0")
        running = server.ask("running", "running")
        at.reached("running model 0")
        (waiting,) = server.line_up("waiting", session_id="running")
        server.wait_until_stored()
        accepted = ask_until_refused(server, disk)
        assert server.client.get("/livez").status_code == 200
        at.release()
        # One run is named for all: this one, or one that was accepted with the last of the room.
        until(lambda: "cannot be stored yet" in server.stderr, "the end of a run finds no room")
        assert not running.done()
        until(lambda: readiness(server) == (503, "journal_unavailable"), "nobody is sent here")
        if killed:
            server.kill()
            disk.make_room(server)
            server.start()
        else:
            disk.make_room(server)
            assert running.result().json()["response"] == "running"
            # 202 if its claim was out when that commit failed: it continues later, as the client can see.
            assert waiting.result().status_code in (200, 202)
        until(lambda: readiness(server) == (200, "ready"), "it is ready by itself")
        assert server.chat("after")["response"] == "after"
        server.quiet()
        assert texts(server.history("running"), "user") == ["running", "waiting"]
        assert texts(server.history(), "user") == ["before", "after"]
        for session in accepted:
            assert texts(server.history(session), "assistant") == ["more"]
        assert {run.status for run in server.stored()} == {"succeeded"}
        assert len(server.stored()) == 4 + len(accepted)
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()
    assert "Traceback" not in server.stderr, server.stderr
    if not killed:
        assert server.stderr.count("not ready: the journal can store nothing") == 1, server.stderr


@pytest.mark.parametrize("disk", ["mounted"], indirect=True)
def test_a_small_disk_holds_many_runs(disk: Disk, at: Checkpoints) -> None:
    """The room goes to what is kept, not to versions of pages in the WAL (which took 41 KB for each run)."""
    with serving(TARGETS / "agent.py", folder=disk.folder, variables=at.environment) as server:
        for n in range(100):
            server.chat(f"q{n}", f"s{n}")


@pytest.mark.parametrize("disk", ["mounted"], indirect=True)
def test_before_the_disk_is_full_new_runs_are_refused_and_those_that_were_accepted_end(
    disk: SmallDisk, at: Checkpoints
) -> None:
    """By the reserve that there is if nobody says anything: a tenth of a small disk."""
    server = Server(TARGETS / "agent.py", folder=disk.folder, variables=at.environment)
    try:
        server.start()
        keyed = {"Idempotency-Key": "k"}
        body = {"message": "before", "session_id": "before"}
        assert server.client.post("/chat", json=body, headers=keyed).status_code == 200
        at.hold("running model 0")
        running = server.ask("running", "running")
        at.reached("running model 0")
        (waiting,) = server.line_up("waiting", session_id="running")
        server.wait_until_stored()
        left = shutil.disk_usage(disk.folder).free
        ballast = left - DISK_BYTES // 10 + 65536  # (a few pages of the journal's file are empty)
        (disk.folder / "ballast").write_bytes(bytes(ballast))
        until(lambda: readiness(server) == (503, "disk_low"), "nobody is sent here")
        refused = server.client.post("/chat", json={"message": "more", "session_id": "more"})
        assert (refused.status_code, refused.json()["code"]) == (503, "disk_low")
        assert int(refused.headers["Retry-After"]) >= 1
        assert server.client.post("/chat", json=body, headers=keyed).status_code == 200, "it was accepted before"
        assert 'strandline_refusals_total{reason="disk_low"} 1.0' in server.client.get("/metrics").text
        assert server.client.get("/health").json()["status"] == "healthy"
        at.release()
        assert running.result().json()["response"] == "running"
        assert waiting.result().json()["response"] == "waiting"
        assert texts(server.history("running"), "user") == ["running", "waiting"]
        assert readiness(server) == (503, "disk_low")
        disk.make_room(server)
        until(lambda: readiness(server) == (200, "ready"), "it is ready by itself")
        assert server.chat("after")["response"] == "after"
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()
    assert server.stderr.count("not ready: new runs are refused and accepted ones continue") == 1
    assert "less than 209715 bytes are left" in server.stderr
    assert "cannot be stored yet" not in server.stderr
    assert "Traceback" not in server.stderr, server.stderr


@pytest.mark.parametrize("disk", ["mounted"], indirect=True)
def test_session_files_leave_the_reserve_of_the_journals_disk_to_runs_and_are_written_later(
    disk: SmallDisk, at: Checkpoints
) -> None:
    """A long answer is kept, although there would be no room for it and for files of it."""
    reserve = 700_000
    files = {
        "STRANDLINE_SESSION_FILES": str(disk.folder / "files"),
        "STRANDLINE_DISK_RESERVE_BYTES": str(reserve),
    }
    server = Server(TARGETS / "function.py:answer", folder=disk.folder, variables=at.environment | files)
    try:
        server.start()
        server.chat("before", "before")
        until(lambda: files_of(disk.folder, "before") == ["before", "before after 0 messages"], "files of what ended")
        long = "x" * 50_000
        at.hold(long)
        running = server.ask(long, "long")
        at.reached(long)
        server.wait_until_stored()
        left = shutil.disk_usage(disk.folder).free
        (disk.folder / "ballast").write_bytes(bytes(left - reserve + 100_000))
        until(lambda: readiness(server) == (503, "disk_low"), "nobody is sent here")
        at.release()
        assert running.result().json()["response"] == f"{long} after 0 messages"
        until(lambda: "reserved for accepted runs (setting disk_reserve_bytes; what" in server.stderr, "it is told")
        metrics = server.client.get("/metrics").text
        assert "strandline_session_files_behind 1.0" in metrics
        assert "strandline_session_files_failures_total 0.0" in metrics
        assert not [each.name for each in (disk.folder / "files").iterdir() if "long" in each.name]
        disk.make_room(server)
        until(lambda: files_of(disk.folder, "long") == [long, f"{long} after 0 messages"], "they are caught up with")
        until(lambda: "strandline_session_files_behind 0.0" in server.client.get("/metrics").text, "all of them")
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()
    assert "cannot be stored yet" not in server.stderr
    assert "Traceback" not in server.stderr, server.stderr


def files_of(folder: Path, session: str) -> list[str]:
    """Return the texts of a session's files, once all of them are written."""
    place = folder / "files" / f"session_{session}"
    if not (place / "session.json").exists():
        return []
    found = sorted(place.glob("agents/agent_default/messages/message_*.json"))
    return [json.loads(each.read_text())["message"]["content"][0]["text"] for each in found]
