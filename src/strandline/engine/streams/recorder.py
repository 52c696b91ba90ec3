"""From an attempt on the agent loop to the stream of its run on the serving loop: what goes on, as events, in order.

Many events share one way over, and as long as nobody subscribes they take none: the stream takes them in when somebody
does, or when the run has ended. What a run takes apart is measured here: how long a tool and a call of the model took,
and when the first piece came. Belongs to the agent loop, but for `_flush`.
"""

from collections.abc import Callable

from strandline.clock import Clock
from strandline.engine.events import (
    Event,
    MessageAdded,
    ReasoningDelta,
    TextDelta,
    TextReset,
    ToolFinished,
    ToolStarted,
    Usage,
)
from strandline.engine.streams.run_stream import MANY, RunStream
from strandline.engine.streams.truncation import truncate_arguments, truncate_message, truncate_result
from strandline.model import Message, ToolResult


class EventRecorder:
    """Records for one attempt. `post` has something called on the serving loop; `cut` is the bytes of `truncation`."""

    __slots__ = ("_called_at", "_clock", "_cut", "_first_s", "_inbox", "_on_its_way", "_post", "_stream", "_tools")

    def __init__(self, stream: RunStream, post: Callable[[Callable[[], object]], None], clock: Clock, cut: int) -> None:
        self._stream = stream
        self._inbox = stream.inbox
        self._post = post
        self._clock = clock
        self._cut = cut
        self._on_its_way = False
        self._tools: dict[str, tuple[str, float]] = {}
        self._called_at: float | None = None
        self._first_s: float | None = None

    def text(self, delta: str) -> None:
        """Record a piece of the model's text."""
        if self._first_s is None:
            self._note_first()
        self._record(TextDelta(delta))

    def reasoning(self, delta: str) -> None:
        """Record a piece of the model's reasoning."""
        if self._first_s is None:
            self._note_first()
        self._record(ReasoningDelta(delta))

    def reset(self) -> None:
        """Record that the text since the last message counts no more."""
        self._record(TextReset())

    def model_called(self) -> None:
        """Note that a call of the model begins."""
        self._called_at = self._clock.monotonic()
        self._first_s = None

    def usage(self, tokens: dict[str, int]) -> None:
        """Record what a call of the model has taken."""
        called_at, self._called_at = self._called_at, None
        model_s = None if called_at is None else self._clock.monotonic() - called_at
        self._record(Usage(tokens, _rounded(model_s), _rounded(self._first_s)))

    def tool_started(self, tool_use_id: str, name: str, given: object) -> None:
        """Record that a tool begins; one that a hook has begin again is recorded once."""
        if tool_use_id not in self._tools:
            self._tools[tool_use_id] = (name, self._clock.monotonic())
            self._record(ToolStarted(tool_use_id, name, *truncate_arguments(given, self._cut)))

    def tool_finished(self, tool_use_id: str, result: ToolResult) -> None:
        """Record that a tool has ended."""
        name, started = self._tools.pop(tool_use_id, ("", None))
        duration_s = None if started is None else self._clock.monotonic() - started
        kept, cut = truncate_result(result, self._cut)
        self._record(ToolFinished(tool_use_id, name, str(result["status"]), _rounded(duration_s), kept, cut))

    def message(self, message: Message) -> None:
        """Record that a message has joined the run's own."""
        self._record(MessageAdded(*truncate_message(message, self._cut)))

    def _note_first(self) -> None:
        if self._called_at is not None:
            self._first_s = self._clock.monotonic() - self._called_at

    def _record(self, event: Event) -> None:
        self._inbox.append((self._clock.now(), event))
        # In this order: a client that subscribes after the look takes what is there, and finds this.
        if not self._on_its_way and (self._stream.is_followed or len(self._inbox) >= MANY):
            self._on_its_way = True
            self._post(self._flush)

    def _flush(self) -> None:
        self._on_its_way = False  # first: what is recorded from now on may be too late for this way, and takes another
        self._stream.flush()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
