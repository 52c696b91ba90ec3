"""The engine over SQLite, with a disk that fails as claims are made: nothing of a run begins before its commit."""

import asyncio
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine_support import NUMBERS, Played, echo, history, key, prompt_of, send, texts
from strandline._agents.port import Attempt
from strandline._clock import SystemClock
from strandline._engine.options import Options
from strandline._engine.service import Service
from strandline._history import history_faults
from strandline._journal.reader import UNREADABLE_INPUT
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.transactions import SqliteTransactions
from strandline._model import ANONYMOUS, ErrorCode, NewRun, Outcome, RunId, RunStatus
from strandline.errors import JournalUnavailable, RecordDamaged
from strandline.testing._desk import WIDE
from strandline.testing._virtual import InlineLoops


class Disk:
    """Fails the next commits on request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures = 0
        commit = SqliteTransactions.commit

        def failing(transactions: SqliteTransactions) -> None:
            if self.failures:
                self.failures -= 1
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            commit(transactions)

        monkeypatch.setattr(SqliteTransactions, "commit", failing)


class HeldDisk:
    """Has commits wait, within `held`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open, self._reached = threading.Event(), threading.Event()
        self._open.set()
        commit = SqliteTransactions.commit

        def waiting(transactions: SqliteTransactions) -> None:
            self._reached.set()
            assert self._open.wait(30)
            commit(transactions)

        monkeypatch.setattr(SqliteTransactions, "commit", waiting)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._reached.clear()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def reached(self) -> None:
        """Return when a commit waits."""
        assert await asyncio.to_thread(self._reached.wait, 30)


async def left_waiting(folder: Path, *texts: str) -> list[RunId]:
    """Have an older process leave runs that wait in one session."""
    journal, clock = SqliteJournal(folder / "journal.db", SystemClock()), SystemClock()
    await journal.open("older", max_attempts=3)
    runs = [NewRun(run_id=RunId(f"older_{text}"), key=key(), input=text, created_at=clock.now()) for text in texts]
    for new in runs:
        await journal.accept(new, WIDE, claim_next=False)
    await journal.close()
    return [new.run_id for new in runs]


async def until_nothing_waits(service: Service) -> None:
    """Return when it is decided that nothing waits any more; it may not be durable yet."""
    while service.health().queue_depth:
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(folder: Path, target: Played, **options: Any) -> AsyncIterator[Service]:
    service = Service(
        journal=SqliteJournal(folder / "journal.db", SystemClock()),
        target=target,
        loops=InlineLoops(),
        clock=SystemClock(),
        new_run_id=lambda key: RunId(f"run_{next(NUMBERS)}"),
        workspace=lambda key: tempfile.gettempdir(),
        options=Options(**options),
    )
    await service.start()
    try:
        yield service
    finally:
        await service.drain()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 60)

    asyncio.run(bounded())


async def output(service: Service, text: str) -> str:
    end = await (await send(service, text)).stream.outcome()
    assert isinstance(end, Outcome)
    return end.output


