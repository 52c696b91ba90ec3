"""The suite on the PostgreSQL journal, and what only a database, a lease and a connection can do wrong."""

import asyncio
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from logged import ours
from postgres_relay import Relay
from postgres_support import DEADLINE_S, SharedDatabase, asking, at, lease_of, new, opened, until, until_waiting
from strandline._clock import Clock, SystemClock
from strandline._journal.errors import RunIdTaken
from strandline._journal.port import Accepted, Cancel, Journal, RunQuery, RunsOfQuery
from strandline._journal.postgres import ownership, schema
from strandline._journal.postgres.failures import TAKEN_OVER, for_operators, translated
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.shares import View
from strandline._journal.postgres.transactions import WENT_BACK
from strandline._journal.postgres.wire import ConnectionLost, Wire, check_conninfo, numbered
from strandline._model import ANONYMOUS, RoundStarted, RunId
from strandline.errors import JournalError, JournalForeign, JournalNewer, JournalUnavailable
from strandline.testing._contract import JournalContract
from strandline.testing._desk import WIDE, done, said
from tools.postgres import Cluster


class TestPostgresJournal(JournalContract):
    @pytest.fixture(autouse=True)
    def _in(self, shared_database: SharedDatabase) -> None:
        self.database = shared_database.again()

    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        return PostgresJournal(self.database, clock, lock_wait_s=0)

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        await journal.close()
        return self.make_journal(folder, clock)


def run_ids(page: Any) -> list[str]:
    return [each.run_id for each in page.runs]


def test_a_database_that_is_used_again_is_as_new(shared_database: SharedDatabase, database: str) -> None:
    def rows(address: str) -> dict[str, int]:
        with asking(address) as wire:
            schema.migrate(wire)
            found = wire.execute("SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200")
            return {
                name: wire.execute(
                    f"SELECT coalesce(sum(hashtext({name}::text)::bigint), 0)::bigint FROM {name}"
                ).fetchone()
                for (name,) in found
            }

    async def main() -> None:
        async with opened(address) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            await journal.finish((await anext(journal.claims())).token, done("hi", "ho"), claim_next=False)

    address = shared_database.again()
    asyncio.run(main())
    assert rows(address) != rows(database)
    assert rows(shared_database.again()) == rows(database)


# -- a connection that is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("swallow", ["answer", "batch"])
def test_a_run_whose_commit_lost_its_connection_is_accepted_once(
    database: str, through: str, relay: Relay, swallow: str
) -> None:
    """Whether the commit has reached the database or not: nobody is told before that is known."""

    async def main() -> None:
        async with opened(through) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            relay.cut(swallow)
            assert await journal.accept(new("b"), WIDE, claim_next=False) == Accepted(1)
            assert relay.has_cut.is_set()
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=True)
            assert (await anext(claims)).run.run_id == "b"
            assert journal.trouble is None

    asyncio.run(main())
    with asking(database) as wire:
        assert wire.execute("SELECT run_id FROM runs ORDER BY seq").fetchall() == [("a",), ("b",)]


@pytest.mark.parametrize("swallow", ["answer", "batch"])
def test_a_checkpoint_whose_commit_lost_its_connection_is_kept_once(
    database: str, through: str, relay: Relay, swallow: str
) -> None:
    async def main() -> None:
        async with opened(through) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            token = (await anext(journal.claims())).token
            relay.cut(swallow)
            await journal.checkpoint(token, RoundStarted(said("go")))
            assert relay.has_cut.is_set()

    asyncio.run(main())
    with asking(database) as wire:
        assert wire.execute("SELECT no FROM staged").fetchall() == [(0,)]


def test_a_commit_that_nobody_found_out_about_is_found_as_it_was_when_its_run_is_decided_again(
    database: str, through: str, relay: Relay
) -> None:
    """A server that leaves waits no longer for an outcome. What was accepted is told as such all the same."""

    async def main() -> None:
        async with opened(through) as journal:
            await journal.accept(new("a"), WIDE, claim_next=False)
            assert journal._transactions is not None
            journal._transactions.give_up()
            relay.cut("answer")
            with pytest.raises(RunIdTaken):
                await journal.accept(new("b"), WIDE, claim_next=False)

    asyncio.run(main())
    with asking(database) as wire:
        assert wire.execute("SELECT run_id FROM runs ORDER BY seq").fetchall() == [("a",), ("b",)]


