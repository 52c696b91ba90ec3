"""The rows that a decision of the session table writes, in the order in which a store must write them.

Values only, so that a store may write them later, or again. `bytes` are JSON by `strandline._encoding`, without a
checksum. `session` identifies the session by number, key and checksum.
"""

from typing import Final

from msgspec import Struct

from strandline._encoding import encode_messages
from strandline._journal.checksums import CHECKSUM_BYTES, key_crc
from strandline._journal.rules import Closed, joined_outcome
from strandline._model import Completion, FileId, JoinState, NewRun, Run, RunId, RunStatus, ScheduleId, SessionKey

COPIED_RUN: Final = -2
COPIED_QUESTION: Final = -3
"""In place of the run of a row of history that was copied: one that has ended, and one that has asked a person."""


class SessionRef(Struct, frozen=True, gc=False):
    """A session: its number in storage, its key, and the checksum of its key."""

    no: int
    key: SessionKey
    crc: int

    @classmethod
    def of(cls, no: int, key: SessionKey) -> "SessionRef":
        """Return a session by number and key."""
        return cls(no, key, key_crc(key))


class Body(Struct, frozen=True, gc=False):
    """The encoded parts of a run's request; None for what it does not have."""

    prompt: bytes
    metadata: bytes | None
    trace: bytes | None
    sender: bytes | None = None
    back: bytes | None = None
    webhook: bytes | None = None
    collect: bytes | None = None

    @property
    def size(self) -> int:
        """How many stored bytes it counts as, with checksums."""
        size = len(self.prompt) + CHECKSUM_BYTES
        return size if self.metadata is None else size + len(self.metadata) + CHECKSUM_BYTES


class EncodedCompletion(Struct, frozen=True, gc=False):
    """A completion, encoded; None for nothing, or no change. `length` is the number of messages."""

    status: RunStatus
    outcome: bytes
    messages: bytes | None
    length: int
    window: bytes | None = None
    state: bytes | None = None
    discarded: bool = False
    question: bytes | None = None
    answer_within_s: float = 0.0
    joined: tuple[RunId, ...] = ()
    joined_outcome: bytes = b""
    """The outcome of the runs that joined."""
    unresolved: bool = False


class Change(Struct, frozen=True, gc=False):
    """A row to write, or to delete."""


class AddSession(Change, frozen=True, gc=False):
    """A new session."""

    session: SessionRef


class ChangeSession(Change, frozen=True, gc=False):
    """Whether and since when a session is closed, and since when it rests."""

    no: int
    paused: bool
    closed_since: float | None
    rests_since: float | None


class StoreOptions(Change, frozen=True, gc=False):
    """The default options of a session's runs, with their checksum; None: none."""

    session: SessionRef
    options: bytes | None


class ChangeCourse(Change, frozen=True, gc=False):
    """The message with which a session's last branch begins, and the sequence of its last run if a tool's outcome in it
    is unknown; None: it has none."""

    no: int
    branch: int | None
    unresolved: int | None


class AddBranch(Change, frozen=True, gc=False):
    """Messages of a session from `start` on continue those before `upto` in the branch that begins with `parent`.

    `run` is the sequence of the run that began it, None if a person did without one. `forgotten`: window and state as
    they were there were not kept.
    """

    no: int
    start: int
    parent: int
    upto: int
    run: int | None
    forgotten: bool


class DropSession(Change, frozen=True, gc=False):
    """A session to delete at `at`, with all its runs and history: `rows` rows, of which `last` is the newest."""

    session: SessionRef
    last: int | None
    rows: int
    at: float


class AddRun(Change, frozen=True, gc=False):
    """A new run. With a `fence` it is claimed at once, its first attempt started at `started_at`."""

    session: SessionRef
    seq: int
    new: NewRun
    body: Body
    lane: int
    urgency: int
    queue_deadline: float | None
    fence: int | None
    started_at: float | None
    host: RunId | None = None
    join: JoinState | None = None


class ChangeRun(Change, frozen=True, gc=False):
    """All columns of a run that change before it has ended. It has a `fence` if it executes.

    `was` is the fence that it has in storage, None if it waits there.
    """

    seq: int
    was: int | None
    lane: int
    urgency: int
    moved: int | None
    attempt: int
    fence: int | None
    is_last: bool
    started_at: float | None
    queue_deadline: float | None
    cancel_requested: bool
    discard: bool


class EditRun(Change, frozen=True, gc=False):
    """The input and metadata of a waiting run, as edited."""

    session: SessionRef
    seq: int
    body: Body


class DueRun(Change, frozen=True, gc=False):
    """A delayed run that queues: its sequence, and each checksum with it, becomes `drawn`."""

    session: SessionRef
    seq: int
    drawn: int
    lane: int
    urgency: int


class ChangeJoin(Change, frozen=True, gc=False):
    """Where a run that joins stands, whom it joins, and since when its message is with its host. It has no claim."""

    seq: int
    join: str
    host: str | None
    started_at: float | None


class EndRun(Change, frozen=True, gc=False):
    """The end of a run. It stays claimed with `fence` if it is held. `was` as in `ChangeRun`."""

    session: SessionRef
    seq: int
    was: int | None
    status: RunStatus
    outcome: bytes
    attempt: int
    started_at: float | None
    ended_at: float
    fence: int | None
    discarded: bool


class EndHold(Change, frozen=True, gc=False):
    """The end of the claim of a run that has ended."""

    seq: int
    fence: int


