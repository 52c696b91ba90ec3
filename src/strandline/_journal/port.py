"""The port of the journal, which stores accepted runs and history and decides order and exclusivity.

Every journal keeps these invariants; `strandline.testing._contract.JournalContract` tests them:

* Each operation is one transaction, durable on return; many may share a commit. The only exceptions are `checkpoint` of
  `ToolDone` and `RoundDone`: they may return once queued, and are durable before any later operation of that token.
* An operation with a stale token raises `ClaimLost` and changes nothing.
* At most one run of a session is claimed at any moment; storage itself refuses a second one.
* The next run of a session is the first by (lane, priority, sequence); priority counts in `Lane.NORMAL` only. There a
  run that was to join another and became the next run goes before others of its priority.
  The sequence is given in the accept's own commit.
* A claim is never a return value (a task cancelled between commit and return would lose it). `claims()` delivers each
  exactly once.
* A claim is delivered only after its commit is durable; an operation that fails makes none. On the consumer's loop it
  comes after the answers of its operation and of all that took effect earlier.
* A waiting run that cannot be read in full is claimed in its turn, as `damaged`, and the consumer ends it.
* A run finished with `hold` has ended but keeps its claim: its session is *held* until `release`. Opening the journal
  ends every hold.
* A session is *closed* while it is held, paused or both. Nothing of a closed session is claimed, and its queue
  deadlines stop: on reopening, each `queue_deadline` moves by the time that it stood still.
* A requeued run has begun, so it no longer has a `queue_deadline`. Its time runs on from its first start, also while
  its session is closed: it is overdue when `timeout_s` has passed.
* Cancelling a waiting run ends it at once, closed by its checkpoints. Cancelling one that executes sets
  `cancel_requested`: it can then only finish as cancelled, and not be requeued (`CancelRequested`). So if a cancel
  races a completion the first wins, and an acknowledged cancel survives a crash.
* A run finished with a `question` leaves its round open, as the last message of history. For `answer_within_s` from
  then on its session waits for input: only an answer is claimed, and queue deadlines stop. One answer is accepted, to
  all requests at once, and its run closes the round however it ends. Any other run that is claimed, interrupts or has
  `OnQuestion.DISMISS`, or a cancel of the session, dismisses the question in the same transaction.
* A run in `Lane.NORMAL` with `OnQuestion.ANSWER` and a text as input becomes an answer (`responses` in `Lane.ANSWER`)
  if its session has exactly one open input request in the accept's own transaction.
* A run whose `not_before` has not come when it is accepted is in `Lane.DELAYED`: stored and counted like all that wait,
  behind them, and claimed by nothing. From its time on `due` reports its session, and `EndOverdue` has it queue: it
  then draws its sequence, as a run that is accepted at that moment. Its `queue_deadline` stops for what closes its
  session only from its `not_before` on.
* Messages of a discarded run stay in history, are in no window, and are read only on request.
* The options of a session are defaults: they count for each run that is accepted after them, where its request does not
  set the same option (`own_options`).
* A run finished as `unresolved` keeps its checkpoints until history continues, or a run ends that has begun since.
  Once, and only if none has, a run with its `resolution` is accepted: it gets these checkpoints and those of the
  resolution, waits as a requeued run that has begun, and continues where the other began, whose messages are
  *superseded* from then on.
* A run with `back` continues history from an earlier place, which is found when it is accepted: only in a session that
  is at rest, unless it interrupts. What came after that place is superseded by its claim, in the same transaction;
  window and state are then what they were at that place, as long as the run is kept that had changed them last by then.
  `Restore` has history continue where it ended when a superseded run was last in it.
* Superseded messages stay in history, are in no window, and are read only on request.
* Every `load` and `read` that begins after a claim's delivery sees what the claim rests on.
* A run with `IfBusy.STEER` joins the run that executes, its *host*. It is in no queue then, is never claimed and has no
  position, but counts as waiting while it is pending. `apply_joins` has all that are pending reach the host, in order
  of sequence, with one checkpoint. When the host ends, those whose messages its completion has (`joined`) end with it,
  with its outcome but its usage, in the same transaction; all others become runs of their own, before others of their
  priority. A host that is requeued keeps them. Without a run that executes it is such a run from the beginning.
* `sessions` shows what waits and executes at any moment, as decided.
* A last attempt (of a run with more than one) is claimed only while no other last attempt runs.

Operations may be awaited from any event loop. Those awaited from one loop are answered in the order in which they took
effect. A journal knows nothing about agents.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from strandline._model import (
    AgentRecord,
    Checkpoint,
    Claim,
    Completion,
    FencingToken,
    FileId,
    ForkedFrom,
    Input,
    JoinedInput,
    Message,
    NewRun,
    Outcome,
    Principal,
    Run,
    RunDefaults,
    RunId,
    RunStatus,
    RunSummary,
    RunWebhook,
    ScheduleId,
    Sender,
    SessionId,
    SessionKey,
    SessionView,
    StateRecord,
    Window,
)

A = TypeVar("A", covariant=True)
"""The type of a query's answer."""


AsRead = Callable[[Input, Sender | None], Input]
"""Returns the input of a run as its agent reads it, given who sent it."""


class Bounds(Struct, frozen=True):
    """How many runs may wait. A run that is claimed at once does not wait."""

    per_session: int
    total: int
    per_principal: int | None = None
    """In all sessions of one principal; None: up to `total`."""
    stored_bytes: int | None = None
    """How many bytes may be stored for one principal, including the new run; None: no bound."""
    deliveries: int | None = None
    """At how many events of its principal that are to be sent, or dead, a run with a webhook is refused."""


