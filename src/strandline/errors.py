"""Every error of Strandline on one page, in families by who has to act.

* `CallerError`: the caller sent something wrong; sending it again will not help.
* `Unavailable`: the environment cannot do it now; nothing was accepted, trying again later may help.
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
    "DiskLow",
    "Dismissed",
    "Draining",
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
    "NotReady",
    "NotStarted",
    "PrincipalFull",
    "QueueFull",
    "RecordDamaged",
    "ServerFull",
    "SessionBusy",
    "SettingsError",
    "SetupError",
    "StorageFull",
    "StrandlineError",
    "TargetError",
    "TooLate",
    "Unavailable",
]


class StrandlineError(Exception):
    """Base of all errors raised by Strandline; `code` is stable, the message is for people."""

    code: ClassVar[str] = "error"


# -- the caller ---------------------------------------------------------------------------------------


class CallerError(StrandlineError):
    """The request itself is wrong; change it before sending it again."""


class Invalid(CallerError):
    """A value is of the right shape but not allowed; the message names the field and what it may be."""

    code = "invalid"


class NoSession(Invalid):
    """The request names no session; name one, or have all that name none share one (setting `default_session`)."""

    code = "no_session"


class NotFound(CallerError):
    """No such run, session or page for this principal."""

    code = "not_found"


class SessionBusy(CallerError):
    """The session has a run that waits or executes; wait for it, then try again."""

    code = "session_busy"


class TooLate(CallerError):
    """The run has begun; only what waits can be moved."""

    code = "too_late"


class KeyReused(CallerError):
    """This `Idempotency-Key` was used for another request in the same session; take a new one."""

    code = "key_reused"


class AlreadyAnswered(CallerError):
    """The input request was answered before; only one answer counts."""

    code = "already_answered"


class Dismissed(CallerError):
    """The input request is not open any more: its time was over, or somebody went on without an answer."""

    code = "dismissed"


class AlreadyEnded(CallerError):
    """The run has ended; nothing of it can be changed any more."""

    code = "already_ended"


# -- the environment ----------------------------------------------------------------------------------


class Unavailable(StrandlineError):
    """Nothing was accepted; the same request may succeed after `retry_after_s` seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    """This session's queue holds `max_queued_per_session` runs; `position` is where the run would have stood."""

    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: float, position: int, estimated_wait_s: float | None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.position = position
        self.estimated_wait_s = estimated_wait_s


class PrincipalFull(QueueFull):
    """All sessions of this principal together hold `max_queued_per_principal` runs that wait."""

    code = "principal_full"


class ServerFull(QueueFull):
    """The queues of all sessions together hold `max_queued` runs."""

    code = "server_full"


class StorageFull(Unavailable):
    """All that is kept for this principal has `max_stored_bytes_per_principal` bytes; delete sessions to make room."""

    code = "storage_full"


class HoldsFull(Unavailable):
    """So many runs of this principal have ended and still work (`max_holds_per_principal`) that no more are started."""

    code = "holds_full"


class Draining(Unavailable):
    """The server is stopping and accepts nothing new."""

    code = "draining"


class NotReady(Unavailable):
    """The server has not started within `start_wait`, cannot start, or too many requests wait for that already."""

    code = "not_ready"


class NoWorker(Unavailable):
    """No worker process takes calls, and none has for some seconds; the server's log says why."""

    code = "no_worker"


class DiskLow(Unavailable):
    """Less than `disk_reserve_bytes` is left on the journal's disk, kept for what was accepted, which goes on."""

    code = "disk_low"


class JournalUnavailable(Unavailable):
    """The journal could not commit (a full disk, an I/O error); nothing of the operation was kept."""

    code = "journal_unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class RecordDamaged(JournalUnavailable):
    """A record that is needed is damaged in the journal's file; it will be the next time, too."""


# -- the operator -------------------------------------------------------------------------------------


class SetupError(StrandlineError):
    """The server cannot start as it is set up; the message is one paragraph that says what to change."""

    code = "setup"


class SettingsError(SetupError):
    """A setting has a value that it cannot have; the message names the setting and where it came from."""

    code = "settings"


class NotStarted(SetupError):
    """The app into which this one is mounted does not start it; the detail says which line is missing."""

    code = "not_started"


class TargetError(SetupError):
    """TARGET cannot be served; the message says why and what to write instead."""

    code = "target"


class ModelError(SetupError):
    """A model cannot be loaded by its name: the message says which name, package or credentials are missing."""

    code = "model"


class JournalError(SetupError):
    """The journal cannot be opened; the file was left as it is."""

    code = "journal"


class JournalLocked(JournalError):
    """Another process owns the journal; the message names it."""

    code = "journal_locked"


class JournalDamaged(JournalError):
    """The file is no SQLite database or its pages are damaged; restore a backup or name another file."""

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
    """Something that cannot happen has happened; please report it."""

    code = "invariant_broken"
