"""`strandline serve --reload`: new code serves as soon as it is saved, no request is refused, and runs continue."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import COMMAND, DEADLINE_S, TARGETS, Server, environment, refused, until
from acceptance.terminal import terminal
from strandline._exits import EXITED_AT_ONCE

ANSWERING = """
import os


async def answer(message, session):
    return f"{WORD} {os.getpid()}"
"""
SAVED_AT = 1_700_000_000
RELOADED = "Reloaded; requests waited "


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@contextmanager
def reloading(target: str, *flags: str, folder: Path, **options: Any) -> Iterator[Server]:
    """Serve with `--reload`; unlike `serving`, errors of user code may be in the log."""
    server = Server(target, "--reload", *flags, folder=folder, installed=True, **options)
    try:
        server.start()
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.stderr, server.stderr


def write(folder: Path, word: str, name: str = "agent.py") -> None:
    """Save the code of a function that answers `word` and the id of its process, always at the same moment."""
    (folder / name).write_text(ANSWERING.replace("{WORD}", word))
    os.utime(folder / name, (SAVED_AT, SAVED_AT))


def edit(file: Path, old: str, new: str) -> None:
    code = file.read_text()
    assert old in code
    file.write_text(code.replace(old, new))


def said(server: Server, text: str, times: int = 1) -> None:
    """Return when the server has said `text` so often."""
    until(lambda: server.stderr.count(text) >= times, f"{text!r} {times} times\n{server.stderr}")


def answer(server: Server, message: str = "hello", session_id: str = "default") -> str:
    """Return the answer to a message that is sent on a connection of its own."""
    body = {"message": message, "session_id": session_id}
    response = httpx.post(f"{server.url}/chat", json=body, timeout=DEADLINE_S, trust_env=False)
    assert response.status_code == 200, response.text
    return str(response.json()["response"])


def word(server: Server) -> str:
    return answer(server).split()[0]


def process(server: Server) -> int:
    return int(answer(server).split()[1])


def gone(pid: int) -> bool:
    """Return whether a process has ended, even if its exit code was not read yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_saved_code_answers_next(tmp_path: Path) -> None:
    """Also when it has the size of the old code, and is saved within the same second."""
    write(tmp_path, "one")
    compiles = {"PYTHONDONTWRITEBYTECODE": ""}
    with reloading("agent.py:answer", folder=tmp_path, variables=compiles) as server:
        assert word(server) == "one"
        assert list(tmp_path.glob("__pycache__/agent.*.pyc"))
        url = server.url
        for number, name in enumerate(["two", "six", "ten"], start=1):
            write(tmp_path, name)
            said(server, RELOADED, number)
            assert word(server) == name
        assert server.url == url
        assert server.stderr.count("agent.py changed; loading") == 3
        assert server.stderr.count(" at http://") == 1


def test_a_request_during_a_reload_waits_and_is_answered_by_the_new_code(at: Checkpoints, tmp_path: Path) -> None:
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    with reloading("agent.py", "--drain-grace", "25", folder=tmp_path, variables=at.environment) as server:
        at.hold("old model 0")
        old = server.line_up("old", session_id="old")[0]
        at.reached("old model 0")
        edit(tmp_path / "agent.py", "else label", 'else f"new {label}"')
        said(server, "1 run executes: 25 s to finish")
        with ThreadPoolExecutor(20) as pool:
            waiting = [pool.submit(answer, server, f"q{n}", f"s{n}") for n in range(20)]
            assert not any(step.startswith("q") for step in at.steps)
            at.release("old model 0")
        assert old.result(DEADLINE_S).json()["response"] == "old"
        assert [each.result(DEADLINE_S) for each in waiting] == [f"new q{n}" for n in range(20)]
        said(server, RELOADED)


def test_a_run_in_a_chain_of_tools_continues_in_the_new_code(at: Checkpoints, tmp_path: Path) -> None:
    """It is handed over after its last checkpoint; no tool starts twice."""
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    with reloading("agent.py", "--drain-grace", "0.2", folder=tmp_path, variables=at.environment) as server:
        at.hold("long model 2")
        pending = server.line_up("long a b c")[0]
        at.reached("long model 2")
        edit(tmp_path / "agent.py", 'f"{label}: {', 'f"new {label}: {')
        later = pending.result(DEADLINE_S)
        assert later.status_code == 202
        said(server, "1 run resumes from its last checkpoint")
        at.release()
        found = httpx.get(
            server.url + later.headers["location"], headers={"Prefer": "wait=30"}, timeout=40, trust_env=False
        )
        assert found.json()["output"] == "new long: did a, did b, did c"
        tools = [step for step in at.steps if " model " not in step and not step.endswith("ended")]
        assert tools == ["long a", "long b", "long c"]


