"""The clients' ledger: what was asked, what was answered, what was seen from outside, as plain values.

The judge reads this, the tools' ledger, and nothing else. Knows nothing of how servers work.
"""

import hashlib
import time
from collections import defaultdict
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

import judging.evidence
from judging.evidence import ENDED, Delivery, End, Feed, StoredEnd, Stream
from soak.kept import Kept

DELETED: Final = 204


class SentRequest(judging.evidence.Request, frozen=True, kw_only=True):
    """A message that was sent; its name is its label."""

    text: str
    thread: str = ""
    """The label of the message whose question this answers; none if it is a message of its own."""


class Answered(Struct, frozen=True, kw_only=True):
    """An answer of `/chat`, which came at `at_ns`; `code` is that of an error."""

    label: str
    status_code: int
    at_ns: int
    run_id: str = ""
    code: str = ""


class Cancel(Struct, frozen=True, kw_only=True):
    """A cancel of a run; `status_code` 0: its client had no answer."""

    run_id: str
    status_code: int
    force: bool = False
    answered_s: float = -1.0
    held: bool = False
    """Whether it was shown as held after it had been answered that it has ended."""


class Sweep(judging.evidence.Sweep, frozen=True, kw_only=True):
    """A cancel of a session, with the runs that it left `cancelling`."""

    status_code: int = 0
    cancelling: tuple[str, ...] = ()


class Move(judging.evidence.Move, frozen=True, kw_only=True):
    """A move of a run."""

    run_id: str
    status_code: int = 0
    code: str = ""


class Pause(judging.evidence.Pause, frozen=True, kw_only=True):
    """A session that was paused for sure, on the monotonic clock too."""

    since: int
    until: int


class Deletion(judging.evidence.Deletion, frozen=True, kw_only=True):
    """A deletion of a session. `idle`: as far as its only client knows nothing of it waits or executes.

    `unsure`: an earlier request for it had no answer. `shown` is the status of the session when it was read after
    that, 0 if it was not.
    """

    status_code: int
    idle: bool = False
    unsure: bool = False
    shown: int = 0

    @property
    def may_have_deleted(self) -> bool:
        """Whether anything can be gone because of it."""
        return self.status_code == DELETED or self.unsure


class Stored(Struct, frozen=True, kw_only=True):
    """A run in the order of acceptance, as the journal lists it."""

    sequence: int
    run_id: str
    session: str
    status: str
    attempt: int


class View(Struct, frozen=True, kw_only=True):
    """A run as `GET /v1/runs/{id}` showed it in the end; `status` 404 is one that nobody knew of."""

    status_code: int
    status: str = ""
    attempt: int = 0
    started: bool = False
    ended_at: str | None = None
    ended: End | None = None
    label: str = ""
    """As its client named it."""
    created: float = 0.0
    begun: float | None = None
    ended_s: float | None = None
    """When it was accepted, when it first started and when it ended, in seconds since the epoch."""
    priority: int = 3
    join: str | None = None
    joined: str | None = None
    """Where it stands if it joins another run, and which."""


class Struck(Struct, frozen=True, kw_only=True):
    """What befell a worker: it was killed, or stood still from `since` to `until`, in seconds since the epoch."""

    how: Literal["KILL", "STOP"]
    since: float
    until: float


Signal = Literal["KILL", "TERM", "STOP"]


class Exit(Struct, frozen=True, kw_only=True):
    """How a server's process ended. `signals` are those that it was sent; `phase` how far it was at the first."""

    server: int
    signals: tuple[Signal, ...]
    phase: Literal["starting", "waiting", "ready"]
    code: int
    complaints: tuple[str, ...] = ()
    pid: int = 0
    clock_s: float = 0.0
    """By how much its clock was off."""
    """Lines of its log that should not be there."""


class Unanswered(Struct, frozen=True, kw_only=True):
    """A request that a server did not answer."""

    server: int
    what: str


class Owned(Struct, frozen=True, kw_only=True):
    """A partition of the sessions got another owner: the process `pid`, or nobody (0).

    `at_ns` is on the monotonic clock, when the database changed it, which is before that was committed. `over`: the
    owner before had been ended, and did not hand it over itself.
    """

    partition: int
    at_ns: int
    pid: int
    over: bool = False


class Seen(Struct, frozen=True, kw_only=True):
    """A history that was read in between: its length, and a digest of its messages."""

    count: int
    digest: bytes