def test_a_run_id_that_is_taken_is_an_answer_and_nothing_is_logged(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that is sent again may overtake the first one, which then finds its run there, perhaps ended."""

    async def main() -> None:
        async with opened(database) as journal:
            assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)
            await journal.change(Cancel(ANONYMOUS, RunId("a")))
            caplog.clear()
            taken, accepted = await asyncio.gather(
                *(journal.accept(new(each), WIDE, claim_next=False) for each in "ab"), return_exceptions=True
            )
            assert isinstance(taken, RunIdTaken)
            assert accepted == Accepted(1)

    asyncio.run(main())
    assert ours(caplog) == []


def test_a_connection_is_made_anew_for_those_who_read(postgres: Cluster, database: str) -> None:
    async def main() -> None:
        async with opened(database) as journal:
            await journal.accept(new("a"), WIDE, claim_next=False)
            with asking(database) as wire:
                wire.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid()"
                )
            assert await journal.read(RunQuery(ANONYMOUS, RunId("a"))) is not None
            assert await journal.accept(new("b"), WIDE, claim_next=False) == Accepted(2)

    asyncio.run(main())


def test_a_database_that_stops_is_trouble_and_its_return_is_the_end_of_it() -> None:
    cluster = Cluster()
    try:
        database = cluster.new_database()

        async def main() -> None:
            async with opened(database) as journal:
                await journal.accept(new("a"), WIDE, claim_next=False)
                await asyncio.to_thread(cluster.stop)
                await until(lambda: journal.trouble is not None)
                assert "cannot be reached" in (journal.trouble or "")
                with pytest.raises(JournalUnavailable):
                    await journal.accept(new("b"), WIDE, claim_next=False)
                with pytest.raises(JournalUnavailable):
                    await journal.read(RunsOfQuery(ANONYMOUS))
                await asyncio.to_thread(cluster.start)
                await until(lambda: journal.trouble is None)
                assert await journal.accept(new("b"), WIDE, claim_next=False) == Accepted(2)
                assert run_ids(await journal.read(RunsOfQuery(ANONYMOUS))) == ["b", "a"]

        asyncio.run(main())
    finally:
        cluster.remove()


def test_a_journal_is_closed_though_its_database_is_gone() -> None:
    cluster = Cluster()
    try:

        async def main() -> None:
            async with asyncio.timeout(DEADLINE_S), opened(cluster.new_database()) as journal:
                await journal.accept(new("a"), WIDE, claim_next=False)
                await asyncio.to_thread(cluster.stop, "immediate")

        asyncio.run(main())
    finally:
        cluster.remove()


def test_a_journal_is_closed_though_its_database_goes_in_the_middle_of_a_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("strandline._journal.postgres.journal.LEAVE_S", 0.5)
    cluster = Cluster()
    try:
        database = cluster.new_database()

        async def main() -> None:
            journal = at(database)
            await journal.open("test", max_attempts=3)
            with asking(database) as holder:
                holder.execute("BEGIN")
                holder.execute("UPDATE servers SET version = version")
                accepted = asyncio.create_task(journal.accept(new("a"), WIDE, claim_next=False))
                await asyncio.to_thread(until_waiting, database)
                closed = asyncio.create_task(journal.close())
                await asyncio.sleep(0)
                await asyncio.to_thread(cluster.stop, "immediate")
            async with asyncio.timeout(DEADLINE_S):
                await closed
            with pytest.raises(JournalUnavailable):
                await accepted

        asyncio.run(main())
    finally:
        cluster.remove()


# -- whose it is ------------------------------------------------------------------------------------------


def test_a_server_that_stops_lets_the_next_one_begin_at_once(database: str) -> None:
    async def main() -> None:
        epochs = []
        for _ in range(3):
            async with opened(database) as journal:
                epochs.append(journal.epoch)
        assert epochs == [1, 2, 3]

    asyncio.run(main())


def test_what_executed_where_the_lease_is_over_is_taken_over_and_the_old_server_is_refused(
    database: str, through: str, relay: Relay
) -> None:
    lease_of(database, 500)

    async def main() -> None:
        first = at(through)
        await first.open("first", max_attempts=3)
        await first.accept(new("a"), WIDE, claim_next=True)
        claim = await anext(first.claims())
        relay.pause()
        (taken,) = await (second := at(database, lock_wait_s=DEADLINE_S)).open("second", max_attempts=3)
        assert (taken.run.run_id, taken.token.fence > claim.token.fence) == ("a", True)
        async with asyncio.timeout(DEADLINE_S):
            assert await first.until_lost()
        relay.resume()
        with pytest.raises(JournalUnavailable):
            await first.finish(claim.token, done("hi", "ho"), claim_next=False)
        await first.close()
        await second.finish(taken.token, done("hi", "ho"), claim_next=False)
        await second.close()

    asyncio.run(main())


def test_a_batch_of_an_owner_that_another_server_has_declared_over_is_refused(database: str) -> None:
    async def main() -> None:
        async with opened(database) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            token = (await anext(journal.claims())).token
            with asking(database) as wire:
                wire.execute("UPDATE servers SET alive = false")
            with pytest.raises(JournalUnavailable, match=TAKEN_OVER):
                await journal.finish(token, done("hi", "ho"), claim_next=False)
            assert await journal.until_lost() == TAKEN_OVER

    asyncio.run(main())
    with asking(database) as wire:
        assert wire.execute("SELECT status FROM runs").fetchall() == [("running",)]


def test_half_a_batch_keeps_nobody_from_taking_over(database: str) -> None:
    lease_of(database, 300)
    with asking(database) as half:
        half.execute("INSERT INTO servers (address, version, until) VALUES ('gone', '0', clock_timestamp())")
        half.execute("UPDATE partitions SET owner = 1")
        half.execute("BEGIN")
        half.execute("SELECT renew(1, 0, 1, 300)")

        async def main() -> None:
            async with asyncio.timeout(DEADLINE_S), opened(database, lock_wait_s=DEADLINE_S) as journal:
                assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)

        asyncio.run(main())
        with pytest.raises(ConnectionLost):
            half.execute("COMMIT")


def test_half_an_adoption_keeps_no_server_from_adopting(database: str) -> None:
    """Its server is lost, and its lease is not over: nobody may end the server yet, and nobody needs to wait for it."""
    lease_of(database, 3000)

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S):
            with asking(database) as half:
                half.execute("INSERT INTO servers (address, version, until) VALUES ('x', '0', now() + '1 h'::interval)")
                half.execute("BEGIN")
                half.execute("SELECT renew(1, 0, 1, 3600000)")
                half.execute("UPDATE partitions SET owner = 1 WHERE p < 10")
                half._pg.send_query_params(b"SELECT 1", [])  # and never what ends a batch
                half._pg.flush()
                async with opened(database, lock_wait_s=DEADLINE_S) as journal:
                    assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)
                with pytest.raises(ConnectionLost):
                    half.execute("COMMIT")

    asyncio.run(main())


def test_half_a_takeover_keeps_no_server_from_working_or_starting(database: str) -> None:
    """A server that is lost while it ends another one may hold the lock under which servers come and are ended."""

    async def main() -> None:
        async with opened(database) as living, asyncio.timeout(DEADLINE_S):
            with asking(database) as half:
                schema.begin_alone(half)
                half._pg.send_query_params(b"SELECT 1", [])  # and never what ends a batch
                half._pg.flush()
                assert await living.accept(new("a"), WIDE, claim_next=False) == Accepted(1)
                async with opened(database, lock_wait_s=DEADLINE_S):
                    pass
                with pytest.raises(ConnectionLost):
                    half.execute("COMMIT")

    asyncio.run(main())


class Attempt(threading.Thread):
    """A server that joins meanwhile."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(daemon=True)
        self._wire = wire
        self.view: View | None = None
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            joined = ownership.join(self._wire, "", SystemClock())
            self.view = ownership.look(self._wire, joined.id, 0, 10_000, 0)
        except Exception as error:
            self.failed = error


def test_servers_that_start_at_once_see_each_other_whatever_isolation_is_the_default(database: str) -> None:
    """A snapshot from before the wait for the lock would not have the server that held it."""
    with asking(database) as wire:
        schema.migrate(wire)
        name = wire.execute("SELECT current_database()::text").fetchone()[0]
        wire.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    with asking(database) as first, asking(database) as second:
        attempt = Attempt(second)
        first.execute("BEGIN")
        first.execute("SELECT pg_advisory_xact_lock(?)", (schema.LOCK,))
        attempt.start()
        until_waiting(database)
        first.execute(
            "INSERT INTO servers (address, version, until) SELECT 'the first', '0', clock_timestamp() + '9 s'::interval"
        )
        first.execute("UPDATE partitions SET owner = 1")
        first.execute("COMMIT")
        attempt.join(DEADLINE_S)
    assert attempt.failed is None
    assert attempt.view is not None
    assert (sorted(attempt.view.servers), attempt.view.servers[1].address) == ([1, 2], "the first")
    assert (len(attempt.view.servers[1].owned), attempt.view.free | attempt.view.stray) == (256, frozenset())


def test_a_server_that_froze_while_it_took_the_journal_keeps_nobody_from_it(database: str) -> None:
    with asking(database) as frozen, asking(database) as wire:
        schema.migrate(wire)
        schema.begin_alone(frozen, idle_ms=300)

        async def main() -> None:
            async with asyncio.timeout(DEADLINE_S), opened(database) as journal:
                assert journal.epoch == 1

        asyncio.run(main())
        with pytest.raises(ConnectionLost):
            frozen.execute("COMMIT")


def test_half_a_batch_of_its_own_keeps_no_server_from_going_on(database: str) -> None:
    """The database may believe for hours that a connection which is gone for its client will have the rest."""

    async def main() -> None:
        async with opened(database) as journal:
            await journal.accept(new("a"), WIDE, claim_next=False)
            with asking(database) as half, asking(database) as wire:
                half.execute("BEGIN")
                half.execute("SELECT renew(1, 0, 50, 10000)")
                wire.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND pid <> pg_backend_pid() AND state = 'idle'"
                )
                async with asyncio.timeout(10):
                    assert await journal.accept(new("b"), WIDE, claim_next=False) == Accepted(2)

    asyncio.run(main())


