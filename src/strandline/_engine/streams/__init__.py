"""Events out: what goes on in runs and sessions, published to every client that subscribes.

`Streams` is the one way in: each of its calls publishes one thing that happens. `started` returns the recorder of an
attempt. What that records takes one way: on the agent loop into the inbox of the run's `RunStream`; on the serving loop
numbered and kept there; read by each client through a `Subscription`, a place in that log, so that a slow client slows
nobody. Inside are the change feed, which has the events of all runs and sessions of a principal, and the replay buffer,
which has those of runs that ended a while ago.

Invariants: the end of a run is published once, last, and only when it is durable; an event is numbered once, for all
subscribers; all that is kept is bounded. Knows nothing of how runs are ordered, executed or stored, nor of HTTP. What
`__all__` names is for the rest of the code; the modules in here are not.
"""

from strandline._engine.streams.changes import NOT_IN_FEED
from strandline._engine.streams.log import LARGE
from strandline._engine.streams.registry import Streams
from strandline._engine.streams.run_stream import LAST, EventRecorder, Later, RunStream, as_last
from strandline._engine.streams.subscription import Subscription
from strandline._engine.streams.truncation import truncate_arguments, truncate_message, truncate_result

__all__ = [
    "LARGE",
    "LAST",
    "NOT_IN_FEED",
    "EventRecorder",
    "Later",
    "RunStream",
    "Streams",
    "Subscription",
    "as_last",
    "truncate_arguments",
    "truncate_message",
    "truncate_result",
]
