"""Damaged rows of a journal in PostgreSQL: each is reported, or what is answered is true; no other session suffers.

The database checks its pages if its cluster was made with checksums. What a statement, a restore or a failed disk puts
into a row is left to the checksums of the records, as in a file.
"""

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from postgres_support import asking, at, new, opened
from strandline._journal.port import ClaimResult, HistoryQuery, RunQuery, RunsQuery, SessionQuery, SessionsQuery
from strandline._journal.postgres.wire import Wire
from strandline._journal.reader import UNREADABLE_INPUT
from strandline._model import (
    ANONYMOUS,
    Claim,
    Completion,
    ErrorCode,
    NewRun,
    Outcome,
    Principal,
    Range,
    RoundDone,
    RoundStarted,
    Run,
    RunError,
    RunId,
    RunStatus,
    ToolDone,
)
from strandline.errors import JournalUnavailable
from strandline.testing._desk import WIDE, done, key, said
from tools.postgres import Cluster

SESSIONS: Final = [f"s{n}" for n in range(4)]
ROUNDS: Final = 4
OF_SESSION: Final = {
    "runs": "session",
    "history": "session",
    "agents": "session",
    "staged": "(SELECT session FROM runs WHERE seq = run)",
}
"""The number of the session of a row of each table."""


def asked(run_id: str, session: str) -> NewRun:
    return msgspec.structs.replace(
        new(run_id, session), input=f"ask {run_id} " + "q" * 50, metadata={"of": run_id}, trace={"traceparent": run_id}
    )


class Record(NamedTuple):
    """Where a record is that has a checksum."""

    table: str
    column: str
    row: str
    session: str

    def damage(self, wire: Wire, dice: random.Random) -> str:
        """Change one byte of it; return where."""
        (value,) = wire.execute(f"SELECT {self._column} FROM {self.table} WHERE ctid = '{self.row}'").fetchone()
        spoilt, place = bytearray(value), dice.randrange(len(value))
        spoilt[place] ^= dice.randrange(1, 256)
        wire.execute(f"UPDATE {self.table} SET {self._column} = ? WHERE ctid = '{self.row}'", (bytes(spoilt),))
        return f"damage to byte {place} of {self}"

    @property
    def _column(self) -> str:
        return f'"{self.column}"'


class Original(NamedTuple):
    """A database in which everything that can be kept has been kept, and what it answers."""

    name: str
    truth: "Answers"
    records: list[Record]


async def _write(database: str) -> None:
    async with opened(database) as journal:
        claims = journal.claims()
        for n in range(ROUNDS):
            for session in SESSIONS:
                await journal.accept(asked(f"{session}.{n}", session), WIDE, claim_next=True)
                if n >= ROUNDS - 1:
                    continue  # waits behind the one that executes
                token = (await anext(claims)).token
                await journal.checkpoint(token, RoundStarted(said(f"ask {n}")))
                if n == ROUNDS - 2:
                    await journal.checkpoint(token, ToolDone("t", {"content": [{"text": "42"}]}))
                    await journal.checkpoint(token, RoundDone(said("results"), {"n": n}))
                    continue
                end = done(f"ask {n}", f"answer {n}", state={"n": n}, window=(Range(2, None),) if n else None)
                await journal.finish(token, end, claim_next=False)


@pytest.fixture(scope="module")
def original(postgres: Cluster) -> Iterator[Original]:
    database = postgres.new_database()
    name = database.split("/")[3].split("?")[0]
    asyncio.run(_write(database))
    with asking(database) as wire:
        records = [
            Record(table, column, row, session)
            for table, of in OF_SESSION.items()
            for (column,) in wire.execute(
                "SELECT column_name::text FROM information_schema.columns WHERE table_name = ? AND data_type = 'bytea'"
                " AND table_schema = current_schema() AND column_name <> 'fingerprint' ORDER BY 1",
                (table,),
            )
            for row, session in wire.execute(
                f"SELECT ctid::text, (SELECT session_id FROM sessions WHERE no = {of}) FROM {table}"
                f' WHERE "{column}" IS NOT NULL ORDER BY ctid'
            )
        ]
    assert len({(each.table, each.column) for each in records}) > 6
    copy = postgres.new_database(name)
    truth = asyncio.run(answers_of(copy))
    postgres.drop_database(copy)
    assert None not in truth.answers.values()
    yield Original(name, truth, records)
    postgres.drop_database(database)


