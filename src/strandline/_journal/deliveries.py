"""Events of runs and sessions that are sent to webhooks, as they are stored with what they report. Pure.

The id of an event follows from the run and from what has happened to it, so that the same one is never stored twice;
that of an event of a session from a number that is drawn for it.
"""

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import UNSET, Struct, UnsetType

from strandline._encoding import decoder, encode_messages
from strandline._journal.changes import AddDelivery, SessionRef
from strandline._journal.state import RunState
from strandline._model import InputRequest, JoinState, Outcome, RunError, RunId, RunStatus, RunWebhook, SessionId

NO_SESSION: Final = 0
"""The number that stands for the session of its last event, which is stored as it is deleted."""
MOST_OUTPUT: Final = 16 * 1024
"""How many characters of a run's output an event has at most: the run has all of it."""
_outcome: Final[Callable[[bytes], Outcome]] = decoder(Outcome)


class RunData(Struct, frozen=True, kw_only=True):
    """What an event says about its run."""

    run_id: RunId
    session_id: SessionId
    sequence: int
    status: RunStatus
    attempt: int
    joined: RunId | UnsetType = UNSET
    output: str | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    error: RunError | UnsetType = UNSET
    input_requests: list[InputRequest] | UnsetType = UNSET
    usage: dict[str, int] | UnsetType | None = UNSET


class SessionData(Struct, frozen=True):
    """What an event says about its session."""

    session_id: SessionId


class Payload(Struct, frozen=True):
    """An event of a run: `nth` distinguishes it from others of its type of the same run."""

    type: str
    data: RunData
    nth: str = ""


class Delivery(Struct, frozen=True):
    """An event to send, where to, and on whose behalf."""

    type: str
    url: str
    timestamp: float
    data: Any
    by_server: bool = False


def delivery(session: SessionRef, run: RunState, webhook: RunWebhook, event: Payload, now: float) -> AddDelivery:
    """Return an event to send, as it is stored."""
    body = Delivery(event.type, webhook.url, now, event.data, webhook.by_server)
    kind = event.type.removeprefix("run.")
    return AddDelivery(session, f"{run.run_id}_{kind}{event.nth}", host_of(webhook.url), now, encode_messages(body))


def session_delivery(session: SessionRef, kind: str, webhook: RunWebhook, number: int, now: float) -> AddDelivery:
    """Return an event of a session, `paused`, `resumed` or `deleted`, as it is stored.

    The last one is not of the session any more, and stays when that is deleted.
    """
    body = Delivery(f"session.{kind}", webhook.url, now, SessionData(session.key.session_id), webhook.by_server)
    if kind == "deleted":
        session = SessionRef.of(NO_SESSION, session.key)
    return AddDelivery(session, f"session_{number}_{kind}", host_of(webhook.url), now, encode_messages(body))


def host_of(url: str) -> str:
    """Return the receiver of a URL: its scheme, host and port."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def queued(run: RunState) -> Payload:
    """Return the event of an accepted run."""
    return Payload("run.queued", _data(run, RunStatus.QUEUED))


def started(run: RunState) -> Payload:
    """Return the event of a run that executes, or does so again."""
    return Payload("run.started", _data(run, RunStatus.RUNNING), f"_{run.fence}")


def joined(run: RunState) -> Payload:
    """Return the event of a run that has reached its host."""
    return Payload("run.joined", _data(run, RunStatus.RUNNING))


def finished(run: RunState, status: RunStatus, outcome: bytes) -> Payload:
    """Return the event of a run that has ended."""
    end = _outcome(outcome)
    return Payload(
        "run.finished",
        _data(
            run,
            status,
            output=end.output[:MOST_OUTPUT],
            truncated=True if len(end.output) > MOST_OUTPUT else UNSET,
            error=end.error or UNSET,
            input_requests=end.input_requests or UNSET,
            usage=end.usage,
        ),
    )


def _data(run: RunState, status: RunStatus, **more: Any) -> RunData:
    return RunData(
        run_id=run.run_id,
        session_id=run.session.key.session_id,
        sequence=run.seq,
        status=status,
        attempt=run.attempt,
        joined=run.host.run_id if run.host is not None and run.join is JoinState.APPLIED else UNSET,
        **more,
    )
