"""While little room is left on its disk a journal keeps no new run, and everything else: what was accepted can end."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from strandline._journal.port import AcceptAnswer, Accepted, Attached, Delete, OnDisk, Refused
from strandline._journal.reserve import MOST, Reserve
from strandline._journal.sqlite import SqliteJournal
from strandline._model import Claim, Keyed, NewRun, RoundDone, RoundStarted, RunId
from strandline.errors import JournalUnavailable
from strandline.testing._desk import WIDE, StillClock, done, key, said

MIB = 1024 * 1024
GIB = 1024 * MIB


class FakeDisk:
    """A disk that is as large and as full as a test says, and counts how often it was asked."""

    def __init__(self, free: int, size: int = GIB) -> None:
        self.free, self.size = free, size
        self.calls: list[int] = []
        self.error: OSError | None = None

    def __call__(self, folder: Path) -> os.statvfs_result:
        self.calls.append(threading.get_ident())
        if self.error is not None:
            raise self.error
        found = SimpleNamespace(f_blocks=self.size // 512, f_bavail=self.free // 512, f_frsize=512)
        return cast(os.statvfs_result, found)


class World:
    def __init__(self, journal: SqliteJournal, clock: StillClock) -> None:
        self.journal, self.clock = journal, clock
        self.claims: AsyncIterator[Claim] = journal.claims()

    async def accept(self, run_id: str, size: int = 3, **more: Any) -> AcceptAnswer:
        new = NewRun(run_id=RunId(run_id), key=key(run_id), input="x" * size, created_at=1.0, **more)
        return await self.journal.accept(new, WIDE, claim_next=True)

    async def a_second_later(self) -> None:
        """Let the disk be looked at again: by whatever is written next."""
        self.clock.at += 1
        await self.journal.prune(0.0, 1)


@asynccontextmanager
async def opened(folder: Path, disk: FakeDisk, reserve: int | None = MIB) -> AsyncIterator[World]:
    clock = StillClock()
    journal = SqliteJournal(folder / "journal.db", clock, disk_reserve=reserve, statvfs=disk)
    await journal.open("test", max_attempts=3)
    try:
        yield World(journal, clock)
    finally:
        await journal.close()


def test_below_the_reserve_new_runs_are_refused_and_those_that_were_accepted_end(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FakeDisk(2 * MIB)
        async with opened(tmp_path, disk) as world:
            keyed = Keyed("k", b"f" * 32, 0.0)
            assert await world.accept("a", keyed=keyed) == Accepted(0)
            token = (await anext(world.claims)).token
            disk.free = MIB - 512
            await world.a_second_later()
            assert await world.accept("b") == Refused("disk_low", 1)
            again = NewRun(run_id=RunId("c"), key=key("a"), input="x", created_at=1.0, keyed=keyed)
            assert await world.journal.accept(again, WIDE, claim_next=True) == Attached(RunId("a"))
            assert world.journal.trouble is None
            assert "less than 1048576 bytes are left" in str(world.journal.low_disk)
            await world.journal.checkpoint(token, RoundStarted(said("x")))
            await world.journal.checkpoint(token, RoundDone([], None))
            await world.journal.finish(token, done("hi", "ho"), claim_next=False)
            for free, is_short in ((MIB + 512, True), (MIB + MIB // 8, False), (MIB, False), (MIB - 512, True)):
                disk.free = free
                await world.a_second_later()
                assert (world.journal.low_disk is not None) is is_short, f"with {free} bytes left"
            disk.free = 2 * MIB
            await world.a_second_later()
            assert await world.accept("d") == Accepted(0)
            await anext(world.claims)

    asyncio.run(main())


def test_runs_that_come_at_once_leave_the_reserve_until_the_disk_is_measured_again(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FakeDisk(11 * MIB)
        async with opened(tmp_path, disk) as world:
            answers = await asyncio.gather(*(world.accept(f"r{n}", MIB) for n in range(20)))
            kept = [each for each in answers if each == Accepted(0)]
            assert len(kept) == 4, "each is on the disk twice for a while"
            assert answers[4:] == [Refused("disk_low", 1)] * 16
            assert world.journal.low_disk is None, "smaller ones have room"
            assert await world.accept("m", metadata={"x": "x" * MIB}) == Refused("disk_low", 1)
            await world.a_second_later()
            assert await world.accept("later", MIB) == Accepted(0), "what was kept is seen on the disk by now"
            for _ in [*kept, "later"]:
                await anext(world.claims)

    asyncio.run(main())


def test_what_others_write_onto_the_disk_leaves_the_reserve_as_new_runs_do(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FakeDisk(11 * MIB)
        async with opened(tmp_path, disk) as world:
            assert isinstance(world.journal, OnDisk)
            assert os.path.samefile(world.journal.file, tmp_path / "journal.db")
            assert [await world.journal.grant_room(2 * MIB) for _ in range(3)] == [True, True, False]
            assert await world.accept("a", 2 * MIB) == Refused("disk_low", 1), "what was granted counts as written"
            assert await world.journal.grant_room(MIB)
            await world.a_second_later()
            assert await world.journal.grant_room(2 * MIB), "what was written is seen on the disk by now"
            disk.free = MIB - 512
            await world.a_second_later()
            assert not await world.journal.grant_room(0)
        with pytest.raises(JournalUnavailable):
            await world.journal.grant_room(1)

    asyncio.run(main())


def test_what_was_deleted_makes_room_for_new_runs_although_the_disk_gets_none_back(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FakeDisk(GIB)
        async with opened(tmp_path, disk) as world:
            assert await world.accept("a") == Accepted(0)
            await world.journal.finish((await anext(world.claims)).token, done("x" * 2 * MIB, "ho"), claim_next=False)
            disk.free = MIB // 2
            await world.a_second_later()
            assert await world.accept("b") == Refused("disk_low", 1)
            await world.journal.change(Delete(key("a")))
            await world.a_second_later()
            assert world.journal.low_disk is None
            assert await world.accept("b") == Accepted(0)
            await anext(world.claims)
            assert await world.accept("c", MIB) == Refused("disk_low", 1), "so much has no room in the WAL"
            disk.free = MIB // 4 - 512
            await world.a_second_later()
            assert await world.accept("c") == Refused("disk_low", 1), "a quarter has to be on the disk, for the WAL"

    asyncio.run(main())


def test_the_disk_is_measured_at_most_once_a_second_and_never_on_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FakeDisk(GIB)
        async with opened(tmp_path, disk) as world:
            for n in range(20):
                await world.accept(f"r{n}")
                await anext(world.claims)
            assert len(disk.calls) == 1
            await world.a_second_later()
            assert len(disk.calls) == 2
            assert threading.get_ident() not in disk.calls
            assert world.journal._transactions is not None
            world.journal._transactions.make_room(OSError())
            await world.accept("after a commit that failed")
            await anext(world.claims)
            assert len(disk.calls) == 3

    asyncio.run(main())


def test_a_disk_that_cannot_be_measured_refuses_no_run(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FakeDisk(0, size=0)
        async with opened(tmp_path, disk, None) as world:
            assert await world.accept("a") == Accepted(0)
            disk.size = GIB
            await world.a_second_later()
            assert await world.accept("b") == Refused("disk_low", 1)
            disk.error = OSError(5, "I/O error")
            await world.a_second_later()
            assert await world.accept("b") == Accepted(0)
            for _ in range(2):
                await anext(world.claims)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("wanted", "size", "reserve"),
    [(None, 2 * MIB, 2 * MIB // 10), (None, 100 * GIB, MOST), (MIB, 2 * MIB, MIB), (0, 2 * MIB, 0)],
)
def test_the_reserve_is_a_tenth_of_a_small_disk_and_64_mib_of_a_large_one(
    wanted: int | None, size: int, reserve: int
) -> None:
    clock, disk = StillClock(), FakeDisk(reserve // 512 * 512 + 512, size)
    kept = Reserve(Path(), clock, wanted, statvfs=disk)
    assert kept.is_due is (reserve > 0)
    kept.measure()
    assert kept.has_room(0)
    disk.free -= 1024
    clock.at += 1
    kept.measure()
    assert kept.has_room(0) is (reserve == 0)
    assert bool(disk.calls) is (reserve > 0)
