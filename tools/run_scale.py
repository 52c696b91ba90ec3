"""`make run-scale`: three servers over a private PostgreSQL; one is killed, and its conversations continue.

Four people talk to the demo's agent, each in a session of their own, each message sent to the next of the servers that
are left. A line shows each answer: who asked which server, which one owned the session, and how long it took. In
the end the conversations are read and compared with what was sent. Nothing is faked, and nothing is left behind.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.text import Text

from strandline._journal.partitions import partition_of
from strandline._model import Principal, SessionId, SessionKey
from tools.postgres import Cluster, why_no_postgres

PEOPLE: Final = ("ada", "ben", "cleo", "dan")
SERVERS: Final = 3
PACE_S: Final = 0.4
"""How long the agent takes for an answer."""
DEADLINE_S: Final = 60.0
SERVER_ERROR: Final = 500
COLOURS: Final = ("cyan", "magenta", "yellow")
_ADDRESS: Final = re.compile(r"http://127\.0\.0\.1:\d+")


class Server:
    """A real server, on a port that the system chose."""

    def __init__(self, number: int, journal: str, folder: Path) -> None:
        self.number = number
        self.log = folder / f"server-{number}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "strandline", "serve", "strandline._demo.agent", "--port", "0"],
                env={
                    "PATH": "/usr/bin:/bin",
                    "STRANDLINE_JOURNAL": journal,
                    "STRANDLINE_DEMO_MODEL": "scripted",
                    "STRANDLINE_DEMO_PACE": str(PACE_S),
                    "STRANDLINE_WORKSPACE": str(folder / f"workspace-{number}"),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
            )
        self.url = self._until_ready()

    @property
    def name(self) -> Text:
        """Its name, in its colour."""
        return Text(f"server {self.number}", COLOURS[self.number - 1])

    @property
    def is_alive(self) -> bool:
        """Whether it was not killed."""
        return self.process.poll() is None

    def _until_ready(self) -> str:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end and self.is_alive:
            found = _ADDRESS.search(self.log.read_text(errors="replace"))
            if found is not None:
                return found[0]
            time.sleep(0.05)
        raise SystemExit(f"server {self.number} did not start:\n{self.log.read_text(errors='replace')}")


class Story:
    """What happens, shown on a console from any thread."""

    def __init__(self, console: Console, servers: list[Server], journal: str) -> None:
        self.console = console
        self.servers = servers
        self._journal = journal
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self.sent: dict[str, list[str]] = {person: [] for person in PEOPLE}
        self.session = {person: f"{person}-{uuid.uuid4().hex[:4]}" for person in PEOPLE}
        self.longest_s = 0.0

    def show(self, text: Text) -> None:
        """Print a line with the time."""
        with self._lock:
            self.console.print(Text(f"{time.monotonic() - self._began:5.1f} s  ").append(text))

    def owner(self, person: str) -> int | None:
        """Return the number of the server that owns a person's session, as the database says; None: nobody."""
        import psycopg

        key = SessionKey(Principal("anonymous"), SessionId(self.session[person]))
        query = "SELECT s.name FROM partitions JOIN servers s ON s.id = owner AND s.alive WHERE p = %s"
        with psycopg.connect(self._journal) as connection:
            row = connection.execute(query, (partition_of(key),)).fetchone()
        numbers = {f"process {server.process.pid} ": server.number for server in self.servers}
        return None if row is None else next((numbers[each] for each in numbers if row[0].startswith(each)), None)

    def talk(self, person: str) -> None:
        """Send one message after the other, each to the next server that is left, until the story ends."""
        turn = PEOPLE.index(person)
        while not self.stopping.is_set():
            message = f"hello {len(self.sent[person]) + 1}"
            self.sent[person].append(message)
            self._send(person, message, turn)
            turn += 1
            self.stopping.wait(0.3)

    def _send(self, person: str, message: str, turn: int) -> None:
        """Have a message answered: under its key it may be sent again, elsewhere, whatever became of it."""
        began = time.monotonic()
        body = {"message": message, "session_id": self.session[person]}
        headers = {"Idempotency-Key": f'"{self.session[person]} {message}"'}
        tried: list[int] = []
        got: httpx.Response | None = None
        while got is None or got.status_code >= SERVER_ERROR:
            living = [server for server in self.servers if server.is_alive]
            server = living[(turn + len(tried)) % len(living)]
            tried.append(server.number)
            with suppress(httpx.TransportError):
                got = httpx.post(f"{server.url}/chat", json=body, headers=headers, timeout=DEADLINE_S, trust_env=False)
        took_s = time.monotonic() - began
        self.longest_s = max(self.longest_s, took_s)
        line = Text(f"{person:5}").append("asked ").append(self.servers[tried[-1] - 1].name)
        if len(tried) > 1:
            line.append(f" (before, {', '.join(map(str, tried[:-1]))} broke off)", "dim")
        owner = self.owner(person)
        if owner is not None and owner != tried[-1]:
            line.append(", passed on to ").append(self.servers[owner - 1].name)
        line.append(f"  {took_s * 1000:5.0f} ms  ", "bold red" if took_s > 5 * PACE_S else "dim")
        line.append(got.json().get("response", got.text).rpartition(". ")[2] if got.is_success else got.text)
        self.show(line)


