"""The servers of the race as real processes: started, killed, restarted, and always ended."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from strandline._demo.race.ledger import FOLDER_VARIABLE
from strandline._demo.race.record import Server

READY_S: Final = 60.0
REPLY_S: Final = 90.0
POLL_S: Final = 0.01
_URL: Final = re.compile(r"http://127\.0\.0\.1:(\d+)")
_OURS: Final = re.compile(r"STRANDLINE_|AGENT_ID$|PORT$|IDLE_TIMEOUT_MINUTES$")
_STRANDLINE: Final = (
    "from strandline._demo.race.parent_watch import exit_with_parent; exit_with_parent();"
    " from strandline._cli import main; main()"
)


def _import_path() -> list[str]:
    """Return the servers' import path: this package first, whatever folder they are started in."""
    given = os.environ.get("PYTHONPATH", "")
    return [str(Path(__file__).parents[3]), *(os.path.abspath(each) for each in given.split(os.pathsep) if each)]


class NotPlayed(Exception):
    """The race could not be played to its end; the message says why."""


class Ended(NotPlayed):
    """The race was interrupted."""


def command(server: Server) -> list[str]:
    """Return the command of a server, which prints its address to stderr."""
    match server:
        case Server.STRANDLINE:
            serve = ["serve", "strandline._demo.race.agent", "--port", "0", "--journal", "sqlite:journal.db"]
            return [sys.executable, "-c", _STRANDLINE, *serve]
        case Server.LOCK:
            return [sys.executable, "-m", "strandline._demo.race.plain", "--lock"]
        case Server.DEFAULT:
            return [sys.executable, "-m", "strandline._demo.race.plain"]
        case Server.UNPROTECTED:
            return [sys.executable, "-m", "strandline._demo.race.plain", "--let-in"]


class Contestant:
    """One server of the race, in a folder of its own that outlives its processes."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.url = ""
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Start the process and return when it listens. Raises `NotPlayed` with its output if it does not."""
        self._starts += 1
        log = self.folder / f"server-{self._starts}.log"
        inherited = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        with self._lock, log.open("wb") as output:
            if self._closed:
                raise Ended("the race was broken off")
            self._process = subprocess.Popen(
                command(self.server),
                cwd=self.folder,
                env={**inherited, FOLDER_VARIABLE: str(self.folder), "PYTHONPATH": os.pathsep.join(_import_path())},
                stdin=subprocess.PIPE,  # (nothing is written; see `parent_watch`)
                stdout=output,
                stderr=output,
                # An interrupt from the keyboard is for the command, which then ends its servers.
                start_new_session=True,
            )
        self.until(lambda: _URL.search(log.read_text(errors="replace")), "it listens")
        found = _URL.search(log.read_text(errors="replace"))
        assert found is not None
        self.url, self._port = found[0], int(found[1])

    def kill(self) -> None:
        """End the process at once, as `kill -9` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()

    def close(self) -> None:
        """End the process for good; it cannot be started again. May be called from any thread, more than once."""
        with self._lock:
            self._closed = True
            self.kill()

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = READY_S) -> None:
        """Return when `condition()` is true. Raises `NotPlayed` at the deadline, or if the process has ended."""
        end = time.monotonic() + deadline_s
        while not condition():
            if self._closed:
                raise Ended("the race was broken off")
            if self._process is None or self._process.poll() is not None:
                raise NotPlayed(f"the {self.server} server has ended: {self._said()}")
            if time.monotonic() >= end:
                raise NotPlayed(f"the {self.server} server: not within {deadline_s:g} s: {what}. {self._said()}")
            time.sleep(POLL_S)

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Return the answer of a route."""
        try:
            status, body = self.exchange("GET", f"{path}?{urlencode(query)}")
        except (OSError, http.client.HTTPException) as error:
            raise NotPlayed(f"the {self.server} server does not answer: {error!r}. {self._said()}") from None
        if status != 200:
            raise NotPlayed(f"the {self.server} server answered {status} on {path}")
        return body

    def executing(self) -> int:
        """Return how many requests wait or execute."""
        health = self.get("/health")
        return int(health["processing"]) + int(health["queue_depth"])

    def exchange(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Make a request on a new connection. Raises `OSError` or `HTTPException` without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=REPLY_S)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"} if sent else {})
            reply = connection.getresponse()
            answer: dict[str, Any] = json.loads(reply.read())
            return reply.status, answer
        finally:
            connection.close()

    def _said(self) -> str:
        text = (self.folder / f"server-{self._starts}.log").read_text(errors="replace")
        return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-3:]) or "it said nothing"
