"""A client of the demo's model server: `OpenAIModel`, but a truncated answer still counts as an answer.

Strands raises when a model reaches its token limit, since a tool call may be cut in half. A small model that invents
stories has only lost the end of one.
"""

from collections.abc import AsyncGenerator
from typing import Any

from strands.models.openai import OpenAIModel
from strands.types.streaming import StreamEvent


class ServedModel(OpenAIModel):
    """An `OpenAIModel` whose answers may end at its token limit."""

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[StreamEvent, None]:
        """Stream the server's events, with the stop reason `max_tokens` reported as `end_turn`."""
        async for event in super().stream(*args, **kwargs):
            stop = event.get("messageStop")
            if stop is not None and stop["stopReason"] == "max_tokens":
                yield {"messageStop": {"stopReason": "end_turn"}}
            else:
                yield event