@pytest.fixture
def copy(postgres: Cluster, original: Original) -> Iterator[str]:
    """Where a copy of that database is."""
    url = postgres.new_database(original.name)
    yield url
    postgres.drop_database(url)


class Answers(NamedTuple):
    """All answers of a journal, without times; None where it reported damage. Their names begin with a session."""

    orphans: dict[str, Claim]
    answers: dict[tuple[str, object], Any]


async def answers_of(database: str) -> Answers:
    """Open a journal, read everything, go on with it a little, and close it."""
    answers: dict[tuple[str, object], Any] = {}
    journal = at(database)
    orphans = await journal.open("test", max_attempts=3)

    async def ask(session: str, name: object, question: Any) -> None:
        try:
            answers[session, name] = await question
        except JournalUnavailable:
            answers[session, name] = None

    for session in SESSIONS:
        await ask(session, "window", journal.load(key(session)))
        await ask(session, "history", journal.read(HistoryQuery(key(session))))
        await ask(session, "session", journal.read(SessionQuery(key(session))))
        for n in range(ROUNDS):
            await ask(session, n, journal.read(RunQuery(ANONYMOUS, RunId(f"{session}.{n}"))))
    for orphan in orphans:
        await ask(orphan.run.key.session_id, "finish", journal.finish(orphan.token, done("hi", "ho"), claim_next=True))
    for session in SESSIONS:
        await ask(session, "accepted", journal.accept(asked(f"{session}.new", session), WIDE, claim_next=False))
    await journal.close()
    timeless = {name: _timeless(each) if isinstance(each, Run) else each for name, each in answers.items()}
    claims = {
        str(each.run.key.session_id): msgspec.structs.replace(each, token=None, run=_timeless(each.run))
        for each in orphans
    }
    return Answers(claims, timeless)


def _timeless(run: Run) -> Run:
    return msgspec.structs.replace(run, started_at=None, ended_at=None, created_at=0.0)


def test_a_record_damaged_anywhere_is_reported_and_its_session_alone_suffers(
    postgres: Cluster, original: Original
) -> None:
    for n in range(30):
        dice = random.Random(f"damage {n}")
        place = dice.choice(original.records)
        database = postgres.new_database(original.name)
        try:
            with asking(database) as wire:
                what = place.damage(wire, dice)
            found = asyncio.run(answers_of(database))
        finally:
            postgres.drop_database(database)
        reported = 0
        for (session, name), true in original.truth.answers.items():
            answer = found.answers.get((session, name))
            if session != place.session:
                assert answer == true, f"{name} of {session}, after {what}"
            elif name not in ("finish", "accepted"):
                assert answer in (None, true), f"{name} of {session}, after {what}"
                reported += answer is None
        for session, claim in original.truth.orphans.items():
            orphan = found.orphans[session]
            if session != place.session:
                assert orphan == claim, what
            elif not orphan.run.resumable:
                assert orphan.run.input in (claim.run.input, UNREADABLE_INPUT), what
                assert orphan.checkpoints == claim.checkpoints[: len(orphan.checkpoints)], what
                reported += 1
            else:
                assert orphan == claim, what
        assert reported, f"nobody was told of {what}"


# -- one damaged run --------------------------------------------------------------------------------------


def crashed(*texts: str) -> Completion:
    """Return the completion of a run that cannot resume."""
    outcome = Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.CRASHED, "damaged"))
    return Completion(outcome=outcome, messages=said(*texts))


def spoil(database: str, statement: str) -> None:
    with asking(database) as wire:
        assert wire.execute(statement).rowcount == 1


