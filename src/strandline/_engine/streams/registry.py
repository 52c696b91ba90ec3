"""The streams of all runs that end in this process, and for a while those of ended runs.

An executing run has one; a run that waits, or whose claim is on its way, gets one when a client waits for it. Plain
sync code.
"""

from collections.abc import Callable, Collection

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from strandline._clock import Clock
from strandline._engine.events import (
    RunChanged,
    RunJoined,
    RunPosition,
    RunQueued,
    RunRestarted,
    RunStalled,
    RunStarted,
    SessionDeleted,
    SessionEvent,
)
from strandline._engine.observers import UNOBSERVED, UNPROJECTED, Observer, Projection
from strandline._engine.options import Options
from strandline._engine.streams.changes import ChangeFeed
from strandline._engine.streams.log import Bounds
from strandline._engine.streams.replay import ReplayBuffer
from strandline._engine.streams.run_stream import LAST, EventRecorder, Later, RunStream, finished
from strandline._engine.streams.subscription import Subscription
from strandline._engine.streams.truncation import truncate_message
from strandline._history import Progress, effective_sender
from strandline._model import (
    Claim,
    ErrorCode,
    OnDisconnect,
    Outcome,
    Principal,
    RunError,
    RunId,
    RunStatus,
    RunSummary,
    Sender,
    SessionId,
    SessionKey,
)


