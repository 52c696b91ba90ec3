"""An attempt as an agent in a worker sees it: sends each report to the serving process, which stores and publishes it.

Reports are encoded at once: an agent that changes its messages later does not change them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from strandline._agents.port import RunContext, RunStopped, Signal
from strandline._clock import Clock, is_over
from strandline._encoding import encode_messages
from strandline._engine.loops import adopt_current_task
from strandline._history import Waiting
from strandline._model import Block, Input, Message, StateRecord, ToolResult
from strandline._normalize import normalize_message, normalize_result
from strandline._workers.messages import AttemptCall, Run

TOUCH_EVERY_S: Final = 0.1
"""The shortest time between a report and a `touch`."""


class RemoteAttempt:
    """A worker's side of `strandline._agents.port.Attempt`. Belongs to the agent loop, as `send` does.

    `flush` sends the current phase or tool before it starts: it may block the loop. `owned_until` says until when one
    may start: the serving process may be frozen, and another server have the run.
    """

    def __init__(
        self,
        order: Run,
        signal: Signal,
        send: Callable[[bytes], object],
        clock: Clock,
        flush: Callable[[], object] = lambda: None,
        owned_until: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.context: RunContext = order.context
        self.prompt: Input | None = order.prompt
        self.signal = signal
        self._call = order.call
        self._messages = order.messages
        self._send = send
        self._flush = flush
        self._clock = clock
        self._owned_until = owned_until
        self._permission: asyncio.Future[bool] | None = None
        self.has_joins = order.has_joins
        self._joined: asyncio.Future[list[Block]] | None = None
        self._reads: deque[asyncio.Future[Waiting]] = deque()
        self._sent_at = 0.0

    @property
    def messages(self) -> Sequence[Message]:
        """The run's messages so far."""
        return self._messages

    def note_joins(self) -> None:
        """Note that runs wait to join."""
        self.has_joins = True

    def forward_joins(self, on_joins: Callable[[], object]) -> None:
        """Do nothing: the serving process says that runs wait."""

    async def take_joins(self) -> list[Block]:
        """Have the serving process let the runs join that wait for that; add what they say to the last message."""
        self.has_joins = False
        self._joined = asyncio.get_running_loop().create_future()
        self._report("take_joins")
        said = await self._joined
        if said:
            last = self._messages[-1]
            self._messages[-1] = {**last, "content": [*last["content"], *said]}
        return said

    def join(self, said: list[Block]) -> None:
        """Answer a waiting `take_joins`."""
        if self._joined is not None and not self._joined.done():
            self._joined.set_result(said)

    async def read_waiting(self, messages: int) -> Waiting:
        """Have the serving process read what waits in the session."""
        answer: asyncio.Future[Waiting] = asyncio.get_running_loop().create_future()
        self._reads.append(answer)
        self._report("read_waiting", messages)
        return await answer

    def waiting_read(self, waiting: Waiting) -> None:
        """Answer the first `read_waiting` that waits: they are answered in order."""
        if not (answer := self._reads.popleft()).done():
            answer.set_result(waiting)

    def add(self, message: Message) -> None:
        """Report a message."""
        self._messages.append(message)
        self._report("add", normalize_message(message))

    def amend(self, index: int, content: list[Block]) -> None:
        """Report a message's new content."""
        self._messages[index]["content"] = content
        self._report("amend", index, normalize_message(self._messages[index])["content"])

    def add_text(self, delta: str) -> None:
        """Report a piece of text."""
        self._report("add_text", delta)

    def add_reasoning(self, delta: str) -> None:
        """Report a piece of reasoning."""
        self._report("add_reasoning", delta)

    def reset_text(self) -> None:
        """Report that the text so far is void."""
        self._report("reset_text")

    def begin_model(self) -> None:
        """Report a model call. The current task becomes one of the run's own. Raises `RunStopped`."""
        self._start()
        self._report("begin_model")

    def add_usage(self, tokens: dict[str, int]) -> None:
        """Report the tokens of a model call."""
        self._report("add_usage", tokens)

    def enter(self, phase: str) -> None:
        """Report the current phase. The current task becomes one of the run's own. Raises `RunStopped`."""
        self._start()
        self._report("enter", phase)
        self._flush()

    def begin_tool(self, tool_use_id: str, name: str, given: object) -> None:
        """Report the start of a tool. The current task becomes one of the run's own. Raises `RunStopped`."""
        self._start()
        self._report("begin_tool", tool_use_id, name, given)
        self._flush()

    def _start(self) -> None:
        if is_over(self._owned_until(), self._clock):
            raise RunStopped
        adopt_current_task()

    def publish_tool_end(self, tool_use_id: str, result: ToolResult) -> None:
        """Report the end of a tool."""
        self._report("publish_tool_end", tool_use_id, normalize_result(result, tool_use_id))

    def touch(self) -> None:
        """Report progress, unless something was reported just now."""
        if self._clock.monotonic() > self._sent_at + TOUCH_EVERY_S:
            self._report("touch")

    async def begin_round(self) -> None:
        """Report the round and wait until it is durable. Raises `RunStopped`."""
        self._permission = asyncio.get_running_loop().create_future()
        self._report("begin_round")
        if not await self._permission:
            raise RunStopped

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        """Report a tool's result."""
        self._report("end_tool", tool_use_id, normalize_result(result, tool_use_id))

    async def end_round(self, state: StateRecord | None) -> None:
        """Report the end of the round."""
        self._report("end_round", state)

    def proceed(self, allowed: bool) -> None:
        """Answer a waiting `begin_round`."""
        if self._permission is not None and not self._permission.done():
            self._permission.set_result(allowed)

    def _report(self, method: str, *args: Any) -> None:
        self._sent_at = self._clock.monotonic()
        self._send(encode_messages(AttemptCall(self._call, method, list(args))))
