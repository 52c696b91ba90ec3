"""The journal, a port: where accepted runs and history are kept, and who decides order and exclusivity.

Invariants that every journal keeps, proved by `strandline.testing.JournalContract`:

* Each operation is one transaction, durable on return; many may share a commit. The only exceptions are `checkpoint` of
  `ToolDone` and `RoundDone`: they may return when queued, but a later operation of that token is durable only after
  them.
* An operation with a stale token raises `ClaimLost` and changes nothing.
* At most one run of a session is claimed at any moment; storage itself refuses a second one.
* The next run of a session is the first by (lane, priority, sequence); priority counts in `Lane.NORMAL` only.
  The sequence is given in the accept's own commit.
* A claim never travels as a return value (a caller that is cancelled between commit and return would lose it):
  every claim is delivered exactly once through `claims()`.
* A claim is delivered once the commit that made it is durable, not before; an operation that fails has made none. It
  comes after the answers of that operation, and of all that took effect before it, to those who await them on the
  consumer's loop.
* A waiting run of which not all can be read is claimed in its turn, as `damaged`: whoever gets the claim ends it.
* A run that is finished with `hold` has ended, and its claim stays: its session is *held* until `release`. Opening the
  journal ends every hold.
* A session is *closed* while it is held or paused, or both. While it is, nothing of it is taken, and the
  `queue_deadline` of what waits in it stands still: what opens it again moves each on by the time that it stood.
* A run that was requeued has begun: it has no `queue_deadline` any more.
* A run that waits and is cancelled has ended on return, closed by what it had staged. One that executes has
  `cancel_requested`: from then on it can be finished as cancelled only, and not be requeued (`CancelRequested`). So of
  a cancel and a completion the first one wins, and a cancel that was answered survives a crash.
* A run that is finished with a `question` leaves its round open, as the last message of history, and its session waits
  for input: for `answer_within_s` from the run's end on nothing is taken there but an answer to it, and the
  `queue_deadline` of what waits stands still. One answer is accepted, to all requests at once. Its run closes the
  round, however it ends; else the question is dismissed by whatever is taken, interrupts or has `OnQuestion.DISMISS`,
  or by a cancel of the session, in that transaction.
* A run in `Lane.NORMAL` with `OnQuestion.ANSWER` whose input is a text becomes an answer, `responses` in
  `Lane.ANSWER`, if exactly one input request of its session is open in the accept's own transaction.
* What a discarded run left in history is kept, is in no window, and is read only by those who ask for it.
* Whatever a delivered claim rests on is seen by every `load` and `read` that begins after its delivery.
* What waits and executes can be seen at any moment, as decided (`sessions`).
* A last attempt (of a run that is attempted again) is taken only while no other last attempt runs.

Operations may be awaited from any event loop. Those awaited from one loop are answered in the order in which they took
effect. A journal knows nothing of agents.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, Generic, Literal, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from strandline._model import (
    AgentRecord,
    Checkpoint,
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
    SessionKey,
    SessionView,
    StateRecord,
    Window,
)

A = TypeVar("A", covariant=True)
"""What a query is answered with."""


class Bounds(Struct, frozen=True):
    """How many runs may wait. A run that is taken at once does not wait."""

    per_session: int
    total: int
    per_principal: int | None = None
    """In all sessions of one principal; None: as many as in all."""
    stored_bytes: int | None = None
    """How many bytes may be kept for one principal, with those of the run that comes; None: any number."""


class Accepted(Struct, frozen=True):
    """The run is durable. `position` is 0 if it was taken at once, else 1 for the next to start.

    `stopped` is what one that interrupts has cancelled, if anything.
    """

    position: int
    stopped: "Stopped | None" = None


class Refused(Struct, frozen=True):
    """Nothing was kept: a queue is full, or what may be kept, or nearly the disk, or the run is not to wait.

    `position` is where it would have stood.
    """

    reason: Literal["queue_full", "principal_full", "server_full", "session_busy", "storage_full", "disk_low"]
    position: int


class Attached(Struct, frozen=True):
    """Nothing was kept: the request was accepted before under the same key, as this run."""

    run_id: RunId


class Reused(Struct, frozen=True):
    """Nothing was kept: another request was accepted before under the same key."""


class Unanswerable(Struct, frozen=True):
    """Nothing was kept: the run answers input requests that were `answered` or `dismissed` before, that are `unknown`
    in its session, or not all that are open (`incomplete`). `requests` are the ids of those, or of those that are left.
    """

    reason: Literal["answered", "dismissed", "unknown", "incomplete"]
    requests: list[str]


AcceptAnswer = Accepted | Refused | Attached | Reused | Unanswerable


class ClaimResult(StrEnum):
    """What came of asking for a session's next run."""

    CLAIMED = "claimed"
    """Its claim is delivered through `claims()`."""
    NOTHING = "nothing"
    """Nothing waits there, or a run of that session is claimed."""
    BLOCKED = "blocked"
    """The head is a last attempt and another last attempt runs; ask again when that one has ended."""


