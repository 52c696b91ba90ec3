"""Events out: runs and sessions, published to every client that subscribes.

`Streams` is the one way in: each of its calls publishes one event. `started` returns the recorder of an attempt. Its
events take one way: on the agent loop into the inbox of the run's `RunStream`; on the serving loop numbered and stored
there; read by each client through a `Subscription`, a place in that log, so that a slow client slows nobody. The change
feed has the events of all runs and sessions of a principal, and the replay buffer those of runs that ended a while ago.

Invariants: a run's end is published once, last, and only when it is durable; an event is numbered once, for all
subscribers; everything stored is bounded. Knows nothing of how runs are ordered, executed or stored, nor of HTTP. The
rest of the code imports `__all__` only.
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
