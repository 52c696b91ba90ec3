"""Health routes: `/health`, `/livez`, `/readyz`. They never wait for user code or a disk."""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from strandline import __version__
from strandline._engine.loops import WorkerLoad
from strandline._engine.reading import Health
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.caller import caller_of
from strandline._http.middleware.guard import Guard
from strandline._journal.partitions import PARTITIONS
from strandline._older_names import field_note
from strandline._settings import AppSettings
from strandline.errors import DiskLow, NoWorker


class CallerBody(Struct, frozen=True, kw_only=True):
    """A caller's activity: runs that execute or lock their session, that wait, and that have ended with a tool that
    still executes."""

    claimed: int
    waiting: int
    still_working: int
    leftovers: Annotated[int, Meta(description=field_note("CallerBody", "leftovers"))]


class ClusterBody(Struct, frozen=True):
    """The servers that share the journal, and how many of the 256 parts of all sessions this one owns."""

    servers: int
    partitions: int


class HealthBody(Struct, frozen=True, kw_only=True):
    """The state of the server in numbers."""

    status: str
    agent_id: str
    processing: bool
    queue_depth: int
    running: int
    max_running: Annotated[int, Meta(description="How many runs execute at once at most (setting `max_running`)")]
    locked_sessions: Annotated[int, Meta(description="Sessions that an ended run locks: a tool of it still executes")]
    held: Annotated[int, Meta(description=field_note("HealthBody", "held"))]
    stalled: int
    oldest_wait_s: float
    longest_no_progress_s: float
    refused_runs: int
    lost_clients: int
    agents_in_memory: int
    ready: bool
    auth: str
    version: str
    probe: bool
    """Whether the agent is the probe of `strandline check`."""
    workers: list[WorkerLoad] | UnsetType = UNSET
    cluster: Annotated[
        ClusterBody | UnsetType,
        Meta(description="Shown if servers share the journal; all other numbers are this server's own"),
    ] = UNSET
    caller: Annotated[str | UnsetType, Meta(description="The caller itself; shown to operators only")] = UNSET
    callers: Annotated[
        dict[str, CallerBody] | UnsetType, Meta(description="Callers with activity, by name; shown to operators only")
    ] = UNSET
    principals: Annotated[
        dict[str, CallerBody] | UnsetType, Meta(description=field_note("HealthBody", "principals"))
    ] = UNSET


class HealthWord(Struct, frozen=True):
    """The answer to a request whose `Host` is not this server: whether it has been ready."""

    status: Literal["healthy", "starting"]


class ProbeBody(Struct, frozen=True):
    """One word, and what to do if action is needed."""

    status: Literal["alive", "ready", "draining", "starting", "journal_unavailable", "disk_low", "no_worker"]
    detail: str | UnsetType = UNSET


PROBE: Final = "strandline.testing.probe:make_agent"
"""The probe of `strandline check`, as a TARGET."""
STARTING_S: Final = 1.0
"""`Retry-After` of a starting server."""
NOTHING_STORED: Final = ProbeBody(
    "journal_unavailable",
    "Nothing can be stored. The log says why; docs/operations.md says what to do, under StrandlineJournalUnavailable.",
)
DISK_LOW: Final = ProbeBody(
    "disk_low",
    "The free space on the journal's disk is low, and reserved for accepted runs. docs/operations.md says what to do,"
    " under StrandlineJournalUnavailable.",
)
NO_WORKER: Final = ProbeBody(
    "no_worker",
    "No worker can execute runs. The log says why; docs/operations.md says what to do, under StrandlineNotReady.",
)
_TROUBLE: Final = {NoWorker.code: NO_WORKER, DiskLow.code: DISK_LOW}


class Probes:
    """The routes of probes."""

    def __init__(self, service: Service, guard: Guard, settings: AppSettings, *, auth: str) -> None:
        self._service = service
        self._guard = guard
        self._settings = settings
        self._auth = auth

    async def health(self, request: Request) -> Response:
        """Return the state of the server. It is `healthy` from the moment when it was first ready.

        Until then it is `starting`, with 503: clients wait for this route before they send. A request with a foreign
        `Host` may come from a web page, and gets only that word.
        """
        health = self._service.health()
        well = health.has_been_ready
        body: HealthBody | HealthWord = HealthWord("healthy" if well else "starting")
        if self._guard.is_named(request.scope):
            body = self._shown(request, health)
        return wire.answer(body, wire.OK if well else wire.UNAVAILABLE, None if well else wire.retry_after(STARTING_S))

    def _shown(self, request: Request, health: Health) -> HealthBody:
        caller = caller_of(request)
        callers = _callers(self._service) if caller.operator else UNSET
        return HealthBody(
            status="healthy" if health.has_been_ready else "starting",
            agent_id=self._settings.agent_id,
            processing=health.processing,
            queue_depth=health.queue_depth,
            running=health.running,
            max_running=self._service.options.max_running,
            locked_sessions=health.locked_sessions,
            held=health.locked_sessions,
            stalled=health.stalled,
            oldest_wait_s=round(health.oldest_wait_s, 3),
            longest_no_progress_s=round(health.longest_no_progress_s, 3),
            refused_runs=health.refused_runs,
            lost_clients=health.lost_clients,
            agents_in_memory=health.agents_in_memory,
            ready=health.ready,
            auth=self._auth,
            version=__version__,
            probe=PROBE in self._service.serves,
            workers=[replace(each, silent_s=round(each.silent_s, 3)) for each in health.workers] or UNSET,
            cluster=self._cluster(),
            caller=caller.principal if caller.operator else UNSET,
            callers=callers,
            principals=callers,
        )

    def _cluster(self) -> ClusterBody | UnsetType:
        if not (ownership := self._service.ownership).is_shared:
            return UNSET
        cluster = ownership.others()
        return ClusterBody(len(cluster.peers), sum(map(cluster.owns, range(PARTITIONS))))

    async def livez(self, request: Request) -> Response:
        """Answer 200 while the process can answer."""
        return wire.answer(ProbeBody("alive"))

    async def readyz(self, request: Request) -> Response:
        """Answer 200 while runs are accepted, else 503."""
        health = self._service.health()
        if health.ready:
            return wire.answer(ProbeBody("ready"))
        if health.draining:
            status = ProbeBody("draining")
        elif health.trouble is None:
            status = ProbeBody("starting")
        else:
            status = _TROUBLE.get(health.trouble, NOTHING_STORED)
        return wire.answer(status, wire.UNAVAILABLE, wire.retry_after(self._settings.retry_after_s))


def _callers(service: Service) -> dict[str, CallerBody]:
    return {
        str(principal): CallerBody(
            claimed=share.claimed, waiting=share.waiting, still_working=share.lingering, leftovers=share.lingering
        )
        for principal, share in sorted(service.shares().items())
    }
