"""What `make run` serves: the demo's agent, its launcher as a process, and its small model where that exists."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from strands.types.content import Message

from docker_engine import DEADLINE_S, until
from fakes.provider import Provider
from ports import reserved_port
from strandline._demo import agent, local_model
from strandline.testing import call, say

# -- the agent ----------------------------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(local_model.URL_VARIABLE, raising=False)
    monkeypatch.setenv(agent.PACE_VARIABLE, "0")


@pytest.mark.usefixtures("scripted")
def test_the_scripted_agent_calls_its_tool_and_counts_messages() -> None:
    conversation = agent.make_agent("s")

    first = str(conversation("Please roll a d20.")).strip()
    second = str(conversation("Thank you.")).strip()

    assert first.startswith("I rolled ")
    assert first.endswith(" on a die with 20 sides. That was message 1 of this session.")
    assert second == "I am a script, and you said: Thank you. That was message 2 of this session."
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 3


@pytest.mark.parametrize(
    ("text", "sides"),
    [("Roll a die", 6), ("roll a d20!", 20), ("a die with 12 sides", 12), ("ROLL 8-sided dice", 8), ("d99999", 1000)],
)
def test_the_script_understands_which_die(text: str, sides: int) -> None:
    message: Message = {"role": "user", "content": [{"text": text}]}

    assert agent.answer([message]) == [say("Let me roll. "), call("roll_dice", {"sides": sides})]


def test_no_die_has_one_side() -> None:
    with pytest.raises(ValueError, match="no die has 1 sides"):
        agent.roll_dice(sides=1)


# -- finding and starting the small model -------------------------------------------------------------


def test_another_platform_says_why_there_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")

    with pytest.raises(local_model.ModelUnavailable, match="Linux on x86_64, and this is Darwin on arm64"):
        local_model.find()


@pytest.mark.parametrize("libc", [("glibc", "2.31"), ("", "")])
def test_an_older_or_another_libc_says_why_there_is_no_model(
    monkeypatch: pytest.MonkeyPatch, libc: tuple[str, str]
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: libc)

    with pytest.raises(local_model.ModelUnavailable, match=r"glibc 2\.35"):
        local_model.find()


def test_a_missing_server_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_model, "why_not_here", lambda: None)

    with pytest.raises(local_model.ModelUnavailable, match="llama-server-vulkan is not in"):
        local_model.find(tmp_path)


def _stand_in(folder: Path, script: str) -> local_model.ModelFiles:
    """Make a server of a model that does what a test needs."""
    binary = folder / local_model.BINARY
    binary.write_text(f"#!{sys.executable}\n{script}")
    binary.chmod(0o755)
    weights = folder / "model.gguf"
    weights.touch()
    return local_model.ModelFiles(binary, weights)


SERVER = """
import http.server, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.environ.get("LLAMA_API_KEY") else 500)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


