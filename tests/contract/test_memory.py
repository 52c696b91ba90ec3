from pathlib import Path

from strandline.clock import Clock
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import Journal
from strandline.testing.contract import JournalContract


class TestMemoryJournal(JournalContract):
    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        return MemoryJournal(clock)

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        return journal