class Accepted(Struct, frozen=True):
    """The run is durable. `position` is 0 if it was claimed at once, else 1 for the next to start. `stopped` is what
    the run has cancelled, if it interrupts. `defaults` are those of its session, if it has some, and `new` is the run
    with them.
    """

    position: int
    stopped: "Stopped | None" = None
    defaults: RunDefaults | None = None
    new: NewRun | None = None
    joined: RunId | None = None
    """The run that it is to join; it has no position then."""


class Refused(Struct, frozen=True):
    """Nothing was stored: a queue, the principal's storage or nearly the disk is full, or the run must not wait.
    `position` is the place that it would have had. `not_running`: the run that it was to join does not execute.
    `not_collecting`: it says how it collects, and neither it nor its session that it does.
    """

    reason: Literal[
        "queue_full",
        "principal_full",
        "server_full",
        "session_busy",
        "not_running",
        "not_collecting",
        "storage_full",
        "disk_low",
        "webhooks_full",
    ]
    position: int


class Attached(Struct, frozen=True):
    """Nothing was stored: the same request was accepted earlier under this key, as this run."""

    run_id: RunId


class Reused(Struct, frozen=True):
    """Nothing was stored: another request was accepted earlier under this key."""


class Unanswerable(Struct, frozen=True):
    """Nothing was stored: the run answers input requests that are already `answered` or `dismissed`, that are `unknown`
    in its session, or only some of the open ones (`incomplete`). `requests` are the ids of those, or of the missing
    ones.
    """

    reason: Literal["answered", "dismissed", "unknown", "incomplete"]
    requests: list[str]


class Overlaps(Struct, frozen=True):
    """Nothing was stored but the move of its schedule: the run before has not ended."""


class ScheduleMoved(Struct, frozen=True):
    """Nothing was stored: the schedule of the run has another next time, or is gone."""


class JoinedSince(Struct, frozen=True):
    """Nothing was stored: other runs have joined the one that it replaces than those whose inputs it has."""


class Unresolvable(Struct, frozen=True):
    """Nothing was stored: the run has no tool of unknown outcome, or history has continued, or a run has begun since
    (`gone`); the resolution is about `tools` whose outcome is known (`known`), or not about these (`incomplete`).
    """

    reason: Literal["gone", "known", "incomplete"]
    tools: list[str] = []


class Unreachable(Struct, frozen=True):
    """Nothing was stored: history cannot continue after the run that was named, or from where it began.

    It is `unknown` in the session (or deleted), has `not_ended`, was `discarded`, has `left_nothing` in history, or has
    asked a person and was `answered` (by `run`, if that is kept): its last round is closed by another run.
    """

    reason: Literal["unknown", "not_ended", "discarded", "left_nothing", "answered"]
    run: RunId | None = None


AcceptAnswer = (
    Accepted
    | Refused
    | Attached
    | Reused
    | Unanswerable
    | Unresolvable
    | Unreachable
    | JoinedSince
    | Overlaps
    | ScheduleMoved
)


class ClaimResult(StrEnum):
    """The result of claiming a session's next run."""

    CLAIMED = "claimed"
    """Its claim is delivered through `claims()`."""
    NOTHING = "nothing"
    """Nothing waits in the session, or one of its runs is claimed."""
    BLOCKED = "blocked"
    """The next run is a last attempt and another last attempt runs; try again when that one has ended."""


class SessionReport(Struct, frozen=True):
    """Where the event of a change of a session is sent, unless its options say; None: nowhere.

    It is left out if as many events of its principal are left as `deliveries`: a change is never refused for it.
    """

    webhook: RunWebhook | None = None
    deliveries: int | None = None


NO_REPORT: Final = SessionReport()


class Delete(Struct, frozen=True):
    """Delete a session with its history, state and ended runs. Busy while a run of it waits, executes or is held.

    With `ended_before` (seconds since the epoch), delete it only if it has been at rest since before then: its last run
    ended earlier, no question is open, it has no schedule, and it is neither paused nor was resumed since. Else Busy.
    """

    key: SessionKey
    ended_before: float | None = None
    report: SessionReport = NO_REPORT


class EndWaiting(Struct, frozen=True):
    """End a waiting run with `outcome`, failed or cancelled; it leaves no trace in history.

    Busy if the run was ever claimed (history may need its messages), or has ended.
    """

    key: SessionKey
    run_id: RunId
    outcome: Outcome


class EndOverdue(Struct, frozen=True):
    """Have the delayed runs of a session queue whose `not_before` has passed, in the order of that, and end the waiting
    runs whose time is over.

    Those whose `queue_deadline` has passed end with `outcome` and leave no trace in history; none ends while the
    session is paused or held, since queue deadlines stop then. Requeued ones whose `timeout_s` has passed since their
    first start end as timed out, closed by their checkpoints; `drop`: as discarded. Answered by `Stopped`.
    """

    key: SessionKey
    outcome: Outcome
    drop: bool = False


class Cancel(Struct, frozen=True):
    """End a principal's run: a waiting one at once, an executing one as soon as its owner can.

    Answered by `Stopped`, by `Busy` if it has reached the run that it joins, by `Ended` if it has ended, by
    `Changed(existed=False)` if there is no such run.
    """

    principal: Principal
    run_id: RunId