def test_a_change_while_the_old_code_finishes_is_served_next(at: Checkpoints, tmp_path: Path) -> None:
    """What was loaded first is given up before it has served anybody."""
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    with reloading("agent.py", "--drain-grace", "25", folder=tmp_path, variables=at.environment) as server:
        at.hold("old model 0")
        old = server.line_up("old", session_id="old")[0]
        at.reached("old model 0")
        edit(tmp_path / "agent.py", "else label", 'else f"second {label}"')
        said(server, "1 run executes: 25 s to finish")
        edit(tmp_path / "agent.py", "second {label}", "third {label}")
        said(server, "agent.py changed; loading", 2)
        at.release()
        assert old.result(DEADLINE_S).json()["response"] == "old"
        said(server, RELOADED)
        assert answer(server, "new") == "third new"
        assert server.stderr.count(RELOADED) == 1


def test_a_conversation_in_a_terminal_sees_a_run_through_a_reload(at: Checkpoints, tmp_path: Path) -> None:
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    with (
        reloading("agent.py", "--drain-grace", "0.2", folder=tmp_path, variables=at.environment) as server,
        terminal("chat", server.url, folder=tmp_path) as shown,
    ):
        at.hold("long model 1")
        shown.until("default> ")
        shown.type("long a b\n")
        at.reached("long model 1")
        edit(tmp_path / "agent.py", 'f"{label}: {', 'f"new {label}: {')
        shown.until("is stored, and continues")
        at.release()
        shown.until("new long: did a, did b")
        shown.until("default> ")
        shown.type("/quit\n")
        assert shown.ended() == 0


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("async def answer(message, session:\n    return 'x'\n", "SyntaxError"),
        ("import nothing_of_that_name\n", "line 1"),
        ("answer = 3\n", "answer"),
    ],
)
def test_code_that_does_not_load_leaves_the_old_one_serving(broken: str, expected: str, tmp_path: Path) -> None:
    write(tmp_path, "one")
    with reloading("agent.py:answer", folder=tmp_path) as server:
        before = process(server)
        (tmp_path / "agent.py").write_text(broken)
        said(server, "The new code does not load: the server keeps the old code until the next change")
        assert expected in server.stderr
        assert process(server) == before
        write(tmp_path, "two")
        said(server, RELOADED)
        assert word(server) == "two"


def test_code_that_does_not_load_at_the_start_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("def make_agent(:\n")
    server = Server("agent.py:answer", "--reload", folder=tmp_path, port=0, installed=True)
    try:
        server.start(ready=False)
        said(server, "requests wait until the next change")
        assert "SyntaxError" in server.stderr
        write(tmp_path, "one")
        server.until_ready()
        assert word(server) == "one"
    finally:
        server.close()


