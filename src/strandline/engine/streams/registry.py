"""The streams of all runs whose end is still to come in this process, and for a while those of runs that have ended.

A run that executes has one; one that waits gets it when somebody comes to wait for it. What was told of an ended run is
kept as bytes, for so long and in so many bytes as `ReplayBuffer` says. Plain sync code.
"""

from collections.abc import Callable, Sequence

from strandline.clock import Clock
from strandline.engine.events import RunQueued, RunRestarted, RunStalled, RunStarted, Why
from strandline.engine.streams.changes import ChangeFeed
from strandline.engine.streams.log import Bounds
from strandline.engine.streams.replay import ReplayBuffer
from strandline.engine.streams.run_stream import LAST, Later, RunStream, finished
from strandline.engine.streams.truncation import truncate_message
from strandline.history import Progress
from strandline.model import (
    Claim,
    ErrorCode,
    InputRequest,
    Lane,
    Outcome,
    Principal,
    RunError,
    RunId,
    RunStatus,
    RunSummary,
    SessionKey,
)


class Streams:
    """Belongs to the serving loop. `survives`: what has not ended when the server stops goes on after its restart."""

    def __init__(
        self,
        is_waiting: Callable[[RunId], bool],
        clock: Clock,
        shelf: ReplayBuffer,
        *,
        feeds: ChangeFeed,
        bounds: Bounds,
        cut: int,
        survives: bool,
    ) -> None:
        self.is_waiting = is_waiting
        self._clock = clock
        self._shelf = shelf
        self._feeds = feeds
        self._bounds = bounds
        self._cut = cut
        self._survives = survives
        self._streams: dict[RunId, RunStream] = {}
        self._left: dict[RunId, int] = {}
        """The last numbers of runs that have left: it is rare, unless the server stops."""
        self.epoch = 0
        """How many processes have served the journal, this one counted."""

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def listeners(self) -> int:
        """How many wait for something of a run at this moment."""
        return sum(stream.listeners for stream in self._streams.values())

    def __contains__(self, run_id: RunId) -> bool:
        return run_id in self._streams

    # -- where they come from ----------------------------------------------------------------------

    def new(self, run_id: RunId, key: SessionKey) -> RunStream:
        """Return the stream of a run that is about to be accepted."""
        stream = self._streams[run_id] = RunStream(run_id, key, bounds=self._bounds, feeds=self._feeds)
        return stream

    def drop(self, run_id: RunId) -> None:
        """Forget the stream of a run that was not accepted."""
        self._streams.pop(run_id, None)

    def of(self, run_id: RunId, key: SessionKey) -> RunStream | None:
        """Return the stream of a run; None if its end is not to come in this process (any more)."""
        stream = self._streams.get(run_id)
        if stream is None and self.is_waiting(run_id):
            stream = self._older(run_id, key)
        return stream

    def found(self, principal: Principal, run_id: RunId) -> RunStream | None:
        """Return the stream of a run of this principal that goes on, or what is kept of one that has ended."""
        stream = self._streams.get(run_id) or self._shelf.get(run_id)
        return stream if stream is not None and stream.key.principal == principal else None

    def is_expected(self, run_id: RunId) -> bool:
        """Tell whether the end of a run is still to come in this process."""
        return run_id in self._streams or self.is_waiting(run_id)

    def waiting(self) -> list[RunStream]:
        """Return the streams of the runs that wait."""
        return [stream for run_id, stream in self._streams.items() if self.is_waiting(run_id)]

    def gather(self) -> None:
        """Take in what was said of all runs that go on."""
        for stream in self._streams.values():
            stream.gather()

    # -- what happens ------------------------------------------------------------------------------

    def queued(
        self,
        run_id: RunId,
        position: int,
        estimated_wait_s: float | None,
        why: Why | None = None,
        requests: Sequence[InputRequest] = (),
    ) -> None:
        """Tell that a run waits, unless that is known, or over; for the answer to `requests`, if there are any."""
        if (stream := self._streams.get(run_id)) is not None and not stream.has_begun:
            stream.standing = RunQueued(position, estimated_wait_s, why, list(requests))
            stream.tell(self._clock.now(), stream.standing)

    def waits(
        self,
        run: RunSummary,
        estimated_wait_s: float | None,
        why: Why | None = None,
        requests: Sequence[InputRequest] = (),
    ) -> None:
        """Tell that a run waits, if that is so and not known. One that was given back tells next that it goes on."""
        if run.position and run.lane != Lane.GIVEN_BACK:
            self.queued(run.run_id, run.position, estimated_wait_s, why, requests)

    def claimed(self, claim: Claim) -> None:
        """Note that a run is about to execute."""
        self._of_claim(claim)

    def started(self, claim: Claim, progress: Progress) -> RunStream:
        """Tell that a run executes, and return its stream; `progress` is what is kept of earlier attempts."""
        run, stream = claim.run, self._of_claim(claim)
        if goes_on(claim):
            kept = [truncate_message(message, self._cut)[0] for message in progress.messages]
            stream.tell(self._clock.now(), RunRestarted(run.attempt, kept))
        else:
            stream.tell(self._clock.now(), RunStarted(run.attempt))
        return stream

    def stalled(self, run_id: RunId, quiet_s: float, phase: str) -> None:
        """Tell that a run gives no sign of life."""
        if (stream := self._streams.get(run_id)) is not None:
            stream.tell(self._clock.now(), RunStalled(round(quiet_s, 3), phase))

    def ended(self, run_id: RunId, key: SessionKey, outcome: Outcome) -> None:
        """Tell whoever waits how a run has ended, and keep what was told for a while."""
        if (stream := self._streams.pop(run_id, None)) is not None:
            stream.finish(outcome, self._clock.now())
            self._shelf.put(stream)
        else:  # an older process has accepted it, and nobody has asked for it since
            self._feeds.tell(key, run_id, self._clock.now(), finished(outcome))

    def later(self, run_id: RunId) -> None:
        """Tell whoever waits that a run goes on after a restart, or that it never will."""
        if (stream := self._streams.pop(run_id, None)) is not None:
            self._postpone(stream)
            self._left[run_id] = stream.last  # should its claim be on its way, it comes back to this process

    def all_later(self) -> None:
        """Tell whoever still waits that their runs go on after a restart, or never will."""
        for run_id in list(self._streams):
            self.later(run_id)

    def ended_before(self, run: RunSummary, outcome: Outcome) -> RunStream:
        """Return the stream of a run that has ended: what is kept of it, or its end alone."""
        if (kept := self._shelf.get(run.run_id)) is not None:
            return kept
        stream = RunStream(run.run_id, run.key, first=LAST)
        stream.finish(outcome, self._clock.now() if run.ended_at is None else run.ended_at)
        return stream

    def postponed(self, run_id: RunId, key: SessionKey) -> RunStream:
        """Return a stream that tells already that its run goes on after a restart, or that it never will."""
        stream = RunStream(run_id, key)
        self._postpone(stream)
        return stream

    def _of_claim(self, claim: Claim) -> RunStream:
        run = claim.run
        return self._streams.get(run.run_id) or self._older(run.run_id, run.key)

    def _older(self, run_id: RunId, key: SessionKey) -> RunStream:
        """Return a stream for a run that an older process has accepted: its numbers are larger than all told there."""
        first = max((self.epoch << 32) + 1, self._left.pop(run_id, 0) + 1)
        stream = RunStream(run_id, key, first=first, bounds=self._bounds, feeds=self._feeds)
        self._streams[run_id] = stream
        return stream

    def _postpone(self, stream: RunStream) -> None:
        if self._survives:
            stream.finish(Later.LATER)
        else:
            error = RunError(ErrorCode.STOPPED, "the server was stopped, and its journal keeps nothing")
            stream.finish(Outcome(status=RunStatus.FAILED, error=error), self._clock.now())


def goes_on(claim: Claim) -> bool:
    """Tell whether the run of a claim has begun before."""
    return claim.run.attempt > 1 or claim.run.lane == Lane.GIVEN_BACK or len(claim.facts) > 0