class CancelSession(Struct, frozen=True):
    """End all waiting runs of a session; with `running` also the one that executes, or the open question. Answered like
    `Cancel`."""

    key: SessionKey
    running: bool


class Move(Struct, frozen=True):
    """Give a waiting run another priority, or with None the last place of `Lane.FRONT`.

    A delayed run stays delayed with another priority; in `Lane.FRONT` it waits for its turn at once.
    Busy if it executes or has begun, `Ended` if it has ended, `Changed(existed=False)` if there is no such run.
    """

    principal: Principal
    run_id: RunId
    priority: int | None


class Edit(Struct, frozen=True):
    """Replace what a waiting run asks for: its input, its metadata as a whole, its priority as `Move` does; None stays.

    Answered by `Edited`; by `Outdated` if `expected` has not its edition (`rules.edition`), by `Busy` if it has begun,
    has reached the run that it joins, or answers a question, by `Ended`, by `Refused` if more than `stored_bytes` would
    be stored for its principal, by `Changed(existed=False)` if there is no such run. Its key stands for what it was
    accepted as.
    """

    principal: Principal
    run_id: RunId
    input: Input | None = None
    metadata: dict[str, Any] | None = None
    priority: int | None = None
    expected: frozenset[str] | None = None
    stored_bytes: int | None = None


class Pause(Struct, frozen=True):
    """Claim nothing of a session until it is resumed, across restarts; an executing run continues."""

    key: SessionKey
    report: SessionReport = NO_REPORT


class Resume(Struct, frozen=True):
    """End the pause of a session."""

    key: SessionKey
    report: SessionReport = NO_REPORT


class SetOptions(Struct, frozen=True):
    """Set run options of a session, of which None removes one; with None as `options`, remove all.

    Runs that were accepted before keep theirs. `Changed(existed=False)` if there is no such session, `Refused` if more
    than `stored_bytes` would be stored for its principal. Raises `Invalid` for options that exclude each other.
    """

    key: SessionKey
    options: Mapping[str, Any] | None
    stored_bytes: int | None = None


class Restore(Struct, frozen=True):
    """Have history continue where it ended when a superseded run of a principal was last in it; what replaced that is
    superseded.

    Answered by `Restored`, by Busy unless the session is at rest, by `Unreachable` if the run left no messages, by
    `Changed(existed=False)` if there is no such run.
    """

    principal: Principal
    run_id: RunId


class Fork(Struct, frozen=True):
    """Make a session that begins with a copy of the history of another one of its principal.

    The copy ends after run `after`, after the run with message `after`, or with None where history ends at the moment;
    an open round at its end is closed as if its question had been dismissed. Window and state are as they were there.
    Options are copied, and the records of files that runs name: of those in `files`, whose content the new session has.
    Runs, schedules, keys and a pause are not.

    Answered by `Forked`, also for the same `key` and `fingerprint` again; by `Reused` if the key stands for another
    request; by `Taken` if there is a session `key` already; by `Unreachable`; by `FilesWanted` if its runs name files
    that `files` lacks; by `Refused` if more than `stored_bytes` would be stored; by `Changed(existed=False)` if there
    is no session `source`.
    """

    key: SessionKey
    source: SessionId
    after: RunId | int | None = None
    named: str | None = None
    """The idempotency key of the request; None: it has none."""
    fingerprint: bytes = b""
    stored_bytes: int | None = None
    files: frozenset[FileId] = frozenset()


class AddSchedule(Struct, frozen=True):
    """Store a schedule of a session, which need not exist yet; `SchedulesFull` if its principal has `most` already.

    `at` is its next time (seconds since the epoch), None for none; `spec` and `state` are JSON that no journal reads.
    """

    key: SessionKey
    schedule_id: ScheduleId
    at: float | None
    spec: bytes
    state: bytes
    most: int


class ChangeSchedule(Struct, frozen=True):
    """Give a schedule another next time and record, and with `spec` also other contents, if its next time is `was`.

    Busy if it is not, `Changed(existed=False)` if there is no such schedule in the session.
    """

    key: SessionKey
    schedule_id: ScheduleId
    was: float | None
    at: float | None
    state: bytes
    spec: bytes | None = None


class DropSchedule(Struct, frozen=True):
    """Delete a schedule. Deleting a session deletes its schedules too."""

    key: SessionKey
    schedule_id: ScheduleId


class AddFile(Struct, frozen=True):
    """Store the record of a file of a session, which need not exist yet: `size` bytes that are kept elsewhere.

    `record` is JSON that no journal reads. Refused with `storage_full` if more than `stored_bytes` would be stored for
    its principal.
    """

    key: SessionKey
    file_id: FileId
    size: int
    record: bytes
    at: float
    stored_bytes: int | None = None


class NameFiles(Struct, frozen=True):
    """Note that a run names files of a session, which are then kept as long as the session.

    `Changed(existed=False)`, and nothing is noted, if the session lacks one of them.
    """

    key: SessionKey
    file_ids: tuple[FileId, ...]


class DropFile(Struct, frozen=True):
    """Delete the record of a file, with `unnamed` only if no run has named it (else Busy). Deleting a session deletes
    those of its files too."""

    key: SessionKey
    file_id: FileId
    unnamed: bool = False


class NotReceived(Struct, frozen=True):
    """An event that was not received: why, after how many attempts, and when it is sent again; None: it is dead."""

    id: str
    attempts: int
    at: float | None
    error: str