class Delete(Struct, frozen=True):
    """Forget a session with its history, state and ended runs. Busy while a run of it waits, executes or is held.

    With `ended_before` (seconds since the epoch), only if it is at rest since before then: its last run ended earlier,
    no question is open, and it is not paused and was not resumed since. Else Busy.
    """

    key: SessionKey
    ended_before: float | None = None


class EndWaiting(Struct, frozen=True):
    """End a run that waits with `outcome`, a failed or cancelled one; it leaves no trace in history.

    Busy if the run has ever been claimed (it may have left something to tell), or has ended.
    """

    key: SessionKey
    run_id: RunId
    outcome: Outcome


class EndOverdue(Struct, frozen=True):
    """End the runs of a session whose `queue_deadline` has passed, with `outcome`; they leave no trace in history.

    Answered by `Stopped`. None is ended while the session is paused or held: its time stands still.
    """

    key: SessionKey
    outcome: Outcome


class Cancel(Struct, frozen=True):
    """End a run of a principal: one that waits at once, one that executes as soon as its owner can.

    Answered by `Stopped`; by `Ended` if it has ended, by `Changed(existed=False)` if there is no such run.
    """

    principal: Principal
    run_id: RunId


class CancelSession(Struct, frozen=True):
    """End all runs that wait in a session, with `running` also what goes on there: the one that executes, or the
    question that it waits to be answered. Answered as `Cancel` is."""

    key: SessionKey
    running: bool


class Move(Struct, frozen=True):
    """Give a run that waits another priority, or with None the last place of `Lane.FRONT`.

    Busy if it executes or has begun, `Ended` if it has ended, `Changed(existed=False)` if there is no such run.
    """

    principal: Principal
    run_id: RunId
    priority: int | None


class Pause(Struct, frozen=True):
    """Take nothing more of a session until it is resumed, also in later processes; what executes goes on."""

    key: SessionKey


class Resume(Struct, frozen=True):
    """Let a paused session go on."""

    key: SessionKey


Change = Delete | EndWaiting | EndOverdue | Cancel | CancelSession | Move | Pause | Resume


class Changed(Struct, frozen=True):
    """The change was made. `existed` tells whether there was anything to change."""

    existed: bool


class Busy(Struct, frozen=True):
    """Nothing was changed: what should be changed is not (or no longer) at rest."""


class Ended(Struct, frozen=True):
    """Nothing was changed: the run has ended."""


class Stopped(Struct, frozen=True):
    """What a cancel has done: the outcomes of runs that had waited, and which runs are still `cancelling`.

    `dismissed`: the question that the session waited to be answered was dismissed.
    """

    ended: dict[RunId, Outcome]
    cancelling: list[RunId]
    dismissed: bool = False


ChangeAnswer = Changed | Busy | Ended | Stopped


class Query(Struct, Generic[A], frozen=True):
    """Something to be read, and what its answer is."""


class RunQuery(Query[Run | None], frozen=True):
    """One run of a principal, by id."""

    principal: Principal
    run_id: RunId


class HistoryQuery(Query["HistoryPage"], frozen=True):
    """The last `limit` messages of a session before index `before` (None: its end), oldest first.

    Those of discarded runs count as messages, and are left out of the page unless `discarded`.

    With `most_bytes` the page ends before it has more than that of them, counted as the bytes of JSON that
    `strandline._encoding.encode_messages` makes of each; those that are left out count, too. Of one message there is
    always room. None: no matter how many.
    """

    key: SessionKey
    before: int | None = None
    limit: int = 100
    discarded: bool = False
    most_bytes: int | None = None


class HistoryPage(Struct, frozen=True):
    """Messages of history from index `first` on; nothing is before them if `first` is 0."""

    messages: list[Message]
    first: int
    discarded: list[int] = []
    """The places in `messages` of those that discarded runs have left."""
    pending: bool = False
    """Whether the round of the last message is open: its tools wait for input, or go on with it."""


SKIPPED_INPUT_DIVISOR: Final = 128
"""How many bytes of an input that a page of runs passes over count as one that is on it."""


