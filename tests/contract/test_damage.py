"""A damaged file is reported, or what it still holds is true: never a wrong answer, half an operation, or another
error.

Damage is done at places drawn from a seed, to a journal in which everything that can be kept has been kept.
"""

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from strandline._clock import SystemClock
from strandline._history import history_faults
from strandline._journal import integrity
from strandline._journal.errors import ClaimLost
from strandline._journal.integrity import check_wal_frames
from strandline._journal.port import (
    Accepted,
    CancelSession,
    Changed,
    ClaimResult,
    Delete,
    HistoryQuery,
    Pause,
    Resume,
    RunQuery,
    RunsQuery,
    SessionQuery,
    SessionsQuery,
    WaitingQuery,
)
from strandline._journal.reader import UNREADABLE_INPUT
from strandline._journal.sqlite import SqliteJournal
from strandline._model import (
    ANONYMOUS,
    Claim,
    Completion,
    ErrorCode,
    InputRequest,
    Lane,
    Message,
    NewRun,
    Outcome,
    Principal,
    Question,
    Range,
    RoundDone,
    RoundStarted,
    Run,
    RunError,
    RunId,
    RunStatus,
    Sender,
    ToolDone,
    responses,
)
from strandline.errors import JournalDamaged, JournalUnavailable
from strandline.testing._desk import WIDE, done, key, said

SESSIONS: Final = [f"s{n}" for n in range(4)]
ROUNDS: Final = 6
FILE, WAL = "journal.db", "journal.db-wal"


def new(run_id: str, session: str = "s") -> NewRun:
    return NewRun(
        run_id=RunId(run_id),
        key=key(session),
        input=f"ask {run_id} " + "q" * 50,
        metadata={"of": run_id},
        trace={"traceparent": f"of {run_id}"},
        sender=Sender(f"of {run_id}", "Ada"),
        created_at=1.0,
    )