class NoteDeliveries(Struct, frozen=True):
    """Forget events that were `received`, by id, and note which ones were not. Those that are not stored (any more) do
    not matter."""

    received: tuple[str, ...]
    not_received: tuple[NotReceived, ...] = ()


class Resend(Struct, frozen=True):
    """Have an event of a principal be sent at once, as often as a new one; `Changed(existed=False)` if it is not stored
    (any more)."""

    principal: Principal
    id: str


Change = (
    Delete
    | EndWaiting
    | EndOverdue
    | Cancel
    | CancelSession
    | Move
    | Edit
    | Pause
    | Resume
    | SetOptions
    | Restore
    | Fork
    | AddSchedule
    | ChangeSchedule
    | DropSchedule
    | AddFile
    | NameFiles
    | DropFile
    | NoteDeliveries
    | Resend
)


class Changed(Struct, frozen=True):
    """The change was made. `existed` says whether there was anything to change."""

    existed: bool


class Busy(Struct, frozen=True):
    """Nothing was changed: the session or run is not (or no longer) at rest."""


class Ended(Struct, frozen=True):
    """Nothing was changed: the run has ended."""


class Edited(Struct, frozen=True):
    """The run is as requested. `parts` are the names of what was changed for that; none: it was so already."""

    parts: tuple[str, ...]


class Outdated(Struct, frozen=True):
    """Nothing was changed: the run is not as the change expects it."""


class Stopped(Struct, frozen=True):
    """The result of a cancel: the outcomes of runs that waited, and the executing runs that are now `cancelling`.

    `dismissed`: the session's open question was dismissed. `repeated` joined the one that is `cancelling`, and are said
    again by the run that replaces it: they end with it, whether it had heard of them or not.
    """

    ended: dict[RunId, Outcome]
    cancelling: list[RunId]
    dismissed: bool = False
    repeated: list[JoinedInput] = []


class SchedulesFull(Struct, frozen=True):
    """Nothing was changed: the principal has as many schedules as it may have."""


class Restored(Struct, frozen=True):
    """History continues with a run that was superseded. `start` is the message with which the new branch begins, None
    if nothing was to be done.

    `forgotten`: window and state as they were then are not kept any more.
    """

    key: SessionKey
    start: int | None = None
    forgotten: bool = False


class Forked(Struct, frozen=True):
    """There is a session that begins with the first `messages` messages of another one.

    `forgotten`: window and state as they were there are not kept. `replayed`: an earlier request had made it.
    `workspace` is what became of the workspace if it was to be copied: `copied`, or `kept` if the new session had one
    already. A journal knows nothing of it.
    """

    key: SessionKey
    origin: ForkedFrom
    messages: int
    forgotten: bool = False
    replayed: bool = False
    workspace: Literal["copied", "kept"] | None = None


class Taken(Struct, frozen=True):
    """Nothing was changed: there is a session of this id."""


class FilesWanted(Struct, frozen=True):
    """Nothing was changed: the new session needs the content of these files first."""

    file_ids: tuple[FileId, ...]


ChangeAnswer = (
    Changed
    | Busy
    | Ended
    | Edited
    | Outdated
    | Stopped
    | Refused
    | SchedulesFull
    | Restored
    | Unreachable
    | Forked
    | Taken
    | FilesWanted
    | Reused
)


class Query(Struct, Generic[A], frozen=True):
    """A read, with the type of its answer."""


class RunQuery(Query[Run | None], frozen=True):
    """One run of a principal, by id."""

    principal: Principal
    run_id: RunId


class RunKeyQuery(Query[SessionKey | None], frozen=True):
    """The session of one run of a principal, by the run's id."""

    principal: Principal
    run_id: RunId


class DismissedQuery(Query[bool], frozen=True):
    """Whether the input requests of a principal's run were dismissed."""

    principal: Principal
    run_id: RunId


class AnswersQuery(Query["Answers"], frozen=True):
    """The runs that answer the question of a principal's run, and the questions of those in turn; at most `most`."""

    principal: Principal
    run_id: RunId
    most: int = 100


class Answers(Struct, frozen=True):
    """Runs, in order. `dismissed`: the question of the last one is, or of the run itself if there is none."""

    runs: list[RunId]
    dismissed: bool = False


class DeletedQuery(Query[bool], frozen=True):
    """Whether a session was deleted after `since` (seconds since the epoch): what it had accepted is not known then.

    A journal with a single owner says no: only servers send the requests of their clients again.
    """

    key: SessionKey
    since: float


class OpenTool(Struct, frozen=True):
    """A tool call whose outcome is unknown."""

    tool_use_id: str
    name: str
    input: Any


class UnresolvedQuery(Query[list[OpenTool]], frozen=True):
    """The tools whose outcome is unknown of a principal's crashed run that can continue; none: it cannot."""

    principal: Principal
    run_id: RunId


class JoinedQuery(Query[list[Input]], frozen=True):
    """What the runs said that have joined a run of a session, whether it has ended or not, in order of sequence."""

    key: SessionKey
    run_id: RunId


class Effect(Struct, frozen=True):
    """A tool that has acted, or perhaps; its run is None if that is deleted."""

    run_id: RunId | None
    tool_use_id: str
    name: str


class SupersededQuery(Query["Superseded"], frozen=True):
    """What a run of a session supersedes that goes back, or has superseded; or the branch that begins with message
    `start`."""

    key: SessionKey
    run_id: RunId | None = None
    start: int | None = None


