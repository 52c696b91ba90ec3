"""A session that cannot be read at a start keeps no other from going on, in a file and in a database alike."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from msgspec.structs import replace

from postgres_support import asking, at
from strandline._clock import SystemClock
from strandline._journal import verify
from strandline._journal.findings import Findings
from strandline._journal.port import Cancel, ClaimResult, HistoryQuery, Journal
from strandline._journal.postgres import verify as verify_database
from strandline._journal.sqlite import SqliteJournal
from strandline._model import (
    ANONYMOUS,
    Completion,
    InputRequest,
    Lane,
    Message,
    NewRun,
    Outcome,
    Question,
    RunId,
    RunStatus,
    responses,
)
from strandline.errors import RecordDamaged
from strandline.testing._desk import WIDE, done, key, said
from tools.postgres import Cluster

SESSIONS: Final = ("s0", "s1", "s2")
BROKEN: Final = "s1"


class Store(NamedTuple):
    """A kind of journal: how one is opened, changed behind its back, and checked."""

    open: Callable[[], Journal]
    change: Callable[[str], int]
    verify: Callable[[], Findings]
    infinity: str
    """How SQL says it."""


@pytest.fixture(params=["file", "database"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "file":
        yield _file(tmp_path / "journal.db")
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    url = cluster.new_database()
    yield _database(url)
    cluster.drop_database(url)


def _file(path: Path) -> Store:
    def change(statement: str) -> int:
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(statement).rowcount

    return Store(lambda: SqliteJournal(path, SystemClock()), change, lambda: verify.verify(path), "9e999")


def _database(url: str) -> Store:
    def change(statement: str) -> int:
        with asking(url) as wire:
            return wire.execute(statement).rowcount

    return Store(lambda: at(url), change, lambda: verify_database.verify(url), "CAST('infinity' AS float8)")


def new(run_id: str, session: str) -> NewRun:
    return NewRun(run_id=RunId(run_id), key=key(session), input="go", created_at=1.0)


async def fill(store: Store) -> None:
    """In each session two runs have ended, one executes, and one waits."""
    journal = store.open()
    await journal.open("test", max_attempts=3)
    claims = journal.claims()
    for session in SESSIONS:
        for n in range(3):
            await journal.accept(new(f"{session}.{n}", session), WIDE, claim_next=True)
            token = (await anext(claims)).token
            if n < 2:
                await journal.finish(token, done(f"ask {n}", f"answer {n}"), claim_next=False)
        await journal.accept(new(f"{session}.3", session), WIDE, claim_next=False)
    await journal.close()


_SESSION: Final = f"(SELECT no FROM sessions WHERE session_id = '{BROKEN}')"
_END: Final = f"(SELECT last FROM sessions WHERE session_id = '{BROKEN}')"
_LIVE: Final = f"run_id = '{BROKEN}.3'"


@pytest.mark.parametrize(
    "damage",
    [
        f"UPDATE history SET session = -1 WHERE no = {_END}",
        f"UPDATE history SET messages = NULL WHERE no = {_END}",
        f"UPDATE history SET count = -1 WHERE no = {_END}",
        f"UPDATE history SET first = -5 WHERE no = {_END}",
        f"UPDATE history SET nth = 0 WHERE no = {_END}",
        f"DELETE FROM history WHERE no = {_END}",
        f"UPDATE sessions SET last = 77 WHERE session_id = '{BROKEN}'",
        f"UPDATE sessions SET rests_since = INFINITY WHERE session_id = '{BROKEN}'",
        f"UPDATE runs SET created_at = -INFINITY WHERE {_LIVE}",
        f"UPDATE runs SET queue_deadline = INFINITY WHERE {_LIVE}",
    ],
)
def test_a_damaged_session_is_refused_by_name_and_all_others_go_on(
    store: Store, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    asyncio.run(fill(store))
    assert store.change(damage.replace("INFINITY", store.infinity)) == 1

    async def main() -> None:
        journal = store.open()
        orphans = await journal.open("test", max_attempts=3)
        assert sorted(each.run.run_id for each in orphans) == ["s0.2", "s2.2"]
        claims = journal.claims()
        for orphan in orphans:
            session = orphan.run.key.session_id
            assert await journal.finish(orphan.token, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
            claim = await anext(claims)
            assert claim.run.run_id == f"{session}.3"
            await journal.finish(claim.token, done("what", "well"), claim_next=False)
            assert (await journal.read(HistoryQuery(orphan.run.key))).messages[-2:] == said("what", "well")
        for refused in (
            journal.accept(new("late", BROKEN), WIDE, claim_next=True),
            journal.claim_next(key(BROKEN)),
            journal.change(Cancel(ANONYMOUS, RunId(f"{BROKEN}.3"))),
        ):
            with pytest.raises(RecordDamaged, match=f"session {BROKEN} is damaged"):
                await refused
        assert journal.sessions.waiting == 0
        await journal.close()

    asyncio.run(main())
    errors = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert len(errors) == 1
    assert BROKEN in errors[0]
    findings = store.verify()
    assert not findings.sound
    assert any(BROKEN in each for each in findings.faults), findings.faults


def test_a_run_of_a_session_that_is_gone_keeps_nobody_from_starting(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(fill(store))
    assert store.change(f"DELETE FROM sessions WHERE session_id = '{BROKEN}'") == 1

    async def main() -> None:
        journal = store.open()
        orphans = await journal.open("test", max_attempts=3)
        assert sorted(each.run.run_id for each in orphans) == ["s0.2", "s2.2"]
        await journal.close()

    asyncio.run(main())
    assert "there are runs but no row" in caplog.text
    assert any("belongs to no session" in each for each in store.verify().faults)


def test_an_answer_whose_question_and_message_are_damaged_keeps_nobody_from_starting(store: Store) -> None:
    use: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}]}
    needs_input = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=[InputRequest("i", "sure")])
    question = Question(requests=needs_input.input_requests, message=use, results={}, state={})
    asked = Completion(outcome=needs_input, messages=[*said("go"), use], question=question, answer_within_s=99.0)

    async def ask() -> None:
        journal = store.open()
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        for session in SESSIONS:
            await journal.accept(new(f"{session}.0", session), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, asked, claim_next=False)
            answer = replace(new(f"{session}.1", session), input=responses({"i": "yes"}), lane=Lane.ANSWER)
            await journal.accept(answer, WIDE, claim_next=True)
            assert (await anext(claims)).question == question
        await journal.close()

    asyncio.run(ask())
    assert store.change(f"UPDATE questions SET until = until + 1 WHERE session = {_SESSION}") == 1
    assert store.change(f"UPDATE history SET discarded = 1 WHERE no = {_END}") == 1

    async def main() -> None:
        journal = store.open()
        orphans = await journal.open("test", max_attempts=3)
        assert sorted(str(each.run.key.session_id) for each in orphans) == ["s0", "s2"]
        with pytest.raises(RecordDamaged, match=BROKEN):
            await journal.claim_next(key(BROKEN))
        await journal.close()

    asyncio.run(main())