def test_an_agent_never_gets_a_refused_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of an accept fails, and then that of the accept alone."""

    async def main() -> None:
        disk = Disk(monkeypatch)
        questions: list[str] = []

        async def behaviour(attempt: Attempt) -> str:
            questions.append(prompt_of(attempt))
            return await echo(attempt)

        target = Played(behaviour)
        async with serving(tmp_path, target, max_running=1) as service:
            assert await output(service, "one") == "echo one"
            for _ in range(3):
                disk.failures = 2
                with pytest.raises(JournalUnavailable):
                    await send(service, "refused")
                assert disk.failures == 0
                assert not service.health().processing, "no slot is lost"
            assert await output(service, "two") == "echo two"
            assert questions == ["one", "two"]
            assert len(target.built) == 1, "the agent that was asked nothing in vain is used on"
            assert texts(await history(service)) == ["one", "echo one", "two", "echo two"]

    run(main)


def test_a_commit_of_an_accept_that_fails_once_is_made_again_and_nobody_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch)
        async with serving(tmp_path, Played(echo)) as service:
            disk.failures = 1
            assert await output(service, "one") == "echo one"
            assert disk.failures == 0
            assert texts(await history(service)) == ["one", "echo one"]

    run(main)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_disk_that_fails_while_one_run_hands_over_to_the_next_never_has_it_execute_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    async def main() -> None:
        disk = Disk(monkeypatch)
        monkeypatch.setattr("strandline._engine.execution.retry.RETRY_S", 0.01)
        executing: Counter[str] = Counter()
        accepted = asyncio.Event()
        most = 0

        async def behaviour(attempt: Attempt) -> str:
            nonlocal most
            executing[prompt_of(attempt)] += 1
            most = max(most, executing.total())
            if prompt_of(attempt) == "one":
                await accepted.wait()
                disk.failures = failures
            await asyncio.sleep(0.1)  # longer than it takes until the finish is tried again
            executing[prompt_of(attempt)] -= 1
            return await echo(attempt)

        async with serving(tmp_path, Played(behaviour)) as service:
            tickets = [await send(service, text) for text in ("one", "two", "three")]
            accepted.set()
            ends = [await ticket.stream.outcome() for ticket in tickets]
            assert [end.output for end in ends if isinstance(end, Outcome)] == ["echo one", "echo two", "echo three"]
            assert most == 1
            messages = await history(service)
            assert history_faults(messages) == []
            assert texts(messages) == ["one", "echo one", "two", "echo two", "three", "echo three"]

    run(main)


@pytest.mark.parametrize("damaged", [1, 2], ids=["in the middle of its queue", "at its end"])
def test_clients_of_an_unreadable_run_get_its_end(
    tmp_path: Path, damaged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strandline._journal.accepting.KEPT_BYTES", 0)

    async def main() -> None:
        gate = asyncio.Event()

        async def behaviour(attempt: Attempt) -> str:
            await gate.wait()
            return await echo(attempt)

        async with serving(tmp_path, Played(behaviour)) as service:
            tickets = [await send(service, text) for text in ("zero", "one", "two")]
            with closing(sqlite3.connect(tmp_path / "journal.db")) as connection, connection:
                connection.execute("UPDATE runs SET input = x'00' WHERE run_id = ?", (tickets[damaged].run_id,))
            gate.set()
            ends = [await ticket.stream.outcome() for ticket in tickets]
            statuses = [(end.status, end.error and end.error.code) for end in ends if isinstance(end, Outcome)]
            expected: list[Any] = [(RunStatus.SUCCEEDED, None)] * 3
            expected[damaged] = (RunStatus.FAILED, ErrorCode.CRASHED)
            assert statuses == expected
            assert service.health().queue_depth == 0
            messages = await history(service)
            assert history_faults(messages) == []
            assert texts(messages).count(UNREADABLE_INPUT) == 1

    run(main)


def test_a_run_whose_history_is_damaged_ends_and_keeps_no_slot(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, Played(echo), max_running=1) as service:
            for session in ("s", "t"):
                await (await send(service, "one", session)).stream.outcome()
        with closing(sqlite3.connect(tmp_path / "journal.db")) as connection, connection:
            connection.execute("UPDATE history SET messages = x'00' WHERE no = 1")
        async with serving(tmp_path, Played(echo), max_running=1) as service:
            tickets = [await send(service, "two", session) for session in ("s", "s", "t")]
            ends = [await ticket.stream.outcome() for ticket in tickets]
            codes = [end.error and end.error.code for end in ends if isinstance(end, Outcome)]
            assert codes == [ErrorCode.CRASHED, ErrorCode.CRASHED, None]
            with pytest.raises(RecordDamaged, match="session s"):
                await history(service)

    run(main)


def test_requests_at_the_moment_of_a_deletion_do_not_find_the_session(tmp_path: Path) -> None:
    async def main() -> None:
        target = Played(echo)
        async with serving(tmp_path, target) as service:
            for number in range(60):
                await output(service, f"secret {number}")
                deleted, _ = await asyncio.gather(service.delete(key()), output(service, f"public {number}"))
                messages = texts(await history(service))
                assert deleted
                assert messages == [f"public {number}", f"echo public {number}"]
                assert target.built[-1][1].messages == []
                await service.delete(key())
            assert len(target.built) == 120, "every session after a delete has a new agent"

    run(main)


def test_a_client_that_reads_a_run_while_its_claim_is_stored_follows_it_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older process has accepted it: no request has read it here before."""

    async def main() -> None:
        disk = HeldDisk(monkeypatch)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def behaviour(attempt: Attempt) -> str:
            begun.set()
            await go_on.wait()
            return await echo(attempt)

        _, second = await left_waiting(tmp_path, "one", "two")
        async with serving(tmp_path, Played(behaviour)) as service:
            await begun.wait()
            with disk.held():
                go_on.set()
                await until_nothing_waits(service)
                stream = await service.stream(ANONYMOUS, second)
            end = await stream.outcome()
            assert isinstance(end, Outcome), "it was requeued for a later process"
            assert end.output == "echo two"

    run(main)


def test_a_run_that_is_cancelled_while_its_claim_is_being_kept_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim and the cancel are one commit, and an older process has accepted it: it has no subscriber here."""

    async def main() -> None:
        disk = HeldDisk(monkeypatch)
        begun, go_on, executed = asyncio.Event(), asyncio.Event(), list[str]()

        async def behaviour(attempt: Attempt) -> str:
            executed.append(prompt_of(attempt))
            begun.set()
            await go_on.wait()
            return await echo(attempt)

        _, second = await left_waiting(tmp_path, "one", "two")
        async with serving(tmp_path, Played(behaviour)) as service:
            await begun.wait()
            with disk.held():
                before = asyncio.create_task(send(service, "other", "other"))
                await disk.reached()  # what is decided from now on is the next commit
                go_on.set()
                await service.run(ANONYMOUS, second)  # (that takes longer than the first run)
                cancelled = asyncio.create_task(service.cancel(ANONYMOUS, second))
                for _ in range(3):  # (it is read first, and then decided)
                    await service.run(ANONYMOUS, second)
            await cancelled
            await before
            assert (await service.wait(ANONYMOUS, second, 30.0)).run.status is RunStatus.CANCELLED
            assert "two" not in executed

    run(main)
