"""The command as a real process: `Server`. Started or forked, called over real HTTP, killed, restarted.

Knows nothing of Strandline's inside, except in `Server.stored`, which reads the journal's file for runs whose ids no
client received before a crash.
"""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from acceptance.nursery import Newborn, nursery
from strandline.testing._checker import check_history

COMMAND: Final = Path(sys.executable).parent / "strandline"
TARGETS: Final = Path(__file__).parent / "targets"
TESTS: Final = Path(__file__).parents[1]
DEADLINE_S: Final = 90.0
POLL_S: Final = 0.005
CLIENTS: Final = 128
WORKERS: Final = os.environ.get("TESTED_WITH_WORKERS")
"""For how many workers each server has that does not say so itself: all tests can be run with some, by hand."""
_OURS: Final = re.compile(r"STRANDLINE_|AGENT_ID$|PORT$|IDLE_TIMEOUT_MINUTES$")


def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when `condition()` is true. Fails, naming `what`, when it has not become so in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(POLL_S)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without settings of ours, with the tests importable, and `more`."""
    # (pytest writes into the environment between tests, and servers are started in threads meanwhile)
    found = {name: os.environ.get(name) for name in os.environ if not _OURS.match(name)}
    clean = {name: value for name, value in found.items() if value is not None}
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(TESTS))))
    workers = {"STRANDLINE_WORKERS": WORKERS} if WORKERS else {}
    return {**clean, **workers, "PYTHONPATH": path, "COLUMNS": "200", **more}


def ran(
    *arguments: str | Path,
    folder: Path,
    typed: str | None = None,
    deadline_s: float = DEADLINE_S,
    variables: Mapping[str, str] | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run the command with `arguments`, without a terminal, until it ends; None is typed into /dev/null."""
    command = [str(COMMAND), *map(str, arguments)]
    clean = environment(variables or {})
    place = nursery(clean)
    if place is not None:
        return place.run(command, folder, clean, typed, deadline_s)
    return subprocess.run(
        command,
        cwd=folder,
        env=clean,
        input=typed,
        stdin=subprocess.DEVNULL if typed is None else None,
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )


def refused(*arguments: str, folder: Path, deadline_s: float = DEADLINE_S, **variables: str) -> str:
    """Run `strandline serve` with `arguments`, which it must refuse: exit code 2, and no traceback. Return why."""
    done = ran("serve", *arguments, folder=folder, deadline_s=deadline_s, variables=variables)
    assert done.returncode == 2, f"exit code {done.returncode}:\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


class Stored(NamedTuple):
    """A run as the journal's file has it."""

    run_id: str
    session_id: str
    status: str
    attempt: int


