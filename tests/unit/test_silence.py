"""A database is silent if it answers nothing, not if an answer takes long. On virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

from strandline._journal.postgres.silence import PATIENCE_S, Silence
from strandline.testing._virtual import VirtualClock, run_virtual


class Database:
    """Commits, and answers what it is asked, if it is there."""

    def __init__(self) -> None:
        self.commits_at: float | None = None
        """Since when a commit is under way."""
        self.is_there = asyncio.Event()
        self.is_there.set()
        self.refuses = False
        self.asked = 0
        self.silence = Silence(self._unanswered_s, self._ask)

    def _unanswered_s(self) -> float:
        return 0.0 if self.commits_at is None else asyncio.get_running_loop().time() - self.commits_at

    async def _ask(self) -> None:
        self.asked += 1
        await self.is_there.wait()
        if self.refuses:
            raise ConnectionError

    def is_silent(self) -> bool:
        return self.silence.is_silent

    def commit(self) -> None:
        self.commits_at = asyncio.get_running_loop().time()


def play(scene: Callable[[Database], Awaitable[None]]) -> None:
    async def main(_: VirtualClock) -> None:
        database = Database()
        watching = asyncio.create_task(database.silence.watch())
        await scene(database)
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled()

    run_virtual(main)


def test_a_database_that_answers_nothing_is_silent_within_a_second_until_it_answers() -> None:
    async def scene(database: Database) -> None:
        database.is_there.clear()
        database.commit()
        await asyncio.sleep(PATIENCE_S)
        assert not database.is_silent()
        await asyncio.sleep(1.0 - PATIENCE_S)
        assert database.is_silent()
        await asyncio.sleep(7.0)
        assert database.is_silent()
        assert database.asked == 1
        database.is_there.set()
        database.commits_at = None
        assert not database.is_silent()
        await asyncio.sleep(1.0)
        database.commit()
        await asyncio.sleep(1.0)
        assert not database.is_silent()

    play(scene)


def test_a_commit_that_takes_long_is_no_silence() -> None:
    async def scene(database: Database) -> None:
        database.commit()
        for _ in range(20):
            await asyncio.sleep(0.3)
            assert not database.is_silent()
        assert database.asked > 5

    play(scene)


def test_a_database_that_was_silent_stays_so_while_questions_fail_and_nothing_else_is_answered() -> None:
    async def scene(database: Database) -> None:
        database.is_there.clear()
        database.commit()
        await asyncio.sleep(1.0)
        database.refuses = True
        database.is_there.set()
        for _ in range(10):
            await asyncio.sleep(0.3)
            assert database.is_silent()

    play(scene)


def test_nothing_is_asked_while_answers_come() -> None:
    async def scene(database: Database) -> None:
        for _ in range(20):
            database.commit()
            await asyncio.sleep(PATIENCE_S / 2)
        assert database.asked == 0

    play(scene)