def test_ending_half_a_batch_ends_no_other_server_that_starts(database: str) -> None:
    with asking(database) as other, asking(database) as wire:
        schema.migrate(wire)
        schema.begin_alone(other)
        other.execute("LOCK TABLE servers IN ROW EXCLUSIVE MODE")
        ending = threading.Thread(target=ownership.end_half_batches, args=(wire,), daemon=True)
        ending.start()
        until_waiting(database)
        other.execute("COMMIT")
        ending.join(DEADLINE_S)
        assert other.execute("SELECT 1::bigint").fetchone() == (1,)


def test_a_database_that_has_lost_acknowledged_commits_is_left(database: str, through: str, relay: Relay) -> None:
    async def main() -> None:
        async with opened(through) as journal:
            await journal.accept(new("a"), WIDE, claim_next=False)
            with asking(database) as wire:
                wire.execute("UPDATE servers SET batch = 0")
            relay.cut("batch")
            with pytest.raises(JournalUnavailable, match="has lost commits"):
                await journal.accept(new("b"), WIDE, claim_next=False)
            assert await journal.until_lost() == WENT_BACK

    asyncio.run(main())


def test_each_session_is_in_the_partition_of_its_checksum(database: str) -> None:
    async def main() -> None:
        async with opened(database) as journal:
            for number in range(5):
                await journal.accept(new(f"r{number}", f"s{number}"), WIDE, claim_next=False)
            with asking(database) as wire:
                assert wire.execute("SELECT count(*), min(owner), max(owner) FROM partitions").fetchone() == (256, 1, 1)

    asyncio.run(main())
    with asking(database) as wire:
        found = wire.execute("SELECT session_id, p FROM sessions").fetchall()
        assert dict(found) == {f"s{n}": zlib.crc32(f"anonymouss{n}".encode()) % 256 for n in range(5)}


