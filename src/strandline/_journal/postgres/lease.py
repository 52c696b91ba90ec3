"""How long this server may continue: the lease on the journal, by a clock of this machine that no suspend stops.

It counts from the sending of the last renewal that was confirmed, so that it is over here before it is over there.
"""

import threading
from collections.abc import Callable
from typing import Final

STOP_SHARE: Final = 0.9
"""After which part of the lease nothing may execute any more."""
RENEW_SHARE: Final = 0.25
"""After which part of it an idle server renews it."""
ANSWER_SHARE: Final = 0.8
LEAST_ANSWER_S: Final = 2.0
"""For which part of it an answer of the database is waited for, and for how long at least: longer than for locks."""
OVER: Final = "the lease on the journal is over, and it could not be renewed"
LATE_S: Final = 2.5
"""How long after it should have been renewed a lease says that the database does not answer."""


class Lease:
    """Whether the journal is ours. Written by the thread that writes; read from any. `now` is `Clock.boottime`."""

    def __init__(self, lease_s: float, sent_at: float, now: Callable[[], float]) -> None:
        self.lease_s = lease_s
        self._confirmed_at = sent_at
        self._now = now
        self._lock = threading.Lock()
        self._on_loss: Callable[[str], None] = lambda why: None
        self.lost: str | None = None
        """Why it is lost, for people; None: it is not."""

    def watch(self, on_loss: Callable[[str], None]) -> None:
        """Have `on_loss` called, from any thread, when it is lost; at once if it is."""
        with self._lock:
            self._on_loss = on_loss
            lost = self.lost
        if lost is not None:
            on_loss(lost)

    def sent(self) -> float:
        """Return the time to confirm, once an answer to what is sent now has come."""
        return self._now()

    def confirm(self, sent_at: float) -> None:
        """Note that what was sent then has renewed the lease."""
        self._confirmed_at = sent_at

    def lose(self, why: str) -> None:
        """Note that the journal is not ours any more."""
        with self._lock:
            if self.lost is not None:
                return
            self.lost = why
            on_loss = self._on_loss
        on_loss(why)

    def end(self, trouble: str | None) -> None:
        """Note that it is over and could not be renewed, and why if that is known."""
        self.lose(OVER if trouble is None else f"{OVER}: {trouble}")

    @property
    def is_due(self) -> bool:
        """Whether it should be renewed although nothing is written."""
        return self._now() >= self._confirmed_at + RENEW_SHARE * self.lease_s

    @property
    def answer_s(self) -> float:
        """How long an answer of the database is waited for."""
        return max(ANSWER_SHARE * self.lease_s, LEAST_ANSWER_S)

    @property
    def is_late(self) -> bool:
        """Whether it should have been renewed some time ago."""
        return self._now() >= self._confirmed_at + RENEW_SHARE * self.lease_s + LATE_S

    @property
    def until(self) -> float:
        """Until when user code may continue without another renewal, by `boottime`."""
        return 0.0 if self.lost is not None else self._confirmed_at + STOP_SHARE * self.lease_s

    @property
    def left_s(self) -> float:
        """How many seconds user code may continue without another renewal; less than 0: none."""
        return self._confirmed_at + STOP_SHARE * self.lease_s - self._now()
