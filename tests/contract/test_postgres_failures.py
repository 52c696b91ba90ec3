"""What PostgreSQL may refuse, lose or keep waiting for, and what then is told, and to whom."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from postgres_relay import Relay
from postgres_support import DEADLINE_S, asking, at, lease_of, new, opened, until
from strandline._clock import SystemClock
from strandline._config import resolve
from strandline._doctor import storage
from strandline._journal.port import Accepted, RunQuery
from strandline._journal.postgres import durability, schema
from strandline._journal.postgres import journal as journal_module
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.lease import Lease
from strandline._journal.postgres.wire import Wire
from strandline._model import ANONYMOUS, RunId
from strandline.errors import InvariantBroken, JournalError, JournalUnavailable, StrandlineError
from strandline.testing._desk import WIDE, done
from tools.postgres import Cluster


def name_of(database: str) -> str:
    return database.split("/")[3].split("?")[0]


def refuse_runs(wire: Wire, state: str, what: str = "no", *, table: str = "runs") -> None:
    """Have the database refuse every new row of a table as if this had happened to it."""
    wire.script(
        "CREATE SEQUENCE refusals; CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" PERFORM nextval('refusals'); RAISE EXCEPTION '{what}' USING ERRCODE = '{state}'; END $$;"
        f" CREATE TRIGGER refused BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


async def refused_again(database: str, times: int) -> None:
    """Return once so many more rows were refused."""
    with asking(database) as wire:
        count = "SELECT last_value FROM refusals"
        wanted = wire.execute(count).fetchone()[0] + times
        await until(lambda: wire.execute(count).fetchone()[0] >= wanted)


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "told", "table"),
    [
        ("53100", "its disk is full", "runs"), ("53100", "its disk is full", "history"),
        ("53200", "it is out of memory", "runs"), ("53400", "it is out of resources", "runs"),
    ],
)  # fmt: skip
def test_a_database_without_resources_is_trouble_until_it_has_some(
    database: str, state: str, told: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even though the lease can be renewed, which takes none."""
    monkeypatch.setattr("strandline._journal.writer.PROBE_S", 0.1)

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(database) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            token = (await anext(journal.claims())).token
            with asking(database) as wire:
                refuse_runs(wire, state, table=table)
                attempts: dict[str, Callable[[], Awaitable[object]]] = {
                    "runs": lambda: journal.accept(new("b"), WIDE, claim_next=False),
                    "history": lambda: journal.finish(token, done("hi", "ho"), claim_next=False),
                }
                with pytest.raises(JournalUnavailable, match=f"could not be used: {told}$"):
                    await attempts[table]()
                await until(lambda: journal.trouble is not None)
                await refused_again(database, 2)  # (the second time after the end of the first)
                assert journal.trouble == f"the database could not be used: {told}"
                with pytest.raises(JournalUnavailable, match=told):
                    await journal.accept(new("c"), WIDE, claim_next=False)
                wire.execute(f"DROP TRIGGER refused ON {table}")
            await until(lambda: journal.trouble is None)
            assert await journal.accept(new("d", "t"), WIDE, claim_next=False) == Accepted(1)
            with asking(database) as wire:
                assert wire.execute("SELECT count(*) FROM runs WHERE seq < 0").fetchone() == (0,)
                assert wire.execute("SELECT run_id FROM runs ORDER BY seq").fetchall() == [("a",), ("d",)]

    asyncio.run(main())


