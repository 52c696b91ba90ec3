"""Group commit over a storage that does its work when a test says so: what waits for what, and what a failure costs."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from stored_rows import StoredRows
from strandline._journal.accepting import KEPT_BYTES
from strandline._journal.changes import AddRun, Change, encode_completion, encoded_body
from strandline._journal.commits import GroupCommit, Operation, Work, WriteResult
from strandline._journal.deferred import DeferredWrites
from strandline._journal.errors import ClaimLost
from strandline._journal.feed import ClaimFeed
from strandline._journal.numbers import Counted
from strandline._journal.port import Accepted, Bounds, Changed, ClaimResult, Delete, Pause, Refused
from strandline._journal.port import Change as AnyChange
from strandline._journal.table import SessionTable
from strandline._journal.writer import perform
from strandline._model import Claim, Completion, FencingToken, NewRun, Outcome, RunId, RunStatus, SessionKey
from strandline.errors import InvariantBroken, JournalUnavailable, StrandlineError
from strandline.testing._desk import WIDE, StillClock, key, said

DEADLINE_S = 30


class Transactions:
    """Transactions over a store in memory. `fail` says which rows cannot be written; reads fail while `unreadable`."""

    def __init__(self, store: StoredRows) -> None:
        self.records = store
        self.fail: Callable[[list[Change]], bool] = lambda changes: False
        self.commits: list[list[Change]] = []

    def begin(self) -> None:
        pass

    def write(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        self.commits.append(changes)
        if self.fail(changes):
            raise JournalUnavailable("the disk is full")
        self.records.write(changes)

    def commit(self) -> None:
        pass

    def rollback(self) -> None:
        pass

    def make_room(self, error: Exception) -> None:
        pass

    def probe(self) -> None:
        pass

    def check(self) -> None:
        pass

    def translated(self, error: Exception) -> Any:
        return error if isinstance(error, StrandlineError) else JournalUnavailable(str(error))


class Desk:
    """Group commit, and a storage whose work waits until it is let go; `held` False: it is done at once."""

    def __init__(self, *, held: bool = True) -> None:
        self.store = StoredRows()
        self.transactions = Transactions(self.store)
        self.clock = StillClock()
        self.held = held
        self.works: list[tuple[Work, Callable[[WriteResult], None]]] = []
        self.deferred = DeferredWrites()
        self.feed = ClaimFeed()
        table = SessionTable.of(self.store, max_attempts=3, numbers=Counted(1, 0, 1))
        table.take_over({0: 1}, self.clock.now())
        table.drain()
        table.records = None
        self.commits = GroupCommit(table, self, self.feed, self.clock, self.deferred)
        self.claims = self.feed.follow()
        self.bounds = WIDE
        self.answers: list[str] = []

    def put(self, work: Work, done: Callable[[WriteResult], None]) -> bool:
        if self.held:
            self.works.append((work, done))
        else:
            done(perform(self.transactions, work))
        return True

    async def works_come(self) -> Work:
        """Wait for work that is not done yet; return it."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.works:
                await asyncio.sleep(0)
        return self.works[0][0]

    async def let_go(self, times: int = 1) -> None:
        """Have the storage do the work that comes next."""
        for _ in range(times):
            await self.works_come()
            work, done = self.works.pop(0)
            done(perform(self.transactions, work))
            await until_idle()

    def let_all_go(self) -> None:
        """Have it do everything at once from now on."""
        self.held = False
        works, self.works = self.works, []
        for work, done in works:
            done(perform(self.transactions, work))

    # -- operations ---------------------------------------------------------------------------------

    def submit(self, decide: Callable[[SessionTable, float], Any], name: str = "", **more: Any) -> asyncio.Future[Any]:
        operation = Operation(decide, loop=asyncio.get_running_loop(), **more)
        self.commits.submit(operation)
        assert operation.future is not None
        if name:
            operation.future.add_done_callback(lambda future: self.answers.append(name))
        return operation.future

    def accept(self, run_id: str, at: SessionKey | None = None, **fields: Any) -> asyncio.Future[Any]:
        fields.setdefault("input", f"ask {run_id}")
        new = NewRun(run_id=RunId(run_id), key=at or key(), created_at=self.clock.now(), **fields)
        bounds = self.bounds

        def decide(table: SessionTable, now: float) -> Any:
            return table.accept(new, encoded_body(new), bounds, claim_next=True, now=now)

        return self.submit(decide, run_id, key=new.key, new=True)

    def finish(self, token: FencingToken, *, claim_next: bool = True) -> asyncio.Future[Any]:
        done = Completion(outcome=Outcome(status=RunStatus.SUCCEEDED), messages=said(token.run_id))
        left = encode_completion(done)

        def decide(table: SessionTable, now: float) -> Any:
            taken = table.finish(token, left, hold=False, claim_next=claim_next, now=now)
            self.deferred.discard(token)
            return taken

        return self.submit(decide, f"end of {token.run_id}", token=token)

    def checkpoint(self, token: FencingToken, what: str) -> None:
        """Have a checkpoint be stored that nobody waits for."""
        checkpoint = json.dumps(what).encode()

        def decide(table: SessionTable, now: float) -> None:
            self.deferred.flush(table, token)
            table.checkpoint(token, checkpoint)

        self.commits.submit(Operation(decide, token=token, checkpoint=checkpoint))

    def checkpoints(self) -> list[bytes]:
        """Return what is stored of the only run."""
        (run,) = self.store.runs.values()
        return run.checkpoints

    def change(self, change: AnyChange, at: SessionKey | None = None) -> asyncio.Future[Any]:
        return self.submit(lambda table, now: table.change(change, now=now), key=at or key())

    async def start(self, run_id: str, at: SessionKey | None = None) -> Claim:
        """Have a run execute, with its session in memory."""
        held, self.held = self.held, False
        assert await self.accept(run_id, at) == Accepted(0)
        self.held = held
        return await anext(self.claims)


