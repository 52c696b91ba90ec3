"""What servers over one database know of their leases, of servers that were lost, and of how the database does."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from contract.test_postgres_owners import LEASE_MS, two
from postgres_support import asking, lease_of, opened, until
from strandline._clock import SystemClock
from strandline._journal.postgres import bloat, membership
from strandline._journal.postgres.bloat import DeadRows
from strandline._journal.postgres.wire import Wire


@pytest.fixture
def leased(database: str) -> str:
    """Where a database is whose servers hold short leases."""
    lease_of(database, LEASE_MS)
    return database


class Ahead(SystemClock):
    """A clock of somebody who set it wrong."""

    def now(self) -> float:
        return super().now() + 60.0


def test_a_server_that_was_lost_is_counted_once_by_the_one_that_ends_it(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            assert (first.journal.cluster.takeovers, second.journal.cluster.takeovers) == (0, 0)
            second.die()
            await until(lambda: len(first.owned) == 256)
            assert first.journal.cluster.takeovers == 1
            assert second.journal.cluster.lease_left_s == 0

    asyncio.run(main())


def test_a_server_that_leaves_is_no_takeover(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            await second.stop()
            await until(lambda: len(first.owned) == 256)
            assert first.journal.cluster.takeovers == 0

    asyncio.run(main())


def test_what_is_left_of_the_lease_falls_while_it_is_not_renewed(leased: str) -> None:
    async def main() -> None:
        async with opened(leased) as journal:
            cluster = journal.cluster
            assert 0 < cluster.lease_left_s <= 0.9 * LEASE_MS / 1000
            assert journal._tending is not None
            journal._tending.cancel()
            journal._transactions.lease.confirm(journal._transactions.lease.sent() - 0.7 * LEASE_MS / 1000)  # type: ignore[union-attr]
            assert cluster.lease_left_s <= 0.21 * LEASE_MS / 1000
            journal._transactions.lease.confirm(0.0)  # type: ignore[union-attr]
            assert cluster.lease_left_s == 0

    asyncio.run(main())


def test_each_server_knows_how_far_its_clock_is_off_and_one_of_them_what_is_not_cleaned_up(leased: str) -> None:
    async def main() -> None:
        async with two(leased, Ahead()) as (first, second):
            found = [await each.journal.cluster.database() for each in (first, second)]
            owner = 0 if 0 in first.owned else 1
            whole, rest = found[owner], found[1 - owner]
            assert whole is not None
            assert rest is not None
            assert None not in (whole.oldest_xmin_age, whole.dead_rows, whole.live_rows)
            assert (rest.oldest_xmin_age, rest.dead_rows, rest.live_rows) == (None, None, None)
            wrong, right = found
            assert wrong is not None
            assert right is not None
            assert wrong.clock_ahead_s == pytest.approx(60.0, abs=1.0)
            assert right.clock_ahead_s == pytest.approx(0.0, abs=1.0)

    asyncio.run(main())


def test_the_oldest_snapshot_is_as_old_as_the_transactions_since_in_this_database(
    database: str, other_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "SURVEY_S", 0.0)

    async def main() -> None:
        async with opened(database) as journal:
            with asking(database) as wire, asking(database) as holder, asking(other_database) as elsewhere:
                wire.execute("CREATE TABLE other (n bigint)")
                elsewhere.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                elsewhere.execute("SELECT 1")
                for _ in range(300):
                    wire.execute("INSERT INTO other VALUES (1)")
                found = await journal.cluster.database()
                assert found is not None
                assert found.oldest_xmin_age is not None
                assert found.oldest_xmin_age < 300, "a snapshot of another database keeps nothing here"
                holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                holder.execute("SELECT 1")
                for _ in range(300):
                    wire.execute("INSERT INTO other VALUES (1)")
                found = await journal.cluster.database()
                assert found is not None
                assert found.oldest_xmin_age is not None
                assert found.oldest_xmin_age >= 300

    asyncio.run(main())


@pytest.fixture
def other_database(postgres: Any) -> Any:
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


def test_the_dead_rows_of_the_worst_table_are_what_doctor_says(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bloat, "dead_rows_of", lambda found: DeadRows("runs", 7, 9))

    async def main() -> None:
        async with opened(database) as journal:
            found = await journal.cluster.database()
            assert found is not None
            assert (found.dead_rows, found.live_rows) == (9, 7)

    asyncio.run(main())


def test_the_database_is_asked_only_if_somebody_wants_to_know_and_once_a_minute(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    run = Wire.run

    def counted(self: Wire, statements: Sequence[tuple[str, Any]]) -> list[Any]:
        sent.extend(sql for sql, _ in statements if "pg_stat" in sql)
        return run(self, statements)

    async def main() -> None:
        async with opened(database) as journal:
            monkeypatch.setattr(Wire, "run", counted)
            await journal.cluster.refresh()
            assert sent == []
            first = await journal.cluster.database()
            asked = len(sent)
            assert asked == 2
            assert await journal.cluster.database() is first
            assert len(sent) == asked

    asyncio.run(main())
