"""From an attempt on the agent loop to the stream of its run on the serving loop: what goes on, as events, in order.

Many events share one way over, and as long as nobody subscribes they take none: the stream takes them in when somebody
does, or when the run has ended. Belongs to the agent loop, but for `_flush`.
"""

from collections.abc import Callable

from msgspec import Struct

from strandline.clock import Clock
from strandline.engine.events import Event
from strandline.engine.streams.log import TEXT
from strandline.engine.streams.run_stream import MANY, RunStream


class EventRecorder(Struct, eq=False):
    """Records for one attempt. `post` has something called on the serving loop; `cut` is the bytes of `truncation`."""

    _stream: RunStream
    _post: Callable[[Callable[[], object]], None]
    _clock: Clock
    cut: int
    _inbox: list[tuple[float, Event]] = []
    """That of its attempt, whatever the stream has later."""
    _on_its_way: bool = False

    def __post_init__(self) -> None:
        self._inbox = self._stream.inbox

    def record(self, event: Event) -> None:
        """Record an event, as of now. Text waits for the stream to take it in, if that is about to do so by itself."""
        inbox, stream = self._inbox, self._stream
        inbox.append((self._clock.now(), event))
        # In this order: a client that subscribes after the look takes what is there, and finds this.
        if self._on_its_way:
            return
        if (stream.is_followed and not (stream.is_paced and isinstance(event, TEXT))) or len(inbox) >= MANY:
            self._on_its_way = True
            self._post(self._flush)

    def _flush(self) -> None:
        self._on_its_way = False  # first: what is recorded from now on may be too late for this way, and takes another
        self._stream.flush()
