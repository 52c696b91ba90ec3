"""`strandline check`: it finds nothing wrong with Strandline, and what is wrong with servers that are known for it."""

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from acceptance import alternative
from acceptance.server import COMMAND, Server, environment, ran, serving, until
from acceptance.terminal import terminal
from fakes.server import serving as fake
from fakes.wires import wires
from ports import reserved_port

PROBE = "strandline.testing.probe:make_agent"
LETS_ALL_IN = """
from strands import Agent
from strands.types.agent import ConcurrentInvocationMode

from strandline.testing import probe


def make_agent(session_id: str) -> Agent:
    agent = probe.make_agent(session_id)
    return Agent(model=agent.model, concurrent_invocation_mode=ConcurrentInvocationMode.UNSAFE_REENTRANT)
"""
REFUSES = "from strandline.testing.probe import make_agent\n"
ALL = {
    "exclusive", "answered", "order", "conversation", "failure", "disconnect", "isolation", "parallel", "bounded",
    "restart", "accepted",
}  # fmt: skip


def typed(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return ran("check", *arguments, folder=folder, deadline_s=150)


def verdicts(*arguments: str, folder: Path, code: int) -> dict[str, str]:
    """Check a server, and return what was found, by name."""
    done = typed(*arguments, "--json", folder=folder)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert {each["name"] for each in found} == ALL
    assert all(each["promise"] and each["seen"] for each in found)
    return {each["name"]: each["verdict"] for each in found}


def named(found: dict[str, str], verdict: str) -> set[str]:
    return {name for name, each in found.items() if each == verdict}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(PROBE, folder=tmp_path_factory.mktemp("check")) as server:
        yield server


@pytest.mark.parametrize(
    ("adapter", "path"),
    [("strandline", ""), ("original", ""), ("agentcore", ""), ("responses", ""), ("ag-ui", "/agui")],
)
def test_strandline_holds_all_that_needs_no_restart(server: Server, adapter: str, path: str, tmp_path: Path) -> None:
    found = verdicts(server.url + path, "--adapter", adapter, folder=tmp_path, code=0)
    assert named(found, "cannot be told") == {"restart", "accepted"}
    assert named(found, "breaks") == set()


RESTART = """
test -f pid && kill -9 $(cat pid)
{command} serve {probe} --port {port} > log 2>&1 &
echo $! > pid
"""


@pytest.mark.parametrize("adapter", ["strandline", "original"])
def test_strandline_keeps_conversations_and_what_waits_over_a_kill(adapter: str, tmp_path: Path) -> None:
    port = reserved_port()
    (tmp_path / "restart.sh").write_text(RESTART.format(command=shlex.quote(str(COMMAND)), probe=PROBE, port=port))
    url = f"http://127.0.0.1:{port}"
    subprocess.run(["sh", "restart.sh"], cwd=tmp_path, env=environment({}), check=True)
    try:
        _listens(tmp_path)
        arguments = (url, "-a", adapter, "--flood", "150", "--restart", "sh restart.sh")
        found = verdicts(*arguments, folder=tmp_path, code=0)
        assert named(found, "holds") == ALL
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def _listens(folder: Path) -> None:
    log = folder / "log"
    until(lambda: log.exists() and " at http://" in log.read_text(), "the server is there")


def test_an_unprotected_server_breaks(tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(LETS_ALL_IN)
    with alternative.serving("unprotected", tmp_path / "target.py", folder=tmp_path, variables={}) as other:
        found = verdicts(other.url, "-a", "original", "--flood", "100", folder=tmp_path, code=1)
    assert named(found, "breaks") >= {"exclusive", "conversation", "failure", "bounded"}
    assert named(found, "holds") >= {"isolation", "parallel"}


def test_where_the_agent_refuses_for_itself_requests_go_unanswered(tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(REFUSES)
    with alternative.serving("unprotected", tmp_path / "target.py", folder=tmp_path, variables={}) as other:
        found = verdicts(other.url, "-a", "original", "--flood", "100", folder=tmp_path, code=1)
    assert (found["exclusive"], found["answered"]) == ("holds", "breaks")


def test_a_lock_keeps_order_and_breaks_at_failures_and_restarts(tmp_path: Path) -> None:
    (tmp_path / "target.py").write_text(REFUSES)
    with alternative.serving("lock", tmp_path / "target.py", folder=tmp_path, variables={}) as other:
        found = verdicts(other.url, "-a", "original", "--flood", "100", folder=tmp_path, code=1)
    assert named(found, "holds") >= {"exclusive", "answered", "order", "conversation", "isolation", "parallel"}
    assert named(found, "breaks") == {"failure", "bounded"}


@pytest.mark.parametrize(("adapter", "path"), [("agentcore", ""), ("a2a", "/a2a"), ("ag-ui", "/ag-ui")])
def test_each_protocol_is_spoken(adapter: str, path: str, tmp_path: Path) -> None:
    with wires() as url:
        found = verdicts(url + path, "-a", adapter, "--flood", "50", folder=tmp_path, code=0)
        assert named(found, "cannot be told") == {"restart", "accepted"}
    with wires(broken=True) as url:
        found = verdicts(url + path, "-a", adapter, "--flood", "30", folder=tmp_path, code=1)
        assert named(found, "breaks") >= {"exclusive", "bounded"}


def test_a_server_that_receives_the_conversation_and_refuses_while_it_is_busy(tmp_path: Path) -> None:
    """What is refused is not lost: nothing is judged by it but that it was not answered."""
    with wires() as url:
        restart = ("--restart", "true")  # what it keeps is kept by the client
        found = verdicts(f"{url}/told", "-a", "ag-ui", "--flood", "30", *restart, folder=tmp_path, code=1)
    assert named(found, "breaks") == {"answered"}
    assert named(found, "cannot be told") == {"order", "accepted"}


NOTES = """
from pathlib import Path


async def answer(message, session):
    with Path("asked").open("a") as file:
        file.write(message + "\\n")
    return "hello"
"""


@pytest.mark.parametrize("adapter", ["strandline", "original", "agentcore"])
def test_a_strandline_server_with_another_agent_is_not_judged_and_its_agent_not_called(
    adapter: str, tmp_path: Path
) -> None:
    (tmp_path / "agent.py").write_text(NOTES)
    with serving("agent.py:answer", folder=tmp_path) as other:
        done = typed(other.url, "--adapter", adapter, "--json", folder=tmp_path)
        sessions = other.client.get("/v1/sessions").json()["sessions"]
    assert (done.returncode, done.stdout) == (2, "")
    assert "serve strandline.testing.probe:make_agent" in done.stderr
    assert "nothing was sent" in done.stderr
    assert not (tmp_path / "asked").exists()
    assert sessions == []


def test_any_other_server_with_another_agent_is_not_judged_and_gets_one_question(tmp_path: Path) -> None:
    requests = []

    async def chat(request: Request) -> Response:
        requests.append(await request.json())
        return JSONResponse({"status": "success", "response": "hello"})

    with fake(Starlette(routes=[Route("/chat", chat, methods=["POST"])])) as url:
        done = typed(url, "-a", "original", "--json", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "does not serve the probe (it answered 'hello')" in done.stderr
    assert len(requests) == 1


def test_an_unknown_result_is_no_pass(tmp_path: Path) -> None:
    """Where every request of the flood fails, a queue limit is unknown, and all else holds."""
    (tmp_path / "mine.py").write_text(
        "from strandline._check.adapters import strandline\n"
        "async def ask(client, url, session, text):\n"
        "    if session.endswith('bounded'):\n"
        "        raise RuntimeError('it cannot be told')\n"
        "    return await strandline(client, url, session, text)\n"
    )
    with serving(PROBE, folder=tmp_path) as other:
        found = verdicts(other.url, "-a", "mine.py", "--flood", "5", folder=tmp_path, code=2)
    assert named(found, "cannot be told") == {"bounded", "restart", "accepted"}
    assert named(found, "breaks") == set()


def test_an_adapter_of_ones_own(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "async def ask(client, url, session, text):\n"
        "    answer = await client.post(f'{url}/chat', json={'message': text, 'session_id': session})\n"
        "    answer.raise_for_status()\n"
        "    return answer.json()['response']\n"
    )
    found = verdicts(server.url, "-a", "mine.py", "--flood", "5", folder=tmp_path, code=1)
    assert named(found, "breaks") == {"bounded"}


def test_what_cannot_be_tried_is_said_in_one_paragraph(server: Server, tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    nobody = f"http://127.0.0.1:{reserved_port()}"
    for arguments, expected in [
        ((nobody,), "nothing answers at"),
        ((server.url, "-a", "grpc"), "name one of strandline, original"),
        ((server.url, "-a", "none.py"), "does not exist"),
        ((server.url, "-a", "empty.py"), "async def ask(client, url, session, text)"),
        ((server.url, "-a", "broken.py"), "ModuleNotFoundError"),
        ((server.url, "-a", "a2a"), "Is it the right adapter?"),
        (("ftp://x",), "http://HOST:PORT"),
        ((), "URL"),
        ((server.url, "--flood", "1", "--restart", "exit 3"), "exit code 3"),
    ]:
        done = typed(*arguments, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert expected in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_on_a_terminal_it_is_a_table(server: Server, tmp_path: Path) -> None:
    with terminal("check", server.url, "--flood", "150", folder=tmp_path, columns=80) as shown:
        assert shown.ended() == 0
    rows = [line for line in shown.screen.splitlines() if line.startswith(("PROMISE", *ALL))]
    assert len(rows) == len(ALL) + 1
    assert max(map(len, rows)) <= 80
