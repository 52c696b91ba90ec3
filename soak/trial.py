"""One soak from beginning to end: servers, load, kills, and the judgement.

`Trial.run` kills by the plan, then lets everything come to its end, asks for all of it twice (of two servers), and has
it judged. `Trial.stop` ends the killing early; what was done until then is judged all the same.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from soak.branches import Refused
from soak.case import Rules
from soak.desk import Desk
from soak.hooks import Hooks
from soak.judge import judge
from soak.kills import Kill, has_workers, hits, kills
from soak.load import Load
from soak.message import AGAIN
from soak.records import Records, Struck
from soak.server import ROOT, NotReady, Relay, Server
from soak.stored import Unreadable
from soak.summary import counted, summary
from soak.wire import Broken, Silent

TARGET: Final = str(ROOT / "soak" / "target.py")
DRAIN_GRACE_S: Final = 0.5
CANCEL_GRACE_S: Final = 0.3
"""Short, so that some tools outlive their runs."""
INPUT_TIMEOUT_S: Final = 1.5
MAX_ATTEMPTS: Final = 3
QUIET_S: Final = 60.0
ASKERS: Final = 8
SAMPLED: Final = 2_000
"""How many runs are read once more at the very end."""

T = TypeVar("T")


class Abilities(Struct, frozen=True, kw_only=True):
    """What the server can do, and the soak asks of it."""

    timeouts: bool = True
    holds: bool = True
    inform: bool = True
    idempotent: bool = True
    control: bool = True
    """Keys, policies, priorities, cancels, moves, pauses, deletions and input requests."""
    webhooks: bool = True
    """A webhook for all runs."""
    workers: bool = sys.platform == "linux"
    """Agents in worker processes, in some of the servers. (Elsewhere it is not seen which processes these are.)"""


ABILITIES: Final = Abilities()


class Numbers(Struct, frozen=True, kw_only=True):
    """How far a soak is."""

    kills: int
    planned: int
    servers: int
    messages: int
    runs: int
    tools: int
    crashed: int
    faults: int
    elapsed_s: float
    doing: str
    """What it does just now, in a word."""


class Trial:
    """A soak in `folder`, which must be empty. Used once."""

    def __init__(
        self,
        folder: Path,
        *,
        kills: int,
        seed: int,
        target: str = TARGET,
        abilities: Abilities = ABILITIES,
        flags: Sequence[str] = (),
    ) -> None:
        self._folder = folder.absolute()
        self._planned = kills
        self._seed = seed
        self._rules = Rules(
            idempotent=AGAIN if abilities.idempotent else frozenset(),
            max_attempts=MAX_ATTEMPTS,
            input_timeout_s=INPUT_TIMEOUT_S,
        )
        self._abilities = abilities
        self._records = Records()
        self._stop = asyncio.Event()
        self._kills = 0
        self._doing = "killing"
        self._began = time.monotonic()
        self._is_finished = False
        self._quiet_s = QUIET_S
        """How long everything may take to end."""
        every = [
            *("--drain-grace", str(DRAIN_GRACE_S), "--max-attempts", str(MAX_ATTEMPTS)),
            *("--lock-wait", "3600", "--idle-timeout-minutes", "15"),
            *(("--cancel-grace", str(CANCEL_GRACE_S), "--max-still-working", "64") if abilities.holds else ()),
            *(("--input-timeout", str(INPUT_TIMEOUT_S)) if abilities.control else ()),
            *("--files", str(self._folder / "files")),
            *(("--unknown-tool", "resume") if self._rules.inform else ()),
            *(("--idempotent-tools", ",".join(sorted(AGAIN))) if abilities.idempotent else ()),
        ]
        self._hooks = Hooks(self._folder, seed=seed) if abilities.webhooks else None
        if self._hooks is not None:
            every += self._hooks.flags
            self._records.has_webhook, self._records.deliveries = True, self._hooks.deliveries
            self._hooks.faults = self._records.faults
        workers = partial(has_workers, seed) if abilities.workers else lambda number: False
        self._relay = self._servers(target, [*every, *flags], workers)
        self._desk = Desk(self._relay, self._records)
        self._load = Load(self._desk, seed=seed, timeouts=abilities.timeouts, control=abilities.control)

    def _servers(self, target: str, flags: list[str], workers: Callable[[int], bool]) -> Relay:
        return Relay(target, flags, self._folder, workers=workers)

    def _read_journal(self) -> None:
        """Take what is stored in the end."""
        with suppress(Unreadable):  # nothing was ever ready
            self._records.stored = self._relay.listing.stored()

    def stop(self) -> None:
        """Kill no more, and come to the end."""
        self._stop.set()

    def numbers(self) -> Numbers:
        """Return how far it is."""
        lines, reported = self._desk.lines, self._records.reported
        return Numbers(
            kills=self._kills,
            planned=self._planned,
            servers=self._relay.started,
            messages=len(self._records.requests),
            runs=len(self._desk.runs),
            tools=sum(1 for line in lines if line.kind == "begin"),
            crashed=sum(1 for ends in reported.values() for end in ends if end.kind == "crashed"),
            faults=len(self._records.faults),
            elapsed_s=time.monotonic() - self._began,
            doing=self._doing,
        )

    def summary(self) -> str:
        """Return, in lines, what was played; true after `run`."""
        return f"{summary(self._records)}\nbranches and files: {counted(self._load.branches.done)}"

    async def run(self) -> list[str]:
        """Return everything that was wrong."""
        if self._hooks is None:
            return await self._run()
        await self._hooks.start()
        try:
            return await self._run()
        finally:
            await self._hooks.stop()

    async def _run(self) -> list[str]:
        async with self._relay:
            clients = asyncio.create_task(self._load.run())
            striking = asyncio.create_task(self._strike())
            try:
                await self._kill()
                striking.cancel()
                await asyncio.wait([striking])
                self._doing = "waiting for the end of all runs"
                self._load.stop()
                await self._calm()
                async with asyncio.timeout(self._quiet_s):
                    await clients
                await self._finish()
                self._is_finished = True
            except* NotReady as several:
                self._records.faults.append(str(_first(several)))  # (all clients see the same)
                self._look_around()
            except* TimeoutError:
                self._records.faults.append(
                    f"not within {self._quiet_s:g} s: the end of all that runs, while {self._doing}"
                )
            except* Refused as several:
                self._records.faults.append(str(_first(several)))
            except* (Broken, Silent) as several:
                error = _first(several)
                self._records.faults.append(f"a server that nobody had stopped left a question unanswered: {error}")
            finally:
                for task in (clients, striking):
                    task.cancel()
                await asyncio.gather(clients, striking, return_exceptions=True)  # (its clients see what it sees)
        if not self._is_finished:
            return self._records.faults  # (of what came of all runs nothing is known)
        self._doing = "judging"
        self._records.exits = self._relay.exits
        self._read_journal()
        self._desk.read_ledger()
        (self._folder / "answers.json").write_bytes(msgspec.json.encode(self._records.answered))
        (self._folder / "feeds.json").write_bytes(msgspec.json.encode([self._records.feeds, self._records.ends]))
        return judge(self._records, self._desk.lines, self._rules)

    # -- killing -----------------------------------------------------------------------------------

    async def _kill(self) -> None:
        chance = random.Random(f"{self._seed} victims")
        for kill in kills(self._seed, self._planned):
            if kill.ready and not await self._unless_stopped(self._relay.ready(QUIET_S)):
                return
            if not await self._unless_stopped(asyncio.sleep(kill.after_s)):
                return
            self._send("TERM" if kill.how != "kill" else "KILL", self._victims(kill, chance))
            if kill.how == "both":
                await asyncio.sleep(kill.then_s)
                self._send("KILL", self._stop_requested())
            self._kills += 1

    def _send(self, which: Literal["KILL", "TERM"], servers: list[Server]) -> None:
        if any(server.phase == "ready" for server in servers):
            self._records.blows.append(time.time())
        for server in servers:
            server.send(which)

    async def _strike(self) -> None:
        """Do things to workers, until cancelled."""
        chance = random.Random(f"{self._seed} workers")
        async with asyncio.TaskGroup() as group:
            for hit in hits(self._seed):
                await asyncio.sleep(hit.after_s)
                if not (serving := self._relay.with_workers):
                    continue
                server = chance.choice(serving)
                if workers := server.workers():
                    for pid in workers if hit.whom == "all" else [chance.choice(workers)]:
                        server.struck.add(pid)
                        group.create_task(self._struck(pid, hit.still_s))

    async def _struck(self, pid: int, still_s: float | None) -> None:
        """Kill a worker, or have it stand still for a while."""
        with suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            since = time.time()
            try:
                if still_s is None:
                    self._records.struck.append(Struck(how="KILL", since=since, until=since))
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    return
                self._records.struck.append(Struck(how="STOP", since=since, until=since + still_s))
                try:
                    signal.pidfd_send_signal(process, signal.SIGSTOP)
                    await asyncio.sleep(still_s)
                finally:
                    signal.pidfd_send_signal(process, signal.SIGCONT)
            finally:
                os.close(process)

    def _victims(self, kill: Kill, chance: random.Random) -> list[Server]:
        owner, others = self._relay.owner, self._relay.others
        everybody = [*([owner] if owner else []), *others]
        match kill.whom:
            case "all":
                return everybody
            case "waiting" if others:
                return [chance.choice(others)]
            case _:
                return everybody[:1]

    def _stop_requested(self) -> list[Server]:
        return [server for server in self._relay.alive if "TERM" in server.signals]

    async def _unless_stopped(self, wait: Awaitable[object]) -> bool:
        """Wait, and return True; False as soon as the killing is to stop."""
        waiting, stop = asyncio.ensure_future(wait), asyncio.create_task(self._stop.wait())
        await asyncio.wait([waiting, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not waiting.done():
            waiting.cancel()
            return False
        waiting.result()
        return not self._stop.is_set()

    # -- the end -----------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Wait until nothing continues; ask for everything; have another server take over; ask for everything again."""
        server = await self._relay.ready()
        await self._quiet()
        if self._hooks is not None:
            self._doing = "waiting for the last events of the webhook"
            await self._sent()
        self._doing = "asking for all runs"
        await self._ask_for_all(server)
        self._doing = "looking at all branches and files"
        await self._load.branches.look_at_all()
        server.send("TERM")
        await self._relay.ended(server)
        server = await self._relay.ready()
        self._doing = "asking once more"
        await self._ask_for_all(server, at_most=SAMPLED)
        self._records.left = await self._open()
        await self._relay.finish()

    def _look_around(self) -> None:
        """Note what may be why no server becomes ready."""

    async def _calm(self) -> None:
        """Have nothing be wrong any more, once nothing more befalls anything."""

    async def _quiet(self) -> None:
        async with asyncio.timeout(self._quiet_s):
            while await self._open():  # noqa: ASYNC110 (servers are other processes)
                await asyncio.sleep(0.05)

    async def _sent(self) -> None:
        """Return when no event waits to be sent to the webhook any more; one that is given up is a fault."""
        async with asyncio.timeout(self._quiet_s):
            while True:
                reply, _ = await self._desk.until_answered("GET", "/v1/webhooks?limit=1000")
                dead = [each for each in reply.body["webhooks"] if each["status"] == "dead"]
                if len(dead) == len(reply.body["webhooks"]):
                    self._records.faults += [f"event {each['id']} is given up: {each['error']}" for each in dead]
                    return
                await asyncio.sleep(0.1)

    async def _open(self) -> int:
        """Return how many runs execute, wait or are held."""
        open_runs = 0
        for server in [each for each in self._relay.alive if each.healthy]:
            health = await self._load.readers.health(server)
            open_runs += health["running"] + health["held"] + health["queue_depth"]
        return open_runs

    async def _ask_for_all(self, server: Server, *, at_most: int | None = None) -> None:
        """Ask for all histories, and for all runs or so many of them."""
        self._desk.read_ledger()
        runs = list(dict.fromkeys([*self._desk.runs, *(run.run_id for run in self._relay.listing.stored())]))
        if at_most is not None and len(runs) > at_most:
            runs = random.Random(self._seed).sample(runs, at_most)
        for run_id, view in await _each(runs, lambda run_id: self._load.readers.view(server, run_id)):
            self._records.views[run_id] = view
        whole = lambda session: self._load.readers.whole_history(server, session)  # noqa: E731
        for session, (messages, hidden) in await _each(self._desk.sessions, whole):
            self._records.histories[session], self._records.hidden[session] = messages, hidden


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error in a group, however deep."""
    first = several.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _each(names: Iterable[str], ask: Callable[[str], Awaitable[T]]) -> list[tuple[str, T]]:
    """Ask for each of `names`, some at a time."""
    left = iter(names)
    answers: list[tuple[str, T]] = []

    async def asker() -> None:
        for name in left:
            answers.append((name, await ask(name)))

    async with asyncio.TaskGroup() as group:
        for _ in range(ASKERS):
            group.create_task(asker())
    return answers