class RunsQuery(Query["RunsPage"], frozen=True):
    """Runs of a session: those that wait, the last in line first, then the one that executes, then the ended ones, the
    latest end first. `cursor` is None for the first page, else what a page has named as its next.

    With `most_bytes` the page ends before its runs have more than that of outcomes and metadata, counted as the bytes
    of JSON that `strandline._encoding.encode_messages` makes of each. Inputs are not read, but a journal may have to
    pass over them: each counts as its bytes divided by `SKIPPED_INPUT_DIVISOR`, rounded down. There is always room for
    one run. None: no bound.
    """

    key: SessionKey
    cursor: str | None = None
    limit: int = 100
    most_bytes: int | None = None


class RunsOfQuery(Query["RunsPage"], frozen=True):
    """Runs of all sessions of a principal, the last that was accepted first, of these statuses (none: of all).

    `cursor` is None for the first page, else what a page has named as its next; a page may have fewer runs than there
    is room for although more follow. `most_bytes` as of `RunsQuery`.
    """

    principal: Principal
    statuses: frozenset[RunStatus] = frozenset()
    cursor: str | None = None
    limit: int = 100
    most_bytes: int | None = None


class RunsPage(Struct, frozen=True):
    """Some runs, up to `limit`, and the cursor of the next page, None at the end. Runs may be forgotten meanwhile.

    `damaged` are those of them whose records cannot be read any more: they have their place in the list, and no more
    than their id can be told. Inputs are not looked at: a run with a damaged one is listed like any other.
    """

    runs: list[RunSummary]
    after: str | None
    damaged: list[RunId] = []


class SessionQuery(Query[SessionView | None], frozen=True):
    """One session."""

    key: SessionKey


class SessionsQuery(Query["SessionPage"], frozen=True):
    """Up to `limit` sessions of a principal (None: of all), those after `after` in the order of principal and id.

    With `most_bytes` the page ends before its sessions have more than that of questions that wait to be answered,
    counted as the bytes of JSON that are kept of them; of one session there is always room.
    """

    principal: Principal | None
    after: SessionKey | None = None
    limit: int = 100
    most_bytes: int | None = None


class SessionPage(Struct, frozen=True):
    """Some sessions, and the one after which the next page begins, None at the end.

    `damaged` are those of them of which no more than their key can be told.
    """

    sessions: list[SessionView]
    after: SessionKey | None
    damaged: list[SessionKey] = []


class RestingQuery(Query["RestingPage"], frozen=True):
    """Up to `limit` sessions of all principals that `Delete` with `ended_before=before` would forget.

    `cursor` is 0 for the first page, else what a page has named as its next. A page may have fewer sessions than there
    is room for, or none, although more follow: each costs a bounded time, however many sessions there are.
    """

    before: float
    cursor: int = 0
    limit: int = 100


class RestingPage(Struct, frozen=True):
    """Some sessions, and the cursor of the next page, None at the end."""

    keys: list[SessionKey]
    after: int | None


class StoredQuery(Query["Stored"], frozen=True):
    """How many bytes are kept, as `Bounds.stored_bytes` counts them."""


class Stored(Struct, frozen=True):
    """In bytes: of all principals together, and of the one that has most."""

    total: int
    largest: int


class AgentStateQuery(Query["AgentState"], frozen=True):
    """Where the agent of a session stands: window and state as they are kept, without the messages."""

    key: SessionKey


class AgentState(Struct, frozen=True):
    """The window and the state that an agent is rebuilt from; an unknown session has the empty ones."""

    window: Window
    state: StateRecord | None


class Sessions(Protocol):
    """What waits and executes in an open journal, as decided: a moment before it is durable.

    `now` is in seconds since the epoch. Nothing here blocks, and all of it belongs to the loop that opened the journal.
    """

    @property
    def waiting(self) -> int:
        """How many runs wait."""
        ...

    @property
    def most_waiting(self) -> int:
        """How many runs wait in the session where most do; takes a moment for each run."""
        ...

    @property
    def oldest(self) -> float | None:
        """When the run that has waited longest was accepted, in seconds since the epoch; a moment for each run."""
        ...

    def waiting_of(self) -> Mapping[Principal, int]:
        """Return how many runs of each principal wait."""
        ...

    def claimed_of(self) -> Mapping[Principal, int]:
        """Return how many runs of each principal execute or are held; takes a moment for each run."""
        ...

    def watch(self, moved: Callable[[SessionKey], None]) -> None:
        """Have `moved` called with each session in which runs wait, and in future with each that may have changed.

        It is called in the middle of an operation.
        """
        ...

    def is_waiting(self, run_id: RunId) -> bool:
        """Return whether a run waits."""
        ...

    def is_live(self, run_id: RunId) -> bool:
        """Return whether a run waits or executes."""
        ...

    def position(self, run_id: RunId) -> int | None:
        """Return where a run stands in its queue, 1 for the next to start; None unless it waits."""
        ...

    def is_idle(self, key: SessionKey) -> bool:
        """Return whether nothing of a session waits or is claimed."""
        ...

    def executes(self, key: SessionKey) -> bool:
        """Return whether a run of a session executes."""
        ...

    def is_paused(self, key: SessionKey) -> bool:
        """Return whether runs wait in a session for somebody to resume it."""
        ...

    def input_until(self, key: SessionKey, now: float) -> float | None:
        """Return until when (seconds since the epoch) runs of a session wait for an answer; None: they do not."""
        ...

    def cannot_claim(self, key: SessionKey, now: float) -> ClaimResult | None:
        """Return what `claim_next` would answer now, unless that is a claim."""
        ...

    def refusal(self, new: NewRun, most: int) -> Refused | None:
        """Return how a run is refused that has no key and no policy, if `most` runs wait in its session already."""
        ...

    @property
    def next_due(self) -> float | None:
        """When something may be due, in seconds since the epoch; None if nothing ever is."""
        ...

    def due(self, now: float) -> list[SessionKey]:
        """Return the sessions in which runs have waited too long: to be ended, else they are due again soon.

        Of others that wait for input no longer `moved` is told.
        """
        ...


