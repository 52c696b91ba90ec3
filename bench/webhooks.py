"""How fast the events of a journal are sent to a receiver of this machine: `python -m bench.webhooks [EVENTS]`."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Coroutine
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from strandline._clock import SystemClock
from strandline._engine.webhooks import Outbox
from strandline._journal.port import Bounds, Journal
from strandline._journal.sqlite import SqliteJournal
from strandline._model import ANONYMOUS, NewRun, RunId, RunWebhook, SessionId, SessionKey
from strandline._webhooks.secrets import Secrets
from strandline._webhooks.sender import HttpSender
from strandline._webhooks.signing import new_secret
from strandline.testing._desk import done

EVENTS: Final = ("run.queued", "run.started", "run.finished")
AT_ONCE: Final = 64
WIDE: Final = Bounds(1_000_000, 1_000_000)


class Ready:
    """A service that has started."""

    stopping = False
    started = True

    def admit(self) -> None:
        """Admit everything."""

    def note_request(self) -> None:
        """Note nothing."""


class Mine:
    """All sessions are of this server."""

    def owns(self, key: SessionKey) -> bool:
        """Return that one is."""
        return True


def receive(pipe: Connection) -> None:
    """Answer 204 to every request."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


async def fill(journal: Journal, port: int, runs: int) -> None:
    """Have runs end whose events are to be sent."""
    claims = journal.claims()
    webhook = RunWebhook(f"http://127.0.0.1:{port}/hook", EVENTS)

    async def one(number: int) -> None:
        key = SessionKey(ANONYMOUS, SessionId(f"s{number % AT_ONCE}"))
        new = NewRun(run_id=RunId(f"r{number:07}"), key=key, input="x", created_at=time.time(), webhook=webhook)
        await journal.accept(new, WIDE, claim_next=True)

    for first in range(0, runs, AT_ONCE):
        some = range(first, min(first + AT_ONCE, runs))
        await asyncio.gather(*map(one, some))
        claimed = [await anext(claims) for _ in some]
        ends = done("hi", "there")
        await asyncio.gather(*(journal.finish(each.token, ends, claim_next=False) for each in claimed))


async def main(events: int) -> None:
    """Store the events, send them, and print how many a second."""
    mine, its = Pipe()
    receiver = Process(target=receive, args=(its,), daemon=True)
    receiver.start()
    port, clock, tasks = mine.recv(), SystemClock(), set[asyncio.Task[Any]]()

    def spawn(work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    with tempfile.TemporaryDirectory() as folder:
        secrets = Path(folder, "secrets")
        secrets.write_text(f"anonymous {new_secret()}\n")
        journal = SqliteJournal(Path(folder, "journal.db"), clock)
        await journal.open("bench", max_attempts=3)
        began = time.monotonic()
        await fill(journal, port, events // len(EVENTS) + 1)
        print(f"stored in {time.monotonic() - began:.1f} s")
        sender = HttpSender(Secrets(secrets), allow_private=True)
        outbox = Outbox(journal, clock, Ready(), Mine(), sender, retries_s=(5.0,), spawn=spawn)  # type: ignore[arg-type]
        began, cpu = time.monotonic(), time.process_time()
        outbox.start()
        while outbox.sent < events:
            await asyncio.sleep(0.25)
            outbox.tick()
        took, used = time.monotonic() - began, time.process_time() - cpu
        print(f"{outbox.sent} sent in {took:.1f} s: {outbox.sent / took:.0f}/s; {outbox.failed} failed; ", end="")
        print(f"{used / took:.2f} of a core by the sender")
        outbox.close()
        await journal.close()
    receiver.terminate()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
