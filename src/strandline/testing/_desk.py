"""A desk for testing a journal: short methods for what tests do with it.

A desk fetches its journal's claims as a dispatcher does, and knows which of them the test has seen.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from strandline._clock import boottime
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Bounds,
    Cancel,
    CancelSession,
    ChangeAnswer,
    ClaimResult,
    EndOverdue,
    EndWaiting,
    HistoryQuery,
    Journal,
    RunQuery,
    RunsOfQuery,
    SessionsQuery,
    Stopped,
)
from strandline._model import (
    ANONYMOUS,
    Claim,
    Completion,
    FencingToken,
    Message,
    NewRun,
    Outcome,
    Principal,
    Run,
    RunId,
    RunStatus,
    RunSummary,
    SessionId,
    SessionKey,
    StateRecord,
    Window,
)

DEADLINE_S: Final = 30.0
WIDE: Final = Bounds(per_session=1000, total=10_000)


def key(session: str = "s", principal: str = ANONYMOUS) -> SessionKey:
    """Return the key of a session."""
    return SessionKey(Principal(principal), SessionId(session))


def said(*texts: str) -> list[Message]:
    """Return a conversation of these texts, the user's first."""
    return [
        {"role": "assistant" if index % 2 else "user", "content": [{"text": text}]} for index, text in enumerate(texts)
    ]


def done(
    *texts: str, window: Window | None = None, state: StateRecord | None = None, discarded: bool = False
) -> Completion:
    """Return the completion of a run that succeeded and said `texts`."""
    outcome = Outcome(status=RunStatus.SUCCEEDED, output=texts[-1] if texts else "")
    return Completion(outcome=outcome, messages=said(*texts), window=window, state=state, discarded=discarded)


async def waiting_runs(journal: Journal) -> list[RunSummary]:
    """Return all stored waiting runs, in the order of acceptance. Fails unless `sessions` shows the same ones.

    Call it only while nothing is decided.
    """
    page = await journal.read(SessionsQuery(None, limit=10_000))
    found: list[RunSummary] = []
    for principal in {each.key.principal for each in page.sessions}:
        query = RunsOfQuery(principal, frozenset({RunStatus.QUEUED}), limit=10_000)
        found += (await journal.read(query)).runs
    sessions = journal.sessions
    assert sessions.waiting == len(found)
    assert [sessions.position(run.run_id) for run in found] == [run.position for run in found]
    return sorted(found, key=lambda run: run.sequence)


class StillClock:
    """A clock that stands still at `at`, but for leases, which run on the machine's own."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def now(self) -> float:
        """Return `at`."""
        return self.at

    def monotonic(self) -> float:
        """Return `at`."""
        return self.at

    def boottime(self) -> float:
        """Return the machine's own."""
        return boottime()