class Superseded(Struct, frozen=True):
    """Superseded runs, in the order of history, as far as they are kept, and those of their tools that have acted.

    `effects` is None if the tools of one of them cannot be seen. `forgotten`: window and state as they were at the
    place that the run goes back to were not kept.
    """

    runs: list[RunId]
    effects: list[Effect] | None
    forgotten: bool = False


class ConversationQuery(Query["Conversation"], frozen=True):
    """The turns of a session, superseded ones too, compared with the messages that a client lists (their texts as
    `_history.listed` makes them); at most the last `MOST_LISTED`, and fewer if their inputs are large."""

    key: SessionKey
    listed: tuple[str, ...]


class Turned(Struct, frozen=True, gc=False):
    """What one run said. `like` are the numbers of the listed messages that are equal to it.

    `by_list`: it came with a list itself. `run_id` is None if it is deleted.
    """

    run_id: RunId | None
    like: tuple[int, ...]
    by_list: bool = False
    is_listed: bool = True
    """Whether clients list it: not so an answer to input requests that is no text."""


class ConversationTurn(Struct, frozen=True, gc=False):
    """A run and all that joined it, in order. `before` is the number of the turn that it continues, None: of none."""

    said: tuple[Turned, ...]
    before: int | None


class Conversation(Struct, frozen=True):
    """The turns of a session, in the order in which they were closed. `end` is the number of the turn at the end of
    history, None if it is empty.

    `coming` have not ended. `is_whole`: no earlier turn was left out.
    """

    turns: list[ConversationTurn] = []
    end: int | None = None
    coming: list[Turned] = []
    is_whole: bool = True


BY_LIST: Final = "client_history"
"""The name in a run's metadata of how it follows its client's list of messages, if it came with one."""


class TreeQuery(Query["SessionTree | None"], frozen=True):
    """The branches of a session, and its forks: the last `most` of each."""

    key: SessionKey
    most: int = 100


class TreeBranch(Struct, frozen=True, kw_only=True):
    """A branch of a history: its `messages` messages from message `start` on, which names it.

    It continues branch `parent` (None: it is the first one) after message `after` (None: from the beginning), which run
    `after_run` has left. Its messages are of the runs `first_run` to `last_run`, from the start of one to the end of
    the other; each is None if it is deleted or only copied. Those from `superseded_from` on are superseded.
    """

    start: int
    messages: int
    parent: int | None
    after: int | None
    after_run: RunId | None
    first_run: RunId | None
    last_run: RunId | None
    began_at: float | None
    ended_at: float | None
    superseded_from: int | None


class TreeFork(Struct, frozen=True):
    """A session that began with the first `messages` messages of another one, the last of which is on `branch` there
    and was left by run `run_id`, if that is kept."""

    session_id: SessionId
    run_id: RunId | None
    messages: int
    branch: int


class SessionTree(Struct, frozen=True, kw_only=True):
    """The branches of a session in the order in which they began, and the sessions that were forked from it.

    `is_whole`: no earlier ones were left out.
    """

    key: SessionKey
    messages: int
    branches: list[TreeBranch]
    forks: list[TreeFork]
    forked_from: ForkedFrom | None = None
    is_whole: bool = True


class HistoryQuery(Query["HistoryPage"], frozen=True):
    """The last `limit` messages of a session before index `before` (None: its end), oldest first.

    Messages of discarded runs count, but are left out of the page unless `discarded`; so are superseded ones unless
    `superseded`.

    `most_bytes` bounds the page, counted as the bytes of JSON that `strandline._encoding.encode_messages` makes of each
    message, including those left out. A page always has room for one message. None: no bound.
    """

    key: SessionKey
    before: int | None = None
    limit: int = 100
    discarded: bool = False
    most_bytes: int | None = None
    superseded: bool = False


class HistoryPage(Struct, frozen=True):
    """Messages of history from index `first` on; 0 is the beginning."""

    messages: list[Message]
    first: int
    discarded: list[int] = []
    """The indices in `messages` of those of discarded runs."""
    pending: bool = False
    """Whether the last message's round is open: its tools wait for input, or resume with it."""
    indices: list[int] = []
    """The index of each message in history, which never changes."""
    runs: list[RunId | None] = []
    """The run that left each message; None if it is deleted, or if the message closes a dismissed question."""
    superseded: list[int] = []
    """The indices in `messages` of superseded ones."""


SKIPPED_INPUT_DIVISOR: Final = 128
"""How many bytes of a skipped input count as one byte of a page of runs."""


class RunsQuery(Query["RunsPage"], frozen=True):
    """Runs of a session: those that wait, the last of the queue first, then the one that executes, then the ended ones,
    the latest end first. `cursor` is None for the first page, else `after` of the page before.

    `most_bytes` bounds the outcomes and metadata of the page, counted as the bytes of JSON that
    `strandline._encoding.encode_messages` makes of each. Inputs are not read, but a journal may have to skip them on
    disk: each counts as its bytes divided by `SKIPPED_INPUT_DIVISOR`, rounded down. A page always has room for one run.
    None: no bound.
    """

    key: SessionKey
    cursor: str | None = None
    limit: int = 100
    most_bytes: int | None = None


class WaitingQuery(Query["WaitingRuns"], frozen=True):
    """The first `runs` runs of a session that wait: those that are to reach the run that executes, then the queue, the
    next one first; and the inputs of the first `inputs` of them. Delayed runs do not wait yet.

    `most_bytes` bounds the inputs together, as stored: one that does not fit any more is not read. None: no bound.
    """

    key: SessionKey
    runs: int
    inputs: int
    most_bytes: int | None = None


