"""What callers see: runs with what they do now, and the service in numbers. Values only."""

from msgspec import Struct

from strandline._engine.events import Why
from strandline._engine.loops import Load, WorkerLoad
from strandline._engine.options import Options
from strandline._journal.port import Superseded
from strandline._model import Run, RunId, RunSummary, SessionKey


class RunView(Struct, frozen=True, kw_only=True):
    """A run, and what it does now: `waiting`, `model`, `tool NAME`, `held`; None once it has ended for good.

    `why` it waits, or what of it is still executing; None if neither applies.
    """

    run: RunSummary
    phase: str | None
    estimated_wait_s: float | None
    why: Why | None = None
    edition: str | None = None
    """What `edit` takes as `expected`; None: it cannot be edited, or was read in a list."""
    superseded: Superseded | None = None
    """What it supersedes or has superseded, if it goes back and is read alone."""


class RestoredView(Struct, frozen=True):
    """A session whose superseded messages were restored, unless they were in its history, and what they superseded."""

    key: SessionKey
    changed: bool
    superseded: Superseded


class AnsweredRun(Struct, frozen=True):
    """A run, and those that answer its question, in order. `dismissed`: the question of the last one is."""

    runs: list[Run]
    dismissed: bool = False


class RunPage(Struct, frozen=True, kw_only=True):
    """A page of runs, and the cursor of the next one, None at the end.

    `damaged` are the ids of runs on that page whose records cannot be read any more.
    """

    runs: list[RunView]
    after: str | None
    damaged: list[RunId] = []


class Health(Struct, frozen=True, kw_only=True):
    """The service's present state, in numbers."""

    ready: bool
    has_been_ready: bool
    draining: bool
    trouble: str | None
    """The code with which runs are refused, although the server neither starts nor stops; None if they are not."""
    processing: bool
    running: int
    held: int
    stalled: int
    queue_depth: int
    oldest_wait_s: float
    longest_no_progress_s: float
    agents_in_memory: int
    refused_runs: int
    lost_clients: int
    delayed: int = 0
    """How many runs wait for their `not_before`; `queue_depth` is without them."""
    workers: list[WorkerLoad] = []
    """The worker processes, if agents run in some."""

    @property
    def locked_sessions(self) -> int:
        """How many sessions an ended run locks: another name of `held`."""
        return self.held


class Vitals(Struct, frozen=True, kw_only=True):
    """The service's state and counters, for monitoring; counts are since its start."""

    health: Health
    options: Options
    """The limits in force."""
    most_waiting: int
    """How many runs wait in the session where most do."""
    projection_behind: int
    """How many sessions have messages that are not in their files yet."""
    projection_failures: int
    agents: Load
    holds: int
    holds_given_up: int
    lingering: int
    """How many ended runs are still executing at this moment, with or without a hold."""
    stalls: int
    claims_lost: int
    schedules: int
    """How many schedules have a next time."""
    schedules_fired: int
    schedules_missed: int
    schedule_late_s: float
    subscribers: int
    """How many clients wait for events, or for the end of a run, at this moment."""
    cluster: "ClusterVitals | None" = None
    """With several servers over one journal."""


class ClusterVitals(Struct, frozen=True, kw_only=True):
    """What one server sees of those that share its journal; counts are since its start."""

    servers: int
    """How many are alive."""
    owned: int
    """How many of the 256 partitions this server owns."""
    unowned: int
    """How many no server owns, as far as this one knows."""
    gained: int
    ceded: int
    lease_s: float
    """How long a lease lasts."""
    lease_left_s: float
    """For how long runs may execute here without another renewal."""
    takeovers: int
    """How many servers this one has ended, because their leases were over."""


class RunStack(Struct, frozen=True, kw_only=True):
    """What a run is executing at this moment, for people: `quiet_s` seconds without a sign of life, and where its code
    is."""

    run: Run
    phase: str
    quiet_s: float
    stack: list[str]
