"""Every metric: its name, what it means and where it is read. The page of the documentation is made from this table.

No label can have more values than the code knows: none names a session, a run or a principal.
"""

from collections.abc import Callable, Iterable
from typing import Final, Literal

from msgspec import Struct

from strandline import __version__
from strandline._engine.loops import WorkerLoad
from strandline._engine.reading import Vitals
from strandline._journal.port import Stored
from strandline._telemetry.disk import Place
from strandline._telemetry.recorder import Distribution, MetricsRecorder

PREFIX: Final = "strandline_"

Read = float | Distribution | None
"""A number, or how often which; None: there is nothing to be told (yet)."""


class Seen(Struct, frozen=True):
    """What a scrape has before it."""

    vitals: Vitals
    recorder: MetricsRecorder
    place: Place | None
    stored: Stored | None
    dropped_lines: int = 0


class Metric(Struct, frozen=True):
    """One metric. `read` returns its values, each with those of its labels."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    meaning: str
    read: Callable[[Seen], Iterable[tuple[tuple[str, ...], Read]]]
    labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The name by which it is asked for; that of a histogram has `_bucket`, `_sum` and `_count` besides."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


def _gauge(name: str, meaning: str, read: Callable[[Seen], float | None]) -> Metric:
    return Metric("gauge", name, meaning, lambda seen: [((), read(seen))])


def _counter(name: str, meaning: str, read: Callable[[Seen], float]) -> Metric:
    return Metric("counter", name, meaning, lambda seen: [((), read(seen))])


def _histogram(name: str, meaning: str, read: Callable[[Seen], Distribution]) -> Metric:
    return Metric("histogram", name, meaning, lambda seen: [((), read(seen))])


def _each_worker(seen: Seen, read: Callable[[WorkerLoad], float]) -> Iterable[tuple[tuple[str, ...], Read]]:
    return [((str(place),), read(each)) for place, each in enumerate(seen.vitals.agents.workers)]


METRICS: Final = (
    _gauge("runs_waiting", "Runs that wait for their turn", lambda seen: seen.vitals.health.queue_depth),
    _gauge("runs_running", "Runs that execute", lambda seen: seen.vitals.health.running),
    _gauge("runs_waiting_max", "Most runs that may wait (setting `max_queued`)",
           lambda seen: seen.vitals.options.max_queued),
    _gauge("session_runs_waiting", "Runs that wait in the session where most do",
           lambda seen: seen.vitals.most_waiting),
    _gauge("session_runs_waiting_max", "Most runs that may wait in one session (setting `max_queued_per_session`)",
           lambda seen: seen.vitals.options.max_queued_per_session),
    _gauge("runs_running_max", "Most runs that may execute (setting `max_running`); 1 for one `Agent` for all sessions",
           lambda seen: seen.vitals.options.max_running),
    _gauge("runs_held", "Runs that have ended and hold their session, because something of them still works",
           lambda seen: seen.vitals.health.held),
    _gauge("runs_still_working", "Runs that have ended and still work: held, or their hold was given up",
           lambda seen: seen.vitals.lingering),
    _gauge("runs_still_working_max", "At how many of those the server stops itself (setting `max_holds`)",
           lambda seen: seen.vitals.options.max_holds),
    _gauge("runs_stalled", "Runs that execute and have given no sign of life for `stall_after`",
           lambda seen: seen.vitals.health.stalled),
    _gauge("oldest_wait_seconds", "How long the run that was accepted first has waited; 0 if none waits",
           lambda seen: seen.vitals.health.oldest_wait_s),
    _gauge("longest_no_progress_seconds", "For how long one of the runs that execute has given no sign of life",
           lambda seen: seen.vitals.health.longest_no_progress_s),
    _counter("runs_accepted", "Runs that were accepted", lambda seen: seen.recorder.accepts),
    Metric("counter", "runs_ended",
           "Runs that have ended, by outcome; `code` is the error's code, `none` if it is no failure",
           lambda seen: list(seen.recorder.ends.items()), ("outcome", "code")),
    Metric("counter", "refusals", "Requests that were refused for now, before anything was kept; `reason` is the code",
           lambda seen: [((reason,), count) for reason, count in seen.recorder.refusals.items()], ("reason",)),
    _histogram("run_wait_seconds", "From the acceptance of a run to its start", lambda seen: seen.recorder.waits),
    _histogram("first_text_seconds", "From the acceptance of a run to the first text of its agent",
               lambda seen: seen.recorder.first_texts),
    Metric("histogram", "run_duration_seconds", "How long the last attempt of a run took, with the commit of its end",
           lambda seen: [((outcome,), each) for outcome, each in seen.recorder.durations.items()], ("outcome",)),
    _counter("holds", "Sessions that were held by a run that had ended", lambda seen: seen.vitals.holds),
    _counter("holds_given_up", "Holds that ended although something of their run still worked",
             lambda seen: seen.vitals.holds_given_up),
    _counter("stalls", "Times that a run gave no sign of life for `stall_after`", lambda seen: seen.vitals.stalls),
    _counter("claims_lost", "Claims that were lost: a newer owner has the journal",
             lambda seen: seen.vitals.claims_lost),
    _counter("clients_lost", "Clients whose connection ended before their answer",
             lambda seen: seen.vitals.health.lost_clients),
    Metric("counter", "connections_cut",
           "Connections that were ended before their time; `reason` is the code that was told, or `idle`, `not_taken`,"
           " `too_many_behind`",
           lambda seen: [((reason,), count) for reason, count in seen.recorder.cuts.items()], ("reason",)),
    Metric("counter", "requests_denied",
           "Requests that were not let in, by `reason`: of their key, of what only operators see, or `foreign`",
           lambda seen: [((reason,), count) for reason, count in seen.recorder.denials.items()], ("reason",)),
    _gauge("subscribers", "Clients that wait for events, or for the end of a run, at this moment",
           lambda seen: seen.vitals.subscribers),
    _gauge("agents_in_memory", "Idle agents that are kept for the next run of their session",
           lambda seen: seen.vitals.health.agents_in_memory),
    _gauge("ready", "1 while runs are accepted, else 0", lambda seen: float(seen.vitals.health.ready)),
    _gauge("draining", "1 while the server stops, else 0", lambda seen: float(seen.vitals.health.draining)),
    _histogram("loop_lag_seconds", "By how much the loop that serves was late, looked at once a second",
               lambda seen: seen.recorder.lags),
    _gauge("agent_loop_silent_seconds", "For how long the loop that agents share has owed a sign of life",
           lambda seen: seen.vitals.agents.silent_s),
    _counter("agent_loops_given_up", "Loops of agents that user code blocked for good",
             lambda seen: seen.vitals.agents.given_up),
    Metric("gauge", "worker_ready", "1 while runs may begin in this worker process, else 0 (setting `workers`)",
           lambda seen: _each_worker(seen, lambda each: float(each.pid is not None)), ("worker",)),
    Metric("gauge", "worker_runs_running", "Runs that execute in this worker process",
           lambda seen: _each_worker(seen, lambda each: each.running), ("worker",)),
    Metric("gauge", "worker_silent_seconds", "For how long this worker process, or the loop of its agents, has owed a"
           " sign of life", lambda seen: _each_worker(seen, lambda each: each.silent_s), ("worker",)),
    _counter("workers_lost", "Worker processes that have ended without being told to",
             lambda seen: seen.vitals.agents.workers_lost),
    _gauge("executor_backlog", "Sync tools that wait for one of `executor_threads`",
           lambda seen: seen.vitals.agents.backlog),
    _histogram("journal_commit_seconds", "How long a commit of the journal took to be durable",
               lambda seen: seen.recorder.commits),
    _histogram("journal_commit_batch", "How many operations shared a commit", lambda seen: seen.recorder.batches),
    _gauge("journal_bytes", "How large the journal is: its file and its WAL; missing for `memory:`",
           lambda seen: None if seen.place is None else seen.place.journal),
    _gauge("disk_free_bytes", "How much room is left on the disk of the journal; missing for `memory:`",
           lambda seen: None if seen.place is None else seen.place.left),
    _gauge("stored_bytes", "How many bytes of inputs, metadata, history, windows and state are kept, of all principals",
           lambda seen: None if seen.stored is None else seen.stored.total),
    _gauge("principal_stored_bytes", "The same of the principal that has most",
           lambda seen: None if seen.stored is None else seen.stored.largest),
    _gauge("principal_stored_bytes_max", "Most that may be kept for one (setting `max_stored_bytes_per_principal`);"
           " missing without", lambda seen: seen.vitals.options.max_stored_bytes_per_principal),
    _gauge("session_files_behind", "Sessions with something that is not in their files yet (setting `session_files`)",
           lambda seen: seen.vitals.projection_behind),
    _counter("session_files_failures", "Times that files of a session could not be written or removed; tried again",
             lambda seen: seen.vitals.projection_failures),
    _counter("log_lines_dropped", "Lines of the log that were dropped, since nobody took them or there was no room",
             lambda seen: seen.dropped_lines),
    Metric("gauge", "build_info", "1; `version` is that of Strandline", lambda seen: [((__version__,), 1.0)],
           ("version",)),
)  # fmt: skip