def rows(path: Path) -> list[Any]:
    """Return everything that is stored of a journal's runs and history."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return [
            connection.execute(statement).fetchall()
            for statement in (
                "SELECT seq, run_id, session, lane, status, attempt, input, metadata, trace, sender, outcome FROM runs",
                "SELECT * FROM history ORDER BY no",
                "SELECT * FROM agents ORDER BY session",
                "SELECT * FROM staged ORDER BY run, no",
                "SELECT * FROM sessions ORDER BY no",
            )
        ]


CHECKPOINTS = 3
"""Where in `rows` the facts of runs are that execute."""


class Commit(NamedTuple):
    """What stood in the file when the WAL had this many bytes; `queued`: facts, then, that may have come one by one."""

    wal_bytes: int
    rows: list[Any]
    queued: int = 0


class Original(NamedTuple):
    """A journal as a killed server leaves it, with every commit, and the same one as it is when closed."""

    killed: Path
    closed: Path
    commits: list[Commit]
    runs: list[str]


async def _write(folder: Path, killed: Path) -> tuple[list[Commit], list[str]]:
    path = folder / FILE
    journal = SqliteJournal(path, SystemClock())
    await journal.open("test", max_attempts=3)
    claims = journal.claims()
    commits, names = [Commit((folder / WAL).stat().st_size, rows(path))], []

    async def after(operation: Any) -> None:
        await operation
        commits.append(Commit((folder / WAL).stat().st_size, rows(path)))

    for n in range(ROUNDS):
        for session in SESSIONS:
            names.append(f"{session}.{n}")
            await after(journal.accept(new(names[-1], session), WIDE, claim_next=True))
            if n >= ROUNDS - 1:
                continue  # waits behind the one that executes
            token = (await anext(claims)).token
            await after(journal.checkpoint(token, RoundStarted(said(f"ask {n}"))))
            if n == ROUNDS - 2:
                commits[-1] = commits[-1]._replace(queued=2)
                await journal.checkpoint(token, ToolDone("t", {"content": [{"text": "42"}]}))
                await journal.checkpoint(token, RoundDone(said("results"), {"n": n}))
                await after(journal.checkpoint(token, RoundStarted(said("once more"))))
                continue
            window = (Range(2, None),) if n == 3 else None
            end = done(f"ask {n}", f"answer {n} " + "a" * 100, state={"n": n}, window=window)
            await after(journal.finish(token, end, claim_next=False))
    for name in (FILE, WAL):
        shutil.copy(folder / name, killed / name)
    await journal.close()
    return commits, names


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    killed, closed = (tmp_path_factory.mktemp(name) for name in ("killed", "closed"))
    commits, names = asyncio.run(_write(closed, killed))
    assert len({commit.wal_bytes for commit in commits}) == len(commits), "two operations shared a commit"
    return Original(killed, closed, commits, names)


def copied(folder: Path, to: Path) -> Path:
    for name in (FILE, WAL):
        (to / name).unlink(missing_ok=True)
        if (folder / name).exists():
            shutil.copy(folder / name, to / name)
    return to / FILE


def contents(folder: Path) -> list[bytes | None]:
    return [(folder / name).read_bytes() if (folder / name).exists() else None for name in (FILE, WAL)]


async def opened(path: Path) -> list[Claim] | None:
    """Open a journal and close it again; None if it was damaged, and left as it was."""
    journal = SqliteJournal(path, SystemClock())
    before = contents(path.parent)
    try:
        orphans = await journal.open("test", max_attempts=3)
    except JournalDamaged:
        assert contents(path.parent) == before
        return None
    await journal.close()
    return orphans


def places(seed: str, end: int, count: int) -> Iterator[tuple[random.Random, int]]:
    for n in range(count):
        dice = random.Random(f"{seed} {n}")
        yield dice, dice.randrange(end)


def test_a_wal_that_was_cut_off_anywhere_holds_the_last_whole_commit(original: Original, tmp_path: Path) -> None:
    whole = (original.killed / WAL).read_bytes()
    seen = set()
    for _, at in places("cut", len(whole), 80):
        path = copied(original.killed, tmp_path)
        (tmp_path / WAL).write_bytes(whole[:at])
        assert asyncio.run(opened(path)) is not None
        last = max((n for n, commit in enumerate(original.commits) if commit.wal_bytes <= at), default=None)
        if last is not None:  # before the first there is the empty journal
            commit, found = original.commits[last], rows(path)
            stored = len(found[CHECKPOINTS]) - len(commit.rows[CHECKPOINTS])
            assert 0 <= stored <= commit.queued, f"cut off at {at}"
            kept = [each for each in found[CHECKPOINTS] if each in commit.rows[CHECKPOINTS]]
            assert [*found[:CHECKPOINTS], kept, *found[CHECKPOINTS + 1 :]] == commit.rows, f"cut off at {at}"
            seen.add(last)
    assert len(seen) > 20


def test_a_wal_damaged_anywhere_is_reported_or_lacks_at_most_the_last_commit(
    original: Original, tmp_path: Path
) -> None:
    whole = (original.killed / WAL).read_bytes()
    noticed = 0
    for dice, at in places("wal", len(whole), 80):
        path = copied(original.killed, tmp_path)
        (tmp_path / WAL).write_bytes(_flipped(whole, at, dice))
        if asyncio.run(opened(path)) is None:
            noticed += 1
        else:
            assert rows(path) in [commit.rows for commit in original.commits[-2:]], f"damaged at {at}"
    assert noticed > 60


@pytest.mark.parametrize("at", [0, 9, 17, 30])
def test_a_wal_with_a_damaged_head_is_reported(original: Original, tmp_path: Path, at: int) -> None:
    """SQLite alone would forget everything in it."""
    path = copied(original.killed, tmp_path)
    (tmp_path / WAL).write_bytes(_flipped((original.killed / WAL).read_bytes(), at, random.Random(at)))
    assert asyncio.run(opened(path)) is None


def test_a_wal_that_was_never_synced_is_no_damage(original: Original, tmp_path: Path) -> None:
    path = copied(original.closed, tmp_path)
    (tmp_path / WAL).write_bytes(bytes(40_000))
    assert asyncio.run(opened(path)) is not None
    assert rows(path) == original.commits[-1].rows


def test_another_reader_that_makes_the_index_of_the_wal_anew_is_no_damage(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two checks nobody holds the file; a process that opens it then first truncates the index, to 3 bytes."""
    path = copied(original.killed, tmp_path)
    index = path.with_name(f"{path.name}-shm")

    class Overtaken(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            monkeypatch.undo()
            index.write_bytes(bytes(3))

    def overtaken(path: Path, how: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None, factory=Overtaken)

    monkeypatch.setattr(integrity, "connect_reader", overtaken)
    assert asyncio.run(opened(path)) is not None
    assert rows(path) == original.commits[-1].rows


def _flipped(data: bytes, at: int, dice: random.Random) -> bytes:
    changed = bytearray(data)
    changed[at] ^= dice.randrange(1, 256)
    return bytes(changed)


class Answers(NamedTuple):
    """All answers of a journal, without times that no promise covers; None where it reported damage."""

    orphans: list[Claim]
    answers: dict[object, Any]


async def answers_of(path: Path, runs: list[str]) -> Answers | None:
    """Open a journal, read everything, continue with it a little, and close it. None if it could not be opened."""
    journal = SqliteJournal(path, SystemClock())
    try:
        orphans = await journal.open("test", max_attempts=3)
    except JournalDamaged:
        return None
    answers: dict[object, Any] = {}

    async def ask(name: object, question: Any) -> None:
        try:
            answers[name] = await question
        except JournalUnavailable:
            answers[name] = None

    for session in SESSIONS:
        await ask(("window", session), journal.load(key(session)))
        await ask(("history", session), journal.read(HistoryQuery(key(session))))
    for run_id in runs:
        await ask(run_id, journal.read(RunQuery(ANONYMOUS, RunId(run_id))))
        if isinstance(answers[run_id], Run):
            answers[run_id] = _timeless(answers[run_id])
    answers["waiting"] = [journal.sessions.position(RunId(run_id)) for run_id in runs]
    for session in SESSIONS:
        await ask(("session", session), journal.read(SessionQuery(key(session))))
    for orphan in orphans:
        await ask(("finished", orphan.run.run_id), journal.finish(orphan.token, done("hi", "ho"), claim_next=True))
    await ask("accepted", journal.accept(new("later", "s0"), WIDE, claim_next=False))
    await journal.close()
    return Answers([_timeless_claim(orphan) for orphan in orphans], answers)


def _timeless(run: Run) -> Run:
    return msgspec.structs.replace(run, started_at=None, ended_at=None, created_at=0.0)


def _timeless_claim(claim: Claim) -> Claim:
    return msgspec.structs.replace(claim, run=_timeless(claim.run))


def test_a_file_damaged_anywhere_is_reported_or_answers_the_truth(original: Original, tmp_path: Path) -> None:
    whole = (original.closed / FILE).read_bytes()
    truth = asyncio.run(answers_of(copied(original.closed, tmp_path), original.runs))
    assert truth is not None
    refused = unavailable = 0
    for dice, at in places("file", len(whole), 330):
        path = copied(original.closed, tmp_path)
        path.write_bytes(_flipped(whole, at, dice))
        before = contents(tmp_path)
        answer = asyncio.run(answers_of(path, original.runs))
        if answer is None:
            assert contents(tmp_path) == before, f"damaged at {at}, found, and written to"
            refused += 1
            continue
        unavailable += None in answer.answers.values()
        lost = {session for session in SESSIONS if answer.answers["session", session] is None}
        for name, true in truth.answers.items():
            if isinstance(name, tuple) and name[0] == "finished" and name not in answer.answers:
                assert name[1].split(".")[0] in lost, f"{name}, damaged at {at}"
                continue
            heard = answer.answers[name]
            if name == "waiting":  # (a session that is reported as damaged has no queue)
                true = [
                    None if run_id.split(".")[0] in lost else place
                    for run_id, place in zip(original.runs, true, strict=True)
                ]
                heard = [
                    None if run_id.split(".")[0] in lost else place
                    for run_id, place in zip(original.runs, heard, strict=True)
                ]
            if not isinstance(name, tuple) or name[0] != "finished":
                assert heard is None or heard == true, f"{name}, damaged at {at}"
        expected = [true for true in truth.orphans if true.run.key.session_id not in lost]
        for orphan, true in zip(answer.orphans, expected, strict=True):
            if not orphan.run.resumable:  # damaged: it will not resume, and what is reported of it is true
                assert orphan.run.input in (true.run.input, UNREADABLE_INPUT)
                assert orphan.checkpoints == true.checkpoints[: len(orphan.checkpoints)]
            else:
                assert orphan == true, f"damaged at {at}"
    assert refused > 8
    assert unavailable > 20


# -- one damaged run --------------------------------------------------------------------------------------


def crashed(*texts: str) -> Completion:
    """Return the completion of a run that cannot resume."""
    outcome = Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.CRASHED, "damaged"))
    return Completion(outcome=outcome, messages=said(*texts))


