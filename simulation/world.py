"""What befalls a server, from a seed: who asks for what, how the disk does, when it dies and when it is drained.

Whatever has happened, the last process runs on a healthy disk until nothing executes or waits, and is drained.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from simulation.clients import send, send_alone
from simulation.firing import Firings
from simulation.habits import Habits
from simulation.hooks import Hooks
from simulation.journals import Disk, MakeStore
from simulation.loop import Chance, UnsteadyClock
from simulation.operations import schedule, set_options, sweep, wipe
from simulation.perils import FOR_GOOD_S, Perils
from simulation.record import Record
from simulation.script import Script, Traits
from simulation.server import Gone, Server
from strandline._engine.options import ErrorText, Options
from strandline._engine.requests import Request
from strandline._journal.port import HistoryPage, HistoryQuery, RunQuery, SessionQuery
from strandline._model import Principal, Resolution, Run, RunId, SessionId, SessionKey
from strandline.errors import StrandlineError

QUIET_S = 3000.0
"""How long it may take until nothing executes or waits, once nobody asks and nothing fails."""
LOOK_EVERY_S, READERS = 50.0, 3
"""How often an operator looks whether runs wait for what works on, and how many times in a row until a restart."""
LONG = 100_000
ALONE = 4
"""How many sessions there are in which hardly anything waits, if people take up crashed runs."""
ERROR_TEXTS: tuple[ErrorText, ...] = ("full", "class", "id")
RETENTIONS_S = (None, None, None, 0.2, None, 10.0)
"""For how long sessions at rest are kept."""


class Stored(Struct, frozen=True, kw_only=True):
    """What the journal has in the end: runs by id, whole histories, and histories as they are shown."""

    runs: dict[str, Run]
    whole: dict[SessionKey, HistoryPage]
    shown: dict[SessionKey, HistoryPage]
    waits_for: dict[SessionKey, frozenset[str]]
    """The input requests that are open."""


class World:
    """A server's surroundings."""

    def __init__(self, seed: int, *, make_store: MakeStore, show: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.chance = chance = Chance(seed)
        self.record = Record(show=show)
        self.scripts: dict[str, Script] = {}
        self.clock = UnsteadyClock(loop)
        self.disk = Disk()
        self.server: Server | None = None
        self.ids: list[RunId] = []
        self.resumable = not chance.happens(0.1)
        self.steady = chance.happens(0.6)
        self.options = replace(
            _options(chance),
            error_text=ERROR_TEXTS[seed % len(ERROR_TEXTS)],
            history_retention_s=RETENTIONS_S[seed % len(RETENTIONS_S)],
            trusted_senders=True,
        )
        self.perils = Perils(seed)
        self.habits = Habits(seed)
        if self.habits.has_hooks:
            self.options = replace(self.options, webhook_retries=[1.0] * 200)
        if self.habits.takes_up:
            self.options = replace(self.options, unknown_tool="fail")
        if self.options.timeout_s < 60:
            self.perils.longest_s = FOR_GOOD_S
        self.traits = Traits(
            model_s=chance.choice((0.2, 0.5, 3.0)),
            tools=chance.choice((0.0, 0.5, 0.9)),
            raises=chance.choice((0.0, 0.05, 0.3)),
            hangs=0.1 if self.options.timeout_s < 60 else 0.0,
            threads=chance.choice((0.0, 0.5)),
            interrupts=0.0 if chance.happens(0.7) else 0.3,
            pauses_session=0.0 if chance.happens(0.7) else 0.15,
            moves=0.0 if chance.happens(0.7) else 0.2,
            keys=chance.choice((0.0, 0.7)),
            cancels=chance.choice((0.0, 0.0, 0.3)),
            sweeps=chance.choice((0.0, 0.0, 0.5)),
            attached=chance.choice((0.0, 0.0, 0.5)),
            deletes=chance.choice((0.0, 0.0, 0.7)),
            priorities=chance.choice((0.0, 0.0, 0.6)),
            requests_input=0.0 if not self.resumable or chance.happens(0.6) else 0.4,
        )
        if self.habits.steers:  # else few runs are still to call their model when another joins
            self.traits = replace(self.traits, tools=0.9)
        if self.traits.requests_input:
            self.traits = replace(self.traits, on_questions=0.3)
        self.last_accepted: dict[SessionKey, deque[RunId]] = {}
        self.replaced: dict[str, RunId] = {}
        self.resolutions: dict[str, Resolution] = {}
        self.keyed: list[Request] = []
        self.forked: list[SessionKey] = []
        # A key that is forgotten would give a second run of the same text.
        self.forgets = bool(self.traits.deletes) or self.options.history_retention_s is not None
        self.resends = self.options.idempotency_retention_s > 10 * QUIET_S and not self.forgets
        self.request_limits: list[dict[str, float]] = [{}]
        if chance.happens(0.3):
            self.request_limits += [{"timeout_s": 2.0}, {"queue_timeout_s": 1.0}]
        self.sessions = [
            SessionKey(Principal("ab"[n % 2]), SessionId(f"s{n // 2}")) for n in range(1 + chance.up_to(4))
        ]
        self.alone = [SessionKey(Principal("ab"[n % 2]), SessionId(f"alone{n}")) for n in range(ALONE)]
        if not self.habits.takes_up:
            self.alone.clear()
        self._fails = chance.choice((0.0, 0.0, 0.02, 0.1))
        self.disk.slow_s = chance.choice((0.0, 0.001, 0.02, 0.2))
        chance.steps, chance.time = chance.choice(((0.0, 0.2), (0.3, 0.3), (0.7, 0.1), (0.2, 0.7)))
        if not self.steady:
            self.clock.grain_s = chance.choice((0.0, 1.0, 100.0))
        self._texts = self._schedules = 0
        self.firings = Firings(self.habits.times, self.scripts, self.traits, self.record)
        self._servers = 0
        self._operating = asyncio.Lock()
        self._clients: list[asyncio.Task[None]] = []
        self._store = make_store(self.clock)
        self.quiet_s = QUIET_S
        self.engines = 1
        """How many servers there are at once."""

    def reached(self) -> Server | None:
        """Return the server."""
        return self.server

    def owner(self, server: Server, partition: int) -> Server | None:
        """Return None: there is no other server."""
        return None

    def note(self, what: str, run: str = "", **details: Any) -> None:
        """Write down an event."""
        self.record.note(self.clock.monotonic(), what, run, **details)

    def has_effect(self, tool_use_id: str) -> bool:
        """Return whether a tool has taken effect, in whichever run."""
        return any(each.what == "effect" and each.details["id"] == tool_use_id for each in self.record.events)

    def new_schedule(self) -> int:
        """Return a number that no schedule has yet."""
        self._schedules += 1
        return self._schedules

    def new_text(self) -> str:
        """Return a text that nobody has sent yet."""
        self._texts += 1
        return f"q{self._texts}"

    # -- what the operator does ------------------------------------------------------------------------

    async def play(self) -> None:
        """Live through some bursts of requests, and whatever happens in them."""
        chance = self.chance
        await self._start()
        for _ in range(2 + chance.up_to(2)):
            self._clients += [asyncio.ensure_future(send(self)) for _ in range(3 + chance.up_to(9))]
            self._clients += [asyncio.ensure_future(send_alone(self)) for _ in range(self.habits.people_alone)]
            if chance.happens(self.traits.sweeps):
                self._clients.append(asyncio.ensure_future(sweep(self)))
            if self.habits.makes_schedule:
                self._clients.append(asyncio.ensure_future(schedule(self)))
            if self.habits.sets_options:
                self._clients.append(asyncio.ensure_future(set_options(self)))
            if chance.happens(self.traits.deletes):
                self._clients.append(asyncio.ensure_future(wipe(self)))
            await asyncio.sleep(chance.random() ** 2 * 8)
            async with self._operating:
                await self._something_happens()
            if chance.happens(0.15):
                fails, self.disk.fails = self.disk.fails, 0.0
                await self._calm()
                self.disk.fails = fails
                self.perils.calm = False
        self._fails, self.disk.full, self.disk.fails = 0.0, False, 0.0
        await self._calm()
        async with self._operating:
            await self._drain()

    async def _calm(self) -> None:
        """Let nothing befall anybody until all is answered and nothing executes or waits."""
        self.perils.calm = True
        await self._all_answered()
        await self._quiet()
        if self.habits.has_hooks:
            await self._all_sent()

    async def _something_happens(self) -> None:
        chance = self.chance
        server = self.server
        if self.perils.workers and server is not None and chance.happens(0.5):
            server.kill_workers()
            return
        fate = chance.random()
        if fate < 0.45:
            await self._crash()
            await asyncio.sleep(chance.random())
            await self._start()
        elif fate < 0.55:
            await self._drain()
            await self._start()
        elif fate < 0.7 and self._store.shared:
            await self._lose_journal()
        elif fate < 0.8 and self._fails:
            self.disk.full = True
            await asyncio.sleep(chance.between(0.01, 4.0))
            self.disk.full = False
        elif fate < 0.9 and not self.steady:
            self.clock.offset_s += chance.choice((-1000.0, -1.0, 1.0, 500.0))
            self.note("clock", offset=self.clock.offset_s)

    async def _start(self) -> None:
        """Start a server, again if it fails or dies meanwhile."""
        while True:
            self._servers += 1
            server = Server(
                self._servers, chance=self.chance, record=self.record, scripts=self.scripts, clock=self.clock
            )
            journal = self._store.of(server, self.disk)
            server.sender = Hooks(server, self.habits.hooks) if self.habits.has_hooks else None
            server.make(journal, self.options, self._new_run_id, self.perils, self.firings, resumable=self.resumable)
            self.server = server
            self.disk.fails = self._fails if self._servers < 20 else 0.0
            starting = asyncio.ensure_future(server.start())
            if self.chance.happens(0.1):
                await asyncio.wait((starting,), timeout=self.disk.slow_s * 3 * self.chance.random())
                if not starting.done():
                    await self._crash()
                    starting.cancel()
                    await asyncio.wait((starting,))
                    continue
            try:
                await starting
            except StrandlineError:
                await self._crash()
                continue
            server.ready = True
            server.note("started")
            server.supervisor = asyncio.ensure_future(self._supervise(server))
            return

    async def _supervise(self, server: Server) -> None:
        """Replace a process that says that too much of ended runs still works in it, or where it does for good."""
        readers = 0
        while readers < READERS and not server.service.exhausted.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(server.service.exhausted.wait(), LOOK_EVERY_S)
            readers = readers + 1 if server.is_choked() else 0
        async with self._operating:
            if self.server is server:
                server.note("exhausted")
                await self._drain()
                await self._start()

    async def _crash(self) -> None:
        server, self.server = self.server, None
        assert server is not None
        server.note("crashed")
        await self._in_time(server.die(), "a death")

    async def _lose_journal(self) -> None:
        """Start another server while this one continues, unaware of it, for a while."""
        server, self.server = self.server, None
        assert server is not None
        server.be_replaced()
        await self._start()
        await asyncio.sleep(self.chance.between(0.0, 5.0))
        await self._in_time(server.die(), "a death")

    async def _drain(self) -> None:
        server = self.server
        assert server is not None
        server.note("draining")
        began = self.clock.monotonic()
        await self._in_time(server.service.drain(), "a drain")
        server.note("drained", took_s=self.clock.monotonic() - began, faulty=self.disk.faulty)
        self.server = None
        await server.request_exit()

    async def _in_time(self, work: Coroutine[Any, Any, None], what: str) -> None:
        """Do something that has to come to an end."""
        try:
            await asyncio.wait_for(work, self.quiet_s)
        except TimeoutError:
            self.record.fault(self.clock.monotonic(), f"{what} continues for good")

    async def _all_answered(self) -> None:
        """Wait until every client has gone; each has to have an answer in the end."""
        if self._clients:
            await asyncio.wait(self._clients, timeout=self.quiet_s)
        for client in self._clients:
            if not client.done():
                self.record.fault(self.clock.monotonic(), f"a client waits for good ({client.get_name()})")
                client.cancel()
            elif error := client.exception():
                raise error
        self._clients.clear()

    async def _quiet(self) -> None:
        """Wait until nothing executes or waits; that has to come, and then nothing may be left."""
        until = self.clock.monotonic() + self.quiet_s
        server = self.server
        still = 0
        while still < 4:  # a take that is tried again, or a run that is looked for, is nowhere to be seen for a while
            await asyncio.sleep(0.5)
            server = self.server
            still = still + 1 if server is not None and server.is_quiet() else 0
            if self.clock.monotonic() > until:
                self.record.fault(
                    until, f"it comes to no rest: {'no server' if server is None else server.service.health()}"
                )
                return
        # What outlives its hold works on; a server in which too much of that does is replaced meanwhile.
        while (server := self.server) is None or not server.ready or server.survivors():
            if self.clock.monotonic() > until:
                break
            await asyncio.sleep(0.5)
        for left in () if server is None else server.survivors():
            self.record.fault(self.clock.monotonic(), f"nothing happens, and there are {left}")
        if server is not None:
            server.note("quiet")

    async def _all_sent(self) -> None:
        """Wait until all events have been sent to webhooks."""
        until = self.clock.monotonic() + self.quiet_s
        while self.clock.monotonic() < until:
            server = self.reached()
            if server is not None and server.ready:
                with suppress(Gone):
                    if not await server.ask(server.unsent()):
                        return
            await asyncio.sleep(1.0)
        self.record.fault(until, "there are events that no webhook receives")

    def _new_run_id(self, _: SessionKey) -> RunId:
        self.ids.append(RunId(f"r{len(self.ids)}"))
        return self.ids[-1]

    # -- the end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Return what the world takes."""
        self._store.close()

    async def all_that_is_stored(self) -> Stored:
        """Open the journal once more and read it."""
        judges = Server(0, chance=self.chance, record=self.record, scripts=self.scripts, clock=self.clock)
        journal = self._store.of(judges, self.disk)
        for orphan in await journal.open("the judge", max_attempts=3):
            self.record.fault(self.clock.monotonic(), f"run {orphan.run.run_id} executes although all was drained")
        runs: dict[str, Run] = {}
        for run_id in self.ids:
            found = [await journal.read(RunQuery(Principal(each), run_id)) for each in ("a", "b")]
            owned = [run for run in found if run is not None]
            if len(owned) > 1:
                self.record.fault(self.clock.monotonic(), f"run {run_id} is shown to two principals")
            for run in owned:
                runs[run_id] = run
        sessions = [*self.sessions, *self.alone, *self.forked]
        whole, shown = [
            {
                key: await journal.read(HistoryQuery(key, limit=LONG, discarded=each, superseded=each))
                for key in sessions
            }
            for each in (True, False)
        ]
        views = {key: await journal.read(SessionQuery(key)) for key in sessions}
        waits_for = {
            key: frozenset(() if view is None else [each.id for each in view.input_requests])
            for key, view in views.items()
        }
        await journal.close()
        return Stored(runs=runs, whole=whole, shown=shown, waits_for=waits_for)


def _options(chance: Chance) -> Options:
    return Options(
        max_running=1 + chance.up_to(3) * chance.up_to(2),
        max_queued_per_session=chance.choice((1, 3, 100)),
        max_queued=chance.choice((2, 8, 1000)),
        timeout_s=chance.choice((3600.0, 3600.0, 4.0, 20.0)),
        queue_timeout_s=chance.choice((3600.0, 3600.0, 2.0, 10.0)),
        cancel_grace_s=chance.choice((0.0, 0.5, 3.0)),
        hold_limit_s=chance.choice((0.0, 1.0, 5.0)),
        max_holds=chance.choice((2, 8, 8)),
        max_attempts=1 + chance.up_to(2),
        unknown_tool=chance.choice(("fail", "fail", "resume")),
        idempotent_tools=list(chance.choice(((), ("look",)))),
        on_failure=chance.choice(("keep", "keep", "drop")),
        drain_grace_s=chance.choice((0.0, 1.0, 6.0)),
        max_agents=chance.choice((0, 1, 1000)),
        agent_idle_s=chance.choice((0.5, 600.0)),
        input_timeout_s=chance.choice((2.0, 20.0, 60.0)),
        idempotency_retention_s=chance.choice((86400.0, 86400.0, 2.0)),
        max_running_per_principal=chance.choice((None, None, 1, 2)),
        max_holds_per_principal=chance.choice((None, None, 1, 2, 4)),
    )