# -- what is in the database ------------------------------------------------------------------------------


def test_a_database_with_tables_of_another_program_is_left_as_it_is(database: str) -> None:
    with asking(database) as wire:
        wire.execute("CREATE TABLE sessions (id bigint)")
    with pytest.raises(JournalForeign, match="sessions"):
        asyncio.run(at(database).open("test", max_attempts=3))
    with asking(database) as wire:
        assert wire.execute("SELECT to_regclass('runs')::text").fetchone() == (None,)


@pytest.mark.parametrize(
    ("done_before", "role", "said"),
    [("CREATE ROLE {role} LOGIN", "{role}", "permission denied"), ("CREATE TABLE agents (id bigint)", None, "agents")],
)
def test_tables_that_cannot_be_made_are_told_with_the_reason(
    database: str, done_before: str, role: str | None, said: str
) -> None:
    own = f"role_{database.split('/')[3].split('?')[0]}"
    with asking(database) as wire:
        wire.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        wire.execute(done_before.format(role=own))
    address = database if role is None else database.replace("strandline@", f"{own}@")
    with pytest.raises(JournalError, match=f"cannot be made in the database: .*{said}"):
        asyncio.run(at(address).open("test", max_attempts=3))
    with asking(database) as wire:
        assert wire.execute("SELECT to_regclass('runs')::text").fetchone() == (None,)