class WaitingRuns(Struct, frozen=True):
    """Runs that wait, and how many there are in all. Those that cannot be read are only counted.

    `inputs` are those of the first ones of `runs`; None: it was not read.
    """

    count: int
    runs: list[RunSummary] = []
    inputs: list[Input | None] = []


class RunsOfQuery(Query["RunsPage"], frozen=True):
    """Runs of all sessions of a principal with one of these statuses (none: all), the last accepted first.

    `cursor` is None for the first page, else `after` of the page before. A page may have fewer than `limit` runs
    although more follow. `most_bytes` as in `RunsQuery`.
    """

    principal: Principal
    statuses: frozenset[RunStatus] = frozenset()
    cursor: str | None = None
    limit: int = 100
    most_bytes: int | None = None


class RunsPage(Struct, frozen=True):
    """Up to `limit` runs, and the cursor of the next page, None at the end. Runs may be pruned between pages.

    `damaged` are the ids of runs on this page whose records cannot be read. Inputs are not read: a run with a damaged
    input is listed like any other.
    """

    runs: list[RunSummary]
    after: str | None
    damaged: list[RunId] = []


class SessionQuery(Query[SessionView | None], frozen=True):
    """One session."""

    key: SessionKey


class SessionsQuery(Query["SessionPage"], frozen=True):
    """Up to `limit` sessions of a principal (None: of all) after `after`, in the order of principal and id.

    `most_bytes` bounds the open questions of the page, counted as their bytes of stored JSON. A page always has room
    for one session.
    """

    principal: Principal | None
    after: SessionKey | None = None
    limit: int = 100
    most_bytes: int | None = None


class SessionPage(Struct, frozen=True):
    """Some sessions, and the one before the next page, None at the end.

    `damaged` are the keys of sessions on this page that cannot be read.
    """

    sessions: list[SessionView]
    after: SessionKey | None
    damaged: list[SessionKey] = []


class RestingQuery(Query["RestingPage"], frozen=True):
    """Up to `limit` sessions of all principals that `Delete` with `ended_before=before` would delete.

    `cursor` is 0 for the first page, else `after` of the page before. A page may have fewer than `limit` sessions, or
    none, although more follow, since each costs a bounded time however many sessions there are.
    """

    before: float
    cursor: int = 0
    limit: int = 100


class RestingPage(Struct, frozen=True):
    """Some sessions, and the cursor of the next page, None at the end."""

    keys: list[SessionKey]
    after: int | None


class StoredSchedule(Struct, frozen=True):
    """A schedule as stored."""

    schedule_id: ScheduleId
    key: SessionKey
    next_at: float | None
    spec: bytes
    state: bytes


class ScheduleQuery(Query[StoredSchedule | None], frozen=True):
    """One schedule of a principal, by id."""

    principal: Principal
    schedule_id: ScheduleId


class SchedulesQuery(Query["StoredSchedules"], frozen=True):
    """Up to `limit` schedules of a principal, in one session or all, after an id, in the order of ids."""

    principal: Principal
    session: SessionId | None = None
    after: ScheduleId | None = None
    limit: int = 100


class StoredSchedules(Struct, frozen=True):
    """Some schedules, and the id before the next page, None at the end. `damaged` are those that cannot be read."""

    schedules: list[StoredSchedule]
    after: ScheduleId | None
    damaged: list[ScheduleId] = []


class ScheduleTimesQuery(Query[list[tuple[ScheduleId, SessionKey, float]]], frozen=True):
    """The next times of up to `limit` schedules of all principals that have one, after an id, in the order of ids."""

    after: ScheduleId
    limit: int = 1000


class StoredFile(Struct, frozen=True):
    """The record of a file as stored. `named`: a run names it."""

    file_id: FileId
    key: SessionKey
    size: int
    record: bytes
    at: float
    named: bool


class FileQuery(Query[StoredFile | None], frozen=True):
    """One file of a session."""

    key: SessionKey
    file_id: FileId


class FilesQuery(Query["StoredFiles"], frozen=True):
    """Up to `limit` files of a session in the order of their ids, after one; or of all sessions, after the place where
    a page ended. With `before` those that no run names, and that were stored before a time."""

    key: SessionKey | None = None
    after: str | None = None
    limit: int = 100
    before: float | None = None


class StoredFiles(Struct, frozen=True):
    """Some files, and what the next page comes after: an id, or a place; None at the end. `damaged` are those that
    cannot be read."""

    files: list[StoredFile]
    after: str | None
    damaged: list[FileId] = []


class StoredBytesQuery(Query[int], frozen=True):
    """How many bytes are stored for a principal."""

    principal: Principal


class StoredDelivery(Struct, frozen=True):
    """An event to send, as stored; `body` is None if it is damaged. `at` is when it is sent; None: it is dead."""

    id: str
    key: SessionKey
    host: str
    created_at: float
    at: float | None
    attempts: int
    error: str | None
    body: bytes | None


class DueDeliveries(Struct, frozen=True):
    """Events to send, and when the next one after the time of the query is due; None: none is."""

    deliveries: list[StoredDelivery]
    next_at: float | None