@runtime_checkable
class OnDisk(Protocol):
    """What a journal has besides that keeps the last of its disk for what was accepted."""

    @property
    def file(self) -> Path:
        """The file that it is in, by which its disk is known."""
        ...

    async def grant_room(self, size: int) -> bool:
        """Let somebody else write `size` bytes onto that disk; False if what was accepted may need the room.

        What is granted counts as written. Raises `JournalUnavailable` while nothing can be kept.
        """
        ...


class Journal(Protocol):
    """Where accepted runs and history are kept. See the module's invariants."""

    @property
    def epoch(self) -> int:
        """How many owners the journal has had by now, the one that opened it last counted: it rises with each."""
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing can be kept at this moment, for people; None: it can, as far as is known. Never blocks.

        Told soon after an operation has failed by it, and by itself no more as soon as it is over. An operation that
        fails for a reason of its own (a damaged record, more than there is room for) is none.
        """
        ...

    @property
    def low_disk(self) -> str | None:
        """Why no new run is kept at this moment although others go on, for people; None: new runs are kept.

        So little room is left that it is needed for what was accepted. As far as is known; never blocks.
        """
        ...

    @property
    def sessions(self) -> Sessions:
        """What waits and executes since it was opened; nothing before."""
        ...

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Take ownership, fence every older owner, and return what was executing then, with fresh tokens.

        The returned claims are not delivered through `claims()`; the opener finishes or releases each of them. Holds
        are over: no thread of an older owner is alive.
        Raises a `JournalError` that says what to do; the file is left untouched then.
        """
        ...

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim once, when it is durable; ends when the journal is closed. One consumer."""
        ...

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        """Store a run, or refuse it over `bounds`; `claim_next`: claim it if its session is free and it is first.

        What `if_busy` says is done in the same transaction, unless the run is refused: an interrupt cancels what has
        begun in the session (what executes, and what was requeued), a rollback has it discarded too.

        If the run is `keyed`, its key is looked at first: one that stands for a run keeps nothing and is no matter of
        `bounds`. A refusal is not kept either; the key of a run is forgotten together with it.
        """
        ...

    async def claim_next(self, key: SessionKey) -> ClaimResult:
        """Claim the session's next run, counting an attempt."""
        ...

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        """Keep what a running run has done so far."""
        ...

    async def finish(
        self, token: FencingToken, completion: Completion, *, claim_next: bool, hold: bool = False
    ) -> ClaimResult:
        """End a run: outcome, messages, window and state in one commit.

        With `claim_next`, claim the session's next run. With `hold`, keep the claim until `release`, and claim nothing.
        """
        ...

    async def release(self, token: FencingToken, *, counted: bool) -> None:
        """Give a running run back to the head of its queue, its facts kept; or end the hold of one that has ended.

        `counted` False takes the attempt of a running one back.
        """
        ...

    async def change(self, change: Change) -> ChangeAnswer:
        """Apply a change that somebody asked for."""
        ...

    async def prune(self, before: float, limit: int) -> int:
        """Forget up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were forgotten; fewer than `limit` means that no more are left.
        May take several transactions.
        """
        ...

    async def load(self, key: SessionKey) -> AgentRecord:
        """Return window and state of a session; an unknown session has the empty record."""
        ...

    async def read(self, query: Query[A]) -> A:
        """Answer a query from committed state."""
        ...

    async def close(self) -> None:
        """Make everything queued durable, give up ownership and end `claims()`. Idempotent."""
        ...
