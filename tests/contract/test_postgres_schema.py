"""Servers of the version before work on while a newer one brings the tables to its version: it takes nothing away."""

import re
import uuid
from typing import Any

import pytest

from postgres_support import asking
from strandline._journal import lists, reader, sqlite_rows
from strandline._journal.postgres import schema
from strandline._journal.postgres.schema import SCHEMA_VERSION
from strandline._journal.postgres.shares import SINCE
from strandline._journal.postgres.wire import Wire
from strandline.errors import JournalError, JournalForeign

COLUMNS = (
    "SELECT table_name::text, column_name::text, data_type::text, (is_nullable = 'YES' OR column_default IS NOT NULL"
    " OR is_identity = 'YES') FROM information_schema.columns WHERE table_schema = 'public'"
)
FUNCTIONS = (
    "SELECT p.oid::regprocedure::text, pg_get_function_result(p.oid)::text FROM pg_proc p"
    " WHERE pronamespace = 'public'::regnamespace"
)
UNIQUE = "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)::text FROM pg_index WHERE indisunique"


def made(wire: Wire, version: int, monkeypatch: pytest.MonkeyPatch) -> tuple[set[Any], set[Any], set[Any]]:
    """Bring the tables to a version; return columns, functions, and what must be unique."""
    monkeypatch.setattr(schema, "SCHEMA_VERSION", version)
    schema.migrate(wire)
    assert schema.version_of(wire) == version
    unique = f"{UNIQUE} AND indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
    columns, functions, indexes = (set(wire.execute(each).fetchall()) for each in (COLUMNS, FUNCTIONS, unique))
    return columns, functions, indexes


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_schema_has_all_that_the_one_before_had_and_asks_no_more_of_its_servers(
    database: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asking(database) as wire:
        columns, functions, unique = made(wire, version, monkeypatch)
        assert min(map(len, (columns, functions, unique))) > 3
        later, more, still = made(wire, version + 1, monkeypatch)
    assert columns <= later, "a column is gone or of another type, or must now be given a value"
    assert functions <= more, "a function is gone, or takes or returns something else"
    assert unique == {each for each in still if each in unique}, "what must be unique has changed"
    tables = {table for table, *_ in columns}
    assert [each for each in later - columns if each[0] in tables and not each[3]] == [], "an older INSERT fails"
    assert {each for each in still - unique if any(f" ON public.{table} " in each[1] for table in tables)} == set(), (
        "what an older server writes may be refused"
    )


def test_what_is_read_when_a_session_is_touched_first_looks_no_table_through(database: str) -> None:
    """Each part has an index: a server with a million runs would read them all for each session."""
    with asking(database) as wire:
        schema.migrate(wire)
        wire.execute("SET enable_seqscan = off")  # (a table that is empty would be looked through else)
        for statement in (reader._FIND_ONE, sqlite_rows._LIVE_OF, lists._UNRESOLVED):
            told = re.sub(r"\?", lambda _: "'1'", statement)
            plan = [row[0] for row in wire.execute(f"EXPLAIN {told}").fetchall()]
            assert not [line for line in plan if "Seq Scan" in line], "\n".join(plan)


def test_each_schema_says_which_of_its_features_older_servers_would_take_for_something_else() -> None:
    """A schema without one is named here, with a reason why its servers may store what it brings at once."""
    harmless = {6: "an older server notes no deletions: a request that is sent again may be executed a second time"}
    assert {*SINCE.values(), *harmless} == set(range(4, SCHEMA_VERSION + 1))


def test_a_role_that_may_not_use_the_tables_is_told_so_and_not_that_they_are_anothers(database: str) -> None:
    role = f"weak_{uuid.uuid4().hex}"
    with asking(database) as wire:
        schema.migrate(wire)
        wire.execute(f"CREATE ROLE {role} LOGIN")
    try:
        with asking(database.replace("strandline@", f"{role}@")) as wire:
            for look in (schema.migrate, schema.check_current):
                with pytest.raises(JournalError, match="may not use its tables") as told:
                    look(wire)
                assert not isinstance(told.value, JournalForeign)
    finally:
        with asking(database) as wire:
            wire.execute(f"DROP ROLE {role}")