class Server:
    """`strandline serve TARGET`, in `folder`, with a journal there that outlives the process."""

    mounted_at = ""
    announcement = re.compile(r" at http://[\w.]+:(\d+)$")
    """What it says when it is ready, with its port."""

    def __init__(
        self,
        target: str | Path | None,
        *flags: str,
        folder: Path,
        variables: Mapping[str, str] | None = None,
        journal: str | None = "sqlite:journal.db",
        port: int | None = 0,
        installed: bool = False,
    ) -> None:
        self.folder = folder
        self.flags: Sequence[str] = flags
        self.variables = dict(variables or {})
        self.url = f"http://127.0.0.1:{port or 0}"
        self.stderr = ""
        """What all processes so far have written, also for the message of a failing test."""
        self._target = [] if target is None else [str(target)]
        self._journal = journal
        self._places = [
            *([] if port is None else ["--port", str(port)]),
            *([] if journal is None else ["--journal", journal]),
        ]
        self._installed = installed
        self._process: subprocess.Popen[str] | Newborn | None = None
        self._reader: threading.Thread | None = None
        self._announced = threading.Event()
        self._silent = False
        """Whether the process has ended without a word of its address."""
        self._client: httpx.Client | None = None
        self._askers = ThreadPoolExecutor(CLIENTS, thread_name_prefix="asker")
        self._sent: list[Future[httpx.Response]] = []

    # -- the process ----------------------------------------------------------------------------------

    def start(self, *, ready: bool = True) -> None:
        """Start the process, on the same journal as before; with `ready`, return when it has announced its address."""
        assert self._process is None, "it runs already"
        self._announced.clear()
        self._silent = False
        self._process = self._start()
        self._reader = threading.Thread(target=self._read, args=(self._process,), name="stderr", daemon=True)
        self._reader.start()
        self._connect()
        if ready:
            self.until_ready()

    def _start(self) -> "subprocess.Popen[str] | Newborn":
        command, environment = self.command(), self._environment()
        place = None if self._installed or command[0] != str(COMMAND) else nursery(environment)
        if place is not None:
            return place.serving(command, self.folder, environment)
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self) -> list[str]:
        """Return what starts the process."""
        return [str(COMMAND), "serve", *self._target, *self._places, *self.flags]

    def _environment(self) -> dict[str, str]:
        return environment(self.variables)

    def until_ready(self) -> None:
        """Return when the process has announced its address; its journal is open then."""
        if not self._announced.wait(DEADLINE_S):
            raise AssertionError(f"not ready within {DEADLINE_S} s:\n{self.stderr}")
        if self._silent:
            raise AssertionError(f"the server ended before it was ready:\n{self.stderr}")
        self._connect()

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        self._running().kill()
        self.ended()

    def terminate(self) -> None:
        """Ask the process to stop (SIGTERM); `ended` waits for it."""
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._running().send_signal(number)

    def ended(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the process to end; return its exit code, negative for a signal."""
        process = self._running()
        code = process.wait(deadline_s)
        assert self._reader is not None
        self._reader.join(DEADLINE_S)
        assert process.stderr is not None
        process.stderr.close()
        self._process = None
        wait(self._sent, DEADLINE_S)  # waiting clients have an answer or a broken connection
        self._sent.clear()
        return code

    def close(self) -> None:
        """End the process, whatever it does, and everything that was started here."""
        if self._process is not None:
            self.kill()
        if self._client is not None:
            self._client.close()
        self._askers.shutdown(wait=True, cancel_futures=True)

    @property
    def pid(self) -> int:
        """The id of the process that runs."""
        return self._running().pid

    def _running(self) -> "subprocess.Popen[str] | Newborn":
        assert self._process is not None, "it does not run"
        return self._process

    def _read(self, process: "subprocess.Popen[str] | Newborn") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.stderr += line
            if not self._announced.is_set() and (found := self.announcement.search(line)) is not None:
                self.url = f"http://127.0.0.1:{found.group(1)}"
                self._announced.set()
        self._silent = not self._announced.is_set()
        self._announced.set()

    def _connect(self) -> None:
        if self._client is not None:
            self._client.close()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.Client(
            base_url=self.url + self.mounted_at, timeout=DEADLINE_S, limits=limits, trust_env=False
        )

    # -- requests -------------------------------------------------------------------------------------

    @property
    def client(self) -> httpx.Client:
        """A client of the process that runs; may be used from any thread."""
        assert self._client is not None
        return self._client

    def chat(self, message: str, session_id: str = "default") -> dict[str, Any]:
        """Ask, and return the answer, which must have come with 200."""
        response = self.client.post("/chat", json={"message": message, "session_id": session_id})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def ask(self, message: str, session_id: str = "default") -> "Future[httpx.Response]":
        """Ask in a thread. Without waiting between two of them, nobody knows which arrives first."""
        body = {"message": message, "session_id": session_id}
        return self.submit(self.client.post, "/chat", json=body)

    def submit(
        self, request: Callable[..., httpx.Response], *arguments: Any, **options: Any
    ) -> "Future[httpx.Response]":
        """Make any request in a thread."""
        pending = self._askers.submit(request, *arguments, **options)
        self._sent.append(pending)
        return pending

    def line_up(self, *messages: str, session_id: str = "default") -> "list[Future[httpx.Response]]":
        """Ask one after the other: each once the one before is seen inside. Something must hold them there."""
        requests = []
        for message in messages:
            before = self.inside()
            requests.append(self.ask(message, session_id))
            until(lambda before=before: self.inside() > before, f"{message!r} inside\n{self.stderr}")  # type: ignore[misc]
        return requests

    def line_up_behind(self, message: str, session_id: str) -> "list[Future[httpx.Response]]":
        """Ask in a session that is held: return once the question is seen waiting."""
        before = self.health()["queue_depth"]
        pending = self.ask(message, session_id)
        until(lambda: self.health()["queue_depth"] > before, f"{message!r} waiting\n{self.stderr}")
        return [pending]

    def health(self) -> dict[str, Any]:
        """Return what `/health` says."""
        health: dict[str, Any] = self.client.get("/health").raise_for_status().json()
        return health

    def inside(self) -> int:
        """Return how many runs wait or execute."""
        health = self.health()
        return int(health["running"]) + int(health["queue_depth"])

    def quiet(self) -> None:
        """Return when nothing waits or executes."""
        until(lambda: self.inside() == 0, f"quiet\n{self.stderr}")

    def run(self, run_id: str, wait_s: int | None = None) -> dict[str, Any]:
        """Return a run; with `wait_s`, once it has ended or that time is over."""
        headers = {} if wait_s is None else {"Prefer": f"wait={wait_s}"}
        run: dict[str, Any] = self.client.get(f"/v1/runs/{run_id}", headers=headers).raise_for_status().json()
        return run

    def history(self, session_id: str = "default") -> list[Any]:
        """Return the whole history, which must be one that a provider accepts."""
        query = {"session_id": session_id, "count": "0", "include_tool_messages": "true"}
        messages: list[Any] = self.client.get("/history", params=query).raise_for_status().json()["messages"]
        assert check_history(messages) == [], messages
        return messages

    def wait_until_stored(self) -> None:
        """Return when all earlier operations of the journal are durable.

        Operations take effect in order, and a new session's first answer needs two of them.
        """
        assert self.chat("stored", f"stored-{time.monotonic_ns()}")["status"] == "success"

    def stored(self) -> list[Stored]:
        """Return the runs of the journal's file, in order of acceptance, without those of `wait_until_stored`."""
        assert self._journal is not None
        with closing(sqlite3.connect(self.folder / self._journal.removeprefix("sqlite:"))) as file:
            rows = file.execute(
                "SELECT run_id, session_id, status, attempt FROM runs JOIN sessions ON no = session ORDER BY seq"
            ).fetchall()
        return [Stored(*row) for row in rows if not row[1].startswith("stored-")]


def texts(messages: Sequence[Mapping[str, Any]], role: str) -> list[str]:
    """Return the texts that `role` said, one for each message that has any."""
    said = ["\n".join(b["text"] for b in m["content"] if "text" in b) for m in messages if m["role"] == role]
    return [text for text in said if text]


def tool_results(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the texts of all tool results, in order."""
    results = [b["toolResult"] for m in messages for b in m["content"] if "toolResult" in b]
    return ["".join(part["text"] for part in result["content"]) for result in results]


@contextmanager
def serving(
    target: str | Path | None, *flags: str, folder: Path, variables: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Server]:
    """Serve `target` for the time of a `with`; None is what the command finds by itself.

    The server must not have written of an error of its own.
    """
    server = Server(target, *flags, folder=folder, variables=variables, **options)
    try:
        server.start()
        yield server
    finally:
        server.close()
    assert "Traceback" not in server.stderr, server.stderr
    assert " ERROR " not in server.stderr, server.stderr