class Records(Struct, kw_only=True):
    """Everything that is known from outside."""

    monotonic_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    """When the monotonic clock began, in seconds since the epoch."""
    requests: dict[str, SentRequest] = field(default_factory=dict)
    answered: list[Answered] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    """The labels of messages that were sent, once or once too often, without an answer."""
    cancels: list[Cancel] = field(default_factory=list)
    sweeps: list[Sweep] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    tried_to_pause: list[str] = field(default_factory=list)
    """The session of each request to pause one, whatever became of it; each is resumed after it."""
    deletions: list[Deletion] = field(default_factory=list)
    left_at: dict[str, float] = field(default_factory=dict)
    """By label: when its client hung up, in seconds since the epoch."""
    waited_for: set[str] = field(default_factory=set)
    """The ids of runs that a second client has waited for."""
    not_found: dict[str, int] = field(default_factory=dict)
    """By run id: when it was last answered with 404, on the monotonic clock."""
    blows: list[float] = field(default_factory=list)
    """When the server that served was sent a signal, in seconds since the epoch."""
    struck: list[Struck] = field(default_factory=list)
    """What befell workers of the server that served."""
    seen_waiting: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By label: the run id that was listed while its client waited for the answer, and when that was known."""
    reported: dict[str, set[End]] = field(default_factory=lambda: defaultdict(set))
    """By run id: every end that any client received."""
    reported_at: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By run id: every `ended_at` that any client received."""
    seen: dict[str, set[Seen]] = field(default_factory=lambda: defaultdict(set))
    held: set[str] = field(default_factory=set)
    """The ids of runs that were shown as ended, with a session that waits for a thread of them."""
    most_held: int = 0
    """How many sessions waited so at once, by `/health`."""
    kept: Kept = field(default_factory=Kept)
    """What clients saw of the sessions that are theirs alone."""
    exits: list[Exit] = field(default_factory=list)
    unanswered: list[Unanswered] = field(default_factory=list)
    """What servers left without an answer that nobody had stopped."""
    owned: list[Owned] = field(default_factory=list)
    """Who owned which partition of the sessions, in the order of time; empty if one server owns all."""
    ends: list[StoredEnd] = field(default_factory=list)
    """Which server stored the end of each run, by its id in the database; empty if one server owns all."""
    streams: list[Stream] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    """What the webhook received, in order."""
    has_webhook: bool = False
    """Whether all runs have one."""
    faults: list[str] = field(default_factory=list)
    """What was seen to be wrong at once: a malformed history, a request that a healthy server did not answer, ..."""
    stored: list[Stored] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    histories: dict[str, list[Any]] = field(default_factory=dict)
    """By session, at the end, with what was rolled back."""
    hidden: dict[str, frozenset[int]] = field(default_factory=dict)
    """By session: the places of those messages that were rolled back."""
    pending: set[str] = field(default_factory=set)
    """The sessions whose last round is shown as pending."""
    left: int = 0
    """What executed, waited or was held at the end, by `/health`."""


def ended_of_chat(body: dict[str, Any]) -> End:
    """Return the end in an answer of `/chat`."""
    if body["status"] == "needs_input":
        return _requests_input(body["input_requests"])
    return End(kind="succeeded" if body["status"] == "success" else body["error_code"], text=body["response"])


def ended_of_run(run: dict[str, Any]) -> End | None:
    """Return the end in a run of the run API, None if it has not ended."""
    if run["status"] not in ENDED:
        return None
    if run["error"] is not None:
        return End(kind=run["error"]["code"], text=run["error"]["detail"] or run["error"]["code"])
    if run["status"] == "succeeded":
        return End(kind="succeeded", text=run["output"])
    if run["status"] == "needs_input":
        return _requests_input(run["input_requests"])
    return End(kind=run["status"], text=f"the run was {run['status']}")


def _requests_input(requests: list[dict[str, Any]]) -> End:
    return End(kind="needs_input", text=" ".join(f"{each['id']} {each['name']}" for each in requests))


def input_requests_of(ended: End) -> dict[str, str]:
    """Return the input requests of a run that ended so, name by id."""
    words = ended.text.split() if ended.kind == "needs_input" else []
    return dict(zip(words[::2], words[1::2], strict=True))


def digest(messages: list[Any]) -> bytes:
    """Return what is the same for the same messages only."""
    return hashlib.sha256(msgspec.json.encode(messages)).digest()
