"""Why a request is refused: the caller's error, and the refusals that need no journal."""

from typing import Final

from strandline._engine.maintenance import Readiness
from strandline._engine.options import Options
from strandline._engine.queues import Estimates, SessionQueues
from strandline._engine.requests import not_resolvable
from strandline._journal.port import Overlaps, Refused, Reused, ScheduleMoved, Unanswerable, Unreachable, Unresolvable
from strandline._model import IfBusy, Lane, NewRun, RunId, SessionId, SessionKey
from strandline.errors import (
    AlreadyAnswered,
    CannotGoBack,
    DiskLow,
    Dismissed,
    HoldsFull,
    Invalid,
    InvariantBroken,
    KeyReused,
    NotFound,
    NotRunning,
    PrincipalFull,
    QueueFull,
    ServerFull,
    SessionBusy,
    StorageFull,
    StrandlineError,
    Unavailable,
    WebhooksFull,
)

STORAGE_FULL_S: Final = 60.0
"""The shortest `Retry-After` of what is full until somebody deletes: expired records are deleted once a minute."""


class Refusals:
    """Belongs to the serving loop."""

    def __init__(self, readiness: Readiness, queues: SessionQueues, estimates: Estimates, options: Options) -> None:
        self._readiness = readiness
        self._queues = queues
        self._estimates = estimates
        self._options = options

    def admit(self, new: NewRun) -> None:
        """Let a run go to the journal. Raises `Draining`, `NotReady`, `NoWorker`, `HoldsFull`.

        Raises `QueueFull` if its queue is full; runs with a key or a policy always go to the journal.
        """
        self._readiness.admit_run()
        principal = new.key.principal
        if self._queues.is_full(principal):
            raise HoldsFull(
                f"{self._queues.lingering(principal)} ended runs of {principal} are still executing (setting"
                " max_still_working_per_caller); its requests are refused until one of them stops",
                retry_after_s=self._options.retry_after_s,
            )

        plain = new.lane == Lane.NORMAL and new.if_busy is IfBusy.ENQUEUE and new.keyed is None
        most = self._options.max_queued_per_session
        if plain and (refused := self._queues.sessions.refusal(new, most)) is not None:
            raise self._full(new.key, refused)

    def error(
        self,
        new: NewRun,
        answer: Refused | Reused | Unanswerable | Unresolvable | Unreachable | ScheduleMoved | Overlaps,
    ) -> StrandlineError:
        """Return the error for a run that the journal has not accepted."""
        session_id = new.key.session_id
        match answer:
            case Refused("not_running"):
                return NotRunning(f"run {new.expected_run_id} does not execute (any more) in session {session_id}")
            case Refused("not_collecting"):
                return Invalid(
                    "collect goes with if_busy collect only, of the run or of its session: it says for how long, and"
                    " for how much"
                )
            case Refused("session_busy") if new.back is not None:
                return SessionBusy(
                    f"session {session_id} is not at rest: a run of it executes, waits, asks or locks it; with if_busy"
                    " interrupt or rollback this one ends what has begun, and goes back then"
                )
            case Refused("session_busy"):
                return SessionBusy(f"session {session_id} has runs that execute or wait, and this one is not to wait")
            case Refused():
                return self._full(new.key, answer)
            case Reused():
                key = "" if new.keyed is None else new.keyed.key
                return KeyReused(f"the idempotency key {key} was used for another request in this session")
            case Unanswerable():
                return _unanswerable(answer, session_id)
            case Unresolvable():
                return _unresolvable(answer, new)
            case Unreachable():
                return unreachable(answer, _named(new), session_id)
            case ScheduleMoved() | Overlaps():
                raise InvariantBroken(f"a run of no schedule was answered with {answer}")

    def _full(self, key: SessionKey, refused: Refused) -> Unavailable:
        if refused.reason == "storage_full":
            return StorageFull(
                f"{self._options.max_stored_bytes_per_principal} bytes may be kept for {key.principal}, in all its"
                " sessions (setting max_stored_bytes_per_caller), and this run would be more; delete sessions that"
                " are not needed any more",
                retry_after_s=max(self._options.retry_after_s, STORAGE_FULL_S),
            )
        if refused.reason == "webhooks_full":
            return WebhooksFull(
                f"{self._options.max_webhooks_per_caller} events of {key.principal} wait to be sent to webhooks, or are"
                " dead (setting max_webhooks_per_caller); `strandline webhooks` lists them",
                retry_after_s=max(self._options.retry_after_s, STORAGE_FULL_S),
            )
        if refused.reason == "disk_low":
            return DiskLow(
                "the server's disk is nearly full, and the rest is reserved for accepted runs (setting"
                " disk_reserve_bytes); new ones are refused until there is more",
                retry_after_s=self._options.retry_after_s,
            )
        estimate = self._estimates.wait_s(key, refused.position)
        if refused.reason == "queue_full":
            return QueueFull(
                f"{self._options.max_queued_per_session} runs of session {key.session_id} wait already",
                retry_after_s=self._estimates.retry_after_s(key),
                position=refused.position,
                estimated_wait_s=estimate,
            )
        if refused.reason == "principal_full":
            return PrincipalFull(
                f"{self._options.max_queued_per_principal} runs of {key.principal} wait already, in all its sessions",
                retry_after_s=self._options.retry_after_s,
                position=refused.position,
                estimated_wait_s=estimate,
            )
        return ServerFull(
            f"{self._options.max_queued} runs wait already, in all sessions",
            retry_after_s=self._options.retry_after_s,
            position=refused.position,
            estimated_wait_s=estimate,
        )


def _named(new: NewRun) -> RunId | str:
    """Return the run whose place in history a run goes back to."""
    return "" if new.back is None else new.back.again or new.back.after or ""


def unreachable(cannot: Unreachable, run_id: RunId | str, session_id: SessionId) -> StrandlineError:
    """Return the error for a place in history that no run can go back to."""
    match cannot.reason:
        case "unknown":
            return NotFound(f"there is no run {run_id} in session {session_id}")
        case "not_ended":
            return CannotGoBack(f"run {run_id} has not ended")
        case "discarded":
            return CannotGoBack(f"run {run_id} was discarded: it has no place in the conversation")
        case "left_nothing":
            return CannotGoBack(f"run {run_id} has left no messages in history, so that nothing comes after it")
        case "answered":
            by = "another run" if cannot.run is None else f"run {cannot.run}"
            return CannotGoBack(f"run {run_id} has asked a person, and {by} continued it: name that one")


def _unresolvable(cannot: Unresolvable, new: NewRun) -> StrandlineError:
    tools = ", ".join(cannot.tools)
    run_id = "" if new.resolution is None else new.resolution.run_id
    match cannot.reason:
        case "gone":
            return not_resolvable(run_id)
        case "known":
            return Invalid(f"run {run_id} has no tool of unknown outcome with the tool_use_id {tools}")
        case "incomplete":
            return Invalid(f"tools must say the outcome of all unknown ones together; missing: {tools}")


def _unanswerable(cannot: Unanswerable, session_id: SessionId) -> StrandlineError:
    requests = ", ".join(cannot.requests)
    match cannot.reason:
        case "answered":
            return AlreadyAnswered(f"input request {requests} of session {session_id} was answered before")
        case "dismissed":
            return Dismissed(f"input request {requests} of session {session_id} was dismissed: it is too late")
        case "incomplete":
            return Invalid(f"all input requests that are open must be answered together; missing: {requests}")
        case "unknown":
            return NotFound(f"there is no input request {requests} in session {session_id}")
