"""The conversation as a client of AG-UI has it: its own messages, and those of the run. Values only."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, Struct

from strandline._encoding import encode
from strandline._http.dialects.agui.wire import Call, Function, Reasoned, Result, Said, arguments_of
from strandline._http.dialects.sent_text import text_of
from strandline._model import Message, RunId, ToolResult


class _Body(Struct, frozen=True):
    messages: list[Raw]


class _Message(Struct, frozen=True):
    id: str


_decode: Final = msgspec.json.Decoder(_Body).decode
_decode_message: Final = msgspec.json.Decoder(_Message).decode


class ListedMessages(Struct, frozen=True):
    """The messages in the body of a request. A client that repeats it may list what the run has said by then."""

    body: bytes
    run_id: RunId
    has_some_of_the_run: bool
    results: frozenset[str] = frozenset()
    """The calls of the round that the request answers whose results its client has."""

    def before_the_run(self) -> list[Raw]:
        """Return them without those of the run, and without the space between their parts: lines end events."""
        messages = _decode(msgspec.json.format(self.body, indent=-1)).messages
        if not self.has_some_of_the_run:
            return messages
        return [each for each in messages if not is_said_by(self.run_id, _decode_message(each).id)]


def is_said_by(run_id: RunId, message_id: str) -> bool:
    """Return whether a run has said a message."""
    return message_id.startswith(f"{run_id}-")


class _Said:
    """A message of the agent, while tools that it calls still start."""

    __slots__ = ("calls", "content", "id")

    def __init__(self, message_id: str, content: str) -> None:
        self.id = message_id
        self.content = content
        self.calls: dict[str, Call] = {}

    def shown(self) -> Said:
        return Said(self.id, self.content, list(self.calls.values()) or UNSET)


class Transcript:
    """The messages of one run for one client, after those that `listed` has.

    `answers`: the run begins with the tools of an earlier one, which its answers continue. Ids follow from the run's
    events: the run's id and a number, and another number for each text that was withdrawn.
    """

    def __init__(self, run_id: RunId, listed: ListedMessages, *, answers: bool = False) -> None:
        self._run_id = run_id
        self._listed = listed
        self._answers = answers
        self._said: list[_Said | Reasoned | Result] = []
        self._count = 0
        """How many messages of the agent are complete."""
        self._withdrawn = 0
        """How often the current one was withdrawn."""
        self._thoughts = 0
        """How many pieces of reasoning the current one has."""
        self._kept = 0
        """How many messages are complete, the results of tools among them: the others can be withdrawn."""
        self._running: set[str] = set()
        """The calls without a result."""
        self._ended: dict[str, int] = {}
        """How many results the calls with an id have."""

    def next_id(self) -> str:
        """Return the id of the current message of the agent."""
        again = f".{self._withdrawn}" if self._withdrawn else ""
        return f"{self._run_id}-{self._count}{again}"

    def last_id(self) -> str:
        """Return the id of the message that calls tools, the last complete one."""
        last = self._last()
        return self.next_id() if last is None else last.id

    def reasoning_id(self) -> str:
        """Return the id of the next piece of reasoning."""
        self._thoughts += 1
        return f"{self.next_id()}-reasoning-{self._thoughts}"

    def reasoned(self, message_id: str, text: str) -> None:
        """Add a piece of reasoning."""
        self._said.append(Reasoned(message_id, text))

    @property
    def has_open_reasoning(self) -> bool:
        """Whether there is reasoning of a message that is not complete."""
        return len(self._said) > self._kept

    def withdraw(self) -> None:
        """Discard the current message."""
        del self._said[self._kept :]
        self._withdrawn += 1
        self._thoughts = 0

    def add(self, text: str) -> None:
        """Add a complete message of the agent, whose tools have not started."""
        self._said.append(_Said(self.next_id(), text))
        self._count += 1
        self._withdrawn = self._thoughts = 0
        self._kept = len(self._said)

    def amend(self, text: str) -> None:
        """Give the last message of the agent another text."""
        if (last := self._last()) is not None:
            last.content = text

    def starts(self, call_id: str, name: str, given: Any) -> bool:
        """Note that a tool starts; return whether its client has not seen that.

        Some models give all calls of a tool the same id: one that has ended may start again.
        """
        if call_id in self._running or (self._answers and self._last() is None):
            return False
        self._running.add(call_id)
        if self._last() is None:
            self.add("")
        last = self._last()
        assert last is not None
        last.calls[call_id] = Call(call_id, Function(name, arguments_of(given)))
        return True

    def result(self, result: ToolResult) -> Result | None:
        """Add the result of a tool; return None if it was there."""
        call_id = result["toolUseId"]
        if call_id in self._ended and call_id not in self._running:
            return None
        if call_id in self._listed.results and self._last() is None:
            return None
        self._running.discard(call_id)
        self._ended[call_id] = count = self._ended.get(call_id, 0) + 1
        again = f".{count}" if count > 1 else ""
        made = Result(f"{self._run_id}-{call_id}{again}", call_id, _text(result))
        self._said.append(made)
        self._kept = len(self._said)
        return made

    def restart(self, messages: Sequence[Message]) -> None:
        """Have exactly these messages, those of a run that executes again."""
        self._said, self._count, self._withdrawn, self._thoughts, self._kept = [], 0, 0, 0, 0
        self._running, self._ended = set(), {}
        for message in messages:
            if message["role"] == "assistant":
                self.add(text_of(message))
            for block in message["content"]:
                if (use := block.get("toolUse")) is not None:
                    self.starts(use["toolUseId"], use["name"], use["input"])
                if (result := block.get("toolResult")) is not None:
                    self.result(result)

    def messages(self) -> list[Any]:
        """Return all messages."""
        return [
            *self._listed.before_the_run(),
            *(each.shown() if isinstance(each, _Said) else each for each in self._said),
        ]

    def _last(self) -> _Said | None:
        """Return the last message of the agent; None before the first."""
        return next((each for each in reversed(self._said) if isinstance(each, _Said)), None)


def _text(result: ToolResult) -> str:
    """Return the result of a tool as text."""
    parts = []
    for block in result.get("content") or ():
        match block:
            case {"text": str(text)}:
                parts.append(text)
            case {"json": value}:
                parts.append(encode(value).decode())
            case _:
                parts.append(f"({', '.join(map(str, block))})")
    return "\n".join(parts)
