"""`verify` finds what is wrong in a journal in a database, and only that, beside servers that write meanwhile."""

import asyncio
from collections.abc import Iterator

import pytest

from strandline._clock import SystemClock
from strandline._journal.checksums import key_crc, message_owner, with_checksum
from strandline._journal.postgres import verify as verifying
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.verify import verify
from strandline._journal.postgres.wire import Wire
from strandline.errors import JournalError
from strandline.testing._desk import WIDE, done, key
from tools.postgres import Cluster

from .test_damage import new
from .test_pruning import fork_while_pruned
from .test_verify import fill


@pytest.fixture(scope="module")
def filled(postgres: Cluster) -> Iterator[str]:
    url = postgres.new_database()
    asyncio.run(fill(PostgresJournal(url, SystemClock())))
    yield url
    postgres.drop_database(url)


@pytest.fixture
def journal(postgres: Cluster, filled: str) -> Iterator[str]:
    """Where a filled journal of this test's own is."""
    url = postgres.new_database(filled.split("/")[3].split("?")[0])
    yield url
    postgres.drop_database(url)


def change(url: str, statement: str) -> None:
    wire = Wire(url)
    try:
        wire.execute(statement)
    finally:
        wire.close()


def test_a_sound_journal_is_counted(filled: str) -> None:
    steps: list[tuple[str, int, int]] = []
    findings = verify(filled, lambda *step: steps.append(step))
    assert (findings.sound, findings.faults) == (True, [])
    assert (findings.sessions, findings.messages, findings.held) == (2, 140, 0)
    assert findings.runs == {
        "queued": 2, "running": 2, "succeeded": 70, "failed": 0, "cancelled": 0, "needs_input": 0
    }  # fmt: skip
    assert findings.bytes > 8192
    assert {what for what, done, total in steps if done == total} == {"sessions", "the rest"}


def test_a_journal_whose_sessions_were_forked_while_runs_were_pruned_is_sound(postgres: Cluster) -> None:
    url = postgres.new_database()
    asyncio.run(fork_while_pruned(PostgresJournal(url, SystemClock())))
    findings = verify(url, lambda *_: None)
    assert (findings.faults, findings.sessions, findings.messages) == ([], 21, 40 + sum(range(2, 42, 2)))
    postgres.drop_database(url)


S, T = (f"(SELECT no FROM sessions WHERE session_id = '{name}')" for name in "st")


def seq(run_id: str) -> str:
    """Return the sequence of a run, for SQL."""
    return f"(SELECT seq FROM runs WHERE run_id = '{run_id}')"


def _history(text: str) -> str:
    stored = with_checksum(text.encode(), message_owner(key_crc(key()), 0)).hex()
    return f"UPDATE history SET messages = '\\x{stored}', count = 2 WHERE nth = 1"