class Desk:
    """An open journal, with short methods for tests."""

    def __init__(self, journal: Journal, clock: StillClock, reopened: Callable[[], Awaitable[Journal]]) -> None:
        self.journal = journal
        self.clock = clock
        self.orphans: list[Claim] = []
        self._reopened = reopened
        self._claims: AsyncIterator[Claim] | None = None

    async def open(self, max_attempts: int = 3) -> None:
        """Open the journal and become the consumer of its claims."""
        self.orphans = await self.journal.open("contract", max_attempts=max_attempts)
        self._claims = self.journal.claims()

    async def restart(self, max_attempts: int = 3) -> list[Claim]:
        """Open what a killed process leaves; return what was executing."""
        self.journal = await self._reopened()
        await self.open(max_attempts)
        return self.orphans

    async def close_down(self) -> None:
        """Close the journal. Fails if it delivered claims that the test has not seen."""
        await self.journal.close()
        assert await self.rest() == [], "claims that the test has not seen"

    async def rest(self) -> list[Claim]:
        """Return all claims up to the end of the feed; wait until the journal is closed."""
        assert self._claims is not None
        return [claim async for claim in self._claims]

    async def claim(self, *, of: str | None = None) -> Claim:
        """Return the next claim; it must be of run `of`."""
        assert self._claims is not None
        claim = await anext(self._claims)
        assert of is None or claim.run.run_id == of
        return claim

    def follow_anew(self) -> None:
        """Become the consumer again after a cancellation."""
        self._claims = self.journal.claims()

    async def accept(
        self,
        run_id: str,
        at: SessionKey | None = None,
        *,
        claim_next: bool = True,
        bounds: Bounds = WIDE,
        **fields: Any,
    ) -> AcceptAnswer:
        """Accept a run, with the input `ask RUN_ID` by default."""
        fields.setdefault("input", f"ask {run_id}")
        fields.setdefault("created_at", self.clock.at)
        new = NewRun(run_id=RunId(run_id), key=at or key(), **fields)
        return await self.journal.accept(new, bounds, claim_next=claim_next)

    async def start(self, run_id: str, at: SessionKey | None = None, **fields: Any) -> Claim:
        """Accept a run that is claimed at once; return its claim."""
        assert await self.accept(run_id, at, **fields) == Accepted(0)
        return await self.claim(of=run_id)

    async def start_any(self, run_id: str, at: SessionKey | None = None, **fields: Any) -> Claim:
        """Accept a run that is claimed at once, with options of its session, too; return its claim."""
        accepted = await self.accept(run_id, at, **fields)
        assert isinstance(accepted, Accepted)
        assert accepted.position == 0
        return await self.claim(of=run_id)

    async def finish(
        self, claim: Claim, completion: Completion | None = None, *, claim_next: bool = False, hold: bool = False
    ) -> ClaimResult:
        """End a run, by default without messages."""
        return await self.journal.finish(claim.token, completion or done(), claim_next=claim_next, hold=hold)

    async def release(
        self, token: FencingToken, *, counted: bool, claim_next: bool = False, at: SessionKey | None = None
    ) -> ClaimResult:
        """Requeue a run, or end its hold; with `claim_next`, then claim the session's next run."""
        await self.journal.release(token, counted=counted)
        return await self.journal.claim_next(at or key()) if claim_next else ClaimResult.NOTHING

    async def end(self, run_id: str, at: SessionKey | None = None, outcome: Outcome | None = None) -> ChangeAnswer:
        """End a waiting run, by default as cancelled."""
        outcome = outcome or Outcome(status=RunStatus.CANCELLED)
        return await self.journal.change(EndWaiting(at or key(), RunId(run_id), outcome))

    async def end_overdue(self, at: SessionKey | None = None) -> list[str]:
        """End the overdue runs of a session, and return their ids."""
        ended = await self.journal.change(EndOverdue(at or key(), Outcome(status=RunStatus.FAILED)))
        assert isinstance(ended, Stopped)
        assert not ended.cancelling
        return list(ended.ended)

    async def cancel(self, run_id: str, principal: str = ANONYMOUS) -> ChangeAnswer:
        """Cancel a run."""
        return await self.journal.change(Cancel(Principal(principal), RunId(run_id)))

    async def cancel_all(self, at: SessionKey | None = None, *, running: bool = False) -> ChangeAnswer:
        """Cancel the waiting runs of a session, and with `running` the executing one."""
        return await self.journal.change(CancelSession(at or key(), running))

    async def run(self, run_id: str, principal: str = ANONYMOUS) -> Run:
        """Return a run that exists."""
        run = await self.journal.read(RunQuery(Principal(principal), RunId(run_id)))
        assert run is not None
        return run

    async def exists(self, run_id: str, principal: str = ANONYMOUS) -> bool:
        """Return whether a principal has this run."""
        return await self.journal.read(RunQuery(Principal(principal), RunId(run_id))) is not None

    async def history(self, at: SessionKey | None = None, *, discarded: bool = False) -> list[Message]:
        """Return all of a session's history, with `discarded` also messages of discarded runs."""
        return (await self.journal.read(HistoryQuery(at or key(), limit=10_000, discarded=discarded))).messages

    async def waiting(self) -> list[str]:
        """Return the ids of all waiting runs, in order of sequence."""
        return [run.run_id for run in await waiting_runs(self.journal)]

    async def seen(self, run_ids: Sequence[str], at: SessionKey | None = None) -> list[object]:
        """Return all that is visible from outside, for a later comparison."""
        runs = [await self.journal.read(RunQuery(ANONYMOUS, RunId(run_id))) for run_id in run_ids]
        history = await self.history(at, discarded=True)
        return [runs, history, await self.journal.load(at or key()), await waiting_runs(self.journal)]

    async def drain(self, claim: Claim) -> list[str]:
        """End `claim` and then every run of its session; return their ids in the order of starting."""
        order = [claim.run.run_id]
        while await self.finish(claim, claim_next=True) is ClaimResult.CLAIMED:
            claim = await self.claim()
            order.append(claim.run.run_id)
        return [str(run_id) for run_id in order]