def spoil(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount == 1


async def _executing(path: Path) -> None:
    """Make a journal in which runs of two sessions execute, one of them with tools, and others wait behind."""
    journal = SqliteJournal(path, SystemClock())
    await journal.open("test", max_attempts=3)
    claims = journal.claims()
    for session in ("s", "t"):
        for n in range(3):
            await journal.accept(new(f"{session}.{n}", session), WIDE, claim_next=True)
    token = (await anext(claims)).token
    await journal.checkpoint(token, RoundStarted(said("first")))
    await journal.checkpoint(token, RoundDone(said("second"), None))
    await journal.close()


@pytest.mark.parametrize(
    ("statement", "question", "checkpoints"),
    [
        ("UPDATE runs SET input = CAST('nothing' AS BLOB) WHERE run_id = 's.0'", UNREADABLE_INPUT, 2),
        ("UPDATE staged SET fact = substr(fact, 1, 20) WHERE run = 0 AND no = 1", new("s.0").input, 1),
        ("DELETE FROM staged WHERE run = 0 AND no = 0", new("s.0").input, 0),
        ("UPDATE runs SET ended_at = 5.0 WHERE run_id = 's.0'", UNREADABLE_INPUT, 2),
        ("UPDATE runs SET if_busy = CAST(x'ff' AS TEXT) WHERE run_id = 's.0'", UNREADABLE_INPUT, 2),
    ],
)
def test_one_damaged_run_that_executed_never_keeps_a_server_down(
    tmp_path: Path, statement: str, question: str, checkpoints: int
) -> None:
    """It comes as not resumable, so that it ends; its neighbour continues."""
    path = tmp_path / FILE
    asyncio.run(_executing(path))
    spoil(path, statement)

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        damaged, sound = await journal.open("test", max_attempts=3)
        assert (damaged.run.resumable, damaged.run.input, len(damaged.checkpoints)) == (False, question, checkpoints)
        assert sound.run.resumable
        await journal.finish(damaged.token, done("hi", "ho"), claim_next=True)
        assert (await anext(journal.claims())).run.run_id == "s.1"
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "change", ["metadata = zeroblob(9)", "ended_at = 5.0", "ended_at = -5.0", "if_busy = CAST(x'ff' AS TEXT)"]
)
def test_a_damaged_run_that_waits_is_claimed_to_be_ended_and_those_behind_it_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    path = tmp_path / FILE
    asyncio.run(_executing(path))
    spoil(path, f"UPDATE runs SET {change} WHERE run_id = 's.1'")

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        orphan, _ = await journal.open("test", max_attempts=3)
        assert await journal.prune(before=SystemClock().now() + 9, limit=9) == 0, "it waits"
        claims = journal.claims()
        assert await journal.finish(orphan.token, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
        claim = await anext(claims)
        assert (claim.run.run_id, claim.run.input, claim.damaged) == ("s.1", UNREADABLE_INPUT, True)
        assert await journal.finish(claim.token, crashed(), claim_next=True) is ClaimResult.CLAIMED
        claim = await anext(claims)
        assert (claim.run.run_id, claim.damaged) == ("s.2", False)
        if "ended_at" not in change:  # (its end is written anew)
            with pytest.raises(JournalUnavailable, match=r"run s\.1 is damaged"):
                await journal.read(RunQuery(ANONYMOUS, RunId("s.1")))
        await journal.finish(claim.token, done("what", "well"), claim_next=True)
        assert (await journal.load(key())).messages == said("hi", "ho", "what", "well")
        await journal.close()

    asyncio.run(main())
    assert "run s.1 cannot resume" in caplog.text
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT status, fence FROM runs WHERE run_id = 's.1'").fetchone() == ("failed", None)


def test_an_ended_run_that_has_come_to_wait_again_is_claimed_to_be_ended_once_more(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        path = tmp_path / FILE
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        await journal.accept(new("s.0"), WIDE, claim_next=True)
        await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
        await journal.close()
        spoil(path, "UPDATE runs SET status = 'queued' WHERE run_id = 's.0'")
        await journal.open("test", max_attempts=3)
        await journal.accept(new("s.1"), WIDE, claim_next=False)
        assert await journal.claim_next(key()) is ClaimResult.CLAIMED
        claims = journal.claims()
        claim = await anext(claims)
        assert (claim.run.run_id, claim.damaged) == ("s.0", True)
        assert await journal.finish(claim.token, crashed(), claim_next=True) is ClaimResult.CLAIMED
        assert (await anext(claims)).run.run_id == "s.1"
        await journal.close()

    asyncio.run(main())


def test_a_pause_of_which_nobody_knows_since_when_can_be_ended(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / FILE
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        await journal.accept(new("s.0"), WIDE, claim_next=False)
        await journal.change(Pause(key()))
        await journal.close()
        spoil(path, "UPDATE sessions SET closed_since = NULL")
        await journal.open("test", max_attempts=3)
        assert await journal.change(Resume(key())) == Changed(existed=True)
        assert await journal.claim_next(key()) is ClaimResult.CLAIMED
        await journal.close()

    asyncio.run(main())


async def listed(journal: SqliteJournal, session: str, limit: int) -> tuple[list[str], list[str]]:
    """Return the ids of all runs that are listed, page by page, and of all that are named as damaged."""
    runs: list[str] = []
    damaged: list[str] = []
    cursor: str | None = None
    while True:
        page = await journal.read(RunsQuery(key(session), cursor, limit))
        runs += [run.run_id for run in page.runs]
        damaged += page.damaged
        assert len(page.runs) + len(page.damaged) <= limit
        if (cursor := page.after) is None:
            return runs, damaged


@pytest.mark.parametrize("damaged", ["s.0", "s.1", "s.2"])
def test_a_list_shows_all_runs_but_the_damaged_one_and_names_it(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / FILE
    asyncio.run(_executing(path))
    spoil(path, f"UPDATE runs SET metadata = zeroblob(9) WHERE run_id = '{damaged}'")

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        for limit in range(1, 5):
            others = [each for each in ("s.2", "s.1", "s.0") if each != damaged]
            assert await listed(journal, "s", limit) == (others, [damaged]), f"in pages of {limit}"
        with pytest.raises(JournalUnavailable, match=f"run {damaged} is damaged"):
            await journal.read(RunQuery(ANONYMOUS, RunId(damaged)))
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize("column", ["metadata", "input"])
def test_a_damaged_run_that_waits_is_counted_and_those_behind_it_are_read(tmp_path: Path, column: str) -> None:
    path = tmp_path / FILE
    asyncio.run(_executing(path))
    spoil(path, f"UPDATE runs SET {column} = zeroblob(9) WHERE run_id = 's.1'")

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        found = await journal.read(WaitingQuery(key(), 10, 10))
        assert (found.count, [run.run_id for run in found.runs], len(found.inputs)) == (2, ["s.2"], 1)
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "change",
    ["outcome = zeroblob(9)", "status = 'queued'", "status = 'lost'", "attempt = 2", "if_busy = CAST(x'ff' AS TEXT)"],
)
def test_a_list_names_an_ended_run_that_is_damaged(original: Original, tmp_path: Path, change: str) -> None:
    path = copied(original.closed, tmp_path)

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        before, nothing = await listed(journal, "s1", 2)
        assert (len(before), nothing) == (ROUNDS, [])
        spoil(path, f"UPDATE runs SET {change} WHERE run_id = 's1.1'")
        for limit in range(1, ROUNDS + 2):
            runs, damaged = await listed(journal, "s1", limit)
            assert runs == [each for each in before if each != "s1.1"]
            assert set(damaged) == {"s1.1"}
        await journal.close()

    asyncio.run(main())


def test_a_list_of_sessions_names_the_damaged_one(original: Original, tmp_path: Path) -> None:
    path = copied(original.closed, tmp_path)
    end = "SELECT last FROM sessions WHERE session_id = 's2'"

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        spoil(path, f"UPDATE history SET messages = NULL WHERE no = ({end})")
        page = await journal.read(SessionsQuery(Principal(ANONYMOUS)))
        assert [each.key.session_id for each in page.sessions] == ["s0", "s1", "s3"]
        assert page.damaged == [key("s2")]
        with pytest.raises(JournalUnavailable, match="session s2 is damaged"):
            await journal.read(SessionQuery(key("s2")))
        spoil(path, "UPDATE sessions SET session_id = CAST(x'7332ff' AS TEXT) WHERE session_id = 's2'")
        with pytest.raises(JournalUnavailable, match="name of session"):  # (no page could begin after it)
            await journal.read(SessionsQuery(Principal(ANONYMOUS), limit=3))
        assert (await journal.read(SessionsQuery(Principal(ANONYMOUS), limit=2))).after == key("s1")
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("statement", "checkpoints"),
    [
        ("UPDATE staged SET fact = zeroblob(9) WHERE run = 0 AND no = 2", 2),
        ("UPDATE runs SET started_at = NULL WHERE run_id = 's.0'", 3),
    ],
)
def test_what_a_damaged_run_had_done_before_it_waited_again_comes_with_its_claim(
    tmp_path: Path, statement: str, checkpoints: int
) -> None:
    path = tmp_path / FILE
    asyncio.run(_executing(path))

    async def requeued() -> None:
        journal = SqliteJournal(path, SystemClock())
        orphan, _ = await journal.open("test", max_attempts=3)
        await journal.checkpoint(orphan.token, RoundStarted(said("spoilt")))
        await journal.release(orphan.token, counted=True)
        await journal.close()

    asyncio.run(requeued())
    spoil(path, statement)

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        assert await journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await anext(journal.claims())
        assert (claim.run.run_id, claim.damaged) == ("s.0", True)
        assert [type(checkpoint) for checkpoint in claim.checkpoints] == [RoundStarted, RoundDone, RoundStarted][
            :checkpoints
        ]
        await journal.finish(claim.token, crashed("first", "second"), claim_next=False)
        assert rows(path)[CHECKPOINTS] == [], "no checkpoint is left"
        await journal.close()

    asyncio.run(main())


def test_a_damaged_row_of_history_is_named_and_every_other_session_goes_on(original: Original, tmp_path: Path) -> None:
    path = copied(original.closed, tmp_path)
    spoil(path, "UPDATE history SET messages = CAST(replace(messages, 'answer 2', 'answer 9') AS BLOB) WHERE no = 9")

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        with pytest.raises(JournalUnavailable, match=r"session s0 from message 4 on is damaged"):
            await journal.read(HistoryQuery(key("s0")))
        page = await journal.read(HistoryQuery(key("s0"), most_bytes=0))
        assert (page.first, len(page.messages)) == (7, 1), "nothing is read beyond the row in which a page ends"
        assert len((await journal.read(HistoryQuery(key("s1")))).messages) == 8
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "change",
    [
        "lane = 2",
        "lane = 7, urgency = 0",
        "urgency = 1",
        "priority = 1",
        "status = 'queued'",
        "attempt = 2",
        "attempt = -1",
        "opaque = 1",
        "created_at = 2.0",
        "started_at = NULL",
        "ended_at = ended_at + 1",
        "outcome = NULL",
        "timeout_s = 9.0",
        "discarded = 1",
        "discarded = 2",
        "run_id = 's9.9'",
    ],
)
def test_an_ended_run_that_cannot_be_true_is_reported(original: Original, tmp_path: Path, change: str) -> None:
    path = copied(original.closed, tmp_path)
    spoil(path, f"UPDATE runs SET {change} WHERE run_id = 's1.1'")

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        run_id = "s9.9" if "run_id" in change else "s1.1"
        with pytest.raises(JournalUnavailable, match=f"run {run_id} is damaged"):
            await journal.read(RunQuery(ANONYMOUS, RunId(run_id)))
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "change",
    [
        "previous = NULL",
        "previous = previous - 1",
        "previous = previous - 4",
        "previous = no + 4",
        "previous = no",
        "first = first + 1",
        "count = count + 1",
    ],
)
def test_a_history_that_does_not_join_is_reported_and_never_deleted(
    original: Original, tmp_path: Path, change: str
) -> None:
    """Neither does it take rows of another session with it, nor go round for ever."""
    path = copied(original.closed, tmp_path)
    spoil(path, f"UPDATE history SET {change} WHERE no = 13")  # the last but one of three of its session
    before = rows(path)

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        orphans = await journal.open("test", max_attempts=3)
        with pytest.raises(JournalUnavailable, match="the history of session s0"):
            await journal.read(HistoryQuery(key("s0"), before=7, limit=6))
        assert len((await journal.read(HistoryQuery(key("s1")))).messages) == 8
        ended = [each.token for each in orphans if each.run.key == key("s0")]
        await journal.finish(ended[0], done("hi", "ho"), claim_next=True)
        await journal.finish((await anext(journal.claims())).token, done("hi", "ho"), claim_next=False)
        with contextlib.suppress(JournalUnavailable):
            await journal.change(Delete(key("s0")))
        await journal.close()

    asyncio.run(main())
    others = ([row for row in each if row[1] in ("s1", "s2", "s3")] for each in (before[4], rows(path)[4]))
    assert next(others) == next(others)
    assert [row for row in rows(path)[1] if row[1] == 2][:4] == [row for row in before[1] if row[1] == 2][:4]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE history SET discarded = 1 WHERE no = 3",
        "UPDATE history SET messages = NULL WHERE no = 3",
        "UPDATE history SET messages = NULL, count = 0 WHERE no = 3",
        "UPDATE history SET count = 0 WHERE no = 4",
        "UPDATE history SET previous = 1 WHERE no = 4",
        "UPDATE history SET previous = NULL WHERE no = 4",
    ],
)
def test_a_history_with_a_hidden_part_is_never_shown_as_whole(tmp_path: Path, statement: str) -> None:
    path = tmp_path / FILE

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        for n in range(4):
            await journal.accept(new(f"r{n}"), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done(f"q{n}", f"a{n}"), claim_next=False)
        await journal.close()
        spoil(path, statement)
        await journal.open("test", max_attempts=3)
        for answer in (journal.load(key()), journal.read(HistoryQuery(key(), None, 100))):
            with pytest.raises(JournalUnavailable, match="history of session s"):
                await answer
        await journal.close()

    asyncio.run(main())


