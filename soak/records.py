"""The clients' ledger: what was asked, what was answered, what was seen from outside, as plain values.

The judge reads this, the tools' ledger, and nothing else. Knows nothing of how servers work.
"""

import hashlib
from collections import defaultdict
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "needs_input"})


class Asked(Struct, frozen=True, kw_only=True):
    """A message that was sent. `sent_ns` (monotonic clock) is before its first byte left."""

    label: str
    session: str
    text: str
    sent_ns: int
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    keyed: bool = False
    if_busy: str = "enqueue"
    priority: int = 3


class Cancel(Struct, frozen=True, kw_only=True):
    """A cancel of a run; `status_code` 0: its client was told nothing."""

    run_id: str
    status_code: int


class Answered(Struct, frozen=True, kw_only=True):
    """An answer of `/chat`, which came at `at_ns`."""

    label: str
    status_code: int
    at_ns: int
    run_id: str = ""


class Ended(Struct, frozen=True, kw_only=True):
    """How a run ended, as a client was told. `kind` is a status, or the code of an error."""

    kind: str
    text: str


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
    ended: Ended | None = None
    waited_s: float | None = None
    """From its acceptance to its start, or to its end if it never started."""
    took_s: float | None = None
    """From its first start to its end."""
    label: str = ""
    """As its client named it."""
    created: float = 0.0
    begun: float | None = None
    """When it was accepted and when it first started, in seconds since the epoch."""


class Exit(Struct, frozen=True, kw_only=True):
    """How a server's process ended. `signals` are those that it was sent; `stage` how far it was at the first."""

    server: int
    signals: tuple[Literal["KILL", "TERM"], ...]
    stage: Literal["starting", "waiting", "ready"]
    code: int
    complaints: tuple[str, ...] = ()
    """Lines of its log that should not be there."""


class Seen(Struct, frozen=True, kw_only=True):
    """A history that was read in between: its length, and a digest of its messages."""

    count: int
    digest: bytes


class Records(Struct, kw_only=True):
    """Everything that is known from outside."""

    asked: dict[str, Asked] = field(default_factory=dict)
    answered: list[Answered] = field(default_factory=list)
    unsure: set[str] = field(default_factory=set)
    """The labels of messages that were sent, once or once too often, without an answer."""
    cancels: list[Cancel] = field(default_factory=list)
    seen_waiting: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By label: the run id that was listed while its client waited for the answer, and when that was known."""
    told: dict[str, set[Ended]] = field(default_factory=lambda: defaultdict(set))
    """By run id: every end that any client was told."""
    told_at: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By run id: every `ended_at` that any client was told."""
    seen: dict[str, set[Seen]] = field(default_factory=lambda: defaultdict(set))
    held: set[str] = field(default_factory=set)
    """The ids of runs that were shown as ended, with a session that waits for a thread of them."""
    most_held: int = 0
    """How many sessions waited so at once, by `/health`."""
    exits: list[Exit] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What was seen to be wrong at once: a malformed history, a request that a healthy server did not answer, ..."""
    stored: list[Stored] = field(default_factory=list)
    views: dict[str, View] = field(default_factory=dict)
    histories: dict[str, list[Any]] = field(default_factory=dict)
    """By session, at the end, with what was rolled back."""
    hidden: dict[str, frozenset[int]] = field(default_factory=dict)
    """By session: the places of those messages that were rolled back."""
    left: int = 0
    """What executed, waited or was held at the end, by `/health`."""


def ended_of_chat(body: dict[str, Any]) -> Ended:
    """Return the end that an answer of `/chat` tells."""
    return Ended(kind="succeeded" if body["status"] == "success" else body["error_code"], text=body["response"])


def ended_of_run(run: dict[str, Any]) -> Ended | None:
    """Return the end that a run of the run API tells, None if it has not ended."""
    if run["status"] not in ENDED:
        return None
    if run["error"] is not None:
        return Ended(kind=run["error"]["code"], text=run["error"]["detail"] or run["error"]["code"])
    if run["status"] == "succeeded":
        return Ended(kind="succeeded", text=run["output"])
    return Ended(kind=run["status"], text=f"the run was {run['status']}")


def digest(messages: list[Any]) -> bytes:
    """Return what is the same for the same messages only."""
    return hashlib.sha256(msgspec.json.encode(messages)).digest()
