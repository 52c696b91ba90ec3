"""`strandline chat` in a terminal and in pipes, with a real server."""

import http.server
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import COMMAND, DEADLINE_S, TARGETS, Server, environment, ran, serving, until
from acceptance.terminal import CTRL_C, CTRL_D, terminal
from ports import reserved_port

MESSAGES = '''
from strands import Agent, tool
from strandline.testing import ScriptedModel, call, question, results, say


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def script(messages):
    asked = question(messages)
    if results(messages):
        return f"It is **{', '.join(results(messages).values())}**."
    if asked.startswith("add"):
        return [say("Let me see. "), call("add", {"a": 1, "b": 2})]
    if asked == "fail":
        raise ConnectionError("the provider is out of order")
    return f"# Title\\n\\nYou said *{asked}*."


def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(script), tools=[add])
'''

EVIL = "\x1b]0;owned\x07"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("chat")
    (folder / "agent.py").write_text(MESSAGES)
    with serving("agent.py", folder=folder) as server:
        yield server


def piped(
    *arguments: str, folder: Path, typed: str | None = None, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command without a terminal; None is typed into /dev/null."""
    return ran("chat", *arguments, folder=folder, typed=typed, deadline_s=2 * DEADLINE_S, variables=variables)


# -- in a pipe ----------------------------------------------------------------------------------------


def test_a_pipe_gets_the_answer_and_nothing_else(server: Server, tmp_path: Path) -> None:
    done = piped(server.url, typed="hello\n", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "# Title\n\nYou said *hello*.\n", "")
    done = piped(server.url, "-m", "two\nlines", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "# Title\n\nYou said *two\nlines*.\n", "")


def test_json_is_the_whole_answer(server: Server, tmp_path: Path) -> None:
    done = piped(server.url, "-m", "hello", "--session", "j", "--json", folder=tmp_path)
    answer = json.loads(done.stdout)
    assert answer.keys() == {"status", "response", "agent_id", "session_id", "run_id"}
    assert (answer["session_id"], done.stdout.count("\n")) == ("j", 1)


def test_an_agent_that_fails_is_exit_code_1_and_an_error(server: Server, tmp_path: Path) -> None:
    done = piped(server.url, "-m", "fail", "--session", "f", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("strandline: the agent failed (agent_error): ")
    done = piped(server.url, "-m", "fail", "--session", "f", "--json", folder=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["error_code"]) == (1, "agent_error")


def test_what_cannot_be_done_is_said_in_one_paragraph(server: Server, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{reserved_port()}"
    for arguments, typed, expected in [
        ((nobody, "-m", "x"), None, "strandline serve"),
        (("ftp://x", "-m", "x"), None, "http://HOST:PORT"),
        ((server.url, "-m", "x", "--session", "no spaces"), None, "session_id"),
        ((server.url,), "", "there is no question"),
        ((server.url,), None, "there is no question"),
        ((server.url, "-m", " "), None, "there is no question"),
        ((f"{server.url}/elsewhere", "-m", "x"), None, "not a Strandline server"),
        (("http://\N{SNOWMAN}.example", "-m", "x"), None, "http://HOST:PORT"),
        (("http://local\nhost", "-m", "x"), None, "http://HOST:PORT"),
        ((server.url.replace("http:", "https:"), "-m", "x"), None, "write http://HOST:PORT"),
    ]:
        done = piped(*arguments, folder=tmp_path, typed=typed)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1


def test_another_server_is_reported_as_such(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            done = piped(f"http://127.0.0.1:{other.server_port}", "-m", "x", folder=tmp_path)
        finally:
            other.shutdown()
            thread.join()
    assert done.returncode == 2
    assert "is not a Strandline server" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTP_PROXY", "nonsense://x"), ("ALL_PROXY", "socks9://x"), ("SSL_CERT_FILE", "/none/such")],
)
def test_an_unusable_proxy_or_certificate_is_reported(variable: str, value: str, tmp_path: Path) -> None:
    done = piped("https://strandline.invalid", "-m", "x", folder=tmp_path, **{variable: value})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "https://strandline.invalid cannot be used: " in done.stderr
    assert variable in done.stderr


class Hostile(http.server.BaseHTTPRequestHandler):
    """A server that tries to control the terminal of its clients."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, {"agent_id": f"me{EVIL}", "version": EVIL, "running": 0, "queue_depth": 0, "messages": []})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(422, {"detail": f"no{EVIL}"})

    def answer(self, status: int, body: object) -> None:
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def somebody(who: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve something else than Strandline, and give its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), who) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{other.server_port}"
        finally:
            other.shutdown()
            thread.join()


