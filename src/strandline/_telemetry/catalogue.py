"""Every metric: its name, its meaning and where its value is read. `docs/metrics.md` has the same table.

Every label has a fixed set of values: none names a session, a run or a caller.
"""

from collections.abc import Callable, Iterable
from typing import Final, Literal

from msgspec import Struct

from strandline import __version__
from strandline._engine.loops import WorkerLoad
from strandline._engine.reading import ClusterVitals, Vitals
from strandline._engine.webhooks import WebhookVitals
from strandline._journal.cluster import DatabaseVitals
from strandline._journal.port import Stored
from strandline._telemetry.disk import DiskUsage
from strandline._telemetry.recorder import Distribution, MetricsRecorder

PREFIX: Final = "strandline_"

Read = float | Distribution | None
"""A number or a distribution; None: there is no value (yet)."""


class Seen(Struct, frozen=True):
    """The sources of one scrape."""

    vitals: Vitals
    recorder: MetricsRecorder
    disk: DiskUsage | None
    stored: Stored | None
    dropped_lines: int = 0
    database: DatabaseVitals | None = None
    webhooks: WebhookVitals | None = None


class Metric(Struct, frozen=True):
    """One metric. `read` returns its values, each with the values of its labels."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    meaning: str
    read: Callable[[Seen], Iterable[tuple[tuple[str, ...], Read]]]
    labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The full name. The series of a histogram add `_bucket`, `_sum` and `_count`."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


def _gauge(name: str, meaning: str, read: Callable[[Seen], float | None]) -> Metric:
    return Metric("gauge", name, meaning, lambda seen: [((), read(seen))])


def _counter(name: str, meaning: str, read: Callable[[Seen], float]) -> Metric:
    return Metric("counter", name, meaning, lambda seen: [((), read(seen))])


def _histogram(name: str, meaning: str, read: Callable[[Seen], Distribution]) -> Metric:
    return Metric("histogram", name, meaning, lambda seen: [((), read(seen))])


def _each_worker(seen: Seen, read: Callable[[WorkerLoad], float]) -> Iterable[tuple[tuple[str, ...], Read]]:
    return [((str(number),), read(each)) for number, each in enumerate(seen.vitals.agents.workers)]


def _of_cluster(
    kind: Literal["gauge", "counter"], name: str, meaning: str, read: Callable[[ClusterVitals], float]
) -> Metric:
    def values(seen: Seen) -> Iterable[tuple[tuple[str, ...], Read]]:
        return [((), None if seen.vitals.cluster is None else read(seen.vitals.cluster))]

    return Metric(kind, name, meaning, values)


def _of_database(name: str, meaning: str, read: Callable[[DatabaseVitals], float | None]) -> Metric:
    return _gauge(name, meaning, lambda seen: None if seen.database is None else read(seen.database))


def _of_webhooks(
    kind: Literal["gauge", "counter"], name: str, meaning: str, read: Callable[[WebhookVitals], float]
) -> Metric:
    def values(seen: Seen) -> Iterable[tuple[tuple[str, ...], Read]]:
        return [((), None if seen.webhooks is None else read(seen.webhooks))]

    return Metric(kind, name, meaning, values)


METRICS: Final = (
    _gauge("runs_waiting", "Runs that wait for their turn", lambda seen: seen.vitals.health.queue_depth),
    _gauge("runs_delayed", "Runs that wait for their `not_before`, and not yet for their turn",
           lambda seen: seen.vitals.health.delayed),
    _gauge("runs_running", "Runs that execute", lambda seen: seen.vitals.health.running),
    _gauge("runs_waiting_max", "Maximum number of waiting runs (setting `max_queued`)",
           lambda seen: seen.vitals.options.max_queued),
    _gauge("session_runs_waiting", "Runs that wait in the session with the longest queue",
           lambda seen: seen.vitals.most_waiting),
    _gauge("session_runs_waiting_max",
           "Maximum number of waiting runs in one session (setting `max_queued_per_session`)",
           lambda seen: seen.vitals.options.max_queued_per_session),
    _gauge("runs_running_max",
           "Maximum number of executing runs (setting `max_running`); 1 if sessions share one `Agent`",
           lambda seen: seen.vitals.options.max_running),
    _gauge("runs_held", "Ended runs that lock their session, because a tool of them still executes",
           lambda seen: seen.vitals.health.held),
    _gauge("runs_still_working", "Ended runs with a tool that still executes, also if their session is unlocked",
           lambda seen: seen.vitals.lingering),
    _gauge("runs_still_working_max", "Number of those at which the server stops itself (setting `max_still_working`)",
           lambda seen: seen.vitals.options.max_holds),
    _gauge("runs_stalled", "Executing runs without a sign of life for `stall_after`",
           lambda seen: seen.vitals.health.stalled),
    _gauge("oldest_wait_seconds", "How long the oldest waiting run has waited; 0 if none waits",
           lambda seen: seen.vitals.health.oldest_wait_s),
    _gauge("longest_no_progress_seconds", "Longest time for which an executing run has given no sign of life",
           lambda seen: seen.vitals.health.longest_no_progress_s),
    _counter("runs_accepted", "Accepted runs", lambda seen: seen.recorder.accepts),
    Metric("counter", "runs_ended",
           "Ended runs, by outcome; `code` is the error's code, or `none`",
           lambda seen: list(seen.recorder.ends.items()), ("outcome", "code")),
    Metric("counter", "refusals", "Requests that were refused for now, with nothing stored; `reason` is the code",
           lambda seen: [((reason,), count) for reason, count in seen.recorder.refusals.items()], ("reason",)),
    _histogram("run_wait_seconds", "From the acceptance of a run, or its `not_before`, to its start",
               lambda seen: seen.recorder.waits),
    _histogram("first_text_seconds",
               "From the acceptance of a run, or its `not_before`, to the first text of its agent",
               lambda seen: seen.recorder.first_texts),
    Metric("histogram", "run_duration_seconds", "Duration of a run's last attempt, including the commit of its outcome",
           lambda seen: [((outcome,), each) for outcome, each in seen.recorder.durations.items()], ("outcome",)),
    _counter("holds", "Times that a session was locked by an ended run", lambda seen: seen.vitals.holds),
    _counter("holds_given_up", "Times that such a session was unlocked while the tool still executed",
             lambda seen: seen.vitals.holds_given_up),
    _counter("stalls", "Times that a run gave no sign of life for `stall_after`", lambda seen: seen.vitals.stalls),
    _counter("claims_lost", "Claims that were lost to a newer owner of the journal",
             lambda seen: seen.vitals.claims_lost),
    _counter("clients_lost", "Clients that disconnected before their answer",
             lambda seen: seen.vitals.health.lost_clients),
    Metric("counter", "connections_cut",
           "Connections that the server closed early; `reason` is the error's code, or `idle`, `not_taken`,"
           " `too_many_behind`",
           lambda seen: [((reason,), count) for reason, count in seen.recorder.cuts.items()], ("reason",)),
    Metric("counter", "requests_denied",
           "Requests that were denied access, by `reason`: a missing or invalid key, `expired_token`, `operators_only`,"
           " `foreign`, or `no_server`",
           lambda seen: [((reason,), count) for reason, count in seen.recorder.denials.items()], ("reason",)),
    Metric("counter", "forwards",
           "Requests sent to another server of the cluster, by `result`; one may be sent more than once",
           lambda seen: [((result,), count) for result, count in seen.recorder.forwards.items()], ("result",)),
    _of_cluster("gauge", "cluster_servers", "Servers that share the journal and are alive, as this one sees them",
                lambda seen: seen.servers),
    _of_cluster("gauge", "cluster_partitions_owned", "Partitions of the journal, of 256, that this server owns",
                lambda seen: seen.owned),
    _of_cluster("gauge", "cluster_partitions_unowned", "Partitions that no server owns, as this one sees them",
                lambda seen: seen.unowned),
    _of_cluster("counter", "cluster_partitions_gained",
                "Partitions taken from other servers, or over from lost ones, since the start",
                lambda seen: seen.gained),
    _of_cluster("counter", "cluster_partitions_ceded", "Partitions handed over to other servers",
                lambda seen: seen.ceded),
    _of_cluster("counter", "cluster_takeovers",
                "Servers whose lease was over, and that this one has therefore ended",
                lambda seen: seen.takeovers),
    _of_cluster("gauge", "cluster_lease_left_seconds",
                "For how long runs may execute here without another renewal of the lease: nine tenths of it at most",
                lambda seen: seen.lease_left_s),
    _of_cluster("gauge", "cluster_lease_seconds", "Length of a lease", lambda seen: seen.lease_s),
    _of_database("cluster_clock_offset_seconds",
                 "How far this server's clock is ahead of the database's; below 0: behind it",
                 lambda seen: seen.clock_ahead_s),
    _of_database("database_oldest_xmin_age",
                 "Transactions since the oldest snapshot that anything keeps, for which dead rows have to stay",
                 lambda seen: seen.oldest_xmin_age),
    _of_database("database_dead_rows", "Dead versions of rows in the journal's table that has the most",
                 lambda seen: seen.dead_rows),
    _of_database("database_live_rows", "Rows of that table", lambda seen: seen.live_rows),
    _gauge("schedules", "Schedules of this server's sessions that have a next time",
           lambda seen: seen.vitals.schedules),
    _counter("schedules_fired", "Times of schedules at which a run was accepted",
             lambda seen: seen.vitals.schedules_fired),
    _counter("schedules_missed", "Times of schedules that passed without a run; the schedule says why",
             lambda seen: seen.vitals.schedules_missed),
    _gauge("schedule_late_seconds", "For how long the earliest time of a schedule has been due; 0 if none is",
           lambda seen: seen.vitals.schedule_late_s),
    _gauge("subscribers", "Clients that currently wait for events, or for the end of a run",
           lambda seen: seen.vitals.subscribers),
    _gauge("agents_in_memory", "Idle agents in memory, ready for the next run of their session",
           lambda seen: seen.vitals.health.agents_in_memory),
    _gauge("ready", "1 while runs are accepted, else 0", lambda seen: float(seen.vitals.health.ready)),
    _gauge("draining", "1 while the server stops, else 0", lambda seen: float(seen.vitals.health.draining)),
    _histogram("loop_lag_seconds", "How late the loop that serves HTTP was, measured once a second",
               lambda seen: seen.recorder.lags),
    _gauge("agent_loop_silent_seconds", "How long the loop that agents share has not answered its check",
           lambda seen: seen.vitals.agents.silent_s),
    _counter("agent_loops_given_up", "Agent loops that were abandoned because user code blocked them",
             lambda seen: seen.vitals.agents.given_up),
    Metric("gauge", "worker_ready", "1 while this worker process can start runs, else 0 (setting `workers`)",
           lambda seen: _each_worker(seen, lambda each: float(each.pid is not None)), ("worker",)),
    Metric("gauge", "worker_runs_running", "Runs that execute in this worker process",
           lambda seen: _each_worker(seen, lambda each: each.running), ("worker",)),
    Metric("gauge", "worker_silent_seconds", "How long this worker process, or the loop of its agents, has not"
           " answered its check", lambda seen: _each_worker(seen, lambda each: each.silent_s), ("worker",)),
    _counter("workers_lost", "Worker processes that ended unexpectedly",
             lambda seen: seen.vitals.agents.workers_lost),
    _gauge("executor_backlog", "Sync tools that wait for one of the `executor_threads`",
           lambda seen: seen.vitals.agents.backlog),
    _histogram("journal_commit_seconds", "Duration of a commit of the journal",
               lambda seen: seen.recorder.commits),
    _histogram("journal_commit_batch", "Operations in one commit", lambda seen: seen.recorder.batches),
    _gauge("journal_bytes", "Size of the journal: its file and its WAL; missing for `memory:`",
           lambda seen: None if seen.disk is None else seen.disk.journal),
    _gauge("disk_free_bytes", "Free space on the journal's disk; missing for `memory:`",
           lambda seen: None if seen.disk is None else seen.disk.left),
    _gauge("stored_bytes", "Bytes of inputs, metadata, history, context windows and state stored for all callers",
           lambda seen: None if seen.stored is None else seen.stored.total),
    _gauge("principal_stored_bytes", "The same for the caller with the most",
           lambda seen: None if seen.stored is None else seen.stored.largest),
    _gauge("principal_stored_bytes_max", "Maximum number of bytes stored for one caller (setting"
           " `max_stored_bytes_per_caller`); missing if it is not set",
           lambda seen: seen.vitals.options.max_stored_bytes_per_principal),
    _gauge("session_files_behind", "Sessions whose files are not up to date yet (setting `session_files`)",
           lambda seen: seen.vitals.projection_behind),
    _counter("session_files_failures", "Times that the files of a session could not be written or removed; retried",
             lambda seen: seen.vitals.projection_failures),
    _of_webhooks("counter", "webhooks_sent", "Events that webhooks have received (setting `webhook_secrets`)",
                 lambda seen: seen.sent),
    _of_webhooks("counter", "webhooks_failed", "Attempts to send an event that failed", lambda seen: seen.failed),
    _of_webhooks("gauge", "webhooks_waiting", "Events in the journal that wait to be sent, at all servers",
                 lambda seen: seen.waiting),
    _of_webhooks("gauge", "webhooks_dead", "Events in the journal that are sent no more, at all servers",
                 lambda seen: seen.dead),
    _of_webhooks("gauge", "webhooks_oldest_seconds", "How long the oldest event waits to be sent",
                 lambda seen: seen.oldest_s),
    _counter("log_lines_dropped", "Log lines that were dropped, because the log is full or is not read",
             lambda seen: seen.dropped_lines),
    Metric("gauge", "build_info", "Always 1; `version` is the version of Strandline",
           lambda seen: [((__version__,), 1.0)], ("version",)),
)  # fmt: skip
