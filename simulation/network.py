"""Connections of one process to the database of its world: slow, cut, and lost in the middle of a commit.

What was sent arrives whatever becomes of its sender, which may be frozen or dead by then, unless it is lost on its way:
then the sender never learns whether it has arrived. It may even arrive after the sender has connected anew.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Final

from simulation.database import Database
from simulation.journals import Disk
from simulation.process import Process
from simulation.threads import here
from strandline._journal.postgres.wire import ANSWER_S, ConnectionLost, Found, Refused, Statement, Wire

NO_ANSWER: Final = "the database does not answer"
GONE_S: Final = 0.5
"""How long it takes at most until a connection is refused."""
LATE_S: Final = 5.0
"""How long what is lost for its sender may take to arrive."""


class Network:
    """The way of one process to the database."""

    def __init__(self, database: Database, process: Process, disk: Disk) -> None:
        self.database = database
        self.process = process
        self.is_cut = False
        self._disk = disk
        self._wires: set[VirtualWire] = set()

    @property
    def is_down(self) -> bool:
        """Whether nothing reaches the database."""
        return self.is_cut or self.database.is_down

    @property
    def slow_s(self) -> float:
        """How long anything takes at most, mostly."""
        return self._disk.slow_s

    @property
    def often(self) -> float:
        """How often what is written passes time in between, and may fail."""
        return 0.4 if self._disk.fails or self._disk.stalls else 0.1

    def cut(self) -> None:
        """Break all connections."""
        for wire in sorted(self._wires, key=lambda wire: wire.number):
            wire.cut()

    def connect(self, answer_s: float) -> Wire:
        """Return a connection. Raises `ConnectionLost`."""
        self.pass_time()
        if self.is_down or not self.process.alive:
            if (thread := here()) is not None:
                most_s = GONE_S * self.process.chance.random()
                thread.wait_for(lambda: asyncio.sleep(most_s))
            raise ConnectionLost("the database is out of reach")
        wire = VirtualWire(self, answer_s)
        self._wires.add(wire)
        return wire

    def forget(self, wire: "VirtualWire") -> None:
        """Note that a connection has ended."""
        self._wires.discard(wire)

    def pass_time(self) -> None:
        """Have the thread that calls wait for as long as something is under way."""
        if (thread := here()) is not None and (delay_s := self.delay_s()):
            thread.wait_for(lambda: asyncio.sleep(delay_s))

    def delay_s(self) -> float:
        """Return how long something is under way: mostly for no time at all."""
        disk, chance = self._disk, self.process.chance
        if disk.stalls and chance.happens(disk.stalls):
            disk.faulty = True
            return chance.between(0.1, disk.longest_s)
        return disk.slow_s * chance.random() if chance.happens(0.5) else 0.0

    def loses(self) -> bool:
        """Return whether what is sent now is lost for its sender."""
        disk = self._disk
        if not disk.fails or not self.process.chance.happens(2 * disk.fails):
            return False
        disk.faulty = True
        return True


class VirtualWire(Wire):
    """A connection."""

    made = 0

    def __init__(self, network: Network, answer_s: float = ANSWER_S) -> None:
        self.answer_s = answer_s
        self._network = network
        self._is_closed = False
        self._sent_at = None
        self._waits_for: asyncio.Future[list[Found]] | None = None
        VirtualWire.made += 1
        self.number = VirtualWire.made
        """In order of their making."""

    def close(self) -> None:
        """End it."""
        self._is_closed = True
        self._network.forget(self)
        if self._network.database.is_in_transaction(self):
            self._network.database.execute(self, [("ROLLBACK", ())])

    def cut(self) -> None:
        """Break it: nobody knows what becomes of what was sent last."""
        self._is_closed = True
        self._network.forget(self)
        if self._waits_for is not None and not self._waits_for.done():
            self._waits_for.set_exception(ConnectionLost(NO_ANSWER))

    def check(self) -> None:
        """Raise `ConnectionLost` if it is broken."""
        if self._is_closed:
            raise ConnectionLost("the connection is closed")

    def script(self, sql: str) -> None:
        """Make no tables: the database has them."""
        raise NotImplementedError

    def run(self, statements: Sequence[Statement]) -> list[Found]:
        """Execute statements in their order. Raises `Refused`, `ConnectionLost`."""
        network, thread = self._network, here()
        database, statements = network.database, list(statements)
        self._check_alive()
        if thread is None:  # (no time is to pass)
            return database.execute(self, statements)
        if not database.is_in_transaction(self):
            if statements[-1][0] != "COMMIT" and statements[0][0].startswith("BEGIN"):
                network.pass_time()  # the rest follows at once: nothing passes while a transaction is open
                self._check_alive()
                return database.execute(self, statements)
            return self._send(statements)
        found = database.execute(self, statements)
        if not database.is_in_transaction(self):
            if network.loses():
                self.close()
                raise ConnectionLost(NO_ANSWER)
            network.pass_time()
        return found

    def _check_alive(self) -> None:
        self.check()
        thread = here()
        if self._network.is_down or not self._network.process.alive or (thread is not None and thread.is_dead):
            self.close()
            raise ConnectionLost("the database is out of reach")

    def _send(self, statements: list[Statement]) -> list[Found]:
        """Send statements that begin and end what they do."""
        network, thread = self._network, here()
        assert thread is not None
        chance = network.process.chance
        there_s, back_s = network.delay_s(), network.delay_s()
        is_lost = network.loses()
        if not (there_s or back_s or is_lost):
            return network.database.execute(self, statements)
        arrives, at_once = chance.happens(0.7), chance.happens(0.5)

        async def exchange() -> list[Found]:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[list[Found]] = loop.create_future()
            self._waits_for = answer

            def later(seconds: float, call: Callable[[], object]) -> None:
                loop.call_later(seconds, call, context=Context())

            if is_lost:
                later_s = 0.0 if at_once else LATE_S * chance.random()
                if arrives:
                    later(there_s + later_s, lambda: self._arrive(statements))
                later(there_s, self.cut)
            else:
                later(there_s, lambda: later(back_s, _answering(answer, self._arrive(statements))))
                if there_s + back_s > self.answer_s:
                    later(self.answer_s, self.cut)
            return await answer

        return thread.wait_for(exchange)

    def _arrive(self, statements: list[Statement]) -> list[Found] | Exception:
        """Execute what has been sent some time ago."""
        if self._network.database.is_down:
            return ConnectionLost("the database is out of reach")
        try:
            return self._network.database.execute(self, statements)
        except Refused as error:
            return error


def _answering(answer: "asyncio.Future[Any]", found: list[Found] | Exception) -> Callable[[], None]:
    def call() -> None:
        if answer.done():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    return call
