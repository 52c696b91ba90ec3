"""Why a request is refused for now: the error that its caller gets, and what is refused without asking the journal."""

from typing import Final

from strandline.engine.options import Options
from strandline.engine.queues import Estimates, SessionQueues
from strandline.errors import (
    DiskLow,
    HoldsFull,
    PrincipalFull,
    QueueFull,
    ServerFull,
    SessionBusy,
    StorageFull,
    StrandlineError,
    Unavailable,
)
from strandline.journal.port import Refused
from strandline.model import IfBusy, Lane, NewRun, Principal, SessionKey

STORAGE_FULL_S: Final = 60.0
"""When to come again at the earliest to what is full until somebody deletes: what is past its retention is forgotten
once a minute."""


class Refusals:
    """Belongs to the serving loop."""

    def __init__(self, queues: SessionQueues, estimates: Estimates, options: Options) -> None:
        self._queues = queues
        self._estimates = estimates
        self._options = options

    def admit_principal(self, principal: Principal) -> None:
        """Let a principal's request for a run in. Raises `HoldsFull`."""
        if self._queues.is_full(principal):
            raise HoldsFull(
                f"{self._queues.leftovers(principal)} runs of {principal} have ended and still work (setting"
                " max_holds_per_principal); nothing more of it is accepted before one of them works no more",
                retry_after_s=self._options.retry_after_s,
            )

    def admit(self, new: NewRun) -> None:
        """Let a run be asked of the journal, unless its full queue has refused one like it and has not changed since.

        Raises `QueueFull`. Runs with a key or a policy are always asked for.
        """
        plain = new.lane == Lane.NORMAL and new.if_busy is IfBusy.ENQUEUE and new.keyed is None
        if plain and (refused := self._queues.refusal(new)) is not None:
            raise self._full(new.key, refused)

    def error(self, key: SessionKey, refused: Refused) -> StrandlineError:
        """Return the error for a run that the journal has refused."""
        if refused.reason == "session_busy":
            return SessionBusy(f"session {key.session_id} has runs that execute or wait, and this one is not to wait")
        return self._full(key, refused)

    def _full(self, key: SessionKey, refused: Refused) -> Unavailable:
        if refused.reason == "storage_full":
            return StorageFull(
                f"{self._options.max_stored_bytes_per_principal} bytes may be kept for {key.principal}, in all its"
                " sessions (setting max_stored_bytes_per_principal), and this run would be more; delete sessions that"
                " are not needed any more",
                retry_after_s=max(self._options.retry_after_s, STORAGE_FULL_S),
            )
        if refused.reason == "disk_low":
            return DiskLow(
                "little room is left on the server's disk, and it is kept for runs that were accepted (setting"
                " disk_reserve_bytes); no new one is before there is more",
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
            f"{self._options.max_queued} runs wait already on this server",
            retry_after_s=self._options.retry_after_s,
            position=refused.position,
            estimated_wait_s=estimate,
        )