def test_what_a_server_says_of_itself_does_not_control_the_terminal(tmp_path: Path) -> None:
    with somebody(Hostile) as url:
        with terminal("chat", url, folder=tmp_path) as at:
            at.until("me]0;owned answers")
            at.until("default> ")
            at.type("x\n")
            at.until("no]0;owned (422)")
            at.until("default> ")
            assert "\x1b]0" not in at.raw
        done = piped(url, "-m", "x", folder=tmp_path)
    assert (done.returncode, done.stderr.count("\x1b")) == (2, 0)
    assert "no]0;owned (422)" in done.stderr


def test_undecodable_bytes_are_sent_as_replacement_characters(server: Server, tmp_path: Path) -> None:
    done = piped(server.url, "-m", b"caf\xe9".decode("utf-8", "surrogateescape"), "-s", "bytes", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "# Title\n\nYou said *caf\ufffd*.\n"), done.stderr


def test_a_silent_server_is_distinguished_from_a_missing_one(tmp_path: Path) -> None:
    """As one with --reload whose code does not load: connections wait in its socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = piped(f"127.0.0.1:{listener.getsockname()[1]}", "-m", "x", folder=tmp_path)
    assert done.returncode == 2
    assert "accepts connections, but does not answer" in done.stderr
    assert "--reload" in done.stderr


def test_a_message_that_is_too_large_is_reported(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(MESSAGES)
    with serving("agent.py", "--max-body-bytes", "1000", folder=tmp_path) as server:
        done = piped(server.url, typed="x" * 2000, folder=tmp_path)
        assert done.returncode == 2
        assert "1000 bytes (setting max_body_bytes) (413)" in done.stderr


def test_the_address_comes_from_the_settings_of_the_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "strandline.toml").write_text(f"port = {server.url.rpartition(':')[2]}\n")
    assert piped("-m", "here", folder=tmp_path).stdout == "# Title\n\nYou said *here*.\n"


def test_a_full_queue_is_waited_for_and_said(at: Checkpoints, tmp_path: Path) -> None:
    flags = ["--max-queued-per-session", "0"]
    with serving(TARGETS / "agent.py", *flags, folder=tmp_path, variables=at.environment) as server:
        at.hold("first model 0")
        server.line_up("first")
        with subprocess.Popen(
            [str(COMMAND), "chat", server.url, "-m", "second"],
            env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as asking:  # fmt: skip
            assert asking.stderr is not None
            line = asking.stderr.readline()
            assert "0 runs of session default wait already (429). Nothing was accepted; trying again in 1 s" in line
            at.release()
            assert asking.communicate(timeout=DEADLINE_S)[0] == "second\n"
            assert asking.returncode == 0


class Busy(Hostile):
    """A server that refuses three times, and then streams a run."""

    refusals: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if len(self.refusals) < 3:
            self.refusals.append(self.path)
            self.answer(503, {"detail": "full"})
            return
        end = {"type": "run.finished", "run_id": "run_1", "status": "succeeded", "output": "at last"}
        sent = f"id: 1\nevent: run.finished\ndata: {json.dumps(end)}\n\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(code, message)
        self.send_header("Retry-After", "0.1")


def test_being_refused_again_is_not_said_again(tmp_path: Path) -> None:
    with somebody(Busy) as url:
        done = piped(url, "-m", "x", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "at last\n")
    assert len(Busy.refusals) == 3
    assert done.stderr.count("Not now: full (503)") == 1
    assert done.stderr.count("\n") == 1


# -- a server that goes -------------------------------------------------------------------------------


def asking(server: Server, message: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(COMMAND), "chat", server.url, "-m", message],
        cwd=folder,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_run_that_continues_in_the_next_server_is_followed(at: Checkpoints, tmp_path: Path) -> None:
    """SIGTERM while it waits: 202, and the answer comes from the server that is started next."""
    port = reserved_port()
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=port) as server:
        at.hold("first model 0")
        server.line_up("first")
        with asking(server, "second", tmp_path) as waiting:
            assert waiting.stderr is not None
            until(lambda: server.health()["queue_depth"] == 1, "it waits")
            server.terminate()
            assert "this run (run_" in waiting.stderr.readline()
            at.release()
            assert server.ended() == 0
            server.start()
            assert waiting.communicate(timeout=DEADLINE_S)[0] == "second\n"
            assert waiting.returncode == 0


def test_a_run_is_followed_over_a_crash(at: Checkpoints, tmp_path: Path) -> None:
    port = reserved_port()
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=port) as server:
        at.hold("again model 1")
        with asking(server, "again a", tmp_path) as waiting:
            assert waiting.stderr is not None
            at.reached("again model 1")
            server.wait_until_stored()
            server.kill()
            assert "The connection broke" in waiting.stderr.readline()
            server.start()
            at.reached("again model 1", times=2)
            at.release()
            out, stderr = waiting.communicate(timeout=DEADLINE_S)
            assert (waiting.returncode, out) == (0, "again: did a\n"), stderr
            assert "the run resumes from its last checkpoint (attempt 2)" in stderr


def test_a_run_that_the_crash_ended_is_shown_as_failed(at: Checkpoints, tmp_path: Path) -> None:
    """The server died while a tool was at work."""
    port = reserved_port()
    with (
        serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=port) as server,
        asking(server, "one a ~^b", tmp_path) as waiting,
    ):
        assert server.ended() == -signal.SIGKILL
        server.start()
        out, stderr = waiting.communicate(timeout=DEADLINE_S)
        assert (waiting.returncode, out) == (1, "")
        assert "the agent failed (crashed)" in stderr


def test_a_question_that_is_lost_is_said_to_be(at: Checkpoints, tmp_path: Path) -> None:
    """The journal is in memory: the next server knows nothing of it."""
    port = reserved_port()
    with serving(
        TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=port, journal="memory:"
    ) as server:
        at.hold("one model 0")
        with asking(server, "one", tmp_path) as waiting:
            at.reached("one model 0")
            server.kill()
            at.release()
            server.start()
            stderr = waiting.communicate(timeout=DEADLINE_S)[1]
            assert waiting.returncode == 2
            assert "there is no run run_" in stderr
            assert "Does it use another journal?" in stderr


def test_a_reader_that_has_enough_is_no_defect(server: Server, tmp_path: Path) -> None:
    command = f"{COMMAND} chat {server.url} -m hello | true"
    done = subprocess.run(
        ["sh", "-c", command], env=environment({}), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.stderr == ""


# -- in a terminal ------------------------------------------------------------------------------------


def test_a_conversation_in_a_terminal(server: Server, tmp_path: Path) -> None:
    with terminal("chat", server.url, "--session", "t1", folder=tmp_path) as at:
        shown = at.until("t1> ")
        assert f"strandline answers at {server.url}" in shown
        assert "Session t1 has no messages yet" in shown
        at.type("hello\n")
        shown = at.until("You said hello.")
        assert "Title" in shown
        assert "#" not in shown, "Markdown is rendered"
        at.until("t1> ")
        at.type("add them\n")
        assert "* add(a=1, b=2) -> 3" in at.until("It is 3.")
        at.until("t1> ")
        at.type("/session t2\n")
        at.until("Session t2 has no messages yet")
        at.until("t2> ")
        at.type("/sessions\n")
        assert "  t1\n* t2" in at.until("t2> ")
        at.type("/health\n")
        assert "queue_depth" in at.until("t2> ")
        at.type("/history 0\n")
        at.until("say how many turns")
        at.type("/nonsense\n")
        at.until("/help lists the commands")
        at.type("fail\n")
        at.until("the agent failed (agent_error)")
        at.until("t2> ")
        at.type(CTRL_D)
        assert at.ended() == 0
    with terminal("chat", server.url, "--session", "t1", "--history", "1", folder=tmp_path) as at:
        shown = at.until("It is 3.")
        assert "The last turn of session t1:" in shown
        assert "t1> add them" in shown
        assert "hello" not in shown
        at.until("t1> ")
        at.type("/history\n")
        assert "t1> hello" in at.until("It is 3.")
        at.type("/quit\n")
        assert at.ended() == 0


def test_what_controls_a_terminal_does_not_reach_it(server: Server, tmp_path: Path) -> None:
    evil = "a\x1b]0;owned\x07b\x9b2Jc\x1b[2Jd"
    server.chat(evil, "evil")
    with terminal("chat", server.url, "-s", "evil", folder=tmp_path) as at:
        at.until("You said a]0;ownedb2Jc[2Jd.")
        at.until("evil> ")
        assert "\x1b]0" not in at.raw
        assert "\x1b[2J" not in at.raw
    assert evil in piped(server.url, "-m", evil, "-s", "evil", folder=tmp_path).stdout, "a pipe gets it as it is"


def test_the_address_of_a_link_is_shown(server: Server, tmp_path: Path) -> None:
    server.chat("[here](https://strandline.invalid/page)", "links")
    with terminal("chat", server.url, "-s", "links", folder=tmp_path) as at:
        assert "You said here (https://strandline.invalid/page)." in at.until("page).")


def test_turns_of_many_messages_are_shown_whole(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        server.chat("long " + " ".join("abcdefghijklmnopqrstuvwxyz"))
        with terminal("chat", server.url, "--history", "1", folder=tmp_path) as shown:
            output = shown.until("did z\n  long: did a")
            assert "default> long a b c" in output
            assert output.count("* work(") == 26


def test_text_of_several_lines_is_one_question(server: Server, tmp_path: Path) -> None:
    with terminal("chat", server.url, "--session", "lines", folder=tmp_path) as at:
        at.until("lines> ")
        at.paste("one\ntwo\nthree")
        at.type("\n")
        at.until("You said one two three.")
        at.until("lines> ")
        at.type("four\\\n")
        at.until("... ")
        at.type("five\n")
        at.until("You said four five.")
    questions = [m["content"][0]["text"] for m in server.history("lines") if m["role"] == "user"]
    assert questions == ["one\ntwo\nthree", "four\nfive"]


def test_ctrl_c_cancels_the_run_and_not_the_program(at: Checkpoints, tmp_path: Path) -> None:
    with (
        serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server,
        terminal("chat", server.url, folder=tmp_path) as shown,
    ):
        at.hold("one ?b")
        shown.until("default> ")
        shown.type("one ?b\n")
        shown.until("1 s · using work")
        shown.type(CTRL_C)
        shown.until("Cancelling the run (Ctrl-C again exits)")
        at.release()
        shown.until("The run was cancelled")
        shown.until("default> ")
        shown.type("half a line")
        shown.until("half a line")
        shown.at_rest()
        shown.type(CTRL_C)
        shown.until("default> ")
        shown.type("two\n")
        shown.until("  two")
        shown.type("/quit\n")
        assert shown.ended() == 0
    assert [run.status for run in server.stored()] == ["cancelled", "succeeded"]


def test_ctrl_c_twice_leaves_and_a_run_that_waits_is_gone(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        at.hold("first a")
        server.line_up("first a")
        at.reached("first a")
        with terminal("chat", server.url, folder=tmp_path) as shown:
            shown.until("default> ")
            shown.type("second\n")
            shown.until("next in its queue")
            shown.type(CTRL_C)
            shown.until("The run was cancelled")
            shown.until("default> ")
            shown.type("third\n")
            shown.until("next in its queue")
            server.signal(signal.SIGSTOP)  # nobody answers the first Ctrl-C
            shown.type(CTRL_C)
            shown.until("again exits")
            shown.type(CTRL_C)
            shown.until("The accepted run continues (run_")
            assert shown.ended() == 130
        server.signal(signal.SIGCONT)
        at.release()
        server.quiet()
    statuses = {run.status for run in server.stored()[1:2]}
    assert statuses == {"cancelled"}


def test_ctrl_c_in_a_pipe_cancels_the_run(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        with asking(server, "one ?a", tmp_path) as waiting:
            at.reached("one ?a")  # it ends when it is asked to
            waiting.send_signal(signal.SIGINT)
            out, stderr = waiting.communicate(timeout=DEADLINE_S)
            assert (waiting.returncode, out) == (130, "")
            assert "The run was cancelled" in stderr
        assert [run.status for run in server.stored()] == ["cancelled"]


STREAMING = """
import asyncio
from acceptance.checkpoints import pass_step

