"""Hooks of a Strands agent that report its progress to the current attempt.

New messages come from `MessageAddedEvent`, never from positions in the agent's list of messages, which conversation
managers rewrite in the middle of a run; for the same reason the reports are copies. Checkpoints: a round before any
tool of it starts, each result as its tool ends, the closed round when its results are added, and what was said
meanwhile before the model is called.
(The order of hooks: strands-agents 1.62.0, tested by `tests/unit/test_strands.py` and its neighbours.)
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from strands import Agent
from strands.hooks import (
    AfterToolCallEvent,
    BeforeModelCallEvent,
    BeforeToolCallEvent,
    BeforeToolsEvent,
    HookOrder,
    MessageAddedEvent,
)

from strandline._agents.abnormal_exit import CURRENT
from strandline._agents.files import show_files
from strandline._agents.port import Attempt
from strandline._agents.window import Origins
from strandline._compat.strands import CANCELLED_BY_USER, TOOL_CANCELLED
from strandline._files.blocks import has_files
from strandline._history import STARTED_AGAIN, UNKNOWN_OUTCOME, with_sender
from strandline._model import Message, StateRecord

NOT_STARTED = "This tool was not started: the run was stopped first. Nothing of it was done; call it again if needed."
FIRST = HookOrder.SDK_FIRST - 1000.0
LAST = HookOrder.SDK_LAST + 1000.0
"""After all other hooks, so that these see the final event."""


class Reports:
    """The hooks of one agent. They do nothing without an attempt."""

    def __init__(
        self,
        agent: Agent,
        origins: Origins,
        state_of: Callable[[Agent], StateRecord],
        not_done: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.attempt: Attempt | None = None
        self._not_done = not_done
        """Tools that had done nothing before a crash, and who said so: their results say that too."""
        self._given = 0
        """The number of messages that earlier attempts left: a round that is open then was theirs."""
        self._agent = agent
        self._origins = origins
        self._state_of = state_of
        self._returned: dict[int, tuple[AfterToolCallEvent[Any], Any]] = {}
        """The original results of tools while the user's hooks process them, by the `id` of the toolUse."""
        agent.add_hook(self._on_message, MessageAddedEvent, order=LAST)
        agent.add_hook(self._before_model, BeforeModelCallEvent, order=LAST)
        agent.add_hook(self._before_tools, BeforeToolsEvent, order=LAST)
        agent.add_hook(self._before_tool, BeforeToolCallEvent, order=LAST)
        agent.add_hook(self._tool_returned, AfterToolCallEvent, order=FIRST)
        agent.add_hook(self._after_tool, AfterToolCallEvent, order=LAST)

    def begin(self, attempt: Attempt) -> None:
        """Set the current attempt."""
        self.attempt = attempt
        self._given = len(attempt.messages)

    async def report_returned(self) -> None:
        """Report the results of ended tools whose hooks had not finished when the run failed."""
        returned, self._returned = self._returned, {}
        for event, _ in returned.values():
            if self.attempt is not None:
                await self.attempt.end_tool(str(event.tool_use["toolUseId"]), cast("dict[str, Any]", event.result))

    def redacted(self) -> None:
        """Report that a guardrail of the model redacted the last message."""
        if self.attempt is not None and self.attempt.messages:
            message, last = cast(Message, self._agent.messages[-1]), len(self.attempt.messages) - 1
            self.attempt.amend(last, message["content"])
            self._origins.remember(message, self._origins.length + last)

    async def _on_message(self, event: MessageAddedEvent[Any]) -> None:
        attempt = self.attempt
        if attempt is None:
            return
        message = cast(Message, event.message)
        reported: Message = {**message}
        if (sender := attempt.context.sender) is not None and _is_first_of_user(message, attempt.messages):
            message.update(with_sender(message, sender))
            reported = with_sender(reported, sender)  # (its own: agents change the metadata of theirs)
        if attempt.signal.is_set():
            if message["content"] == [{"text": CANCELLED_BY_USER}]:
                return
            reported = _with_not_started(reported, begun_before=len(attempt.messages) <= self._given)
        self._origins.remember(message, self._origins.length + len(attempt.messages))
        attempt.add(reported)
        if message["role"] == "user" and any("toolResult" in block for block in message["content"]):
            await attempt.end_round(self._state_of(self._agent))

    async def _before_model(self, event: BeforeModelCallEvent) -> None:
        if self.attempt is None:
            return
        if self.attempt.has_joins and not event.cancel:
            await self._join(self.attempt)
        self.attempt.begin_model()

    async def _join(self, attempt: Attempt) -> None:
        """Add what was said meanwhile to the user's last message, which the model is about to see."""
        message = cast(Message, self._agent.messages[-1]) if self._agent.messages else None
        if message is None or message["role"] != "user" or not (said := await attempt.take_joins()):
            return
        index = self._origins.length + len(attempt.messages) - 1
        is_same = self._origins.index_of(message) == index
        if is_same:
            joined = attempt.messages[-1]
            message["content"] = joined["content"]
            if "metadata" in joined:  # (who said it)
                message["metadata"] = copy.deepcopy(joined["metadata"])
            self._origins.remember(message, index)
        else:  # (a conversation manager has changed it)
            message["content"] = [*message["content"], *said]
        if has_files([message]):
            show_files(self._agent.model)
        if (exits := CURRENT.get()) is not None and exits.waiting is not None:
            await exits.waiting.refresh()  # they wait no longer

    async def _before_tools(self, event: BeforeToolsEvent) -> None:
        if self.attempt is not None:
            await self.attempt.begin_round()

    def _before_tool(self, event: BeforeToolCallEvent[Any]) -> None:
        """Report the tool, in the task that executes it."""
        self._returned.pop(id(event.tool_use), None)
        if self.attempt is not None:
            use = event.tool_use
            self.attempt.begin_tool(str(use["toolUseId"]), str(use["name"]), use["input"])

    def _tool_returned(self, event: AfterToolCallEvent[Any]) -> None:
        """Remember the tool's result before other hooks see it.

        If one of them raises, Strands replaces the result by the error and calls all hooks again: then restore the
        tool's own result.
        """
        if self.attempt is None:
            return
        key = id(event.tool_use)
        given = self._returned[key][1] if key in self._returned else event.result
        if given is not event.result:
            event.result = _copied(given)
        self._returned[key] = (event, _copied(given))

    async def _after_tool(self, event: AfterToolCallEvent[Any]) -> None:
        if self.attempt is not None and not event.retry:
            if (by := self._not_done.get(str(event.tool_use["toolUseId"]))) is not None:
                said = {"text": STARTED_AGAIN.format(by=by)}
                event.result = cast("Any", {**event.result, "content": [*event.result["content"], said]})
            await self.attempt.end_tool(str(event.tool_use["toolUseId"]), cast("dict[str, Any]", event.result))
            self._returned.pop(id(event.tool_use), None)


def _is_first_of_user(message: Message, before: Sequence[Message]) -> bool:
    """Return whether a message is the run's input, or has the results of the tools that its answers went to."""
    return message["role"] == "user" and not any(each["role"] == "user" for each in before)


def _with_not_started(message: Message, *, begun_before: bool) -> Message:
    """Say in the results of tools that a cancel kept from starting that they did not start, so that the model of the
    next run can call them again. The outcome of tools that an earlier attempt started is unknown."""
    text = UNKNOWN_OUTCOME if begun_before else NOT_STARTED
    content = [
        {"toolResult": {**block["toolResult"], "content": [{"text": text}]}}
        if "toolResult" in block and block["toolResult"].get("content") == [{"text": TOOL_CANCELLED}]
        else block
        for block in message["content"]
    ]
    return message if content == message["content"] else {**message, "content": content}


def _copied(result: Any) -> Any:
    """Return a copy that hooks cannot reach, or the result itself if it cannot be copied."""
    try:
        return copy.deepcopy(result)
    except Exception:
        return result
