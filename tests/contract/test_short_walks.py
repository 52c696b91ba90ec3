"""All sessions at rest are found, however few of all a page looks at: its end comes long before its limit."""

from pathlib import Path

import pytest

from strandline._clock import Clock
from strandline._journal import lists
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Journal
from strandline._journal.sqlite import SqliteJournal
from strandline.testing._contract.rest import RestContract


@pytest.fixture(autouse=True)
def short_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_WALK", 2)


class TestShortWalksOfTheMemoryJournal(RestContract):
    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        return MemoryJournal(clock)

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        return journal


class TestShortWalksOfTheSqliteJournal(RestContract):
    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        return SqliteJournal(folder / "journal.db", clock)

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        await journal.close()
        return self.make_journal(folder, clock)
