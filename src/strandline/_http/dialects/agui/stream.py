"""The events of a run as events of AG-UI, framed as server-sent events.

What is sent follows from the run's stored events and the request alone, so that a repeated request gets the same bytes,
but for places in the queue, which are not stored.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import UNSET, UnsetType

from strandline._encoding import encode, encode_messages
from strandline._engine import events
from strandline._engine.events import Numbered, type_of
from strandline._engine.requests import request_id_of
from strandline._http.dialects.agui import wire
from strandline._http.dialects.agui.transcript import ListedMessages, Transcript
from strandline._http.dialects.endings import reason_of
from strandline._http.dialects.sent_text import text_of
from strandline._model import Message, RunId, SessionId, ToolResult
from strandline.errors import StrandlineError

_log = logging.getLogger("strandline.agui")

_OURS: Final = (
    events.RunQueued,
    events.RunPosition,
    events.RunStarted,
    events.RunJoined,
    events.RunChanged,
    events.RunStalled,
)
"""Events that AG-UI has none for."""
_NAMESPACE: Final = "strandline"


class AgUiEvents:
    """Encodes one run for one client. `later` is the error if the run continues after the stream.

    `state` reads what the client gets of the agent's state at the end; None: nothing.
    """

    def __init__(
        self,
        ours: RunId,
        session_id: SessionId,
        *,
        thread_id: str,
        run_id: str,
        parent_run_id: str | None,
        listed: ListedMessages,
        answers: bool,
        tools: frozenset[str] = frozenset(),
        went_back: Mapping[str, Any] = MappingProxyType({}),
        later: str,
        state: Callable[[], Awaitable[Mapping[str, Any]]] | None = None,
    ) -> None:
        self._about = {_NAMESPACE: wire.Metadata(run_id=ours, session_id=session_id)}
        self._accepted = {_NAMESPACE: wire.Metadata(run_id=ours, session_id=session_id, **went_back)}
        self._thread_id = thread_id
        self._run_id = run_id
        self._parent_run_id: str | UnsetType = parent_run_id or UNSET
        self._had_some = listed.has_some_of_the_run
        self._later = later
        self._state = state
        self._last_event = b""
        """The end of the run, for after its state."""
        self._answers = answers
        self._tools = tools
        """The names of the client's tools."""
        self._postponed: dict[str, str] = {}
        """The names of started tools that may be the client's, whose arguments are too large for an event, by id."""
        self._said = Transcript(ours, listed, answers=answers)
        self._text: str | None = None
        """The id of the message whose text is being sent."""
        self._reasoning: str | None = None
        """The id of the reasoning that is being sent."""
        self._shown: list[str] = []
        """The text sent of the current message, or of the last one if that is complete."""
        self._is_over = True
        """Whether the current message is complete, so that the next piece begins another one."""
        self._thought: list[str] = []
        self._around = b"", b""
        self._is_deaf = False
        """Whether pieces are missing, so that none is sent until the message is whole."""
        self._has_ended = False

    def opening(self) -> bytes:
        """Return the first event, and the conversation as it was before the run if the client has some of the run."""
        started = wire.RunStartedEvent(
            thread_id=self._thread_id, run_id=self._run_id, parent_run_id=self._parent_run_id, metadata=self._accepted
        )
        return _event(started) + (self._snapshot() if self._had_some else b"")

    def of(self, numbered: Numbered) -> bytes:
        """Return the events for an event, often none."""
        match event := numbered.event:
            case events.TextDelta(text):
                return self._piece(text)
            case events.ReasoningDelta(text):
                return self._thinks(text)
            case events.MessageAdded(message):
                return self._added(message)
            case events.ToolStarted(name=name, truncated=True) if self._answers or name in self._tools:
                self._postponed[event.tool_use_id] = name
            case events.ToolStarted():
                return self._calls(event.tool_use_id, event.name, event.input)
            case events.ToolFinished():
                return self._close() + self._result(event.result)
            case events.TextReset():
                return self._withdrawn()
            case events.RunRestarted(messages=messages):
                return self._restarted(messages)
            case events.StreamGap():
                self._is_deaf = True
                return self._close()
            case events.RunFinished():
                return self._end(event)
        if isinstance(event, _OURS):
            return _event(wire.Custom(name=f"{_NAMESPACE}.{type_of(event)}", value=event))
        return b""

    async def before_closing(self) -> None:
        """Read the agent's state, if the client gets any. Without it the run ends all the same."""
        if self._state is None or not self._last_event:
            return
        try:
            state = await self._state()
        except StrandlineError as error:
            _log.warning("a client of AG-UI gets no state: %s", error)
            return
        if state:
            self._last_event = b"data: %b\n\n" % encode_messages(wire.StateSnapshot(snapshot=state)) + self._last_event

    def closing(self) -> bytes:
        """Return the bytes after the last event."""
        if not self._has_ended:
            return self._close() + self._failed("goes_on_later", self._later)
        return self._last_event

    # -- text and reasoning ---------------------------------------------------------------------------

    def _piece(self, text: str) -> bytes:
        if self._is_deaf or not text:
            return b""
        before = b""
        if self._text is None:
            before = self._begin()
        self._shown.append(text)
        return before + self._around[0] + encode(text) + self._around[1]

    def _begin(self) -> bytes:
        """Begin to send the text of the current message."""
        if self._is_over:
            self._shown, self._is_over = [], False
        self._text = message_id = self._said.next_id()
        head, _, tail = _event(wire.TextContent(message_id=message_id, delta="?")).rpartition(b'"?"')
        self._around = head, tail  # (encoded once, because there are many pieces)
        return self._stop_thinking() + _event(wire.TextStart(message_id=message_id))

    def _thinks(self, text: str) -> bytes:
        if self._is_deaf or not text:
            return b""
        before = b""
        if self._reasoning is None:
            before = self._stop_talking()
            self._reasoning = message_id = self._said.reasoning_id()
            before += _event(wire.ReasoningStart(message_id=message_id))
            before += _event(wire.ReasoningMessageStart(message_id=message_id))
        self._thought.append(text)
        return before + _event(wire.ReasoningContent(message_id=self._reasoning, delta=text))

    def _stop_talking(self) -> bytes:
        if self._text is None:
            return b""
        ended, self._text = _event(wire.TextEnd(message_id=self._text)), None
        return ended

    def _stop_thinking(self) -> bytes:
        if (message_id := self._reasoning) is None:
            return b""
        self._said.reasoned(message_id, "".join(self._thought))
        self._reasoning, self._thought = None, []
        return _event(wire.ReasoningMessageEnd(message_id=message_id)) + _event(
            wire.ReasoningEnd(message_id=message_id)
        )

    def _close(self) -> bytes:
        return self._stop_thinking() + self._stop_talking()

    def _withdrawn(self) -> bytes:
        """Withdraw what was sent since the last message."""
        if self._is_over and self._reasoning is None and not self._said.has_open_reasoning:
            return b""
        data = self._close()
        self._said.withdraw()
        self._shown, self._is_over = [], True
        return data + self._snapshot()

    # -- messages -------------------------------------------------------------------------------------

    def _added(self, message: Message) -> bytes:
        if message["role"] == "assistant":
            return self._complete(message)
        return b"".join(self._result(block["toolResult"]) for block in message["content"] if "toolResult" in block)

    def _complete(self, message: Message) -> bytes:
        """Complete the current message: what its pieces lack is sent, and text that differs replaces them."""
        text = text_of(message)
        shown = "" if self._is_over else "".join(self._shown)
        self._is_deaf = False
        data = self._stop_thinking()
        is_replaced = not _alike(shown, text) and not text.startswith(shown)
        if not is_replaced and not _alike(shown, text):
            data += self._piece(text[len(shown) :])
        data += self._stop_talking()
        self._said.add(text)
        self._shown, self._is_over = [text], True
        return data + (self._snapshot() if is_replaced else b"")

    def _restarted(self, messages: list[Message]) -> bytes:
        data = self._close()
        self._said.restart(messages)
        said = [text_of(message) for message in messages if message["role"] == "assistant"]
        self._shown, self._is_over, self._is_deaf = said[-1:], True, False
        return data + self._snapshot()

    def _snapshot(self) -> bytes:
        return _event(wire.Snapshot(messages=self._said.messages()))

    # -- tools ----------------------------------------------------------------------------------------

    def _calls(self, call_id: str, name: str, given: Any) -> bytes:
        data = self._close()
        if not self._said.starts(call_id, name, given):
            return data
        data += _event(
            wire.CallStart(tool_call_id=call_id, tool_call_name=name, parent_message_id=self._said.last_id())
        )
        data += _event(wire.CallArgs(tool_call_id=call_id, delta=wire.arguments_of(given)))
        return data + _event(wire.CallEnd(tool_call_id=call_id))

    def _result(self, result: ToolResult) -> bytes:
        call_id, before = result["toolUseId"], b""
        if (name := self._postponed.pop(call_id, None)) is not None:
            before = self._calls(call_id, name, None)
        found = self._said.result(result)
        if found is None:
            return before
        return before + _event(
            wire.CallResult(message_id=found.id, tool_call_id=found.tool_call_id, content=found.content)
        )

    # -- the end --------------------------------------------------------------------------------------

    def _end(self, end: events.RunFinished) -> bytes:
        self._has_ended = True
        reason, data = reason_of(end), b""
        if reason is None and end.message is not None:
            data = self._last(end.message) + self._calls_of_client(end)
        data += self._close()
        outcome = wire.outcome_of(end)
        if outcome is None:
            assert reason is not None
            return data + self._failed(*reason)
        finished = wire.RunFinishedEvent(
            thread_id=self._thread_id, run_id=self._run_id, outcome=outcome, usage=wire.tokens(end.usage)
        )
        if self._state is None:
            return data + _event(finished)
        self._last_event = _event(finished)
        return data

    def _calls_of_client(self, end: events.RunFinished) -> bytes:
        """Send the calls of the client's tools that were not sent when they started, with all their arguments."""
        arguments = {each.id: each.reason for each in end.input_requests if each.client_tool is True}
        data = b""
        for block in end.message["content"] if end.message and arguments else ():
            if (use := block.get("toolUse")) is not None and (called := request_id_of(use["toolUseId"])) in arguments:
                data += self._calls(use["toolUseId"], use["name"], arguments[called])
        return data

    def _last(self, message: Message) -> bytes:
        """Send what the last message has besides what was sent: all of it, or the ending that history has added."""
        text, shown = text_of(message), "".join(self._shown)
        if not text.strip() or _alike(shown, text):
            return b""
        if not (self._is_over and shown and text.startswith(shown)):
            return self._complete(message)
        self._said.amend(text)
        return self._close() + self._snapshot()

    def _failed(self, code: str, text: str) -> bytes:
        return _event(wire.RunErrorEvent(message=text, code=code, metadata=self._about))


def _alike(one: str, other: str) -> bool:
    """Return whether texts differ at most in whitespace: pieces and whole messages separate blocks differently."""
    return one == other or "".join(one.split()) == "".join(other.split())


def _event(value: wire.Event) -> bytes:
    return b"data: %b\n\n" % encode(value)
