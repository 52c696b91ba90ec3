"""What Strands writes into its spans of the conversation, left out where nobody records the span.

Before each call of a model Strands writes the whole conversation as JSON, twice, and adds it to spans. It does so
without an SDK of OpenTelemetry too, or where a trace is not sampled, and such a span drops it. With a window of 40
short messages that was a quarter of what an agent took, and it grows with what the messages hold.
(strands-agents 1.62.0, tried by `tests/unit/test_unrecorded_spans.py`; a version that has other methods keeps its own.)
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from strands.telemetry.tracer import Tracer

_WRITE: Final = ("_add_event_messages", "_add_system_prompt_event")
"""Methods of Strands' tracer that take a span first, and do nothing but add events to it."""


def leave_out_unrecorded() -> None:
    """Have nothing of a conversation written for a span that is not recorded, from now on."""
    for name in _WRITE:
        write = getattr(Tracer, name, None)
        if write is not None and not hasattr(write, "__wrapped__"):
            setattr(Tracer, name, _if_recorded(write))


def _if_recorded(write: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(write)
    def write_if_recorded(tracer: Tracer, span: Any, *args: Any, **named: Any) -> None:
        if span.is_recording():
            write(tracer, span, *args, **named)

    return write_if_recorded