def main() -> int:
    """Show the story, and judge it."""
    parser = argparse.ArgumentParser(prog="make run-scale", description=__doc__)
    parser.add_argument("--before", type=float, default=6.0, metavar="S", help="seconds until the kill [6]")
    parser.add_argument("--after", type=float, default=20.0, metavar="S", help="seconds after it [20]")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    if (missing := why_no_postgres()) is not None:
        console.print(missing)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="strandline-scale-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with console.status("A private PostgreSQL starts ..."):
            cluster = Cluster(synced=True)
            stack.callback(cluster.remove)
            journal = cluster.new_database()
        with console.status("Three servers start ..."):
            servers = [stack.enter_context(_served(number, journal, folder)) for number in range(1, SERVERS + 1)]
        story = Story(console, servers, journal)
        return _play(story, arguments.before, arguments.after)


@contextmanager
def _served(number: int, journal: str, folder: Path) -> Iterator[Server]:
    server = Server(number, journal, folder)
    try:
        yield server
    finally:
        if server.is_alive:
            server.process.terminate()
        try:
            server.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def _play(story: Story, before_s: float, after_s: float) -> int:
    talks = [threading.Thread(target=story.talk, args=(person,), daemon=True) for person in PEOPLE]
    for each in talks:
        each.start()
    try:
        time.sleep(before_s)
        victim = story.servers[(story.owner(PEOPLE[0]) or 1) - 1]
        victim.process.kill()
        victim.process.wait()
        story.show(Text("kill -9 of ", "bold red").append(victim.name))
        time.sleep(after_s)
    finally:
        story.stopping.set()
    for each in talks:
        each.join(DEADLINE_S)
    return _judge(story)


def _judge(story: Story) -> int:
    """Compare the conversations with what was sent; return the exit code."""
    left = next(server for server in story.servers if server.is_alive)
    wrong = 0
    for person in PEOPLE:
        url = f"{left.url}/v1/sessions/{story.session[person]}/history?limit=1000"
        messages = httpx.get(url, timeout=DEADLINE_S, trust_env=False).raise_for_status().json()["messages"]
        said = [
            block["text"]
            for message in messages
            if message["role"] == "user"
            for block in message["content"]
            if "text" in block
        ]
        wrong += said != story.sent[person]
    count = sum(map(len, story.sent.values()))
    if wrong:
        story.console.print(Text(f"{wrong} conversations are not what was sent: this is a defect.", "bold red"))
        return 1
    text = (
        f"\n{count} messages, each answered once and in order. The longest wait was {story.longest_s:.1f} s: the killed"
    )
    story.console.print(Text(f"{text} server's lease (10 s) had to end first.", "bold"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
