"""Every error of Strandline on one page, in families by who must act.

* `CallerError`: the caller sent something wrong; sending it again does not help.
* `Unavailable`: the server cannot do it now; nothing was accepted, and trying again later may help.
* `SetupError`: the operator's settings, target or files are wrong; the message says what to change.
* `AgentFailed`: the user's agent could not be built or run.
* `InvariantBroken`: a defect of Strandline itself.

Each class has a stable `code` that appears on the wire and in logs. HTTP status codes live in
`strandline._http.wire`, nowhere else.
"""

from typing import ClassVar

__all__ = [
    "AgentFailed",
    "AlreadyAnswered",
    "AlreadyEnded",
    "CallerError",
    "CannotGoBack",
    "ChangedMeanwhile",
    "ConversationDiffers",
    "DiskLow",
    "Dismissed",
    "Draining",
    "FileTooLarge",
    "HoldsFull",
    "Invalid",
    "InvariantBroken",
    "JournalDamaged",
    "JournalError",
    "JournalForeign",
    "JournalLocked",
    "JournalNewer",
    "JournalUnavailable",
    "KeyReused",
    "ModelError",
    "NoSession",
    "NoWorker",
    "NotFound",
    "NotOwner",
    "NotReady",
    "NotResolvable",
    "NotRunning",
    "NotStarted",
    "OlderServer",
    "PrincipalFull",
    "QueueFull",
    "RecordDamaged",
    "ServerFull",
    "SessionBusy",
    "SessionExists",
    "SettingsError",
    "SetupError",
    "StorageFull",
    "StrandlineError",
    "TargetError",
    "TooLate",
    "TooManySchedules",
    "Unavailable",
    "WebhooksFull",
]


class StrandlineError(Exception):
    """Base of all errors raised by Strandline; `code` is stable, the message is for people."""

    code: ClassVar[str] = "error"


# -- the caller ---------------------------------------------------------------------------------------


class CallerError(StrandlineError):
    """The request itself is wrong; change it before sending it again."""


class Invalid(CallerError):
    """A value is not allowed; the message names the field and what it may be."""

    code = "invalid"


class FileTooLarge(CallerError):
    """The file is larger than `max_file_bytes`."""

    code = "file_too_large"


class NoSession(Invalid):
    """The request names no session: name one, or set `default_session=shared`, so that all such requests share one."""

    code = "no_session"


class NotFound(CallerError):
    """The caller has no such run, session or page."""

    code = "not_found"


class SessionBusy(CallerError):
    """A run of the session waits or executes; try again when it has ended."""

    code = "session_busy"
    retry_after_s: float | None = None
    """After how many seconds the same request may succeed, if that is likely."""


class ConversationDiffers(CallerError):
    """The messages that the request lists are not those of the session (`client_history`): begin a new session."""

    code = "conversation_differs"


class SessionExists(CallerError):
    """There is a session of the id that a new one was to have; choose another id."""

    code = "session_exists"


class NotRunning(CallerError):
    """The run named by `expected_run_id` does not execute; read which one does, or leave the field out."""

    code = "not_running"


class TooLate(CallerError):
    """The run has started, or has reached the run that it joined: it can no longer be moved, or taken back."""

    code = "too_late"


class ChangedMeanwhile(CallerError):
    """The run is not as the request expects it (`If-Match`): somebody else has edited it."""

    code = "changed_meanwhile"


class NotResolvable(CallerError):
    """The run did not crash in a tool, or was resolved before, or its conversation has continued since."""

    code = "not_resolvable"


class CannotGoBack(CallerError):
    """History cannot continue after the run that was named: it has not ended, was discarded, has left no messages, or
    its input request was answered by another run."""

    code = "cannot_go_back"


class KeyReused(CallerError):
    """This `Idempotency-Key` was used for another request in the same session; use a new one."""

    code = "key_reused"


class AlreadyAnswered(CallerError):
    """The input request was already answered; only the first answer counts."""

    code = "already_answered"


class Dismissed(CallerError):
    """The input request is no longer open: it timed out, was dismissed, or the conversation continued without it."""

    code = "dismissed"


class AlreadyEnded(CallerError):
    """The run has ended and can no longer be changed."""

    code = "already_ended"


