import asyncio
from pathlib import Path
from typing import Never

from strandline.clock import Clock, SystemClock
from strandline.journal.kept import KeptSession
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import Accepted, Bounds, Journal, Refused
from strandline.model import SessionKey
from strandline.testing.contract import JournalContract
from strandline.testing.desk import WIDE

from .test_damage import new


class TestMemoryJournal(JournalContract):
    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        return MemoryJournal(clock)

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        return journal


class Looked(dict[SessionKey, KeptSession]):
    """Sessions that can be looked up, and not gone through."""

    def __iter__(self) -> Never:
        raise AssertionError("all sessions were gone through")

    items = keys = values = __iter__


def test_what_is_kept_for_a_principal_is_known_without_going_through_its_sessions() -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        await journal.open("test", max_attempts=3)
        await journal.accept(new("a", "a"), WIDE, take=False)
        journal._store.sessions = Looked(journal._store.sessions)
        assert isinstance(await journal.accept(new("b", "b"), WIDE, take=False), Accepted)
        for most, fits in ((1, False), (10_000, True)):
            answer = await journal.accept(new(f"c{most}", "c"), Bounds(9, 9, stored_bytes=most), take=False)
            assert isinstance(answer, Accepted if fits else Refused)
        await journal.close()

    asyncio.run(main())
