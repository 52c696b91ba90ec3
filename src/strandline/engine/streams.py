"""The streams of all runs whose end is still to come in this process, and how each of them ends. Plain sync code.

A run that executes has one; one that waits gets it when somebody comes to wait for it.
"""

from collections.abc import Callable

from strandline.engine.stream import Later, RunStream
from strandline.model import ErrorCode, Outcome, RunError, RunId, RunStatus


class Streams:
    """Belongs to the serving loop. `survives`: what has not ended when the server stops goes on after its restart."""

    def __init__(self, is_waiting: Callable[[RunId], bool], *, survives: bool) -> None:
        self._is_waiting = is_waiting
        self._survives = survives
        self._streams: dict[RunId, RunStream] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, run_id: RunId) -> bool:
        return run_id in self._streams

    def new(self, run_id: RunId) -> RunStream:
        """Return the stream of a run that is about to be accepted."""
        stream = self._streams[run_id] = RunStream(run_id)
        return stream

    def drop(self, run_id: RunId) -> None:
        """Forget the stream of a run that was not accepted."""
        self._streams.pop(run_id, None)

    def of(self, run_id: RunId) -> RunStream | None:
        """Return the stream of a run; None if its end is not to come in this process (any more)."""
        stream = self._streams.get(run_id)
        if stream is None and self._is_waiting(run_id):
            stream = self.new(run_id)
        return stream

    def is_expected(self, run_id: RunId) -> bool:
        """Tell whether the end of a run is still to come in this process."""
        return run_id in self._streams or self._is_waiting(run_id)

    def started(self, run_id: RunId) -> None:
        """Note that a run executes."""
        if run_id not in self._streams:  # accepted before a restart: somebody may come to wait for it
            self.new(run_id)

    def ended(self, run_id: RunId, outcome: Outcome) -> None:
        """Tell whoever waits how a run has ended."""
        if (stream := self._streams.pop(run_id, None)) is not None:
            stream.finish(outcome)

    def later(self, run_id: RunId) -> None:
        """Tell whoever waits that a run goes on after a restart, or that it never will."""
        if (stream := self._streams.pop(run_id, None)) is not None:
            self._postpone(stream)

    def all_later(self) -> None:
        """Tell whoever still waits that their runs go on after a restart, or never will."""
        for run_id in list(self._streams):
            self.later(run_id)

    def finished(self, run_id: RunId, outcome: Outcome) -> RunStream:
        """Return the stream of a run that has ended."""
        stream = RunStream(run_id)
        stream.finish(outcome)
        return stream

    def postponed(self, run_id: RunId) -> RunStream:
        """Return a stream that tells already that its run goes on after a restart, or that it never will."""
        stream = RunStream(run_id)
        self._postpone(stream)
        return stream

    def _postpone(self, stream: RunStream) -> None:
        if self._survives:
            stream.finish(Later.LATER)
        else:
            error = RunError(ErrorCode.STOPPED, "the server was stopped, and its journal keeps nothing")
            stream.finish(Outcome(status=RunStatus.FAILED, error=error))
