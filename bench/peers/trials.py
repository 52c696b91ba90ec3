"""The trials: five at once, a failed turn, `kill -9`. Each is done to a server, and judged by the model's ledger."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from bench.load import Client, connect
from bench.peers import ledger
from bench.peers.protocols import answered
from bench.peers.record import Failed, Five, Killed
from bench.peers.subjects import Place, Subject
from bench.processes import Server, cores, server

FIVE: Final = range(5)
APART_S: Final = 0.03
ANSWER_S: Final = 60.0
FINISH_S: Final = 0.4
"""How long the other requests get to be accepted before the kill."""


class Trial:
    """One server with a ledger; it can be killed and started again on the same files."""

    def __init__(self, subject: Subject, place: Place) -> None:
        self._subject = subject
        self._place = place
        self._ledger = place.folder / "ledger.jsonl"

    @contextmanager
    def running(self) -> Iterator[Server]:
        """Start it, or start it again."""
        settings = {"BENCH_LEDGER": str(self._ledger)}
        command = self._subject.command(self._place)
        with server(command, cores()[0], self._place.folder / "trial.log", settings) as subject:
            yield subject

    def entries(self) -> list[ledger.Entry]:
        """Return the ledger as it is now."""
        return ledger.read(self._ledger)

    async def say(self, url: str, session: str, message: str) -> bool | None:
        """Send one message; return whether it was answered, or None if the connection broke."""
        client: Client | None = None
        try:
            client = await connect(url)
            async with asyncio.timeout(ANSWER_S):
                status, body = await client.ask(self._subject.dialect.turn(url, session, message))
        except OSError:
            return None
        finally:
            if client is not None:
                client.close()
        return status == 200 and answered(message, body)

    async def send(self, url: str, session: str, messages: Sequence[str]) -> list[asyncio.Task[bool | None]]:
        """Send messages in this order, a moment apart, each on a connection of its own."""
        tasks = []
        for message in messages:
            tasks.append(asyncio.create_task(self.say(url, session, message)))
            await asyncio.sleep(APART_S)
        return tasks

    async def until(self, seen: Callable[[list[ledger.Entry]], bool], limit_s: float) -> bool:
        """Wait until the ledger shows something; return whether it did in time."""
        try:
            async with asyncio.timeout(limit_s):
                while not seen(self.entries()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return False
        return True


async def five(trial: Trial, url: str) -> Five:
    """Send five at once, then one more."""
    await trial.say(url, "five", "five first")
    messages = [f"wait 0.4 five {number}" for number in FIVE]
    outcomes = await asyncio.gather(*await trial.send(url, "five", messages))
    next_answered = await trial.say(url, "five", "five last")
    entries = trial.entries()
    last = ledger.begun(entries, "five last")
    return Five(
        answered=sum(each is True for each in outcomes),
        refused=sum(each is not True for each in outcomes),
        at_once=ledger.most_at_once(entries, messages),
        order=ledger.order(last, messages),
        well_formed=ledger.alternates(last),
        next_answered=next_answered is True,
    )


async def failed(trial: Trial, url: str) -> Failed:
    """Let a turn fail in the model, then send the next one."""
    for message in ("failed first", "fail here"):
        await trial.say(url, "failed", message)
    next_answered = await trial.say(url, "failed", "failed last")
    last = ledger.begun(trial.entries(), "failed last")
    return Failed(next_answered is True, ledger.alternates(last), ledger.shown(last, "fail here"))


async def killed(trial: Trial, limit_s: float) -> Killed:
    """Kill the server while the first of five executes, start it again, let it finish what it can, send one more."""
    messages = [f"wait 1.2 killed {number}" for number in FIVE]
    with trial.running() as first:
        await trial.say(first.url, "killed", "killed first")
        tasks = await trial.send(first.url, "killed", messages)
        await trial.until(lambda entries: ledger.begun(entries, messages[0]) is not None, ANSWER_S)
        await asyncio.sleep(FINISH_S)
        accepted = [message for message, task in zip(messages, tasks, strict=True) if not task.done()]
        os.kill(first.pid, signal.SIGKILL)
        await asyncio.gather(*tasks)
    with trial.running() as second:
        await trial.until(lambda entries: all(ledger.ended(entries, each) for each in accepted), limit_s)
        next_answered = await trial.say(second.url, "killed", "killed last")
    entries = trial.entries()
    return Killed(
        accepted=len(accepted),
        ran=sum(ledger.ended(entries, each) for each in accepted),
        earlier_kept=ledger.shown(ledger.begun(entries, "killed last"), "killed first"),
        next_answered=next_answered is True,
    )