async def until_idle() -> None:
    """Let the loop do all that it has to do."""
    for _ in range(10):
        await asyncio.sleep(0)


def play(main: Callable[[Desk], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await main(Desk())

    asyncio.run(bounded())


# -- batches --------------------------------------------------------------------------------------------


def test_what_is_decided_while_a_batch_is_stored_is_the_next_batch() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        answers = [desk.accept("b")]
        assert (await desk.works_come()).operations == 1
        answers += [desk.accept("c"), desk.finish(claim.token), desk.accept("d")]
        await until_idle()
        assert len(desk.works) == 1, "one batch at a time"
        await desk.let_go()
        assert [each.done() for each in answers] == [True, False, False, False]
        assert (await desk.works_come()).operations == 3
        await desk.let_go()
        assert [await each for each in answers] == [Accepted(1), Accepted(2), ClaimResult.CLAIMED, Accepted(2)]
        assert (await anext(desk.claims)).run.run_id == "b"

    play(main)


def test_an_answer_waits_for_what_it_rests_on_and_a_claim_for_the_answers() -> None:
    async def main(desk: Desk) -> None:
        await desk.start("a")
        desk.bounds = Bounds(1, 99)
        desk.accept("b")
        await desk.works_come()
        refused = desk.accept("c")
        await until_idle()
        assert not refused.done(), "the run that fills the queue may never be kept"
        await desk.let_go()
        assert await refused == Refused("queue_full", 2)
        desk.bounds = WIDE
        claiming = asyncio.ensure_future(anext(desk.claims))
        claiming.add_done_callback(lambda future: desk.answers.append("claim"))
        desk.accept("x", key("other"))
        await desk.let_go(2)
        await claiming
        assert desk.answers[-2:] == ["x", "claim"]

    play(main)


def test_what_decides_nothing_is_not_stored() -> None:
    async def main(desk: Desk) -> None:
        await desk.start("a")
        desk.bounds = Bounds(0, 0)
        commits = len(desk.transactions.commits)
        assert await desk.accept("b") == Refused("queue_full", 1)
        with pytest.raises(ClaimLost):
            await desk.finish(FencingToken(RunId("nobody"), 1))
        assert (len(desk.transactions.commits), desk.works) == (commits, [])

    play(main)


# -- what is missing ------------------------------------------------------------------------------------


def test_what_comes_for_a_session_waits_behind_what_is_read_for_it_and_nothing_else_does() -> None:
    async def main(desk: Desk) -> None:
        await desk.start("a", key("known"))
        desk.accept("new 1")
        await desk.works_come()
        desk.accept("new 2")
        other = desk.accept("b", key("known"))
        await desk.let_go()
        assert (await desk.works_come()).operations == 3, "both runs of the session, and the other one"
        await desk.let_go()
        await other
        assert sorted(desk.answers[-3:]) == ["b", "new 1", "new 2"]
        assert desk.answers.index("new 1") < desk.answers.index("new 2")
        assert list(desk.store.runs)[-3:] != ["new 2", "new 1"]

    play(main)


def test_what_is_read_is_as_of_the_rows_that_were_decided_before() -> None:
    """The input of the run that goes next is in a batch that is not even stored."""

    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        long = "long " * KEPT_BYTES
        accepted, ended = desk.accept("b", input=long), desk.finish(claim.token)
        work = await desk.works_come()
        assert (work.operations, len(work.reads)) == (1, 1)
        await desk.let_go(2)
        assert [await accepted, await ended] == [Accepted(1), ClaimResult.CLAIMED]
        assert (await anext(desk.claims)).run.input == long

    play(main)


def test_a_deleted_session_is_gone_at_once_and_there_again_if_that_could_not_be_stored() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        desk.held = False
        await desk.finish(claim.token)
        desk.held = True
        deleted = desk.change(Delete(key()))
        await desk.works_come()
        paused = desk.change(Pause(key()))
        await desk.let_go()
        assert [await deleted, await paused] == [Changed(existed=True), Changed(existed=False)]

    play(main)


def test_an_unreadable_session_fails_only_operations_on_it() -> None:
    async def main(desk: Desk) -> None:
        session = StoredRows.session

        def damaged(key: SessionKey) -> Any:
            if key.session_id == "damaged":
                raise JournalUnavailable("damaged")
            return session(desk.store, key)

        desk.store.session = damaged  # type: ignore[method-assign]
        desk.held = False
        failing, good = desk.accept("a", key("damaged")), desk.accept("b", key("good"))
        with pytest.raises(JournalUnavailable, match="damaged"):
            await failing
        assert await good == Accepted(0)

    play(main)


# -- what cannot be stored ------------------------------------------------------------------------------


def test_of_a_batch_that_cannot_be_stored_the_one_at_fault_fails_alone() -> None:
    async def main(desk: Desk) -> None:
        claims = [await desk.start(name, key(name)) for name in ("s", "t")]
        desk.transactions.fail = lambda changes: any(
            isinstance(row, AddRun) and row.new.run_id == "bad" for row in changes
        )
        answers = [desk.accept("good", key("s")), desk.accept("bad", key("t")), desk.accept("later", key("t"))]
        answers += [desk.finish(claim.token) for claim in claims]
        desk.held = False
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert [type(each) for each in results] == [
            Accepted,
            JournalUnavailable,
            JournalUnavailable,
            ClaimResult,
            ClaimResult,
        ]
        assert list(desk.store.runs) == ["s", "t", "good"]
        assert [desk.store.runs[RunId(each)].status for each in ("s", "t")] == [RunStatus.SUCCEEDED] * 2

    play(main)


def test_those_that_end_are_decided_again_before_those_that_are_new_and_the_first_of_these_finds_out_for_all() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        answers = [desk.accept(f"r{n}") for n in range(5)] + [desk.finish(claim.token)]
        desk.transactions.fail = lambda changes: any(isinstance(row, AddRun) for row in changes)
        tried = len(desk.transactions.commits)
        desk.held = False
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert [type(each) for each in results] == [JournalUnavailable] * 5 + [ClaimResult]
        assert results[-1] is ClaimResult.NOTHING, "nothing waits by then"
        assert len(desk.transactions.commits) - tried == 3, "the batch, the end, and the first of the new ones"

    play(main)


def test_who_is_answered_that_nothing_was_stored_finds_the_sessions_as_they_are() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        desk.held = False
        assert await desk.accept("b") == Accepted(1)
        desk.transactions.fail = lambda changes: True
        failing, table, seen = desk.finish(claim.token), desk.commits.table, list[object]()
        failing.add_done_callback(lambda future: seen.append((table.waiting, table.position(RunId("b")))))
        with pytest.raises(JournalUnavailable):
            await failing
        assert seen == [(1, 1)]

    play(main)


def test_what_was_decided_while_the_batch_was_stored_is_decided_again_with_it() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        failing = [True]
        desk.transactions.fail = lambda changes: bool(failing and failing.pop())
        desk.accept("b")
        await desk.works_come()
        ended = desk.finish(claim.token)
        late = desk.accept("c")
        desk.let_all_go()
        assert (await ended, await late) == (ClaimResult.NOTHING, Accepted(1)), (
            "ends come first, then the new ones again"
        )
        assert (await anext(desk.claims)).run.run_id == "b"

    play(main)


def test_what_comes_while_others_are_decided_again_is_decided_after_them() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        failing = [True]
        desk.transactions.fail = lambda changes: bool(failing and failing.pop())
        ended = desk.finish(claim.token)
        await desk.let_go()
        late = desk.accept("b")
        await until_idle()
        assert not late.done()
        desk.let_all_go()
        assert (await ended, await late) == (ClaimResult.NOTHING, Accepted(0))
        assert desk.answers[-2:] == ["end of a", "b"]

    play(main)


def test_as_long_as_sessions_cannot_be_put_back_nothing_is_decided_on_what_may_be_wrong() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        session, is_broken = StoredRows.session, True

        def unreadable(key: SessionKey) -> Any:
            if is_broken:
                raise OSError("the disk failed")
            return session(desk.store, key)

        desk.store.session = unreadable  # type: ignore[method-assign]
        desk.transactions.fail = lambda changes: is_broken
        desk.held = False
        for _ in range(3):
            with pytest.raises(JournalUnavailable):
                await desk.finish(claim.token)
        is_broken = False
        assert await desk.accept("b") == Accepted(1), "the first run still executes"
        assert await desk.finish(claim.token) is ClaimResult.CLAIMED

    play(main)


def test_a_session_that_is_damaged_when_it_is_to_be_put_back_keeps_no_other_from_going_on() -> None:
    async def main(desk: Desk) -> None:
        claims = {name: await desk.start(name, key(name)) for name in ("s", "t")}
        session = StoredRows.session

        def damaged(key: SessionKey) -> Any:
            if key.session_id == "s":
                raise JournalUnavailable("damaged")
            return session(desk.store, key)

        failing = [True]
        desk.transactions.fail = lambda changes: bool(failing and failing.pop())
        desk.store.session = damaged  # type: ignore[method-assign]
        desk.held = False
        with pytest.raises(ClaimLost):
            await desk.finish(claims["s"].token)
        assert await desk.finish(claims["t"].token) is ClaimResult.NOTHING
        with pytest.raises(JournalUnavailable, match="damaged"):
            await desk.accept("u", key("s"))

    play(main)


def test_a_claim_of_a_commit_that_failed_is_good_for_nothing_and_never_delivered() -> None:
    async def main(desk: Desk) -> None:
        failing = [True, True]
        desk.transactions.fail = lambda changes: bool(failing and failing.pop())
        desk.held = False
        with pytest.raises(JournalUnavailable):
            await desk.accept("a")
        assert await desk.accept("a") == Accepted(0)
        claim = await anext(desk.claims)
        assert await desk.finish(claim.token) is ClaimResult.NOTHING
        desk.feed.end()
        assert [each async for each in desk.claims] == []

    play(main)


def test_a_deferred_checkpoint_is_stored_with_the_next_one() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        failing = [True, True]
        desk.transactions.fail = lambda changes: bool(failing and failing.pop())
        desk.held = False
        desk.checkpoint(claim.token, "1")
        await until_idle()
        assert len(desk.deferred) == 1
        desk.checkpoint(claim.token, "2")
        await until_idle()
        assert (len(desk.deferred), [json.loads(each) for each in desk.checkpoints()]) == (0, ["1", "2"])
        failing[:] = [True, True]
        desk.checkpoint(claim.token, "3")
        await until_idle()
        assert await desk.finish(claim.token) is ClaimResult.NOTHING
        assert len(desk.deferred) == 0, "the run has ended without it"

    play(main)


def test_a_checkpoint_deferred_after_a_refused_operation_is_stored_all_the_same() -> None:
    """The refused one stored nothing of its claim, although another claim had a deferred checkpoint."""

    async def main(desk: Desk) -> None:
        first, second = await desk.start("a"), await desk.start("b", key("other"))
        desk.deferred.defer(first.token, b"of another")
        desk.held = False

        def refused(table: SessionTable, now: float) -> None:
            desk.deferred.flush(table, second.token)
            raise ClaimLost("no")

        with pytest.raises(ClaimLost):
            await desk.submit(refused, token=second.token)
        desk.deferred.defer(second.token, b'"one"')
        desk.checkpoint(second.token, "two")
        await until_idle()
        (run,) = [each for each in desk.store.runs.values() if each.checkpoints]
        assert run.checkpoints == [b'"one"', b'"two"']

    play(main)


def test_an_operation_that_breaks_down_half_way_is_undone_and_fails_alone() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")

        def break_down(table: SessionTable, now: float) -> None:
            table.change(Pause(key()), now=now)
            raise KeyError("a defect")

        broken = desk.submit(break_down, key=key())
        ended, late = desk.finish(claim.token), desk.accept("b")
        desk.held = False
        with pytest.raises(InvariantBroken, match="a defect"):
            await broken
        assert (await ended, await late) == (ClaimResult.NOTHING, Accepted(0)), "the session was never paused"

    play(main)


# -- from elsewhere, and the end ------------------------------------------------------------------------


def test_operations_may_come_from_any_loop_and_are_answered_there() -> None:
    async def main(desk: Desk) -> None:
        claim = await desk.start("a")
        desk.held = False
        answers: list[Any] = []
        home = threading.get_ident()
        decided: list[int] = []

        async def elsewhere() -> None:
            def decide(table: SessionTable, now: float) -> Any:
                decided.append(threading.get_ident())
                return table.change(Pause(key()), now=now)

            answers.append(await asyncio.wait_for(desk.submit(decide, key=key()), DEADLINE_S))

        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        async with asyncio.timeout(DEADLINE_S):
            while thread.is_alive():
                await asyncio.sleep(0.001)
        assert answers == [Changed(existed=True)]
        assert decided == [home]
        await desk.finish(claim.token)

    play(main)


def test_a_read_that_nobody_waits_for_any_more_fails_nothing() -> None:
    async def main(desk: Desk) -> None:
        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        reading = asyncio.create_task(desk.commits.read(lambda records: records.look_for_room()))
        await desk.works_come()
        reading.cancel()
        await until_idle()
        await desk.let_go()
        assert faults == []

    play(main)


def test_bytes_that_were_read_for_an_operation_are_good_for_one_decision() -> None:
    """What is kept for a principal can change while the operation waits for what it lacks besides."""

    async def main(desk: Desk) -> None:
        def decide(table: SessionTable, now: float) -> tuple[int, int]:
            return table._stored_bytes(key().principal), table._fetched("more", lambda records: 7)

        deciding = desk.submit(decide, key=key())
        await desk.let_go()
        desk.commits.table.forget_stored()
        await desk.let_go()
        assert not deciding.done(), "they are read anew"
        await desk.let_go()
        assert await deciding == (0, 7)

    play(main)


def test_close_returns_when_everything_is_answered() -> None:
    async def main(desk: Desk) -> None:
        await desk.start("a")
        answers = [desk.accept("b"), desk.accept("c", key("cold"))]
        closing = asyncio.ensure_future(desk.commits.close())
        await desk.works_come()
        await until_idle()
        assert not closing.done()
        desk.let_all_go()
        await closing
        assert [each.result() for each in answers] == [Accepted(1), Accepted(0)]
        assert desk.commits.is_closed

    play(main)
