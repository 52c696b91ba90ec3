"""Counts what happens, as plain numbers: an observer that costs a run next to nothing.

Everything is counted on the serving loop, except commits, which the journal's writer reports on its own thread. Any
thread may read. Every label has all its values from the start: a counter that appears with the first failure cannot
raise an alert for it.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from strandline._engine.observers import Observer
from strandline._lifecycle import ENDED
from strandline._model import ErrorCode, Outcome, RunStatus
from strandline.errors import (
    DiskLow,
    Draining,
    HoldsFull,
    JournalUnavailable,
    NotOwner,
    NotReady,
    NoWorker,
    OlderServer,
    PrincipalFull,
    QueueFull,
    ServerFull,
    StorageFull,
    WebhooksFull,
)

NO_CODE: Final = "none"
"""The code of an outcome without an error."""
REFUSALS: Final = tuple(
    kind.code
    for kind in (
        Draining,
        HoldsFull,
        JournalUnavailable,
        NotOwner,
        DiskLow,
        NotReady,
        NoWorker,
        OlderServer,
        PrincipalFull,
        QueueFull,
        ServerFull,
        StorageFull,
        WebhooksFull,
    )
)
CUTS: Final = (
    "draining",
    "head_too_large",
    "heads_full",
    "idle",
    "malformed",
    "no_connection_left",
    "not_taken",
    "request_timeout",
    "too_many_behind",
)
"""Why the server closes connections early: see `strandline._http.middleware.connection_limiter`."""
DENIALS: Final = (
    "expired_token",
    "foreign",
    "malformed_key",
    "no_key",
    "no_server",
    "operators_only",
    "revoked_key",
    "unknown_key",
)
"""Why requests are denied access: see `strandline._http.middleware.access_log`."""
FORWARDS: Final = ("answered", "disconnected", "lost", "moved", "unreached")
"""What becomes of requests that are sent to other servers: see `strandline._http.forwarding.forwarder`."""
OUTCOMES: Final = tuple(sorted(status.value for status in ENDED))

RUN_TIMES: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
COMMIT_TIMES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BATCHES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Distribution:
    """A histogram of values; `bounds` are the upper bounds of its buckets, ascending."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def note(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def seen(self) -> tuple[list[tuple[float, int]], float]:
        """Return for each bound how many values were at or below it, infinity last, and the sum of all values."""
        counts, total = list(self._counts), 0
        cumulated: list[tuple[float, int]] = []
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            total += count
            cumulated.append((bound, total))
        return cumulated, self._sum


class MetricsRecorder(Observer):
    """The observer of an engine, its HTTP application and its journal."""

    def __init__(self) -> None:
        self.accepts = 0
        self.refusals = dict.fromkeys(REFUSALS, 0)
        self.cuts = dict.fromkeys(CUTS, 0)
        self.denials = dict.fromkeys(DENIALS, 0)
        self.forwards = dict.fromkeys(FORWARDS, 0)
        failures = [(RunStatus.FAILED.value, code.value) for code in ErrorCode]
        well = [(outcome, NO_CODE) for outcome in OUTCOMES if outcome != RunStatus.FAILED]
        self.ends = dict.fromkeys([*well, *failures], 0)
        self.waits = Distribution(RUN_TIMES)
        self.first_texts = Distribution(RUN_TIMES)
        self.durations = {outcome: Distribution(RUN_TIMES) for outcome in OUTCOMES}
        self.lags = Distribution(LAGS)
        self.commits = Distribution(COMMIT_TIMES)
        self.batches = Distribution(BATCHES)

    def accepted(self) -> None:
        """Count an accepted run."""
        self.accepts += 1

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    def cut_off(self, reason: str) -> None:
        """Count a connection that the server closed early."""
        self.cuts[reason] = self.cuts.get(reason, 0) + 1

    def denied(self, reason: str) -> None:
        """Count a request that was denied access."""
        self.denials[reason] = self.denials.get(reason, 0) + 1

    def forwarded(self, result: str) -> None:
        """Count a request that was sent to another server."""
        self.forwards[result] += 1

    def started(self, wait_s: float) -> None:
        """Record how long a run waited."""
        self.waits.note(wait_s)

    def first_text(self, after_s: float) -> None:
        """Record how long a run's first text took."""
        self.first_texts.note(after_s)

    def ended(self, outcome: Outcome, duration_s: float | None) -> None:
        """Count an outcome, and record how long its run took, if it started."""
        status = outcome.status.value
        code = NO_CODE if outcome.error is None else outcome.error.code.value
        self.ends[status, code] = self.ends.get((status, code), 0) + 1
        if duration_s is not None:
            self.durations[status].note(duration_s)

    def lagged(self, lag_s: float) -> None:
        """Record how late the serving loop was."""
        self.lags.note(lag_s)

    def committed(self, took_s: float, operations: int) -> None:
        """Record a commit of the journal. Called on the writer's thread."""
        self.commits.note(took_s)
        self.batches.note(operations)