async def agent(message, session):
    yield "A first part. "
    await asyncio.to_thread(pass_step, "half")
    yield "And a second."
"""


def test_text_is_shown_as_it_comes(at: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(STREAMING)
    at.hold("half")
    with (
        serving("agent.py", folder=tmp_path, variables=at.environment) as server,
        terminal("chat", server.url, folder=tmp_path) as shown,
    ):
        shown.until("default> ")
        shown.type("tell me\n")
        shown.until("  A first part.")
        at.release()
        shown.until("  A first part. And a second.")
        shown.until("default> ")


def test_a_question_of_the_agent_is_shown_and_answered(at: Checkpoints, tmp_path: Path) -> None:
    with (
        serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server,
        terminal("chat", server.url, folder=tmp_path) as shown,
    ):
        shown.until("default> ")
        shown.type("one @a\n")
        shown.until("@a: may I, one?")
        shown.until("y, n or a text> ")
        shown.type("\n")
        shown.until("y, n or a text> ")
        shown.type("y\n")
        shown.until("did @a (yes)")
        shown.until("one: did @a (yes)")
        shown.until("default> ")
        shown.type("two @b\n")
        shown.until("y, n or a text> ")
        shown.type(CTRL_D)
        shown.until("strandline answer default TEXT")
        shown.until("default> ")
        done = piped(server.url, "-m", "three @c", "-s", "other", folder=tmp_path)
        assert (done.returncode, done.stdout) == (3, "")
        assert "The agent asks: @c: may I, three?" in done.stderr


def test_a_server_that_stops_is_no_end_of_the_program(at: Checkpoints, tmp_path: Path) -> None:
    with (
        serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=reserved_port()) as server,
        terminal("chat", server.url, folder=tmp_path) as shown,
    ):
        shown.until("default> ")
        server.terminate()
        server.ended()
        shown.type("one\n")
        shown.until("strandline serve")
        shown.until("default> ")
        server.start()
        shown.type("one\n")
        shown.until("  one")
        shown.until("default> ")
        shown.type(CTRL_D)
        assert shown.ended() == 0


def test_without_colours_there_are_none(server: Server, tmp_path: Path) -> None:
    with terminal("chat", server.url, "-s", "plain", folder=tmp_path, variables={"NO_COLOR": "1"}) as at:
        at.until("plain> ")
        at.type("你好，世界\n")
        at.until("You said 你好，世界.")
        at.until("plain> ")
        at.type(CTRL_D)
        assert at.ended() == 0
        assert re.search(r"\x1b\[[0-9;]*\b(3[0-8]|9[0-7])\b[0-9;]*m", at.raw) is None, "no colour"
