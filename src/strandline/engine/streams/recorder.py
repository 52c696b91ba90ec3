"""From an attempt on the agent loop to the stream of its run on the serving loop: what goes on, as events, in order.

Many events share one way over, and as long as nobody listens they take none: the stream fetches them when somebody
does, or when the run has ended. What a run takes apart is measured here: how long a tool and a call of the model took,
and when the first piece came. Belongs to the agent loop, but for `_arrive` and `_said`.
"""

from collections import deque
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
    """`tell` has something called on the serving loop; `most` bytes are told of what tools are given and give back.

    `on_text` is called there with the time of the run's first text, when somebody looks.
    """

    __slots__ = (
        "_called_at",
        "_clock",
        "_events",
        "_first_s",
        "_most",
        "_on_text",
        "_on_the_way",
        "_stream",
        "_tell",
        "_tools",
    )

    def __init__(
        self,
        stream: RunStream,
        tell: Callable[[Callable[[], object]], None],
        clock: Clock,
        most: int,
        on_text: Callable[[float], object] | None = None,
    ) -> None:
        self._stream = stream
        self._tell = tell
        self._clock = clock
        self._most = most
        self._on_text = on_text
        self._events: deque[tuple[float, Event]] = deque()
        self._on_the_way = False
        self._tools: dict[str, tuple[str, float]] = {}
        self._called_at: float | None = None
        self._first_s: float | None = None
        stream.follow(self._said)

    def text(self, delta: str) -> None:
        """Tell a piece of the model's text."""
        self._note_first()
        self._say(TextDelta(delta))

    def reasoning(self, delta: str) -> None:
        """Tell a piece of the model's reasoning."""
        self._note_first()
        self._say(ReasoningDelta(delta))

    def reset(self) -> None:
        """Tell that the text since the last message counts no more."""
        self._say(TextReset())

    def model_called(self) -> None:
        """Note that a call of the model begins."""
        self._called_at = self._clock.monotonic()
        self._first_s = None

    def usage(self, tokens: dict[str, int]) -> None:
        """Tell what a call of the model has taken."""
        called_at, self._called_at = self._called_at, None
        model_s = None if called_at is None else self._clock.monotonic() - called_at
        self._say(Usage(tokens, _rounded(model_s), _rounded(self._first_s)))

    def tool_started(self, tool_use_id: str, name: str, given: object) -> None:
        """Tell that a tool begins; one that a hook has begin again is told once."""
        if tool_use_id not in self._tools:
            self._tools[tool_use_id] = (name, self._clock.monotonic())
            self._say(ToolStarted(tool_use_id, name, *truncate_arguments(given, self._most)))

    def tool_finished(self, tool_use_id: str, result: ToolResult) -> None:
        """Tell that a tool has ended."""
        name, started = self._tools.pop(tool_use_id, ("", None))
        duration_s = None if started is None else self._clock.monotonic() - started
        told, cut = truncate_result(result, self._most)
        self._say(ToolFinished(tool_use_id, name, str(result["status"]), _rounded(duration_s), told, cut))

    def message(self, message: Message) -> None:
        """Tell that a message has joined the run's own."""
        self._say(MessageAdded(*truncate_message(message, self._most)))

    def _note_first(self) -> None:
        if self._first_s is None and self._called_at is not None:
            self._first_s = self._clock.monotonic() - self._called_at

    def _say(self, event: Event) -> None:
        self._events.append((self._clock.now(), event))
        # In this order: who begins to listen after the look takes what is there, and finds this.
        if not self._on_the_way and (self._stream.is_awaited or len(self._events) >= MANY):
            self._on_the_way = True
            self._tell(self._arrive)

    def _arrive(self) -> None:
        self._on_the_way = False  # first: what is said from now on may be too late for this way, and takes another
        self._stream.gather()

    def _said(self) -> list[tuple[float, Event]]:
        events, said = self._events, []
        while events:
            at, event = events.popleft()
            if self._on_text is not None and isinstance(event, TextDelta):
                on_text, self._on_text = self._on_text, None
                on_text(at)
            said.append((at, event))
        return said


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