class DueDeliveriesQuery(Query[DueDeliveries], frozen=True):
    """Up to `limit` events of all principals that are due at `now`, those that are due for longest first, after one of
    them (when it is due, and its id), and without those of some principals for some hosts."""

    now: float
    limit: int
    without: tuple[tuple[Principal, str], ...] = ()
    after: tuple[float, str] = (0.0, "")


class DeliveriesQuery(Query[list[StoredDelivery]], frozen=True):
    """Up to `limit` events of a principal after an id, in the order of ids: all, or those that are dead, or are not."""

    principal: Principal
    dead: bool | None = None
    after: str = ""
    limit: int = 100


class DeliveriesLeftQuery(Query["DeliveriesLeft"], frozen=True):
    """How many events of all principals are stored."""


class DeliveriesLeft(Struct, frozen=True):
    """How many events wait to be sent and are dead, and since when the oldest that waits does."""

    waiting: int
    dead: int
    oldest: float | None


class StoredQuery(Query["Stored"], frozen=True):
    """How many bytes are stored, as `Bounds.stored_bytes` counts them."""


class Stored(Struct, frozen=True):
    """In bytes: of all principals together, and of the largest one."""

    total: int
    largest: int


class AgentStateQuery(Query["AgentState"], frozen=True):
    """Window and state of a session's agent as stored, without the messages."""

    key: SessionKey


class AgentState(Struct, frozen=True):
    """What an agent is rebuilt from beside the messages; an unknown session has the empty window and no state."""

    window: Window
    state: StateRecord | None


class Sessions(Protocol):
    """What waits and executes in an open journal, as decided (slightly before it is durable).

    `now` is in seconds since the epoch. Nothing here blocks. Use it on the loop that opened the journal.
    """

    @property
    def waiting(self) -> int:
        """How many runs wait."""
        ...

    @property
    def most_waiting(self) -> int:
        """How many runs wait in the longest queue; takes time for each run."""
        ...

    @property
    def oldest(self) -> float | None:
        """Since when the longest-waiting run waits for its turn (seconds since the epoch); takes time for each run."""
        ...

    @property
    def delayed(self) -> int:
        """How many of the waiting runs are delayed; takes time for each run."""
        ...

    def waiting_of(self) -> Mapping[Principal, int]:
        """Return how many runs of each principal wait."""
        ...

    def claimed_of(self) -> Mapping[Principal, int]:
        """Return how many runs of each principal execute or are held; takes time for each run."""
        ...

    def watch(self, moved: Callable[[SessionKey], None]) -> None:
        """Call `moved` with each session in which runs wait, and from now on with each that may have changed.

        The call comes in the middle of an operation.
        """
        ...

    def watch_deliveries(self, stored: Callable[[], object]) -> None:
        """Call `stored` whenever events to send are durable, in the middle of a commit."""
        ...

    def is_waiting(self, run_id: RunId) -> bool:
        """Return whether a run waits."""
        ...

    def has_pending(self, run_id: RunId) -> bool:
        """Return whether runs wait to reach this one, which they join."""
        ...

    def host_of(self, run_id: RunId) -> RunId | None:
        """Return the host whose turn a run has; None for a run that waits, or has a turn of its own."""
        ...

    def is_live(self, run_id: RunId) -> bool:
        """Return whether a run waits or executes."""
        ...

    def position(self, run_id: RunId) -> int | None:
        """Return a run's position in its queue, 1 for the next to start; None unless it waits."""
        ...

    def is_idle(self, key: SessionKey) -> bool:
        """Return whether nothing of a session is claimed or waits for its turn; delayed runs may wait for theirs."""
        ...

    def not_before(self, run_id: RunId) -> float | None:
        """Return until when (seconds since the epoch) a run is delayed; None if it is not."""
        ...

    def delayed_until(self, key: SessionKey) -> float | None:
        """Return when the next run of a session is due if only delayed ones wait in it; None: it waits for a turn."""
        ...

    def collects_until(self, key: SessionKey, now: float, position: int = 1) -> float | None:
        """Return until when (seconds since the epoch) the run at a position of a session waits for others of the next
        turn; None if it does not, or is not part of that."""
        ...

    def executes(self, key: SessionKey) -> bool:
        """Return whether a run of a session executes."""
        ...

    def is_paused(self, key: SessionKey) -> bool:
        """Return whether runs wait in a session that is paused."""
        ...

    def input_until(self, key: SessionKey, now: float) -> float | None:
        """Return until when (seconds since the epoch) runs of a session wait for an answer; None if they do not."""
        ...

    def cannot_claim(self, key: SessionKey, now: float) -> ClaimResult | None:
        """Return why `claim_next` would claim nothing now; None if it would claim."""
        ...

    def refusal(self, new: NewRun, most: int) -> Refused | None:
        """Return the refusal of a run without a key or policy if `most` runs wait in its session already."""
        ...

    @property
    def next_due(self) -> float | None:
        """When something may be due, in seconds since the epoch; None: never."""
        ...

    def due(self, now: float) -> list[SessionKey]:
        """Return the sessions with overdue runs, or delayed ones that are due; until something is done they are due
        again soon.

        `moved` is called with other sessions that no longer wait for input.
        """
        ...


class Gained(Struct, frozen=True):
    """Sessions are this server's from now on: those in `partitions`. `orphans` are the claims that their former owners
    had, with new tokens: finish or release each. Their holds are over.
    """

    partitions: frozenset[int]
    orphans: list[Claim]


class Ceded(Struct, frozen=True):
    """Sessions are another server's from now on: those in `partitions`. Nothing of them was claimed."""

    partitions: frozenset[int]