class AddHistory(Change, frozen=True, gc=False):
    """A row of history, with `length` messages from index `first` on. `run` is a sequence, -1 for none.

    It is the last one of its session, which is at rest from then on. `agent` is the run that has changed window or
    state last, as in `Place`.
    """

    session: SessionRef
    row: int
    nth: int
    first: int
    length: int
    previous: int | None
    run: int
    discarded: bool
    messages: bytes | None
    rests_since: float
    agent: int | None


class StoreAgent(Change, frozen=True, gc=False):
    """The changed parts of what an agent is rebuilt from, and all of it as it is after the run with sequence `run`, if
    one left it."""

    session: SessionRef
    run: int | None
    window: bytes | None
    state: bytes | None


class ResetAgent(Change, frozen=True, gc=False):
    """What a session's agent is rebuilt from is what it was after run `run`, as long as that is kept.

    Else, and with `NO_AGENT`, that is the whole history, and no state.
    """

    no: int
    run: int


class CopyHistory(Change, frozen=True, gc=False):
    """The first `count` rows of a session's history, up to row `last`, copied as those of another one.

    They get the numbers `row`, `row + step`, and so on. Where `kept` had changed window or state last, what the copy
    was made with is as it was there; the last row has `agent`.
    """

    session: SessionRef
    source: SessionRef
    last: int
    count: int
    size: int
    """How many bytes their messages are."""
    row: int
    step: int
    kept: int | None
    agent: int
    rests_since: float


class AddFork(Change, frozen=True, gc=False):
    """Which session another one was copied from: its number, and a record of it."""

    session: SessionRef
    source: int
    record: bytes


class AddCheckpoint(Change, frozen=True, gc=False):
    """The `nth` checkpoint of an executing run, from 0."""

    seq: int
    nth: int
    checkpoint: bytes


class DropCheckpoints(Change, frozen=True, gc=False):
    """The checkpoints of a run that has ended."""

    seq: int


class DropKey(Change, frozen=True, gc=False):
    """The expired idempotency key of a run."""

    seq: int


class AddQuestion(Change, frozen=True, gc=False):
    """The question of the run with sequence `run`; its session waits for the answer until `until`."""

    session: SessionRef
    run: int
    until: float
    question: bytes


class AnswerQuestion(Change, frozen=True, gc=False):
    """A question is answered by the run with sequence `answer`."""

    no: int
    answer: int


class DropQuestion(Change, frozen=True, gc=False):
    """The round of a session's question is closed."""

    no: int


class CloseRequest(Change, frozen=True, gc=False):
    """How an input request of the run with sequence `run` was closed."""

    no: int
    id: str
    run: int
    closed: Closed


class StoreSchedule(Change, frozen=True, gc=False):
    """A new schedule. `at` is its next time; `spec` and `state` are its records."""

    session: SessionRef
    id: ScheduleId
    at: float | None
    spec: bytes
    state: bytes


class MoveSchedule(Change, frozen=True, gc=False):
    """The next time and the record of a schedule; `spec` is None if it stays."""

    session: SessionRef
    id: ScheduleId
    at: float | None
    spec: bytes | None
    state: bytes


class ForgetSchedule(Change, frozen=True, gc=False):
    """A schedule to delete."""

    id: ScheduleId


class StoreFile(Change, frozen=True, gc=False):
    """The record of a new file of `size` bytes, which are kept elsewhere."""

    session: SessionRef
    id: FileId
    size: int
    at: float
    record: bytes
    named: bool = False


class NameFile(Change, frozen=True, gc=False):
    """A file that a run names."""

    no: int
    id: FileId


class ForgetFile(Change, frozen=True, gc=False):
    """A file whose record is to be deleted."""

    no: int
    id: FileId


class AddDelivery(Change, frozen=True, gc=False):
    """An event to send to `host` as soon as it is stored; `body` is its record."""

    session: SessionRef
    id: str
    host: str
    at: float
    body: bytes


class MoveDelivery(Change, frozen=True, gc=False):
    """When an event is sent again, None for never; `attempts` as of now, and why the last one failed."""

    id: str
    at: float | None
    attempts: int
    error: str | None


class DropDelivery(Change, frozen=True, gc=False):
    """An event that was received."""

    id: str


class CedePartitions(Change, frozen=True, gc=False):
    """Partitions that are ours no more: whatever was decided in them comes before."""

    partitions: tuple[int, ...]


def encoded_body(new: NewRun | Run) -> Body:
    """Return the encoded request of a run."""
    metadata = encode_messages(new.metadata) if new.metadata else None
    trace = encode_messages(new.trace) if new.trace else None
    sender = None if new.sender is None else encode_messages(new.sender)
    back = None if new.back is None else encode_messages(new.back)
    webhook = None if new.webhook is None else encode_messages(new.webhook)
    return Body(encode_messages(new.input), metadata, trace, sender, back, webhook)


def encode_completion(completion: Completion) -> EncodedCompletion:
    """Return a completion, encoded."""
    messages, window, state, question = (
        completion.messages, completion.window, completion.state, completion.question,
    )  # fmt: skip
    return EncodedCompletion(
        status=completion.outcome.status,
        outcome=encode_messages(completion.outcome),
        messages=encode_messages(messages) if messages else None,
        length=len(messages),
        window=None if window is None else encode_messages(window),
        state=None if state is None else encode_messages(state),
        discarded=completion.discarded,
        question=None if question is None else encode_messages(question),
        answer_within_s=completion.answer_within_s,
        joined=completion.joined,
        joined_outcome=encode_messages(joined_outcome(completion.outcome)) if completion.joined else b"",
        unresolved=completion.unresolved,
    )
