"""The clients that wait for runs, and what happens to a run when all of them have disconnected.

A run continues without clients, unless its caller asked otherwise. A client is lost when its connection ends before its
answer; one that got its answer, or did not want to wait, is not. The service acts only when a run has had no client for
a while: a client that reconnects in time finds its run. Belongs to the serving loop; nothing here is durable, since a
restart ends all connections at once.
"""

import asyncio
from typing import Final

from strandline._engine.admission.control import Control
from strandline._engine.streams import RunStream, Streams
from strandline._model import OnDisconnect, RunId

DISCONNECT_GRACE_S: Final = 2.0
"""How long a run must have had no client."""


class Subscribers:
    """Counts a run's clients in its stream, until the run ends in this process."""

    def __init__(self, streams: Streams, control: Control) -> None:
        self._streams = streams
        self._control = control
        self._stopped = False
        self.lost = 0
        """How many clients have been lost so far."""

    def joined(self, run_id: RunId) -> None:
        """Note a client that waits for a run."""
        for stream in self._counted(run_id):
            stream.clients += 1
            if stream.disconnect_timer is not None:
                stream.disconnect_timer.cancel()
                stream.disconnect_timer = None

    def left(self, run_id: RunId, *, lost: bool) -> None:
        """Note that a client waits no longer, because it has its answer, or because it was `lost`."""
        self.lost += lost
        for stream in self._counted(run_id):
            if not stream.clients:
                continue
            stream.clients -= 1
            if lost and not stream.clients and stream.on_disconnect is not OnDisconnect.CONTINUE:
                stream.disconnect_timer = asyncio.get_running_loop().call_later(
                    DISCONNECT_GRACE_S, self._all_disconnected, stream.run_id
                )

    def stop(self) -> None:
        """Cancel no more runs."""
        self._stopped = True

    def _counted(self, run_id: RunId) -> list[RunStream]:
        """Return the streams whose clients include those of a run: its own, and that of the run that it has joined."""
        stream = self._streams.get(run_id)
        if stream is None:
            return []
        host = stream.successor
        return [stream, host] if isinstance(host, RunStream) else [stream]

    def _all_disconnected(self, run_id: RunId) -> None:
        stream = self._streams.get(run_id)
        if stream is not None and not stream.clients and not self._stopped:
            stream.disconnect_timer = None
            self._control.all_disconnected(run_id, stream.key, stream.on_disconnect)
