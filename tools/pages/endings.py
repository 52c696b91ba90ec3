"""What history says after each ending: a real server, an agent that ends in each way, and what was kept of it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

AGENT: Final = Path(__file__).with_name("agent.py")
DEADLINE_S: Final = 30.0
FLAGS: Final = ("--port", "0", "--journal", "sqlite:journal.db", "--cancel-grace", "0.5", "--drain-grace", "0.1")


class Case(NamedTuple):
    """One ending: its session, its heading and what the client asks."""

    session: str
    title: str
    body: dict[str, Any]


PLAIN: Final = (
    Case("good", "It answers", {"message": "Book Lima."}),
    Case("tool-error", "A tool raises", {"message": "Book Atlantis."}),
    Case("model-error", "The model fails in the middle of its answer", {"message": "Fail."}),
    Case("max-tokens", "The answer is cut off at `max_tokens`", {"message": "Write a novel."}),
    Case("timeout", "Time is over, in a tool that nobody can stop", {"message": "Book Rome.", "timeout": 0.5}),
)
CANCELLED: Final = Case("cancel", "It is cancelled, when one tool has worked", {"message": "Book Paris."})
QUEUED: Final = Case("queue", "It waits longer than its `queue_timeout`", {"message": "Hello?", "queue_timeout": 0.2})
STOPPED: Final = Case("stop", "The server is stopped, with a tool in the middle", {"message": "Book Rome."})
KILLED: Final = (
    Case("crash-tool", "The server is killed (`kill -9`), with a tool in the middle", {"message": "Book Rome."}),
    Case("crash-model", "The server is killed (`kill -9`), after a tool", {"message": "Book Oslo."}),
)
LATER: Final = Case("later", "", {"message": "Are you there?"})


def blocks() -> dict[str, str]:
    """Play every case and return what came of it, as the page shows it, by heading."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(8) as clients:
        play = _Play(Path(folder), clients)
        with contextlib.ExitStack() as ends:
            ends.callback((Path(folder) / "go-on").touch)  # whatever happens, no tool waits for ever
            return play.all()


class _Play:
    def __init__(self, folder: Path, clients: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._clients = clients
        self._url = ""

    def all(self) -> dict[str, str]:
        answers: dict[str, str] = {}
        with self._served() as server:
            for case in PLAIN:
                answers[case.title] = self._answer_text(self._ask(case), case)
            answers[CANCELLED.title] = self._answer_text(self._cancelled(), CANCELLED)
            first = self._clients.submit(self._ask, Case(QUEUED.session, "", {"message": "Book Rome."}))
            self._reached(QUEUED.session)
            answers[QUEUED.title] = self._answer(self._ask(QUEUED))
            self._go_on(True)
            first.result()
            answers[QUEUED.title] += self._history(QUEUED.session)
            self._go_on(False)
            pending = self._clients.submit(self._ask, STOPPED)
            self._reached(STOPPED.session)
            server.send_signal(signal.SIGTERM)
            stopped = pending.result()
            server.wait(DEADLINE_S)
        self._go_on(False)
        with self._served() as server:
            answers[STOPPED.title] = self._answer_text(stopped, STOPPED)
            for case in KILLED:
                self._clients.submit(self._ask, case)
                self._reached(case.session)
            self._ask(LATER)  # (once this one is answered, all that was done before it is kept)
            server.kill()
            server.wait(DEADLINE_S)
        self._go_on(True)
        with self._served():
            for case in KILLED:
                answers[case.title] = self._answer_text({}, case)
        return answers

    @contextlib.contextmanager
    def _served(self) -> Iterator["subprocess.Popen[str]"]:
        command = [str(Path(sys.executable).with_name("strandline")), "serve", str(AGENT), *FLAGS]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("STRANDLINE_")}
        server = subprocess.Popen(command, cwd=self._folder, env=ours, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            self._url = next((url[0] for line in server.stderr if (url := re.findall(r" at (http://\S+)$", line))), "")
            assert self._url, "the server ended before it was ready"
            rest = threading.Thread(target=server.stderr.read, daemon=True)
            rest.start()
            yield server
            server.kill()
            rest.join(DEADLINE_S)
        finally:
            self._go_on(True)
            server.kill()
            server.wait(DEADLINE_S)
            if server.stderr is not None:
                server.stderr.close()

    def _ask(self, case: Case) -> dict[str, Any]:
        body = {**case.body, "session_id": case.session}
        with contextlib.suppress(httpx.TransportError):  # a server that is killed answers nobody
            answer: dict[str, Any] = httpx.post(
                f"{self._url}/chat", json=body, timeout=DEADLINE_S, trust_env=False
            ).json()
            return answer
        return {}

    def _cancelled(self) -> dict[str, Any]:
        """Cancel a run once its agent waits; return its client's answer."""
        pending = self._clients.submit(self._ask, CANCELLED)
        self._reached(CANCELLED.session)
        path = f"{self._url}/v1/sessions/{CANCELLED.session}/cancel"
        httpx.post(path, json={"running": True}, timeout=DEADLINE_S, trust_env=False).raise_for_status()
        return pending.result()

    def _answer_text(self, answer: dict[str, Any], case: Case) -> str:
        """Return the client's answer and the history, once the session's next question was answered."""
        if case.session == "timeout":
            self._go_on(True)
        after = self._ask(Case(case.session, "", {"message": "Are you there?"}))
        assert after["response"] == "Yes.", after
        if case.session == "timeout":
            self._go_on(False)
        return self._answer(answer) + self._history(case.session)

    def _answer(self, answer: dict[str, Any]) -> str:
        if not answer:
            return _line("/chat", "(the connection breaks)") + "\n"
        sentence = answer["response"].partition(". ")[0]  # the rest of a long one is advice of others
        status = ", ".join(f'"{name}": "{answer[name]}"' for name in ("status", "error_code") if name in answer)
        return _line("/chat", status) + _line("", f'"response": "{sentence}"') + "\n"

    def _history(self, session: str) -> str:
        query = {"session_id": session, "count": "0", "include_tool_messages": "true"}
        messages = httpx.get(f"{self._url}/history", params=query, timeout=DEADLINE_S, trust_env=False).json()[
            "messages"
        ]
        if messages[-1]["content"] == [{"text": "Yes."}]:
            messages = messages[:-2]
        return "".join(line for message in messages for line in _lines(message))

    def _reached(self, session: str) -> None:
        _until((self._folder / f"reached-{session}").exists, f"{session} at work")

    def _go_on(self, yes: bool) -> None:
        file = self._folder / "go-on"
        if yes:
            file.touch()
        else:
            file.unlink(missing_ok=True)


def _lines(message: dict[str, Any]) -> Iterator[str]:
    for block in message["content"]:
        match block:
            case {"text": text}:
                yield _line(message["role"], text.strip())
            case {"toolUse": use}:
                given = ", ".join(f"{name}={value!r}" for name, value in use["input"].items())
                yield _line(message["role"], f"calls {use['name']}({given})")
            case {"toolResult": result}:
                yield _line("tool", f"{result['status']}: {' '.join(part['text'] for part in result['content'])}")


def _line(who: str, what: str) -> str:
    return textwrap.fill(what, 80, initial_indent=f"{who:<11}", subsequent_indent=" " * 11) + "\n"


def _until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {DEADLINE_S} s: {what}")
        time.sleep(0.01)
