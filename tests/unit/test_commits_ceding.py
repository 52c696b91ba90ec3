"""A partition is ceded behind everything that was decided in it, and nothing is decided in it afterwards."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from strandline._journal.changes import AddRun, CedePartitions, Change
from strandline._journal.port import Accepted, ClaimResult, Pause
from strandline.errors import JournalUnavailable, NotOwner
from strandline.testing._desk import key
from unit.test_commits import Desk, Transactions, play


class Shared(Transactions):
    """Transactions of a journal that is shared: partitions are ceded in another table, which is not here."""

    def write(self, changes: Iterable[Change]) -> None:
        changes = list(changes)
        self.commits.append(changes)
        if self.fail(changes):
            raise JournalUnavailable("the disk is full")
        self.records.write(each for each in changes if not isinstance(each, CedePartitions))


def shared(desk: Desk) -> Desk:
    desk.transactions = Shared(desk.store)
    return desk


def cede(desk: Desk) -> asyncio.Future[Any]:
    return desk.submit(lambda table, now: table.cede([0]), "ceded")


def claim_next(desk: Desk) -> asyncio.Future[Any]:
    return desk.submit(lambda table, now: table.claim_next(key(), now=now), key=key())


def test_an_operation_that_waits_for_a_read_while_its_partition_is_ceded_is_refused() -> None:
    async def main(desk: Desk) -> None:
        shared(desk)
        paused = desk.change(Pause(key()))
        await desk.works_come()
        ceded = cede(desk)
        desk.let_all_go()
        with pytest.raises(NotOwner):
            await paused
        assert await ceded == {0}

    play(main)


def test_what_was_decided_before_a_cede_is_stored_before_it_and_nothing_is_decided_after_it() -> None:
    async def main(desk: Desk) -> None:
        shared(desk)
        claim = await desk.start("z")
        ended = desk.finish(claim.token)
        await desk.let_go()
        assert await ended is ClaimResult.NOTHING
        closed = desk.submit(lambda table, now: table.close([0]))
        accepted, ceded, late = desk.accept("a"), cede(desk), desk.accept("b")
        desk.let_all_go()
        with pytest.raises(NotOwner):
            await late
        assert (await accepted, await ceded, await closed) == (Accepted(1), {0}, None)
        rows = [each for commit in desk.transactions.commits for each in commit]
        kinds = [type(each) for each in rows]
        assert kinds.index(CedePartitions) > max(n for n, each in enumerate(kinds) if each is AddRun)
        assert kinds.count(AddRun) == 2

    play(main)


def test_a_cede_that_cannot_be_stored_is_undone_with_all_that_it_had_forgotten() -> None:
    async def main(desk: Desk) -> None:
        shared(desk)
        desk.let_all_go()
        await desk.submit(lambda table, now: table.close([0]))
        assert await desk.accept("a") == Accepted(1)
        desk.transactions.fail = lambda changes: any(isinstance(each, CedePartitions) for each in changes)
        with pytest.raises(JournalUnavailable):
            await cede(desk)
        table = desk.commits.table
        assert (table.owns(0), table.waiting, table.cannot_claim(key(), 0.0)) == (True, 1, ClaimResult.NOTHING)
        await desk.submit(lambda table, now: table.reopen([0]))
        assert await claim_next(desk) is ClaimResult.CLAIMED

    play(main)


def test_a_partition_in_which_something_executes_is_not_ceded() -> None:
    async def main(desk: Desk) -> None:
        shared(desk)
        claim = await desk.start("a")
        desk.let_all_go()
        assert await cede(desk) == frozenset()
        assert desk.commits.table.owns(0)
        await desk.finish(claim.token)
        assert await cede(desk) == {0}
        assert not desk.commits.table.owns(0)

    play(main)