def test_only_code_and_settings_call_for_a_reload(tmp_path: Path) -> None:
    for folder in (".strandline", ".venv/lib", "__pycache__", "env", "package/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").touch()
    write(tmp_path, "one")
    with reloading("agent.py:answer", folder=tmp_path) as server:
        before = process(server)
        for name in (".strandline/a.py", ".venv/lib/a.py", "__pycache__/a.py", "env/a.py", "notes.txt", ".#agent.py"):
            (tmp_path / name).write_text("x = 1\n")
        assert process(server) == before
        (tmp_path / "package/deep/part.py").write_text("x = 1\n")
        said(server, RELOADED, 1)
        (tmp_path / "strandline.toml").write_text('agent_id = "renamed"\n')
        said(server, RELOADED, 2)
        assert httpx.get(f"{server.url}/health", trust_env=False).json()["agent_id"] == "renamed"
        (tmp_path / "fresh").mkdir()
        (tmp_path / "fresh/part.py").write_text("x = 1\n")
        said(server, RELOADED, 3)
        changes = [line for line in server.stderr.splitlines() if line.endswith("changed; loading")]
        assert changes == [
            f"{os.path.join(*name.split('/'))} changed; loading"
            for name in ("package/deep/part.py", "strandline.toml", "fresh/part.py")
        ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_parent_ends_both_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    write(tmp_path, "one")
    with reloading("agent.py:answer", folder=tmp_path) as server:
        child = process(server)
        server.signal(number)
        assert server.ended() == 0
        assert gone(child)


def test_a_second_sigterm_is_no_reason_to_hurry(at: Checkpoints, tmp_path: Path) -> None:
    """As without --reload: what executes is answered, however often a supervisor says to stop."""
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    with reloading("agent.py", "--drain-grace", "60", folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        pending = server.ask("one")
        at.reached("one model 0")
        server.signal(signal.SIGTERM)
        said(server, "Ctrl-C again exits at once")
        server.signal(signal.SIGTERM)
        at.release()
        assert pending.result(DEADLINE_S).json()["response"] == "one"
        assert server.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_reaches_both_and_ends_them_cleanly(
    at: Checkpoints, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, or its own end; every process gets it. The run that executes is answered."""
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    command = [str(COMMAND), "serve", "agent.py", "--reload", "--port", "0", "--journal", "sqlite:journal.db"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(at.environment), stderr=subprocess.PIPE, text=True, process_group=0
    ) as parent:
        assert parent.stderr is not None
        lines = iter(parent.stderr.readline, "")
        url = next(line for line in lines if " at http://" in line).split(" at ")[1].strip()
        at.hold("one model 0")
        with ThreadPoolExecutor(1) as pool:
            body = {"message": "one"}
            pending = pool.submit(httpx.post, f"{url}/chat", json=body, timeout=DEADLINE_S, trust_env=False)
            at.reached("one model 0")
            os.killpg(parent.pid, number)
            next(line for line in lines if line == "Stopping\n")
            assert next(lines) == "1 run executes: 6 s to finish; Ctrl-C again exits at once\n"
            at.release()
            assert pending.result(DEADLINE_S).json()["response"] == "one"
        rest = "".join(lines)
        assert parent.wait(DEADLINE_S) == 0
        assert "Traceback" not in rest


def test_a_second_ctrl_c_ends_both_at_once(at: Checkpoints, tmp_path: Path) -> None:
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    with reloading("agent.py", "--drain-grace", "60", folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        server.ask("one")
        at.reached("one model 0")
        server.signal(signal.SIGINT)
        said(server, "Ctrl-C again exits at once")
        server.signal(signal.SIGINT)
        assert server.ended() == 130
        assert EXITED_AT_ONCE in server.stderr
        at.release()
        server.start()
        server.quiet()
        assert [run.status for run in server.stored()] == ["succeeded"]


def test_the_child_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with reloading("agent.py:answer", folder=tmp_path) as server:
        child = process(server)
        server.signal(signal.SIGKILL)
        try:
            until(lambda: gone(child), "the child has ended")
        finally:
            if not gone(child):
                os.kill(child, signal.SIGKILL)
        server.ended()
        server.start()
        assert process(server) != child


def test_a_server_that_dies_is_started_again(at: Checkpoints, tmp_path: Path) -> None:
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    with reloading("agent.py", folder=tmp_path, variables=at.environment) as server:
        with pytest.raises(httpx.HTTPError):
            answer(server, "one a ~^b")
        said(server, "The server ended by itself (killed by SIGKILL); restarting it")
        assert answer(server, "two") == "two"


def test_a_server_that_has_to_be_replaced_is(at: Checkpoints, tmp_path: Path) -> None:
    shutil.copy(TARGETS / "agent.py", tmp_path / "agent.py")
    flags = ["--max-still-working", "1", "--cancel-grace", "0.1", "--timeout", "0.3"]
    with reloading("agent.py", *flags, folder=tmp_path, variables=at.environment) as server:
        at.hold("one a")
        server.ask("one a", "held")
        said(server, "The server ended by itself (too many runs that cannot be stopped); restarting it")
        at.release()
        assert answer(server, "two") == "two"


def test_a_server_that_stops_for_lack_of_work_ends_the_parent(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with reloading("agent.py:answer", "--idle-timeout-minutes", "0.005", folder=tmp_path) as server:
        assert server.ended() == 0
        assert "stopped by itself" in server.stderr


def test_what_cannot_start_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with reloading("agent.py:answer", folder=tmp_path) as server:
        port = server.url.rpartition(":")[2]
        message = refused("agent.py:answer", "--reload", "--port", port, folder=tmp_path)
        assert f"cannot listen on 127.0.0.1 port {port}" in message
    assert "max_running is '0'" in refused("agent.py:answer", "--reload", "--max-running", "0", folder=tmp_path)
    assert "nothing.py does not exist" in refused("nothing.py", "--reload", folder=tmp_path)
