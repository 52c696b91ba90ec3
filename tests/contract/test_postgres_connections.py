"""Connections to PostgreSQL: of several addresses, through a pooler, and what one may lose."""

import asyncio
from collections.abc import Iterator

import pytest

from postgres_pooler import Pooler
from postgres_relay import Relay
from postgres_support import DEADLINE_S, asking, new, opened
from strandline._journal.port import Accepted, RunQuery, RunsOfQuery
from strandline._journal.postgres import wire as wire_module
from strandline._journal.postgres.wire import ConnectionLost, Wire
from strandline._model import ANONYMOUS, RunId
from strandline.testing._desk import WIDE, done
from tools.postgres import Cluster


@pytest.fixture
def other() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.remove()


# -- several addresses ------------------------------------------------------------------------------------


def test_an_address_that_does_not_answer_hides_none_behind_it(
    database: str, postgres: Cluster, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "CONNECT_S", 0.3)
    relay.pause()
    both = database.replace(str(postgres.folder), f"{relay.folder},{postgres.folder}")
    with asking(both) as wire:
        assert wire.execute("SELECT 1::bigint").fetchone() == (1,)
    silent = database.replace(str(postgres.folder), f"{relay.folder},{relay.folder}")
    with pytest.raises(ConnectionLost, match=f"^{relay.folder} does not answer; {relay.folder} does not answer$"):
        Wire(silent)


def test_of_several_addresses_the_one_that_takes_writes_is_chosen(
    database: str, postgres: Cluster, other: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database.split("/")[3].split("?")[0]
    with asking(other.url("postgres")) as wire:
        wire.execute(f"CREATE DATABASE {name}")
        wire.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    both = database.replace(str(postgres.folder), f"{other.folder},{postgres.folder}")
    read_only = "SELECT current_setting('default_transaction_read_only')"
    with asking(both) as wire:
        assert wire.execute(read_only).fetchone() == ("off",)
    with asking(f"{both}&target_session_attrs=any") as wire:
        assert wire.execute(read_only).fetchone() == ("on",)
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-only")
    with asking(both) as wire:
        assert wire.execute(read_only).fetchone() == ("on",)


# -- prepared statements ----------------------------------------------------------------------------------


def test_statements_that_were_forgotten_are_sent_whole(database: str) -> None:
    with asking(database) as wire:
        for _ in range(3):
            assert wire.execute("SELECT ?::bigint + 1", (1,)).fetchone() == (2,)
            wire.execute("DISCARD ALL")


def test_statements_that_were_forgotten_within_a_transaction_end_the_connection(database: str) -> None:
    with asking(database) as wire:
        wire.execute("SELECT 1::bigint")
        wire.execute("BEGIN")
        wire.execute("CREATE TABLE half (n bigint)")
        wire.execute("DEALLOCATE ALL")
        with pytest.raises(ConnectionLost, match="in the middle of a transaction"):
            wire.execute("SELECT 1::bigint")
    with asking(database) as wire:
        assert wire.execute("SELECT to_regclass('half')::text").fetchone() == (None,)


def test_a_statement_of_another_connection_is_never_executed(database: str, pooler: Pooler) -> None:
    wires = [Wire(pooler.url(database)) for _ in range(5)]
    for _ in range(3):
        for number, wire in enumerate(wires):
            assert wire.execute(f"SELECT {number}::bigint").fetchone() == (number,)
    for wire in wires:
        wire.close()


def test_a_journal_works_through_a_pooler(database: str, pooler: Pooler) -> None:
    names = [f"r{number}" for number in range(20)]

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), opened(pooler.url(database)) as journal:
            claims = journal.claims()
            for name in names:
                assert await journal.accept(new(name, name), WIDE, claim_next=True) == Accepted(0)
                await journal.finish((await anext(claims)).token, done("hi", name), claim_next=False)
                assert await journal.read(RunQuery(ANONYMOUS, RunId(name))) is not None
            pages = await asyncio.gather(*(journal.read(RunsOfQuery(ANONYMOUS)) for _ in names))
            assert {tuple(sorted(each.run_id for each in page.runs)) for page in pages} == {tuple(sorted(names))}
            assert journal.trouble is None
        async with asyncio.timeout(DEADLINE_S), opened(pooler.url(database)) as journal:
            assert journal.epoch == 2

    asyncio.run(main())
