"""A server on a machine that has no thread left: what was accepted waits for one, and nothing is done twice or late.

The limit for processes of its user is set in the running server, by its agent's module. It does not count for root, so
where the tests run as root the server is another user's, with root's rights to files and without those to pass limits.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.server import COMMAND, DEADLINE_S, Server, until

SETPRIV = shutil.which("setpriv")
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or (os.geteuid() == 0 and SETPRIV is None), reason="needs setpriv as root"
)
USER = 1_000_000 + os.getpid()
"""A user that has no other process, so that the limit is the server's alone."""
AGENT = """
import os
import resource
import signal

from strands import Agent, tool

from strandline.testing import ScriptedModel, call, question, results


def limit(*_):
    with open("limit") as file:
        wanted = file.read()
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (int(wanted or most), most))
    os.unlink("limit")


signal.signal(signal.SIGUSR2, limit)


def note(what):
    with open("ledger", "a") as ledger:
        ledger.write(f"{what}\\n")


@tool
def work() -> str:
    \"\"\"Work.\"\"\"
    note("worked")
    return "worked"


def script(messages):
    if question(messages) != "work":
        return "fine"
    return next(iter(results(messages).values()), None) or [call("work")]


def make_agent(session_id: str) -> Agent:
    note(f"made {session_id}")
    return Agent(model=ScriptedModel(script), tools=[work])
"""


class Poor(Server):
    """A server whose threads a test can limit."""

    def command(self) -> list[str]:
        command = super().command()
        if os.geteuid() != 0:
            return command
        rights = ["--bounding-set", "-sys_resource,-sys_admin", "--inh-caps", "-sys_resource,-sys_admin"]
        return [str(SETPRIV), "--ruid", str(USER), *rights, str(COMMAND), *command[1:]]

    def let_have(self, threads: int | None) -> None:
        """Let it start threads only while it has fewer than so many; None: as many as it likes."""
        file = self.folder / "limit"
        file.write_text("" if threads is None else str(threads))
        self.signal(signal.SIGUSR2)
        until(lambda: not file.exists(), "it has the limit")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the agent, which that user may reach."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as made:
        (Path(made) / "agent.py").write_text(AGENT)
        if os.geteuid() == 0:
            os.chown(made, USER, -1)
        yield Path(made)


def ledger(folder: Path) -> list[str]:
    file = folder / "ledger"
    return file.read_text().splitlines() if file.exists() else []


def test_without_a_thread_a_run_waits_and_nothing_is_done_twice_or_late(folder: Path) -> None:
    server = Poor("agent", folder=folder)
    try:
        server.start()
        server.let_have(1)
        run_id = server.client.post("/v1/sessions/a/runs", json={"input": "work"}).json()["run_id"]
        until(lambda: "no thread can be started for sync tools and factories" in server.stderr, "the log says so")
        assert server.run(run_id)["status"] == "running"
        assert ledger(folder) == []
        waiting = server.client.post("/v1/sessions/b/runs", json={"input": "work", "timeout": 1}).json()["run_id"]
        late = server.client.get(f"/v1/runs/{waiting}", headers={"Prefer": "wait=20"}, timeout=DEADLINE_S).json()
        assert late["error"]["code"] == "timeout"
        server.let_have(None)
        ended = server.client.get(f"/v1/runs/{run_id}", headers={"Prefer": "wait=20"}, timeout=DEADLINE_S).json()
        assert (ended["status"], ended["output"]) == ("succeeded", "worked")
        assert server.chat("work", "c")["response"] == "worked"
        assert ledger(folder) == ["made a", "worked", "made c", "worked"]
        server.terminate()
        assert server.ended() == 0
        assert "Traceback" not in server.stderr
    finally:
        server.close()