def test_a_server_that_answers_is_returned_and_can_be_stopped(tmp_path: Path) -> None:
    model = local_model.start(_stand_in(tmp_path, SERVER), tmp_path / "log" / "model.log")

    assert httpx.get(model.url.replace("/v1", "/health")).status_code == 200
    model.stop()
    assert model.child.returncode == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_server_ends_with_its_parent_even_if_that_is_killed(tmp_path: Path) -> None:
    _stand_in(tmp_path, SERVER)
    parent = f"""
import os, signal
from pathlib import Path
from strandline._demo import local_model
folder = Path({str(tmp_path)!r})
model = local_model.start(local_model.ModelFiles(folder / local_model.BINARY, folder / "m"), folder / "model.log")
print(model.child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=60, check=False)

    child = int(done.stdout)
    until(lambda: not _runs(child), "the model's server has ended")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_that_ends_at_once_is_reported_with_its_last_output(tmp_path: Path) -> None:
    files = _stand_in(tmp_path, "import sys\nprint('no such instruction')\nsys.exit(3)\n")

    with pytest.raises(local_model.ModelUnavailable, match="ended with status 3: no such instruction"):
        local_model.start(files, tmp_path / "model.log")


def test_a_processor_that_cannot_run_the_server_is_reported(tmp_path: Path) -> None:
    files = _stand_in(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")

    with pytest.raises(local_model.ModelUnavailable, match="instructions that this one lacks"):
        local_model.start(files, tmp_path / "model.log")


def test_a_server_that_never_answers_is_ended_and_reported(tmp_path: Path) -> None:
    files = _stand_in(tmp_path, "import signal, sys\nprint('loading', flush=True)\nsignal.pause()\n")

    with pytest.raises(local_model.ModelUnavailable, match="not ready in time"):
        local_model.start(files, tmp_path / "model.log", ready_s=0.5)


# -- the launcher -------------------------------------------------------------------------------------


@contextmanager
def launched(folder: Path, port: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run `python -m strandline._demo` in `folder`; it is ended on the way out."""
    process = subprocess.Popen(
        [sys.executable, "-m", "strandline._demo"],
        cwd=folder,
        env={**os.environ, "PORT": str(port), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=5)
    except httpx.TransportError:
        return None


def _is_ready(url: str, process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, process.stdout.read() if process.stdout else ""
    answer = _get(f"{url}/readyz")
    return answer is not None and answer.status_code == 200


def _ask_two_at_once(url: str, first: str, second: str) -> tuple[str, str]:
    """Send two messages to one session so that the second arrives while the first runs."""

    def ask(text: str) -> str:
        answer = httpx.post(f"{url}/chat", json={"message": text}, timeout=DEADLINE_S).json()
        assert answer["status"] == "success", answer
        response: str = answer["response"]
        return response

    def health() -> dict[str, Any]:
        got: dict[str, Any] = httpx.get(f"{url}/health").json()
        return got

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(ask, first)
        until(lambda: health()["processing"] or one.done(), "the first one runs")
        two = pool.submit(ask, second)
        until(lambda: health()["queue_depth"] == 1 or two.done(), "the second one waits")
        return one.result(DEADLINE_S), two.result(DEADLINE_S)


def test_the_scripted_demo_starts_says_what_to_try_and_answers_two_at_once(tmp_path: Path) -> None:
    port = reserved_port()
    url = f"http://127.0.0.1:{port}"
    environment = {"STRANDLINE_DEMO_MODEL": "scripted", agent.PACE_VARIABLE: "0.3"}
    with launched(tmp_path, port, **environment) as process:
        until(lambda: _is_ready(url, process), "the demo is ready")
        first, second = _ask_two_at_once(url, "Roll a die with 20 sides.", "And you?")
        process.terminate()
        said, _ = process.communicate(timeout=DEADLINE_S)

    assert first.endswith("That was message 1 of this session.")
    assert second.endswith("That was message 2 of this session.")
    assert "answers from a script" in said
    assert f"curl -s {url}/chat -d" in said
    assert f"curl -s {url}/health" in said
    assert f"{url}/history?count=0" in said
    assert process.returncode in (0, -signal.SIGTERM, 143)
    assert (tmp_path / ".strandline" / "journal.db").is_file()


def test_without_a_model_the_demo_says_why_and_answers_from_the_script(tmp_path: Path) -> None:
    port = reserved_port()
    url = f"http://127.0.0.1:{port}"
    start = (
        "from strandline._demo import __main__, local_model; "
        "local_model.why_not_here = lambda: 'its server is built for another planet'; __main__.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start],
        cwd=tmp_path,
        env={**os.environ, "PORT": str(port), "STRANDLINE_DEMO_MODEL": "", agent.PACE_VARIABLE: "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            until(lambda: _is_ready(url, process), "the demo is ready")
            answer = httpx.post(f"{url}/chat", json={"message": "Hello."}, timeout=DEADLINE_S).json()
        finally:
            process.terminate()
        said = process.stdout.read() if process.stdout else ""

    assert "There is no small model to run here: its server is built for another planet." in said
    assert "I am a script" in answer["response"]


def test_a_port_that_is_taken_is_refused_with_what_to_type(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with launched(tmp_path, other.getsockname()[1], STRANDLINE_DEMO_MODEL="scripted") as process:
            said, _ = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 2
    assert "PORT=8081 make run" in said


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("PORT", "http", "PORT is 'http'"),
        ("STRANDLINE_DEMO_MODEL", "gpt", "names no known provider"),
        ("STRANDLINE_DEMO_MODEL", "opnai:gpt-4o", "did you mean 'openai'"),
        ("STRANDLINE_DEMO_MODEL", "openai:", "Write `openai:NAME`"),
        ("STRANDLINE_DEMO_MODEL", "openai:gpt-4o-mini", "Set OPENAI_API_KEY"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    settings = {"PORT": str(reserved_port()), variable: value}
    done = subprocess.run(
        [sys.executable, "-m", "strandline._demo"],
        cwd=tmp_path,
        env={**os.environ, "OPENAI_API_KEY": "", "OPENAI_BASE_URL": "", **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert expected in done.stdout


def test_a_model_of_a_provider_answers_by_its_name(tmp_path: Path) -> None:
    """Through the provider's real client; the agent's tool goes along."""
    port = reserved_port()
    url = f"http://127.0.0.1:{port}"
    with Provider("Good day.") as provider:
        environment = {"OPENAI_BASE_URL": provider.url, "OPENAI_API_KEY": "sk"}
        with launched(tmp_path, port, STRANDLINE_DEMO_MODEL="openai:small-one", **environment) as process:
            until(lambda: _is_ready(url, process), "the demo is ready")
            answer = httpx.post(f"{url}/chat", json={"message": "Hello."}, timeout=DEADLINE_S).json()
            process.terminate()
            said, _ = process.communicate(timeout=DEADLINE_S)
        (sent,) = provider.requests

    assert answer["response"].strip() == "Good day."
    assert sent.body["model"] == "small-one"
    assert [each["function"]["name"] for each in sent.body["tools"]] == ["roll_dice"]
    assert "The demo answers with openai:small-one." in said


# -- the small model itself ---------------------------------------------------------------------------


@pytest.mark.realmodel
@pytest.mark.skipif(os.environ.get("STRANDLINE_REALMODEL") != "1", reason="set STRANDLINE_REALMODEL=1 to run it")
def test_the_small_model_answers_two_at_once(tmp_path: Path) -> None:
    port = reserved_port()
    url = f"http://127.0.0.1:{port}"
    with launched(tmp_path, port, STRANDLINE_DEMO_MODEL="local") as process:
        until(lambda: _is_ready(url, process), "the demo is ready")
        answers = _ask_two_at_once(url, "Tell me a story about a lighthouse.", "What is the capital of France?")
        history = httpx.get(f"{url}/history", params={"count": 0}).json()["messages"]
        process.terminate()
        said, _ = process.communicate(timeout=DEADLINE_S)

    assert "is loaded" in said
    assert all(answers)
    assert [message["role"] for message in history] == ["user", "assistant"] * 2