def test_records_of_older_files_without_a_checksum_are_read(original: Original, tmp_path: Path) -> None:
    path = copied(original.closed, tmp_path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for table, column in [("runs", "input"), ("runs", "outcome"), ("history", "messages"), ("staged", "fact")]:
            connection.execute(f"UPDATE {table} SET {column} = substr({column}, 6) WHERE {column} IS NOT NULL")
    answers = asyncio.run(answers_of(path, original.runs))
    truth = asyncio.run(answers_of(copied(original.closed, tmp_path), original.runs))
    assert answers == truth


@pytest.mark.parametrize("checked", [0, 64 << 20])
def test_damage_that_is_found_late_leaves_file_and_wal_as_they_are(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checked: int
) -> None:
    """A large file is not read as a whole; closing it must not move the WAL into it."""
    monkeypatch.setattr("strandline._journal.integrity.CHECKED_BYTES", checked)
    busy, folder = tmp_path / "busy", tmp_path / "copy"
    for each in (busy, folder):
        each.mkdir()
    path = copied(original.closed, busy)
    with closing(sqlite3.connect(path)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        with connection:
            connection.execute("UPDATE meta SET value = value + 1")
        copied(busy, folder)
    whole = (folder / FILE).read_bytes()
    wal = (folder / WAL).read_bytes()
    found = 0
    for page in range(1, pages):
        spoilt = bytearray(whole)
        spoilt[page * 4096 : page * 4096 + 2000] = b"\xa5" * 2000
        (folder / FILE).write_bytes(spoilt)
        (folder / WAL).write_bytes(wal)
        found += asyncio.run(opened(folder / FILE)) is None
    assert found > (2 if checked == 0 else pages // 2)


def test_the_rest_of_a_commit_that_a_killed_server_made_and_its_successor_wrote_over_is_no_damage(
    tmp_path: Path,
) -> None:
    """Somebody reads all the while, so that the successor takes over the WAL's index as the killed one left it."""
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE t (x)")
        wal = path.with_name(path.name + "-wal")
        frame_bytes = 24 + connection.execute("PRAGMA page_size").fetchone()[0]

        def whole() -> int:
            return int(wal.stat().st_size - 32) // int(frame_bytes)

        connection.execute("INSERT INTO t VALUES (1)")
        known = whole()
        before = {each: each.read_bytes() for each in (path, wal)}
        connection.execute("INSERT INTO t VALUES (randomblob(50000))")
        killed = wal.read_bytes()
        copy = tmp_path / "copy.db"
        for each, content in before.items():
            copy.with_name(each.name.replace("some", "copy")).write_bytes(content)
        with closing(sqlite3.connect(copy, isolation_level=None)) as other:
            other.execute("PRAGMA wal_autocheckpoint = 0")
            other.execute("INSERT INTO t VALUES (2)")
            written_over = copy.with_name("copy.db-wal").read_bytes()
    wal.write_bytes(written_over + killed[len(written_over) :])
    assert whole() > (len(written_over) - 32) // frame_bytes > known
    check_wal_frames(path, known)
    check_wal_frames(path)
    damaged = bytearray(wal.read_bytes())
    damaged[32 + 30] ^= 1  # in the first frame, before several commits
    wal.write_bytes(damaged)
    with pytest.raises(JournalDamaged, match="in its middle"):
        check_wal_frames(path)


def _damaged_page(transactions: Any, path: Path) -> None:
    """A page with rows of session s cannot be read any more."""
    rows = transactions.records
    execute = rows._execute
    with closing(sqlite3.connect(path)) as connection:
        (no,) = connection.execute("SELECT no FROM sessions WHERE session_id = 's'").fetchone()

    def read(statement: str, *values: Any) -> Any:
        if statement.startswith("SELECT run_id") and values == ((no, no, no),):
            error = sqlite3.DatabaseError("database disk image is malformed")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        return execute(statement, *values)

    rows._execute = read


def _damaged_end(transactions: Any, path: Path) -> None:
    """The row with the end of its history is damaged."""
    spoil(path, "UPDATE history SET messages = NULL WHERE no = 1")


def _damaged_text(transactions: Any, path: Path) -> None:
    """The id of a run that waits there is no UTF-8 any more."""
    spoil(path, "UPDATE runs SET run_id = CAST(x'ff' AS TEXT) WHERE run_id = 's.1'")


@pytest.mark.parametrize(("damage", "goes_on"), [(_damaged_page, False), (_damaged_end, False), (_damaged_text, True)])
def test_a_session_that_is_damaged_when_a_commit_fails_keeps_no_other_from_going_on(
    tmp_path: Path, damage: Callable[[Any, Path], None], goes_on: bool
) -> None:
    """It is read anew then. Where it is a run of it that is damaged, that run ends alone."""

    async def main() -> None:
        path = tmp_path / FILE
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        for session in ("s", "t"):
            await journal.accept(new(f"{session}.old", session), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
        for session in ("s", "t"):
            await journal.accept(new(f"{session}.0", session), WIDE, claim_next=True)
            await journal.accept(new(f"{session}.1", session), WIDE, claim_next=False)
        token, others = [(await anext(claims)).token for _ in range(2)]
        transactions: Any = journal._transactions
        commit = transactions.commit

        def fail() -> None:
            transactions.commit = commit
            raise sqlite3.OperationalError("disk I/O error")

        transactions.commit = fail
        damage(transactions, path)
        finished = journal.finish(token, done("hi", "ho"), claim_next=True)
        if goes_on:
            assert await finished is ClaimResult.CLAIMED
            assert (await anext(claims)).damaged
        else:
            with pytest.raises(ClaimLost):
                await finished
        assert await journal.finish(others, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
        assert (await anext(claims)).run.run_id == "t.1"
        assert await journal.accept(new("u.0", "u"), WIDE, claim_next=False) == Accepted(1)
        if not goes_on:
            with pytest.raises(JournalUnavailable, match="session s"):
                await journal.claim_next(key("s"))
        await journal.close()

    asyncio.run(main())


def test_a_question_that_is_damaged_cannot_be_answered_and_does_not_close_its_session_for_good(tmp_path: Path) -> None:
    """Its round is closed by what history has of it; an answer that was accepted before ends as crashed."""
    use: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}]}
    needs_input = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=[InputRequest("i", "sure")])

    async def go() -> None:
        path = tmp_path / FILE
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        answers: dict[str, Any] = {"input": responses({"i": "yes"}), "lane": Lane.ANSWER}
        for session in ("waits", "answered", "begun"):
            await journal.accept(new(f"{session}.a", session), WIDE, claim_next=True)
            question = Question(requests=needs_input.input_requests, message=use, results={}, state={})
            left = Completion(outcome=needs_input, messages=[*said("go"), use], question=question)
            await journal.finish((await anext(claims)).token, left, claim_next=False)
        for session in ("answered", "begun"):
            answer = msgspec.structs.replace(new(f"{session}.x", session), **answers)
            assert isinstance(await journal.accept(answer, WIDE, claim_next=session == "begun"), Accepted)
        await anext(claims)
        await journal.close()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE questions SET question = x'01000000007b7d'")
        journal = SqliteJournal(path, SystemClock())
        (orphan,) = await journal.open("test", max_attempts=3)
        claims = journal.claims()
        assert not orphan.run.resumable, "it never resumes"
        assert orphan.question is not None
        assert orphan.question.message == use
        await journal.finish(orphan.token, done(), claim_next=False)
        late = msgspec.structs.replace(new("waits.x", "waits"), **answers)
        with pytest.raises(JournalUnavailable, match="damaged"):
            await journal.accept(late, WIDE, claim_next=True)
        for session in ("waits", "answered", "begun"):
            await journal.accept(new(f"{session}.b", session), WIDE, claim_next=False)
            assert await journal.claim_next(key(session)) is ClaimResult.CLAIMED
            claim = await anext(claims)
            if session == "answered":
                assert (claim.run.run_id, claim.damaged, claim.question and claim.question.message) == (
                    "answered.x", True, use,
                )  # fmt: skip
                await journal.finish(claim.token, crashed(), claim_next=True)
                claim = await anext(claims)
            assert claim.run.run_id == f"{session}.b"
            await journal.finish(claim.token, done("hi", "ho"), claim_next=False)
            messages = (await journal.read(HistoryQuery(key(session)))).messages
            assert (len(messages), history_faults(messages)) == (6, [])
        answered = await journal.read(RunQuery(ANONYMOUS, RunId("answered.x")))
        assert answered is not None
        assert answered.outcome is not None
        assert answered.outcome.status is RunStatus.FAILED
        await journal.close()

    asyncio.run(go())


async def _ask_question(journal: SqliteJournal, claims: AsyncIterator[Claim]) -> None:
    """Have a run of session s put a question whose time is over at once."""
    use: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}]}
    needs_input = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=[InputRequest("i", "sure")])
    await journal.accept(new("s.0"), WIDE, claim_next=True)
    question = Question(requests=needs_input.input_requests, message=use, results={}, state={})
    left = Completion(outcome=needs_input, messages=[*said("go"), use], question=question)
    await journal.finish((await anext(claims)).token, left, claim_next=False)