@pytest.mark.parametrize(
    ("statement", "question", "checkpoints"),
    [
        ("UPDATE runs SET input = 'nothing' WHERE run_id = 's0.2'", UNREADABLE_INPUT, 3),
        ("UPDATE staged SET fact = substr(fact, 1, 20) WHERE run = {seq} AND no = 1", asked("s0.2", "s0").input, 1),
        ("DELETE FROM staged WHERE run = {seq} AND no = 0", asked("s0.2", "s0").input, 0),
        ("UPDATE runs SET ended_at = 5.0 WHERE run_id = 's0.2'", UNREADABLE_INPUT, 3),
        ("UPDATE runs SET if_busy = 'wait' WHERE run_id = 's0.2'", UNREADABLE_INPUT, 3),
    ],
)
def test_one_damaged_run_that_executed_never_keeps_a_server_down(
    copy: str, statement: str, question: str, checkpoints: int
) -> None:
    """It comes as not resumable, so that it ends; its neighbours continue."""
    with asking(copy) as wire:
        (seq,) = wire.execute("SELECT seq FROM runs WHERE run_id = 's0.2'").fetchone()
    spoil(copy, statement.format(seq=seq))

    async def main() -> None:
        journal = at(copy)
        damaged, *sound = await journal.open("test", max_attempts=3)
        assert (damaged.run.resumable, damaged.run.input, len(damaged.checkpoints)) == (False, question, checkpoints)
        assert [each.run.resumable for each in sound] == [True] * 3
        await journal.finish(damaged.token, done("hi", "ho"), claim_next=True)
        assert (await anext(journal.claims())).run.run_id == "s0.3"
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize("change", ["metadata = '\\x000000'", "ended_at = 5.0", "ended_at = -5.0", "if_busy = 'wait'"])
def test_a_damaged_run_that_waits_is_claimed_to_be_ended_and_those_behind_it_go_on(
    copy: str, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    spoil(copy, f"UPDATE runs SET {change} WHERE run_id = 's0.3'")

    async def main() -> None:
        journal = at(copy)
        orphan, *_ = await journal.open("test", max_attempts=3)
        await journal.accept(asked("s0.4", "s0"), WIDE, claim_next=False)
        claims = journal.claims()
        assert await journal.finish(orphan.token, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
        claim = await anext(claims)
        assert (claim.run.run_id, claim.run.input, claim.damaged) == ("s0.3", UNREADABLE_INPUT, True)
        assert await journal.finish(claim.token, crashed(), claim_next=True) is ClaimResult.CLAIMED
        claim = await anext(claims)
        assert (claim.run.run_id, claim.damaged) == ("s0.4", False)
        await journal.finish(claim.token, done("what", "well"), claim_next=True)
        assert (await journal.load(key("s0"))).messages[-4:] == said("hi", "ho", "what", "well")
        await journal.close()

    asyncio.run(main())
    assert "run s0.3 cannot resume" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        "outcome = '\\x000000'", "outcome = NULL", "status = 'queued'", "status = 'lost'", "attempt = 2",
        "attempt = -1", "if_busy = 'wait'", "lane = 2", "urgency = 1", "priority = 1", "opaque = 1",
        "created_at = 2.0", "started_at = NULL", "ended_at = ended_at + 1", "timeout_s = 9.0", "discarded = 1",
        "discarded = 2", "run_id = 's9.9'",
    ],
)  # fmt: skip
def test_an_ended_run_that_cannot_be_true_is_reported_and_lists_name_it(copy: str, change: str) -> None:
    run_id = RunId("s9.9" if "run_id" in change else "s1.1")
    spoil(copy, f"UPDATE runs SET {change} WHERE run_id = 's1.1'")

    async def main() -> None:
        async with opened(copy) as journal:
            with pytest.raises(JournalUnavailable, match=f"run {run_id} is damaged"):
                await journal.read(RunQuery(ANONYMOUS, run_id))
            page = await journal.read(RunsQuery(key("s1")))
            assert [each.run_id for each in page.runs] == ["s1.3", "s1.2", "s1.0"]
            assert set(page.damaged) == {run_id}

    asyncio.run(main())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET messages = NULL WHERE no = {no}",
        "UPDATE history SET messages = NULL, count = 0 WHERE no = {no}",
        "UPDATE history SET discarded = 1 WHERE no = {no}",
        "UPDATE history SET first = first + 1 WHERE no = {no}",
        "UPDATE history SET count = count + 1 WHERE no = {no}",
        "DELETE FROM history WHERE no = {no}",
    ],
)
def test_a_history_with_a_damaged_row_is_never_shown_as_whole_and_the_others_are(copy: str, statement: str) -> None:
    """The first row of two: a list of sessions does not read it."""
    with asking(copy) as wire:
        (no,) = wire.execute(
            "SELECT min(history.no) FROM history JOIN sessions ON sessions.no = session WHERE session_id = 's0'"
        ).fetchone()
    spoil(copy, statement.format(no=no))

    async def main() -> None:
        async with opened(copy) as journal:
            with pytest.raises(JournalUnavailable, match="history of session s0"):
                await journal.read(HistoryQuery(key("s0"), None, 100))
            assert len((await journal.read(HistoryQuery(key("s1")))).messages) == 4
            assert len((await journal.read(SessionsQuery(Principal(ANONYMOUS)))).sessions) == len(SESSIONS)

    asyncio.run(main())
