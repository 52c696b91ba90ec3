"""`strandline doctor` says of a database what its operators need to know, and never its password."""

import asyncio
from typing import Any

import pytest

from postgres_support import asking, opened
from strandline._config import resolve
from strandline._doctor import storage
from strandline._journal.postgres import bloat, schema
from strandline._journal.postgres.inspection import inspect


def findings(address: str) -> list[tuple[str, str]]:
    """Return level and message of all that is said of the journal."""
    settings = resolve({}, {"STRANDLINE_JOURNAL": address}).settings
    return [(each.level.value, each.message) for each in storage.journal(settings)]


def said(address: str, text: str) -> str:
    """Return the level of the only finding with this text."""
    (level,) = {level for level, message in findings(address) if text in message}
    return level


def test_it_says_who_has_the_journal_and_how_large_it_is(database: str) -> None:
    assert said(database, "has no journal yet") == "ok"

    async def main() -> None:
        async with opened(database):
            found = await asyncio.to_thread(inspect, database)
            (server,) = found.servers
            assert (server.partitions, found.schema, found.bytes > 8192) == (256, schema.SCHEMA_VERSION, True)
            assert 0 < server.left_s <= 10
            message = await asyncio.to_thread(lambda: findings(database)[0][1])
            assert "in use by process" in message
            assert "256 of 256 partitions" in message
            assert "lease ends in" in message

    asyncio.run(main())
    assert said(database, "used by nobody now") == "ok"
    assert said(database, "PostgreSQL 1") == "ok"
    assert said(database, "synchronous_commit on") == "ok"


def test_a_snapshot_that_is_kept_for_long_is_noted_with_its_holder(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asking(database) as holder, asking(database) as wire:
        schema.migrate(wire)
        wire.execute("CREATE TABLE other (n bigint)")
        holder.execute("SELECT set_config('application_name', 'a long report', false)")
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1")
        for _ in range(5):
            wire.execute("INSERT INTO other VALUES (1)")
        oldest = inspect(database).oldest
        assert oldest is not None
        assert (oldest.name, oldest.transactions >= 5) == ("a long report", True)
        assert said(database, "a long report") == "ok"
        monkeypatch.setattr(storage, "LONG_S", -1.0)
        assert said(database, "a long report") == "note"
        holder.execute("ROLLBACK")


def test_dead_rows_are_noted_if_there_are_more_of_them_than_rows(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asking(database) as wire:
        schema.migrate(wire)
    found: list[Any] = [bloat.DeadRows("runs", 1_000, 49_000), bloat.DeadRows("runs", 1_000, 51_000)]
    assert [storage._dead_rows(each).level.value for each in found] == ["ok", "note"]
    assert inspect(database).dead is not None


def test_half_a_copy_and_an_older_schema_are_found(database: str) -> None:
    with asking(database) as wire:
        schema.migrate(wire)
        wire.execute("INSERT INTO meta VALUES (?, 1)", (schema.UNFINISHED,))
        assert said(database, "unfinished copy") == "problem"
        wire.execute("UPDATE meta SET value = 1 WHERE name = 'schema'")
        assert said(database, "schema 1: the next start brings it") == "note"


def test_no_password_is_said_of_a_database_that_cannot_be_reached() -> None:
    ((level, message),) = findings("postgresql://ada:s3cret@127.0.0.1:1/none")
    assert (level, "cannot be reached" in message, "s3cret" in message) == ("problem", True, False)