def test_a_question_that_is_lost_while_the_server_runs_does_not_close_its_session_for_good(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / FILE
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        await _ask_question(journal, claims)
        await journal.accept(new("s.1"), WIDE, claim_next=False)
        spoil(path, "DELETE FROM questions")
        assert await journal.claim_next(key()) is ClaimResult.CLAIMED
        await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
        messages = (await journal.read(HistoryQuery(key()))).messages
        assert (len(messages), history_faults(messages)) == (6, [])
        await journal.close()

    asyncio.run(main())


def test_a_change_that_fails_half_way_through_damage_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / FILE
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        await _ask_question(journal, claims)
        await journal.accept(new("s.1"), WIDE, claim_next=False)
        await journal.close()
        spoil(path, "UPDATE questions SET question = x'01000000007b7d'")
        spoil(path, "UPDATE history SET messages = x'01000000007b7d'")
        await journal.open("test", max_attempts=3)
        with pytest.raises(JournalUnavailable, match="damaged"):
            await journal.change(CancelSession(key(), running=True))
        assert await journal.accept(new("t.0", "t"), WIDE, claim_next=False) == Accepted(1)
        await journal.close()
        await journal.open("test", max_attempts=3)
        run = await journal.read(RunQuery(ANONYMOUS, RunId("s.1")))
        assert run is not None
        assert run.status is RunStatus.QUEUED
        await journal.close()

    asyncio.run(main())
