"""An attempt as an agent in a worker sees it: each report goes over to the serving process, which stages and tells it.

Reports are encoded where they are made: what an agent does to its messages later does not change them.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from strandline._agents.port import RunContext, RunStopped, Signal
from strandline._clock import Clock
from strandline._encoding import encode_messages
from strandline._engine.loops import adopt_current_task
from strandline._model import Block, Input, Message, StateRecord, ToolResult
from strandline._normalize import normalize_message, normalize_result
from strandline._workers.messages import AttemptCall, Run

TOUCH_EVERY_S: Final = 0.1
"""Signs of life that say nothing else are told no more often."""


class RemoteAttempt:
    """A worker's side of `strandline._agents.port.Attempt`. Belongs to the agent loop; `send` may be called there.

    What the run does now is sent with `flush`, before it is done: it may keep the loop for long.
    """

    def __init__(
        self,
        order: Run,
        signal: Signal,
        send: Callable[[bytes], object],
        clock: Clock,
        flush: Callable[[], object] = lambda: None,
    ) -> None:
        self.context: RunContext = order.context
        self.prompt: Input | None = order.prompt
        self.signal = signal
        self._call = order.call
        self._messages = order.messages
        self._send = send
        self._flush = flush
        self._clock = clock
        self._asked: asyncio.Future[bool] | None = None
        self._told_at = 0.0

    @property
    def messages(self) -> Sequence[Message]:
        """The run's messages so far."""
        return self._messages

    def add(self, message: Message) -> None:
        """Report a message."""
        self._messages.append(message)
        self._tell("add", normalize_message(message))

    def amend(self, index: int, content: list[Block]) -> None:
        """Report another content of a message."""
        self._messages[index]["content"] = content
        self._tell("amend", index, normalize_message(self._messages[index])["content"])

    def add_text(self, delta: str) -> None:
        """Report a piece of text."""
        self._tell("add_text", delta)

    def add_reasoning(self, delta: str) -> None:
        """Report a piece of reasoning."""
        self._tell("add_reasoning", delta)

    def reset_text(self) -> None:
        """Report that the text counts no more."""
        self._tell("reset_text")

    def begin_model(self) -> None:
        """Report a call of the model; its task works for the run."""
        adopt_current_task()
        self._tell("begin_model")

    def add_usage(self, tokens: dict[str, int]) -> None:
        """Report what a call of the model has used."""
        self._tell("add_usage", tokens)

    def enter(self, phase: str) -> None:
        """Report what the run does now; the task that does works for it."""
        adopt_current_task()
        self._tell("enter", phase)
        self._flush()

    def begin_tool(self, tool_use_id: str, name: str, given: object) -> None:
        """Report a tool that starts; the task that executes it works for the run."""
        adopt_current_task()
        self._tell("begin_tool", tool_use_id, name, given)
        self._flush()

    def publish_tool_end(self, tool_use_id: str, result: ToolResult) -> None:
        """Report a tool that has ended."""
        self._tell("publish_tool_end", tool_use_id, normalize_result(result, tool_use_id))

    def touch(self) -> None:
        """Report that something went on, unless that was reported just now."""
        if self._clock.monotonic() > self._told_at + TOUCH_EVERY_S:
            self._tell("touch")

    async def begin_round(self) -> None:
        """Report the round, and wait until it is durable. Raises `RunStopped`."""
        self._asked = asyncio.get_running_loop().create_future()
        self._tell("begin_round")
        if not await self._asked:
            raise RunStopped

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        """Report one result."""
        self._tell("end_tool", tool_use_id, normalize_result(result, tool_use_id))

    async def end_round(self, state: StateRecord | None) -> None:
        """Report the end of the round."""
        self._tell("end_round", state)

    def proceed(self, allowed: bool) -> None:
        """Take the answer to `begin_round`."""
        if self._asked is not None and not self._asked.done():
            self._asked.set_result(allowed)

    def _tell(self, what: str, *given: Any) -> None:
        self._told_at = self._clock.monotonic()
        self._send(encode_messages(AttemptCall(self._call, what, list(given))))