# -- the environment ----------------------------------------------------------------------------------


class Unavailable(StrandlineError):
    """Nothing was accepted; the same request may succeed after `retry_after_s` seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotOwner(Unavailable):
    """No server owns the session at the moment, since its owner has stopped or was lost; another one takes over.

    Nothing was changed. Servers pass requests for sessions of each other on, so that callers see this only meanwhile.
    """

    code = "moved"

    def __init__(self, message: str, *, retry_after_s: float, partition: int) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.partition = partition


class OlderServer(Unavailable):
    """A server of an older version is still there, and would not do what the request asks for; nothing was accepted."""

    code = "older_server"


class QueueFull(Unavailable):
    """The session's queue is full (`max_queued_per_session`); `position` is the place that the run would have had."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: float, position: int, estimated_wait_s: float | None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.position = position
        self.estimated_wait_s = estimated_wait_s


class PrincipalFull(QueueFull):
    """The queues of all the caller's sessions together are full (`max_queued_per_caller`)."""

    code = "principal_full"


class ServerFull(QueueFull):
    """The queues of all sessions together are full (`max_queued`)."""

    code = "server_full"


class TooManySchedules(Unavailable):
    """The caller has `max_schedules_per_caller` schedules; delete some."""

    code = "too_many_schedules"


class WebhooksFull(Unavailable):
    """`max_webhooks_per_caller` events of the caller wait to be sent to webhooks, or are dead; resend them, or delete
    their sessions.
    """

    code = "webhooks_full"


class StorageFull(Unavailable):
    """The caller has reached `max_stored_bytes_per_caller`; delete sessions to make room."""

    code = "storage_full"


class HoldsFull(Unavailable):
    """Tools of `max_still_working_per_caller` ended runs of the caller still execute, so none of its runs starts."""

    code = "holds_full"


class Draining(Unavailable):
    """The server is stopping and accepts no new runs."""

    code = "draining"


class NotReady(Unavailable):
    """The server did not start within `start_wait`, cannot start, or too many requests already wait for its start."""

    code = "not_ready"


class NoWorker(Unavailable):
    """No worker process has been able to execute runs for some seconds; the server's log says why."""

    code = "no_worker"


class DiskLow(Unavailable):
    """Less than `disk_reserve_bytes` is free on the journal's disk, reserved for accepted runs, which continue."""

    code = "disk_low"


class JournalUnavailable(Unavailable):
    """The journal could not commit (a full disk, an I/O error); the operation changed nothing."""

    code = "journal_unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class RecordDamaged(JournalUnavailable):
    """A record that the request needs is damaged in the journal; trying again does not help."""


# -- the operator -------------------------------------------------------------------------------------


class SetupError(StrandlineError):
    """The server cannot start with this setup; the message is one paragraph that says what to change."""

    code = "setup"


class SettingsError(SetupError):
    """A setting has an invalid value; the message names the setting and where the value came from."""

    code = "settings"


class NotStarted(SetupError):
    """The app that mounts this one does not start it; the detail shows the missing line."""

    code = "not_started"


class TargetError(SetupError):
    """TARGET cannot be served; the message says why, and what to write instead."""

    code = "target"


class ModelError(SetupError):
    """A model cannot be loaded by its name; the message says which name, package or credentials are missing."""

    code = "model"


class JournalError(SetupError):
    """The journal cannot be opened; the file was left as it is."""

    code = "journal"


class JournalLocked(JournalError):
    """Another process owns the journal; the message names it."""

    code = "journal_locked"


class JournalDamaged(JournalError):
    """The file is not an SQLite database, or its pages are damaged; restore a backup or name another file."""

    code = "journal_damaged"


class JournalForeign(JournalError):
    """The file is a database of another program; name another file."""

    code = "journal_foreign"


class JournalNewer(JournalError):
    """The file was written by a newer Strandline; upgrade this one or name another file."""

    code = "journal_newer"


# -- the agent, ourselves -----------------------------------------------------------------------------


class AgentFailed(StrandlineError):
    """The user's factory, agent or function failed; `__cause__` is what it raised."""

    code = "agent_error"


class InvariantBroken(StrandlineError):
    """Strandline has a defect; please report it."""

    code = "invariant_broken"