@pytest.mark.parametrize("state", ["P0001", "23505", "53100", "42703", "55P03"])
def test_callers_are_told_nothing_of_what_the_database_says_and_the_log_has_it(
    database: str, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(database) as journal:
            with asking(database) as wire:
                refuse_runs(wire, state, "SELECT secret FROM runs")
            with pytest.raises((InvariantBroken, JournalUnavailable)) as refused:
                await journal.accept(new("b"), WIDE, claim_next=False)
            assert "secret" not in str(refused.value)
            assert state not in str(refused.value)

    asyncio.run(main())
    logged = [each for each in caplog.records if each.name == "strandline.journal"]
    (said,) = [each for each in logged if f"SELECT secret FROM runs ({state})" in each.getMessage()]
    # (A row that another server has locked is waited for; nobody has to do anything.)
    assert said.levelname == ("WARNING" if state == "55P03" else "ERROR")


def test_a_disk_that_is_full_for_one_file_after_the_other_is_logged_once(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(database) as journal:
            with asking(database) as wire:
                refuse_runs(wire, "53100")
                wire.script(
                    "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
                    " 'no room in file %', nextval('refusals') USING ERRCODE = '53100'; END $$"
                )
            with pytest.raises(JournalUnavailable):
                await journal.accept(new("b"), WIDE, claim_next=False)
            await refused_again(database, 3)

    asyncio.run(main())
    logged = [each.getMessage() for each in caplog.records if each.name == "strandline.journal"]
    assert len([each for each in logged if "no room in file" in each]) == 1, logged


def test_callers_who_read_are_told_nothing_of_what_the_database_says(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(database) as journal:
            with asking(database) as wire:
                wire.execute("ALTER TABLE runs RENAME COLUMN lane TO secret")
            with pytest.raises(JournalUnavailable) as refused:
                await journal.read(RunQuery(ANONYMOUS, RunId("a")))
            assert str(refused.value) == "the database could not be used: its tables are of another version"

    asyncio.run(main())
    assert 'column "lane" does not exist (42703)' in caplog.text


def test_a_row_that_is_not_there_is_told_without_its_statement(database: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(database) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            claim = await anext(journal.claims())
            with asking(database) as wire:
                wire.execute("DELETE FROM runs")
            with pytest.raises(StrandlineError) as refused:
                await journal.finish(claim.token, done("hi", "ho"), claim_next=False)
            assert "UPDATE" not in str(refused.value)

    asyncio.run(main())
    assert "UPDATE runs" in caplog.text


# -- what is waited for -----------------------------------------------------------------------------------


def test_a_commit_of_which_nothing_can_be_found_out_is_waited_for_until_the_lease_is_over(
    database: str, through: str, relay: Relay
) -> None:
    """The database comes back as one that takes no writes: a standby would."""
    lease_of(database, 1_000)

    async def main() -> None:
        journal = at(through)
        await journal.open("test", max_attempts=3)
        await journal.accept(new("a"), WIDE, claim_next=False)
        with asking(database) as wire:
            wire.execute(f"ALTER DATABASE {name_of(database)} SET default_transaction_read_only = on")
        relay.cut("answer")
        accepted = asyncio.create_task(journal.accept(new("b"), WIDE, claim_next=False))
        async with asyncio.timeout(DEADLINE_S):
            lost = await journal.until_lost()
            assert "it takes no writes" in lost
            assert "could not be renewed" in lost
            with pytest.raises(JournalUnavailable):
                await accepted
            await journal.close()

    asyncio.run(main())


def test_a_renewal_of_which_nothing_is_known_makes_no_idle_server_leave(
    database: str, through: str, relay: Relay
) -> None:
    lease_of(database, 1_000)

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(through) as journal:
            with asking(database) as wire:
                wire.execute(f"ALTER DATABASE {name_of(database)} SET default_transaction_read_only = on")
                relay.cut("answer")
                await until(lambda: journal.trouble is not None)
                lost = asyncio.create_task(journal.until_lost())
                done, _ = await asyncio.wait([lost], timeout=1.5)
                assert not done
                wire.execute("SET default_transaction_read_only = off")
                wire.execute(f"ALTER DATABASE {name_of(database)} RESET default_transaction_read_only")
            await until(lambda: journal.trouble is None)
            assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)
            lost.cancel()

    asyncio.run(main())


def test_a_database_that_says_nothing_is_trouble_before_the_lease_is_over(
    database: str, through: str, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strandline._journal.postgres.lease.LATE_S", 0.5)
    lease_of(database, 4_000)

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(through) as journal:
            relay.pause()
            began = time.monotonic()
            await until(lambda: journal.trouble is not None)
            assert time.monotonic() - began < 3.2, "an answer would be waited for as long"
            assert journal.trouble == "the database does not answer"
            with pytest.raises(JournalUnavailable, match="does not answer"):
                await journal.accept(new("a"), WIDE, claim_next=False)
            relay.resume()
            await until(lambda: journal.trouble is None)

    asyncio.run(main())


def test_nobody_waits_longer_for_an_answer_than_a_lease_is_long(database: str, through: str, relay: Relay) -> None:
    lease_of(database, 1_000)

    async def main() -> None:
        journal = at(through)
        await journal.open("test", max_attempts=3)
        await journal.accept(new("a"), WIDE, claim_next=False)
        relay.pause()
        accepted = asyncio.create_task(journal.accept(new("b"), WIDE, claim_next=False))
        async with asyncio.timeout(8):
            with pytest.raises(JournalUnavailable):
                await journal.read(RunQuery(ANONYMOUS, RunId("a")))
            assert await journal.until_lost()
            with pytest.raises(JournalUnavailable):
                await accepted
            await journal.close()

    asyncio.run(main())


def test_a_machine_that_was_suspended_looks_at_its_lease_as_soon_as_it_wakes(
    database: str, through: str, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clocks stood still meanwhile, but the one of the lease."""
    asleep_s = 0.0
    monkeypatch.setattr(
        journal_module, "Lease", lambda lease_s, sent_at, now: Lease(lease_s, sent_at, lambda: now() + asleep_s)
    )

    async def main() -> None:
        nonlocal asleep_s
        journal = at(through)
        await journal.open("test", max_attempts=3)
        await journal.accept(new("a"), WIDE, claim_next=True)
        await anext(journal.claims())
        relay.pause()
        asleep_s = 60.0
        async with asyncio.timeout(4):  # (the lease has 9 s by the other clock)
            assert "lease" in await journal.until_lost()
        relay.resume()
        await journal.close()

    asyncio.run(main())


class Told:
    """Whether a server has said that it waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.has = asyncio.Event()

    def __call__(self, message: str) -> None:
        self._loop.call_soon_threadsafe(self.has.set)


def leave_a_dead_server(database: str) -> None:
    """Have a server own everything that is dead, and whose lease is not over yet."""
    lease_of(database, 4_000)
    with asking(database) as wire:
        (dead,) = wire.execute(
            "INSERT INTO servers (address, version, until) VALUES ('gone', '0', clock_timestamp() + interval '4 s')"
            " RETURNING id"
        ).fetchone()
        wire.execute("UPDATE partitions SET owner = ?", (dead,))


def test_a_server_that_waits_for_a_lease_waits_on_when_the_database_restarts() -> None:
    cluster = Cluster()
    try:
        database = cluster.new_database()
        leave_a_dead_server(database)

        async def main() -> None:
            told = Told()
            journal = PostgresJournal(database, SystemClock(), lock_wait_s=DEADLINE_S, on_wait=told)
            async with asyncio.timeout(2 * DEADLINE_S):
                opening = asyncio.create_task(journal.open("second", max_attempts=3))
                await told.has.wait()
                await asyncio.to_thread(cluster.stop)
                done, _ = await asyncio.wait([opening], timeout=0.5)
                assert not done
                await asyncio.to_thread(cluster.start)
                await opening
                assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)
                await journal.close()

        asyncio.run(main())
    finally:
        cluster.remove()


def test_a_server_that_waits_says_that_the_database_is_gone_when_its_time_is_over() -> None:
    cluster = Cluster()
    try:
        database = cluster.new_database()
        leave_a_dead_server(database)

        async def main() -> None:
            told = Told()
            journal = PostgresJournal(database, SystemClock(), lock_wait_s=2.0, on_wait=told)
            async with asyncio.timeout(DEADLINE_S):
                opening = asyncio.create_task(journal.open("second", max_attempts=3))
                await told.has.wait()
                await asyncio.to_thread(cluster.stop)
                with pytest.raises(JournalError, match="cannot be reached"):
                    await opening

        asyncio.run(main())
    finally:
        cluster.remove()


# -- what is durable --------------------------------------------------------------------------------------


@pytest.fixture
def careless() -> Iterator[Cluster]:
    """A cluster that answers commits before they are on disk."""
    cluster = Cluster()
    with asking(cluster.url("postgres")) as wire:
        wire.execute("ALTER SYSTEM SET synchronous_commit = off")
        wire.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
    cluster.stop()
    cluster.start()
    yield cluster
    cluster.remove()


def test_what_was_accepted_outlives_a_crash_of_a_database_that_does_not_wait_for_its_disk(careless: Cluster) -> None:
    database = careless.new_database()

    async def main() -> None:
        journal = at(database)
        await journal.open("test", max_attempts=3)
        await journal.accept(new("a"), WIDE, claim_next=False)
        await asyncio.to_thread(careless.stop, "immediate")
        await journal.close()

    asyncio.run(main())
    careless.start()
    with asking(database) as wire:
        assert wire.execute("SELECT run_id FROM runs").fetchall() == [("a",)]


@pytest.mark.parametrize(
    ("level", "used"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
def test_commits_are_durable_whatever_the_default_is_and_those_that_are_found_out_too(
    database: str, through: str, relay: Relay, level: str, used: str
) -> None:
    with asking(database) as wire:
        schema.migrate(wire)
        wire.execute(f"ALTER DATABASE {name_of(database)} SET synchronous_commit = {level}")
        wire.script(
            "CREATE TABLE seen (what text, level text); CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN INSERT INTO seen VALUES (TG_TABLE_NAME, current_setting('synchronous_commit')); RETURN NEW; END $$;"
            " CREATE TRIGGER seen BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION see();"
            " CREATE TRIGGER seen BEFORE UPDATE OF conn ON servers FOR EACH ROW EXECUTE FUNCTION see()"
        )

    async def main() -> None:
        async with opened(through) as journal:
            await journal.accept(new("a"), WIDE, claim_next=False)
            relay.cut("answer")
            await journal.accept(new("b"), WIDE, claim_next=False)

    asyncio.run(main())
    with asking(database) as wire:
        found = wire.execute("SELECT what, level FROM seen").fetchall()
    assert sorted(set(found)) == [("runs", used), ("servers", used)]


def test_a_database_that_may_lose_what_it_has_written_is_told_at_the_start(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with opened(database):
            pass

    asyncio.run(main())
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert [each.split()[0] for each in warned] == ["fsync", "full_page_writes"]
    assert "accepted runs can be lost" in warned[0]


def test_doctor_tells_of_a_database_that_may_lose_what_it_has_written(database: str) -> None:
    owner, *others = storage.journal(resolve({}, {"STRANDLINE_JOURNAL": database}).settings)
    assert "used by nobody" in owner.message
    weaknesses = [each for each in others if each.level == "note" and "can be lost" in each.message]
    assert [each.message.split()[0] for each in weaknesses] == ["fsync", "full_page_writes"]


def test_a_database_that_syncs_is_no_reason_to_warn() -> None:
    cluster = Cluster(synced=True)
    try:
        with asking(cluster.url("postgres")) as wire:
            assert durability.weaknesses(wire) == []
    finally:
        cluster.remove()
