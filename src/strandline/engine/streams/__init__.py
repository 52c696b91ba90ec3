"""Events out: what goes on in runs and sessions, published to every client that subscribes.

An event takes one way. `EventRecorder` records it on the agent loop; the run's `RunStream` numbers and keeps it on the
serving loop; a `Subscription` is a place in that log, so that a slow client slows nobody. `Streams` has the streams of
all live runs, and a `ReplayBuffer` those of runs that ended a while ago. `ChangeFeed` has the events of all runs and
sessions of a principal.

Invariants: the end of a run is published once, last, and only when it is durable; an event is numbered once, for all
subscribers; all that is kept is bounded. Knows nothing of how runs are ordered, executed or stored, nor of HTTP. What
`__all__` names is for the rest of the code; the modules in here are not.
"""

from strandline.engine.streams.changes import UNTOLD, ChangeFeed
from strandline.engine.streams.log import LARGE, Bounds
from strandline.engine.streams.recorder import EventRecorder
from strandline.engine.streams.registry import Streams, goes_on
from strandline.engine.streams.replay import ReplayBuffer
from strandline.engine.streams.run_stream import LAST, Later, RunStream, as_last
from strandline.engine.streams.subscription import Subscription
from strandline.engine.streams.truncation import truncate_arguments, truncate_message, truncate_result

__all__ = [
    "LARGE",
    "LAST",
    "UNTOLD",
    "Bounds",
    "ChangeFeed",
    "EventRecorder",
    "Later",
    "ReplayBuffer",
    "RunStream",
    "Streams",
    "Subscription",
    "as_last",
    "goes_on",
    "truncate_arguments",
    "truncate_message",
    "truncate_result",
]
