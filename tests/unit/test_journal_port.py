"""What can be asked of a journal: each query names its answer, and each journal has one."""

import asyncio
import inspect
from pathlib import Path
from typing import Any, assert_type

import pytest

from strandline._clock import SystemClock
from strandline._journal import port
from strandline._journal.lists import ANSWERS
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import (
    Journal,
    Query,
    RunQuery,
    RunsPage,
    RunsQuery,
    Stored,
    StoredQuery,
)
from strandline._journal.sqlite import SqliteJournal
from strandline._model import FileId, Principal, Run, RunId, ScheduleId, SessionId, SessionKey

KEY = SessionKey(Principal("ada"), SessionId("s"))
GIVEN: dict[str, Any] = {
    "key": KEY,
    "principal": KEY.principal,
    "run_id": RunId("run_1"),
    "schedule_id": ScheduleId("sch_1"),
    "file_id": FileId("file_1"),
    "after": ScheduleId(""),
    "limit": 10,
    "before": 1.0,
    "since": 1.0,
    "listed": ("hello",),
    "now": 1.0,
    "runs": 10,
    "inputs": 10,
}


def _one_of_each() -> list[Query[Any]]:
    """Return one query of each kind, with what it cannot do without."""
    kinds = [each for _, each in inspect.getmembers(port, inspect.isclass) if issubclass(each, Query)]
    kinds.remove(Query)
    optional = {each: len(each.__struct_defaults__) for each in kinds}
    needed = {each: each.__struct_fields__[: len(each.__struct_fields__) - optional[each]] for each in kinds}
    return [each(**{name: GIVEN[name] for name in needed[each]}) for each in kinds]


def test_the_table_of_answers_has_every_query_and_nothing_else() -> None:
    assert ANSWERS.keys() == {type(query) for query in _one_of_each()}


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
def test_every_journal_answers_every_query(kind: str, tmp_path: Path) -> None:
    clock = SystemClock()
    journal: Journal = SqliteJournal(tmp_path / "j", clock) if kind == "sqlite" else MemoryJournal(clock)

    async def ask() -> None:
        await journal.open("test", max_attempts=3)
        for query in _one_of_each():
            await journal.read(query)
        await journal.close()

    asyncio.run(ask())


def test_a_query_knows_the_type_of_its_answer() -> None:
    async def ask(journal: Journal) -> None:
        await journal.open("test", max_attempts=3)
        assert assert_type(await journal.read(RunQuery(KEY.principal, RunId("run_1"))), Run | None) is None
        assert assert_type(await journal.read(RunsQuery(KEY)), RunsPage) == RunsPage([], None)
        assert assert_type(await journal.read(StoredQuery()), Stored) == Stored(0, 0)
        await journal.close()

    asyncio.run(ask(MemoryJournal(SystemClock())))