def test_text_is_kept_as_it_is_whatever_encoding_clients_are_given(database: str) -> None:
    with asking(database) as wire:
        name = wire.execute("SELECT current_database()::text").fetchone()[0]
        wire.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'")

    async def main() -> None:
        async with opened(database) as journal:
            await journal.accept(new("a", "caf\u00e9"), WIDE, claim_next=False)

    asyncio.run(main())
    with asking(database) as wire:
        assert wire.execute("SELECT length(session_id), session_id FROM sessions").fetchall() == [(4, "caf\u00e9")]


def test_a_database_that_cannot_keep_every_text_is_refused(postgres: Cluster) -> None:
    database = postgres.new_database("template0", encoding="LATIN1")
    try:
        with pytest.raises(JournalError, match="encoding of the database is LATIN1"):
            asyncio.run(at(database).open("test", max_attempts=3))
    finally:
        postgres.drop_database(database)


def test_tables_of_a_newer_version_are_left_as_they_are(database: str) -> None:
    with asking(database) as wire:
        schema.migrate(wire)
        wire.execute("UPDATE meta SET value = 99 WHERE name = 'schema'")
    with pytest.raises(JournalNewer, match="schema 99"):
        asyncio.run(at(database).open("test", max_attempts=3))


def test_a_second_claim_of_a_session_is_refused_by_the_database(database: str) -> None:
    async def main() -> None:
        async with opened(database) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            await anext(journal.claims())
            await journal.accept(new("b"), WIDE, claim_next=False)

    asyncio.run(main())
    with asking(database) as wire, pytest.raises(Exception, match="runs_claimed"):
        wire.execute("UPDATE runs SET fence = 7 WHERE run_id = 'b'")


def test_a_damaged_record_is_told_and_the_others_are_read(database: str) -> None:
    async def main() -> None:
        async with opened(database) as journal:
            claims = journal.claims()
            for name in ("a", "b"):
                await journal.accept(new(name), WIDE, claim_next=True)
                await journal.finish((await anext(claims)).token, done("hi", name), claim_next=False)
            with asking(database) as wire:
                wire.execute("UPDATE runs SET outcome = outcome || '\\x20'::bytea WHERE run_id = 'a'")
            with pytest.raises(JournalUnavailable, match="run a is damaged"):
                await journal.read(RunQuery(ANONYMOUS, RunId("a")))
            page = await journal.read(RunsOfQuery(ANONYMOUS))
            assert (run_ids(page), page.damaged) == (["b"], ["a"])

    asyncio.run(main())


# -- addresses --------------------------------------------------------------------------------------------


def test_a_password_file_and_a_service_are_heeded(
    postgres: Cluster, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database.split("/")[3].split("?")[0]
    postgres.guard(name, role=f"guarded_{name}", password="se:cret")
    services, passwords = tmp_path / "services", tmp_path / "passwords"
    services.write_text(f"[strand]\nhost={postgres.folder}\ndbname={name}\nuser=guarded_{name}\n")
    passwords.write_text(f"*:*:{name}:guarded_{name}:se\\:cret\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with pytest.raises(JournalError, match="password"):
        asyncio.run(at("postgresql:///?service=strand").open("test", max_attempts=3))
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    monkeypatch.setenv("PGSERVICE", "strand")

    async def main() -> None:
        async with opened("postgresql://") as journal:
            assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)

    asyncio.run(main())


@pytest.mark.parametrize("address", ["postgresql://u:pw@/d", "postgresql://u:%70w@/d"])
def test_no_error_of_a_connection_has_its_password(address: str) -> None:
    with pytest.raises(ConnectionLost) as lost:
        Wire(f"{address}?host=/nowhere")
    assert "nowhere" in for_operators(lost.value)
    assert "pw" not in for_operators(lost.value)
    assert str(translated(lost.value)) == "the database cannot be reached", "callers learn nothing of where it is"


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u:pw@h:port/d", "postgresql://u:pw@[h/d", "postgresql://u:pw@h/d?wrong=1", "postgresql://u:pw/x@h/d",
        "postgresql://u:x@pw@h/d",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ValueError, match="no address") as raised:
        check_conninfo(address)
    assert "pw" not in str(raised.value)


def test_placeholders_become_numbers() -> None:
    assert numbered("SELECT ?, ?::text") == ("SELECT $1, $2::text", ())
    assert numbered("SELECT :a, :b, :a::int") == ("SELECT $1, $2, $1::int", ("a", "b"))