@runtime_checkable
class OnDisk(Protocol):
    """A journal on a disk, with a reserve for the runs that were accepted."""

    @property
    def file(self) -> Path:
        """The journal's file, which identifies the disk."""
        ...

    async def grant_room(self, size: int) -> bool:
        """Return whether another part of the server may write `size` bytes to this disk; False if accepted runs may
        need the space.

        Granted bytes count as written. Raises `JournalUnavailable` while nothing can be stored.
        """
        ...


@runtime_checkable
class Leased(Protocol):
    """What a journal has besides that is owned for a time only, and may be lost to another server."""

    async def until_lost(self) -> str:
        """Return, in words for people, once the journal may be another server's: nothing may execute any more."""
        ...


class Journal(Protocol):
    """Stores accepted runs and history. See the module's invariants."""

    @property
    def epoch(self) -> int:
        """How many owners the journal has had, including the current one."""
        ...

    @property
    def secret(self) -> bytes:
        """What the servers over this journal know, and nobody else: 32 bytes, to sign with. Empty before `open`."""
        ...

    def epoch_of(self, key: SessionKey) -> int:
        """Return how many owners a session has had, including the current one. It is this server's."""
        ...

    def owned_until(self) -> float | None:
        """Return until when, by `Clock.boottime`, user code may start here; None: until `close`.

        May be called from any thread; never blocks. It moves on while the journal is this server's.
        """
        ...

    @property
    def trouble(self) -> str | None:
        """Why nothing can be stored at the moment, for people; None: it can, as far as is known. Never blocks.

        Set soon after an operation fails by it, and cleared without an operation once it is over. An operation that
        fails for a reason of its own (a damaged record, a value too large) is no trouble.
        """
        ...

    @property
    def is_silent(self) -> bool:
        """Whether what stores the journal answers nothing at the moment. That may become trouble. Never blocks."""
        ...

    @property
    def low_disk(self) -> str | None:
        """Why the disk is too full for new runs although accepted ones continue, for people; None: it is not.

        The space that is left is reserved for accepted runs. As far as is known; never blocks.
        """
        ...

    @property
    def sessions(self) -> Sessions:
        """What waits and executes; empty before the journal is opened."""
        ...

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        """Take ownership, fence every older owner, and return the claims that it had, with new tokens.

        `claims()` does not deliver the returned claims: finish or release each. Holds are over, since no thread of an
        older owner is alive. Raises a `JournalError` that says what to do; the file is unchanged then.
        """
        ...

    def claims(self) -> AsyncIterator[Claim]:
        """Yield every claim once, when it is durable, until the journal is closed. One consumer."""
        ...

    def moves(self) -> AsyncIterator[Gained | Ceded]:
        """Yield what is gained after `open`, and what is ceded, in order. One consumer.

        Ends when the journal is closed, or at once if it has one owner for all.

        An operation on a session of another server raises `NotOwner`, and changes nothing. Queries are answered for all
        sessions.
        """
        ...

    async def leave(self) -> None:
        """Hand over to other servers what rests, and the rest as its runs end, until `close`. Without others nothing
        happens. Raises `JournalUnavailable`.
        """
        ...

    def stay(self, key: SessionKey) -> None:
        """Hand a session of ours over at `close` and not before: code that began in it still executes here."""
        ...

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        """Store a run, or refuse it over `bounds`; with `claim_next`, claim it if its session is free and it is first.

        `if_busy` takes effect in the same transaction, unless the run is refused: an interrupt cancels what has begun
        in the session (the run that executes and requeued ones), a rollback discards it too.

        The key of a `keyed` run is checked first: if it stands for a run, nothing is stored and `bounds` do not matter.
        A refusal is not stored. The key of a run is deleted with it.

        A run that `fires` a schedule is accepted only if its `at` is still the next time of that schedule, which moves
        in the same transaction; else `ScheduleMoved`. So each time fires once.
        """
        ...

    async def claim_next(self, key: SessionKey) -> ClaimResult:
        """Claim the session's next run, counting an attempt."""
        ...

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        """Store what a running run has done so far."""
        ...

    async def apply_joins(
        self, token: FencingToken, messages: list[Message], as_read: AsRead = ...
    ) -> list[JoinedInput]:
        """Have the runs that wait for a running run reach it, and return them with their inputs, in order of sequence.

        The inputs are stored as `as_read` returns them. One checkpoint stores this, with the run's `messages` since the
        last one, to the last of which (the user's) they are added. Without such runs, or after a cancel, nothing is
        stored.
        """
        ...

    async def finish(
        self, token: FencingToken, completion: Completion, *, claim_next: bool, hold: bool = False
    ) -> ClaimResult:
        """End a run: store outcome, messages, window and state in one commit.

        With `claim_next`, also claim the session's next run. With `hold`, keep the claim until `release` and claim
        nothing.
        """
        ...

    async def release(self, token: FencingToken, *, counted: bool) -> None:
        """Requeue a running run at the head of its queue with its checkpoints, or end the hold of one that has ended.

        With `counted` False the attempt of the requeued run does not count.
        """
        ...

    async def change(self, change: Change) -> ChangeAnswer:
        """Apply a requested change."""
        ...

    async def prune(self, before: float, limit: int) -> int:
        """Delete up to `limit` runs that ended before `before` (seconds since the epoch), in the order of acceptance.

        Their messages stay in history. Returns how many were deleted; fewer than `limit` means that none are left. May
        take several transactions.
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
