"""What the soak reads of accepted runs: whose they are is told by what they say, not by when they are seen."""

import asyncio
from pathlib import Path

from soak.stored import FileListing, has_label
from strandline._journal.sqlite import SqliteJournal
from strandline.testing._desk import Desk, StillClock, done, key


def test_a_run_that_is_seen_late_does_not_count_as_the_next_one(tmp_path: Path) -> None:
    async def play() -> None:
        file = tmp_path / "journal.db"
        listing = FileListing(file)
        assert listing.accepted("s", "l1-1") is None
        clock = StillClock()
        journal = SqliteJournal(file, clock)

        async def reopened() -> SqliteJournal:
            return journal

        desk = Desk(journal, clock, reopened)
        await desk.open()
        claim = await desk.start("r1", input="l1-1 work.30")
        assert (listing.accepted("s", "l1-1"), listing.accepted("s", "l1-2")) == ("r1", None)
        await desk.accept("r2", input="l1-17 work.30")
        await desk.start("r3", key("other"), input="l2-1")
        assert [listing.accepted("s", each) for each in ("l1-1", "l1-17", "l2-1")] == [None, "r2", None]
        await desk.finish(claim, done("l1-1 work.30", "yes"))
        assert [each.run_id for each in listing.stored()] == ["r1", "r2", "r3"]
        await desk.close_down()

    asyncio.run(play())


def test_a_label_is_a_whole_word() -> None:
    assert has_label(b'"c3-17 work.30"', "c3-17")
    assert not has_label(b'"c3-17 work.30"', "c3-1")
    assert not has_label(b"", "c3-1")