def _window(text: str) -> str:
    return f"UPDATE agents SET \"window\" = '\\x{with_checksum(text.encode(), key_crc(key())).hex()}'"


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE history SET first = first + 1 WHERE nth = 30", "from message 59 on does not join what is before it"),
        ("UPDATE history SET previous = 3 WHERE nth = 30", "does not join"),
        ("DELETE FROM history WHERE nth = 30", "does not join"),
        ("DELETE FROM history WHERE nth = 30", "run s.29 has ended and is not in the history of its session"),
        ("DELETE FROM history WHERE nth = 70", "session s does not end where its history ends"),
        ("UPDATE history SET no = 30, session = 7 WHERE nth = 30", "row 30 of history belongs to no session"),
        (f"UPDATE history SET session = {T}, nth = 1 WHERE nth = 30", "run s.29 is in the history of another session"),
        (f"UPDATE history SET session = {T}, nth = 1 WHERE nth = 30", "is in the history of another session"),
        (f"UPDATE history SET run = {seq('s.4')} WHERE nth = 30", "is in history twice"),
        ("UPDATE history SET count = 3 WHERE nth = 30", "from message 58 on is damaged"),
        (
            _history('[{"role":"user","content":[{"text":"a"}]},{"role":"user","content":[{"text":"b"}]}]'),
            "of role user",
        ),
        (_window('[["range",0,null],["range",500,null]]'), "reaches beyond its history"),
        (_window('{"no":"window"}'), "or its state is damaged"),
        ("UPDATE agents SET state = 'x'", "or its state is damaged"),
        ("UPDATE sessions SET paused = 1 WHERE session_id = 's'", "session s is paused since an unknown time"),
        ("UPDATE sessions SET p = (p + 1) % 256 WHERE session_id = 's'", "where no server looks for it"),
        ("UPDATE runs SET outcome = NULL WHERE run_id = 's.3'", "run s.3 is succeeded without an outcome"),
        ("UPDATE runs SET status = 'failed' WHERE run_id = 's.3'", "run s.3 is damaged"),
        ("UPDATE runs SET fence = NULL WHERE run_id = 's.x'", "is running without a claim"),
        ("UPDATE runs SET fence = fence + (1::bigint << 40) WHERE run_id = 's.x'", "has a claim from the future"),
        ("UPDATE runs SET fence = 3, session = 3 WHERE run_id = 's.y'", "run s.y belongs to no session"),
        (f"UPDATE history SET run = {seq('s.x')} WHERE nth = 70", "run s.x is running and in history already"),
        (
            "UPDATE runs SET key = 'k', fingerprint = 'f' WHERE run_id = 's.3'",
            "the idempotency key of run s.3 is damaged",
        ),
        (f"INSERT INTO questions VALUES ({S}, 3, 1.0, NULL, 'q')", "the question of session s is damaged"),
        (f"INSERT INTO questions VALUES ({S}, 3, 1.0, NULL, 'q')", "waits for input, and its input request is closed"),
        ("INSERT INTO questions VALUES (9, 3, 1.0, NULL, 'q')", "a question belongs to no session (number 9)"),
        ("INSERT INTO agents VALUES (9, NULL, NULL)", "a context window belongs to no session (number 9)"),
        (
            f"UPDATE staged SET run = 5 WHERE run = {seq('s.x')}",
            "a run with sequence 5, which does not wait or execute",
        ),
        (f"UPDATE staged SET run = {seq('s.5')} WHERE run = {seq('s.x')}", "which does not wait or execute"),
        ("DELETE FROM staged WHERE no = 0", "a checkpoint of the run with sequence"),
        ("UPDATE deliveries SET body = 'x' WHERE session = 0", "_deleted is damaged"),
        ("UPDATE deliveries SET session = 7", "_deleted belongs to no session"),
        ("UPDATE stored SET bytes = bytes + 1", "counts as"),
        ("DELETE FROM stored", "counts as None bytes, and is"),
        ("DROP INDEX runs_claimed", "the index runs_claimed is missing or broken"),
        ("ALTER TABLE runs DROP COLUMN moved", "the table runs lacks the column moved"),
    ],
)
def test_what_is_wrong_is_found(journal: str, statement: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "SESSIONS", 1)  # (so that nothing is found only because all is looked at together)
    change(journal, statement)
    findings = verify(journal)
    assert not findings.sound
    assert [each for each in findings.faults if fault in each], findings.faults


def test_what_is_not_there_or_not_of_this_version_is_said(database: str, journal: str) -> None:
    with pytest.raises(JournalError, match="There is no journal in the database"):
        verify(database)
    change(journal, "UPDATE meta SET value = 1 WHERE name = 'schema'")
    with pytest.raises(JournalError, match=r"older version \(schema 1; .*`strandline journal migrate`"):
        verify(journal)
    change(journal, "UPDATE meta SET value = 99 WHERE name = 'schema'")
    with pytest.raises(JournalError, match="newer version"):
        verify(journal)


def test_verify_beside_a_server_that_writes_all_the_time_sees_one_moment(database: str) -> None:
    """Each time it reports a part, another run has ended: none of them is seen."""

    async def main() -> None:
        journal = PostgresJournal(database, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        count = 0

        async def one() -> None:
            nonlocal count
            await journal.accept(new(f"r{count}", f"s{count % 7}"), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
            count += 1

        for _ in range(30):
            await one()
        loop = asyncio.get_running_loop()
        findings = await asyncio.to_thread(
            verify, database, lambda *step: asyncio.run_coroutine_threadsafe(one(), loop).result(30)
        )
        assert (findings.faults, findings.messages) == ([], 60)
        assert count > 31
        await journal.close()

    asyncio.run(main())
