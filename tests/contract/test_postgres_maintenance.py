"""Commands that have a database to themselves, and migrations beside servers of the version before."""

import asyncio
import threading
from importlib import resources

import pytest

from postgres_support import DEADLINE_S, asking, new, opened
from strandline._clock import SystemClock
from strandline._journal.port import Accepted
from strandline._journal.postgres import schema
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.maintenance import have_alone, named
from strandline._journal.postgres.migrating import migrate_database
from strandline._journal.postgres.verify import verify
from strandline.errors import JournalLocked, JournalNewer
from strandline.testing._desk import WIDE


def test_a_server_that_starts_beside_a_command_waits_for_its_end_and_says_for_what(database: str) -> None:
    reported: list[str] = []
    waits = threading.Event()

    def on_wait(message: str) -> None:
        reported.append(message)
        waits.set()

    async def main() -> None:
        journal = PostgresJournal(database, SystemClock(), lock_wait_s=DEADLINE_S, on_wait=on_wait)
        with asking(database) as wire:
            schema.migrate(wire)
            wire.execute("SELECT set_config('application_name', ?, false)", (named("journal copy"),))
            have_alone(wire)
            opening = asyncio.create_task(journal.open("test", max_attempts=3))
            assert await asyncio.to_thread(waits.wait, DEADLINE_S)
            assert wire.execute("SELECT count(*) FROM servers").fetchone() == (0,)
            wire.execute("ROLLBACK")
        async with asyncio.timeout(DEADLINE_S):
            await opening
        assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)
        await journal.close()

    asyncio.run(main())
    assert reported == [reported[0]]
    assert "in use by strandline journal copy, process" in reported[0]


def test_two_commands_do_not_have_a_database_at_once(database: str) -> None:
    with asking(database) as first, asking(database) as second:
        schema.migrate(first)
        have_alone(first)
        with pytest.raises(JournalLocked, match="in use by"):
            have_alone(second)


def test_a_server_that_is_alive_is_named_and_nothing_is_changed(database: str) -> None:
    async def main() -> None:
        async with opened(database) as journal:
            refused = pytest.raises(JournalLocked, match=r"belongs to process \d+ on .*, whose lease ends in \d+ s")
            with asking(database) as wire, refused:
                await asyncio.to_thread(have_alone, wire)
            assert await journal.accept(new("a"), WIDE, claim_next=False) == Accepted(1)

    asyncio.run(main())


def older(database: str) -> None:
    """Make the tables of schema 1."""
    folder = resources.files("strandline._journal.postgres").joinpath("schema")
    with asking(database) as wire:
        wire.execute("BEGIN")
        wire.script(folder.joinpath("0001_initial.sql").read_text())
        wire.execute("COMMIT")


def test_a_database_is_migrated_beside_a_server_of_the_version_before_which_works_on(database: str) -> None:
    older(database)
    with asking(database) as wire:
        wire.execute("INSERT INTO servers (address, version, until) VALUES ('old', '0', clock_timestamp() + '9 s')")
        wire.execute("SELECT renew(1, 0, 1, 10000)")
        assert migrate_database(database) == 1
        assert migrate_database(database) == schema.SCHEMA_VERSION
        wire.execute("BEGIN")
        wire.execute("SELECT renew(1, 0, 2, 10000)")
        wire.execute("INSERT INTO sessions (no, p, principal, session_id) VALUES (1, 39, 'ada', 's')")
        wire.execute("COMMIT")
        assert wire.execute("SELECT batch FROM servers").fetchone() == (2,)


def test_a_server_brings_older_tables_to_its_version_and_an_older_one_is_refused_then(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older(database)

    async def main() -> None:
        async with opened(database) as journal:
            await journal.accept(new("a"), WIDE, claim_next=False)
            with monkeypatch.context() as before:
                before.setattr(schema, "SCHEMA_VERSION", 1)
                with pytest.raises(JournalNewer, match="of a newer version"):
                    async with opened(database):
                        pass

    asyncio.run(main())
    assert verify(database).faults == []