class Streams:
    """Belongs to the serving loop. `is_waiting` says whether a run waits, `is_live` whether it waits or executes,
    `host_of` which other run it has joined, as decided; `post` calls a function on that loop; `epoch_of` says how many
    owners a session has had, with this one.

    `observer` and `projection` are notified as well.
    """

    def __init__(
        self,
        options: Options,
        clock: Clock,
        *,
        is_waiting: Callable[[RunId], bool],
        is_live: Callable[[RunId], bool],
        host_of: Callable[[RunId], RunId | None],
        post: Callable[[Callable[[], object]], None],
        epoch_of: Callable[[SessionKey], int],
        observer: Observer = UNOBSERVED,
        projection: Projection = UNPROJECTED,
    ) -> None:
        self.is_waiting = is_waiting
        self._is_live = is_live
        self._host_of = host_of
        self._clock = clock
        self._post = post
        self._epoch_of = epoch_of
        self._observer = observer
        self._projection = projection
        self._survives = options.survives
        self._cut = options.stream_cut
        self._bounds = Bounds(options.stream_buffer, options.stream_buffer_bytes)
        self._changes = ChangeFeed(clock, bounds=self._bounds, retention_s=options.stream_retention_s)
        self._replay = ReplayBuffer(clock, retention_s=options.stream_retention_s, memory=options.stream_memory)
        self._streams: dict[RunId, RunStream] = {}
        self._left: dict[RunId, int] = {}
        """The last numbers of runs whose streams ended early: rare, unless the server stops."""
        self._draining = False
        self._stopped = False

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def subscribers(self) -> int:
        """How many wait for a run or for changes at this moment."""
        return sum(stream.subscribers for stream in self._streams.values()) + self._changes.subscribers

    # -- life --------------------------------------------------------------------------------------

    def begin(self, epoch: int) -> None:
        """Start the numbers of changes after those of earlier processes; `epoch` counts this journal's, with this
        one."""
        self._changes.begin(epoch)

    def evict(self) -> None:
        """Drop what was stored for clients that come back, when its time is over. To be called every second."""
        self._replay.evict()
        self._changes.evict()

    def drain(self) -> None:
        """Answer all that wait for a waiting run, now or from now on, that it resumes after a restart."""
        self._draining = True
        for stream in self.waiting():
            self.later(stream.run_id)

    def stop(self) -> None:
        """End all streams: the runs resume after a restart, or never."""
        self._stopped = True
        for run_id in list(self._streams):
            self.later(run_id)
        self._changes.stop()

    # -- reading -----------------------------------------------------------------------------------

    def get(self, run_id: RunId) -> RunStream | None:
        """Return the stream of a run, if it has one."""
        return self._streams.get(run_id)

    def of(self, run_id: RunId, key: SessionKey) -> RunStream | None:
        """Return the stream of a run; None if it does not end in this process (any more)."""
        stream = self._streams.get(run_id)
        if stream is None and self.is_expected(run_id) and not self._draining:
            stream = self._of_joined(run_id, key)
        return stream

    def found(self, principal: Principal, run_id: RunId) -> RunStream | None:
        """Return the stream of a principal's run that is live, or the stored events of one that has ended."""
        stream = self._streams.get(run_id) or self._replay.get(run_id)
        return stream if stream is not None and stream.key.principal == principal else None

    def of_read(self, run: RunSummary) -> RunStream:
        """Return the stream of a run that was read from the journal.

        For an ended run it has the stored events, or the end alone. For a run that does not end in this process it has
        ended already: the run resumes after a restart, or never.
        """
        if run.outcome is not None:
            if (stream := self._replay.get(run.run_id)) is None:
                stream = RunStream(run.run_id, run.key, first=LAST)
                stream.finish(run.outcome, self._clock.now() if run.ended_at is None else run.ended_at)
        elif (stream := self.of(run.run_id, run.key)) is None:
            stream = RunStream(run.run_id, run.key)
            self._postpone(stream)
        return stream

    def is_expected(self, run_id: RunId) -> bool:
        """Return whether a run still ends in this process."""
        if run_id in self._streams or self.is_waiting(run_id):
            return True
        # Its claim is on its way, unless it came and nothing could be done with it.
        return self._is_live(run_id) and run_id not in self._left

    def has_joined(self, run_id: RunId) -> bool:
        """Return whether a run's events continue with those of the run that it has joined."""
        stream = self._streams.get(run_id)
        return stream is not None and stream.successor is not None

    def waiting(self) -> list[RunStream]:
        """Return the streams of the waiting runs."""
        return [stream for run_id, stream in self._streams.items() if self.is_waiting(run_id)]

    def changes(
        self, principal: Principal, after: int, sessions: Collection[SessionId], types: Collection[str]
    ) -> Subscription:
        """Subscribe to the changes from now on, or after number `after`; see `ChangeFeed.subscribe`."""
        if not self._changes:
            for stream in self._streams.values():
                stream.flush()  # earlier events are no changes from now on
        return self._changes.subscribe(principal, after, sessions, types)

    # -- publishing --------------------------------------------------------------------------------

    def accepted(
        self, run_id: RunId, key: SessionKey, on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    ) -> RunStream:
        """Return the stream of an accepted run, whose claim follows.

        `on_disconnect` is what happens to it when its clients disconnect.
        """
        self._observer.accepted()
        # It may have one, if a client came before its caller has the answer.
        stream = self._streams.get(run_id) or self._begin(run_id, key, 1)
        stream.on_disconnect = on_disconnect
        if self._stopped:  # the journal was slow
            self.later(run_id)
        return stream

    def queued(self, run_id: RunId, at: RunPosition, sender: Sender | None = None) -> None:
        """Publish that a run of a sender waits, unless that was published or the run has begun."""
        stream = self._streams.get(run_id)
        if stream is not None and not stream.has_begun and stream.successor is None:
            stream.standing = RunQueued(
                at.position, at.estimated_wait_s, at.why, at.input_requests, _known(sender, stream.key)
            )
            stream.publish(self._clock.now(), stream.standing)
            if self._draining and self.is_waiting(run_id):
                self.later(run_id)

    def starts_with_another(self, run_id: RunId) -> bool:
        """Return whether an accepted run has joined one that has started meanwhile; its events continue there."""
        stream, host = self._streams.get(run_id), self._host_of(run_id)
        if stream is None or host is None:
            return False
        if stream.successor is None and (of_host := self._streams.get(host)) is not None and of_host.has_joined(run_id):
            self._continue(stream, of_host)
        return True

    def edited(self, run_id: RunId, key: SessionKey, event: RunChanged) -> None:
        """Publish that a waiting run was edited."""
        if (stream := self._streams.get(run_id)) is not None:
            stream.publish(self._clock.now(), event)
        else:
            self._changes.publish(key, run_id, self._clock.now(), event)

    def claimed(self, claim: Claim) -> None:
        """Note that a run is about to execute, for the first time or again."""
        if not claim.resumes:
            self._observer.started(max(0.0, self._clock.now() - claim.run.waits_since))
        self._of_claim(claim)

    def started(self, claim: Claim, progress: Progress) -> EventRecorder:
        """Publish that a run executes, and return its event recorder; `progress` is that of earlier attempts."""
        run, stream = claim.run, self._of_claim(claim)
        if claim.resumes:
            said = progress.messages_to_resume()
            own = said if claim.question is None else said[1:]  # (the first one is of the run that has asked)
            messages = [truncate_message(message, self._cut)[0] for message in own]
            stream.begin(self._clock.now(), RunRestarted(run.attempt, messages))
        else:
            since = run.waits_since
            stream.begin(
                self._clock.now(),
                RunStarted(run.attempt, _known(run.sender, run.key)),
                on_first_text=lambda at: self._observer.first_text(max(0.0, at - since)),
            )
            if claim.checkpoints:
                self._collected(stream, [each.run_id for each in claim.collected])
        return EventRecorder(stream, self._post, self._clock, self._cut, self._joined)

    def _collected(self, host: RunStream, joining: Collection[RunId]) -> None:
        """Publish that runs have joined one that starts: what they say is part of its first message."""
        for run_id in joining:
            host.publish(self._clock.now(), RunJoined(run_id, host.run_id, [], truncated=False))
        self._joined(host.run_id, joining)

    def _joined(self, host: RunId, joining: Collection[RunId]) -> None:
        """Have the clients of runs that have joined another get its events from there."""
        stream = self._streams.get(host)
        if stream is None:
            return
        stream.flush()
        for run_id in joining:
            if (joined := self._streams.get(run_id)) is not None and joined.successor is None:
                self._continue(joined, stream)

    def _continue(self, joined: RunStream, host: RunStream) -> None:
        """Have a run's events continue with those of its host, which its clients keep from being cancelled."""
        joined.continue_with(host, host.joined_after(joined.run_id))
        if joined.clients:
            host.clients += joined.clients
            if host.disconnect_timer is not None:
                host.disconnect_timer.cancel()
                host.disconnect_timer = None

    def stalled(self, run_id: RunId, quiet_s: float, phase: str) -> None:
        """Publish that a run gives no sign of life."""
        if (stream := self._streams.get(run_id)) is not None:
            stream.publish(self._clock.now(), RunStalled(round(quiet_s, 3), phase))

    def ended(self, run_id: RunId, key: SessionKey, outcome: Outcome | None, duration_s: float | None) -> None:
        """Publish the outcome of a run, and store its events for a while; None: it resumes after a restart.

        `duration_s` is how many seconds it executed; None: it never did.
        """
        if outcome is None:
            self.later(run_id)
            return
        if (stream := self._streams.pop(run_id, None)) is not None:
            stream.finish(outcome, self._clock.now())
            self._replay.put(stream)
        else:  # an older process has accepted it, and no client has come since
            self._changes.publish(key, run_id, self._clock.now(), finished(outcome))
        self._projection.changed(key)
        self._observer.ended(outcome, duration_s)

    def ended_with(self, run_ids: Collection[RunId], key: SessionKey, host: Outcome) -> None:
        """Publish the outcome of runs that joined one that has just ended. They had no turn, and count as none."""
        outcome = replace(host, usage=None)
        for run_id in run_ids:
            self._changes.publish(key, run_id, self._clock.now(), finished(outcome))
            if (stream := self._streams.pop(run_id, None)) is not None:
                stream.finish(outcome, self._clock.now())
                self._replay.put(stream)

    def ceded(self, is_ceded: Callable[[SessionKey], bool]) -> None:
        """Drop everything of sessions that another server has from now on; their runs continue there."""
        for run_id in [run_id for run_id, stream in self._streams.items() if is_ceded(stream.key)]:
            self._postpone(self._streams.pop(run_id))
        self._replay.forget_all(is_ceded)

    def later(self, run_id: RunId) -> None:
        """Answer all that wait for a run that it resumes after a restart, or never."""
        if (stream := self._streams.pop(run_id, None)) is not None:
            self._postpone(stream)
            self._left[run_id] = stream.last  # (if its claim is on its way, it comes back to this process)

    def changed(self, key: SessionKey, event: SessionEvent) -> None:
        """Publish a change of a session; deleting a session also deletes the events of its runs."""
        if isinstance(event, SessionDeleted):
            self._replay.forget(key)
        self._changes.publish(key, None, self._clock.now(), event)

    # -- inside ------------------------------------------------------------------------------------

    def _begin(self, run_id: RunId, key: SessionKey, first: int) -> RunStream:
        stream = RunStream(run_id, key, first=first, bounds=self._bounds, changes=self._changes)
        self._streams[run_id] = stream
        if not self._changes:
            self._changes.missed()
        return stream

    def _of_joined(self, run_id: RunId, key: SessionKey) -> RunStream:
        """Return a stream for a run without clients so far; one that has joined another continues with that
        one's events."""
        stream = self._older(run_id, key)
        if (host := self._host_of(run_id)) is not None:
            self._continue(stream, self._streams.get(host) or self._older(host, key))
        return stream

    def _of_claim(self, claim: Claim) -> RunStream:
        run = claim.run
        return self._streams.get(run.run_id) or self._older(run.run_id, run.key)

    def _older(self, run_id: RunId, key: SessionKey) -> RunStream:
        """Return a stream for a run that an earlier owner accepted, with numbers larger than any given there."""
        return self._begin(run_id, key, max((self._epoch_of(key) << 32) + 1, self._left.pop(run_id, 0) + 1))

    def _postpone(self, stream: RunStream) -> None:
        if self._survives:
            stream.finish(Later.LATER)
        else:
            error = RunError(ErrorCode.STOPPED, "the server was stopped, and its journal is in memory")
            stream.finish(Outcome(status=RunStatus.FAILED, error=error), self._clock.now())


def _known(sender: Sender | None, key: SessionKey) -> Sender | UnsetType:
    """Return the sender of a run of a session for an event; UNSET: nobody knows."""
    known = effective_sender(sender, key.principal)
    return UNSET if known is None else known
