"""`verify` of a journal with cancelled, interrupted, moved and paused runs: undamaged; damage is reported."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from strandline._clock import SystemClock
from strandline._journal.port import Cancel, CancelSession, Move, Pause
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.verify import verify
from strandline._model import (
    ANONYMOUS,
    Completion,
    IfBusy,
    Keyed,
    Lane,
    NewRun,
    Outcome,
    RoundStarted,
    RunId,
    RunStatus,
    SessionId,
    SessionKey,
)
from strandline.errors import JournalUnavailable
from strandline.testing._desk import WIDE, said

KEYED = Keyed("k", b"x" * 32, 0.0)


def new(run_id: str, session: str, **more: object) -> NewRun:
    key = SessionKey(ANONYMOUS, SessionId(session))
    return NewRun(run_id=RunId(run_id), key=key, input=f"ask {run_id}", created_at=1.0, **more)  # type: ignore[arg-type]


async def _fill(path: Path) -> None:
    journal = SqliteJournal(path, SystemClock())
    await journal.open("test", max_attempts=3)
    claims = journal.claims()
    for session in ("s", "t", "u"):
        await journal.accept(new(f"{session}1", session), WIDE, claim_next=True)
        token = (await anext(claims)).token
        await journal.checkpoint(token, RoundStarted(said("ask", "half")))
        if session != "u":
            await journal.release(token, counted=True)
    await journal.accept(new("s2", "s", lane=Lane.FRONT, if_busy=IfBusy.ROLLBACK, keyed=KEYED), WIDE, claim_next=True)
    rolling = (await anext(claims)).token
    await journal.accept(new("s3", "s", keyed=Keyed("k2", b"y" * 32, 0.0)), WIDE, claim_next=True)
    await journal.accept(new("s4", "s"), WIDE, claim_next=True)
    await journal.change(Move(ANONYMOUS, RunId("s4"), None))
    await journal.change(Move(ANONYMOUS, RunId("s3"), 1))
    await journal.accept(new("s5", "s", lane=Lane.FRONT, if_busy=IfBusy.ROLLBACK), WIDE, claim_next=True)
    outcome = Outcome(status=RunStatus.CANCELLED)
    await journal.finish(
        rolling, Completion(outcome=outcome, messages=said("hi", "ho"), discarded=True), claim_next=False
    )
    await journal.change(CancelSession(SessionKey(ANONYMOUS, SessionId("t")), running=True))
    await journal.change(Cancel(ANONYMOUS, RunId("u1")))
    await journal.change(Pause(SessionKey(ANONYMOUS, SessionId("s"))))
    await journal.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("controlled") / "journal.db"
    asyncio.run(_fill(path))
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "journal.db"))


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount == 1


def test_it_is_sound(path: Path) -> None:
    findings = verify(path)
    assert findings.faults == []
    assert findings.runs == {
        "queued": 3, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 3, "needs_input": 0
    }  # fmt: skip
    assert (findings.messages, findings.discarded_messages) == (6, 4)


FAULTS = {
    "UPDATE runs SET cancel_requested = 1 WHERE run_id = 's4'": "run s4 is queued although its cancel was accepted",
    "UPDATE runs SET cancel_requested = 1 WHERE run_id = 's5'": "run s5 is queued although its cancel was accepted",
    "UPDATE runs SET discard = 1 WHERE run_id = 's4'": "run s4 was to be discarded, and is not",
    "UPDATE runs SET if_busy = 'shout' WHERE run_id = 's5'": "run s5 is damaged",
    "UPDATE runs SET key = 'other' WHERE run_id = 's2'": "the idempotency key of run s2 is damaged",
    "UPDATE runs SET fingerprint = x'00' WHERE run_id = 's3'": "the idempotency key of run s3 is damaged",
    "UPDATE runs SET fingerprint = NULL WHERE run_id = 's3'": "the idempotency key of run s3 is damaged",
    "UPDATE sessions SET closed_since = NULL WHERE session_id = 's'": "session s is paused since an unknown time",
}


@pytest.mark.parametrize("statement", FAULTS)
def test_every_fault_is_reported(path: Path, statement: str) -> None:
    change(path, statement)
    findings = verify(path)
    assert not findings.sound
    assert any(FAULTS[statement] in fault for fault in findings.faults), findings.faults


def test_a_damaged_key_is_an_error_to_the_client_that_uses_it(path: Path) -> None:
    """A request must not become a second run because nobody can read what its key stands for."""
    change(path, "UPDATE runs SET fingerprint = x'0100000000' WHERE run_id = 's3'")

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        with pytest.raises(JournalUnavailable, match="idempotency key of run s3"):
            await journal.accept(new("again", "s", keyed=Keyed("k2", b"y" * 32, 0.0)), WIDE, claim_next=False)
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "damage",
    ["cancel_requested = 1", "moved = 7", "urgency = urgency - 1099511627776", "if_busy = 'x'", "discard = 1"],
)
def test_a_waiting_run_that_is_damaged_is_claimed_to_be_ended_and_those_behind_it_go_on(
    path: Path, damage: str
) -> None:
    moved = "s3" if damage.startswith("moved") else "s4"
    change(path, f"UPDATE runs SET {damage} WHERE run_id = '{moved}'")
    change(path, "UPDATE sessions SET paused = 0, closed_since = NULL WHERE session_id = 's'")

    async def main() -> dict[str, bool]:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        key = SessionKey(ANONYMOUS, SessionId("s"))
        done = {}
        while str(await journal.claim_next(key)) == "claimed":
            claim = await anext(claims)
            done[str(claim.run.run_id)] = claim.damaged
            outcome = Outcome(status=RunStatus.CANCELLED if claim.damaged else RunStatus.SUCCEEDED)
            await journal.finish(claim.token, Completion(outcome=outcome, messages=[]), claim_next=False)
        await journal.close()
        return done

    assert asyncio.run(main()) == {each: each == moved for each in ("s3", "s4", "s5")}
