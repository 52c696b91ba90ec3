"""What a server takes in memory whose database has many sessions: `python -m bench.stored [--sessions N] [--touch N]`.

Fills a private PostgreSQL by COPY with sessions of one run and two messages each, starts a server on it, has one turn
in some of them, drawn from all, and shows its resident memory on the way. It should be flat: sessions that nobody uses
cost nothing, and of used ones a bounded number is in memory.
"""

import argparse
import asyncio
import random
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psycopg
import uvloop
from rich.console import Console

from bench.load import chat, connect
from bench.processes import ROOT, STRANDLINE, DidNotStart, Server, cores, pinned, rss_bytes, server
from strandline._encoding import encode_messages
from strandline._journal.numbers import PARTITION_BITS
from strandline._journal.partitions import partition_of
from strandline._journal.postgres import schema
from strandline._journal.postgres.wire import Wire
from strandline._model import ANONYMOUS, Outcome, RunStatus, SessionId, SessionKey
from tools.postgres import Cluster

AGENT = str(ROOT / "bench" / "agents" / "answering.py")
AT_ONCE = 50
STEPS = 10
"""How often the memory is read while sessions are used."""
_COLUMNS = {
    "sessions": "no, p, last, principal, session_id, rests_since",
    "runs": (
        "seq, run_id, session, lane, urgency, priority, status, attempt, last, opaque, input, created_at, started_at,"
        " ended_at, outcome"
    ),
    "history": "no, session, nth, first, count, run, messages",
}


def name(number: int) -> str:
    """Return the name of a stored session."""
    return f"stored-{number}"


def fill(database: str, sessions: int) -> None:
    """Store sessions."""
    wire = Wire(database)
    schema.migrate(wire)
    wire.close()
    with psycopg.connect(database) as connection:
        for table, columns in _COLUMNS.items():
            with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                for row in _rows(table, sessions):
                    copy.write(row)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def _rows(table: str, sessions: int) -> Iterable[str]:
    said = [{"role": role, "content": [{"text": "hello"}]} for role in ("user", "assistant")]
    outcome, prompt, messages = (
        f"\\\\x{encode_messages(each).hex()}" for each in (Outcome(status=RunStatus.SUCCEEDED), "hello", said)
    )
    for number in range(sessions):
        p = partition_of(SessionKey(ANONYMOUS, SessionId(name(number))))
        no = (number + 1) << PARTITION_BITS | p
        match table:
            case "sessions":
                yield f"{no}\t{p}\t{no}\t{ANONYMOUS}\t{name(number)}\t1.0\n"
            case "runs":
                yield (f"{no}\trun_{number}\t{no}\t3\t3\t3\tsucceeded\t1\t0\t0\t{prompt}\t1.0\t1.0\t1.0\t{outcome}\n")
            case _:
                yield f"{no}\t{no}\t1\t0\t2\t{no}\t{messages}\n"


async def use(subject: Server, numbers: list[int]) -> None:
    """Have one turn in each of some sessions. Raises `DidNotStart` if one fails."""
    waiting = iter(numbers)

    async def client() -> None:
        connection = await connect(subject.url)
        for number in waiting:
            status, body = await connection.ask(chat(subject.url, name(number)))
            if status != 200:
                raise DidNotStart(f"{name(number)}: {status} {body[:200]!r}")
        connection.close()

    async with asyncio.TaskGroup() as clients:
        for _ in range(AT_ONCE):
            clients.create_task(client())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description="memory of a server whose database has many sessions")
    parser.add_argument("--sessions", type=int, default=1_000_000, help="how many are stored")
    parser.add_argument("--touch", type=int, default=100_000, help="how many are used")
    options = parser.parse_args()
    console, (core, own_core) = Console(), cores()

    def show(used: int, subject: Server) -> None:
        console.print(f"{used:>9,} used: {rss_bytes(subject.pid) / 1e6:.0f} MB")

    touched = random.Random("sessions").sample(range(options.sessions), options.touch)
    cluster = Cluster()
    try:
        with tempfile.TemporaryDirectory(prefix="strandline-bench-") as folder:
            database = cluster.new_database()
            with console.status("filling the database"):
                fill(database, options.sessions)
            arguments = [*STRANDLINE, AGENT, "--port", "0", "--journal", database]
            with server(arguments, core, Path(folder) / "server.log") as subject, pinned(own_core):
                console.print(f"Resident memory with {options.sessions:,} sessions stored:")
                show(0, subject)
                step = max(1, options.touch // STEPS)
                for at in range(0, options.touch, step):
                    with console.status(f"{at:,} of {options.touch:,} used"):
                        uvloop.run(use(subject, touched[at : at + step]))
                    show(min(at + step, options.touch), subject)
    finally:
        cluster.remove()


if __name__ == "__main__":
    main()
