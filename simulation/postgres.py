"""The journal that several servers share: that of `strandline._journal.postgres`, on virtual time.

All of it is the code under test but its connections (`network.py`), its threads (`threads.py`) and the database itself
(`database.py`).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from simulation.database import Database as World
from simulation.journals import Disk
from simulation.network import Network, VirtualWire
from simulation.process import Process, alive
from simulation.threads import Event, Thread
from strandline._clock import Clock
from strandline._journal.commits import Operation
from strandline._journal.database import Database
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.transactions import PostgresTransactions
from strandline._journal.postgres.wire import ANSWER_S, Wire
from strandline._journal.writer import Transactions, Writer

T = TypeVar("T")

WAIT_S = 30.0
"""How long a server that starts waits for others that may be dead."""


class VirtualWriter(Writer):
    """The thread that writes. What passes time is done in a thread of the world's, all else on the loop itself: it is
    a matter of chance which, unless the database is out of reach."""

    def __init__(
        self,
        prepare: Callable[[], PostgresTransactions],
        clean_up: Callable[[], None],
        clock: Clock,
        network: Network,
    ) -> None:
        super().__init__(prepare, clean_up, name="virtual", monotonic=clock.monotonic)
        self._network = network
        self._jobs: asyncio.Queue[Any] = asyncio.Queue()
        self._queue: Any = _Mailbox(self._jobs)

    def start(self) -> None:
        """Let it run, a step later."""
        self._task = asyncio.get_running_loop().create_task(self._drive())

    def join(self) -> None:
        """Do nothing: it has ended, or is dead."""

    async def _drive(self) -> None:
        """Do as `_main` does."""
        transactions: list[Transactions] = []
        try:
            await Thread(lambda: transactions.append(self._prepare())).run()
        except Exception as error:
            await Thread(self._clean_up).run()
            self.finished.set_result(None)
            self.prepared.set_exception(error)
            return
        self.prepared.set_result(None)
        while True:
            try:
                async with asyncio.timeout(self._patience_s()):
                    job = await self._jobs.get()
            except TimeoutError:
                await self._in_time(lambda: self._idle(transactions[0]))
                continue
            if job is None:
                break
            await self._in_time(partial(self._do, transactions[0], job))
        await Thread(self._clean_up).run()
        self.finished.set_result(None)

    async def _in_time(self, call: Callable[[], None]) -> None:
        network = self._network
        await network.process.chance.pass_time(network.slow_s)
        if network.is_down or network.process.chance.happens(network.often):
            await Thread(call).run()
        else:
            call()


class _Mailbox:
    """What the writer puts its work into."""

    def __init__(self, jobs: "asyncio.Queue[Any]") -> None:
        self.put = jobs.put_nowait


class DirectReaders:
    """What reads: on the loop, at once."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def open(self) -> None:
        """Do nothing."""

    def ask(self, question: Callable[[Database], T]) -> "Future[T]":
        """Answer a question."""
        answered: Future[T] = Future()
        try:
            answered.set_result(question(Batch(VirtualWire(self._network))))
        except Exception as error:
            answered.set_exception(error)
        return answered

    def close(self) -> None:
        """Do nothing."""


class SharedJournal(PostgresJournal):
    """The journal of one process among several."""

    def __init__(self, world: World, clock: Clock, process: Process, disk: Disk) -> None:
        super().__init__("", clock, lock_wait_s=WAIT_S, address=lambda: str(process.number))
        self.network = Network(world, process, disk)
        self._process = process
        self._disk = disk

    def _connect(self, *, answer_s: float = ANSWER_S) -> Wire:
        return self.network.connect(answer_s)

    def _event(self) -> threading.Event:
        return Event()

    def _new_writer(self, prepare: Callable[[], PostgresTransactions], clean_up: Callable[[], None]) -> Writer:
        return VirtualWriter(prepare, clean_up, self._clock, self.network)

    def _new_readers(self) -> Any:
        return DirectReaders(self.network)

    def _submit(self, operation: Operation) -> None:
        alive(self._process)
        super()._submit(operation)

    async def _answered(self, question: Callable[[Database], T]) -> T:
        await self._pass_time()
        answer = await super()._answered(question)
        await self._pass_time()
        return answer

    async def _pass_time(self) -> None:
        alive(self._process)
        await self._process.chance.pass_time(self._disk.slow_s)
        alive(self._process)


class SharedStore:
    """A database that survives; several processes use it at once."""

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self.database = World(clock, lease_s)

    def of(self, process: Process, disk: Disk, clock: Clock) -> SharedJournal:
        """Return the journal as a process has it, whose wall clock is its own."""
        return SharedJournal(self.database, clock, process, disk)

    def close(self) -> None:
        """Close the database."""
        self.database.close()
