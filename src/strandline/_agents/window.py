"""Where in history the messages of an agent's conversation stand, so that its window can be told as ranges.

Conversation managers rewrite the list of messages in the middle of a run: they drop, shorten, pin and summarise.
A message counts as the one of history only while it and its list of blocks are the same objects and its custom
metadata (where pins are) has not changed; any other stands in the window as it is. Knows no agent framework.
"""

import copy
import zlib
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from strandline._encoding import decoder, encode_messages
from strandline._history import pairing_faults
from strandline._model import AgentRecord, Block, Inline, Message, Range, Window

PACK_LEVEL = 1
"""Fast: packing 20 messages takes some 50 us."""
_messages = decoder(list[Message])


class _Origin(NamedTuple):
    message: Message
    content: list[Block]
    custom: object
    at: int


class Packed(NamedTuple):
    """Messages as bytes, and where they stand in history."""

    encoded: bytes
    indices: list[int | None]


class Origins:
    """Which message of a conversation is which of history, and the window that the journal knows."""

    def __init__(self, record: AgentRecord) -> None:
        self.length = record.length
        """How many messages history had before the run under way."""
        self.window = record.window
        self._origins: dict[int, _Origin] = {}
        for message, index in zip(record.messages, record.origins, strict=True):
            self.remember(message, index)

    def remember(self, message: Message, index: int | None) -> None:
        """Note that `message`, as it is now, stands at `index` of history; None: nowhere."""
        if index is not None:
            custom = copy.deepcopy(_custom(message))
            self._origins[id(message)] = _Origin(message, message["content"], custom, index)

    def index_of(self, message: Message) -> int | None:
        """Return where in history a message stands, None if it does not stand there as it is."""
        origin = self._origins.get(id(message))
        if origin is None or origin.message is not message or origin.content is not message["content"]:
            return None
        return origin.at if origin.custom == _custom(message) else None

    def before_run(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages that stand before those of the run under way, whatever a manager has made of these."""
        return list(takewhile(lambda message: not self._is_own(message), messages))

    def follow(self, messages: Sequence[Message], added: int, *, whole_run: bool = False) -> Window | None:
        """Take over that history has grown by `added` messages; return the window of `messages`, None if unchanged.

        With `whole_run` all that was added comes after `messages`, in the form that history has. The open end of a
        window does not count as a change.
        """
        length = self.length if whole_run else self.length + added
        self.length += added
        window = _spans(messages, [self.index_of(message) for message in messages], length)
        if window == self.window:
            return None
        self.window = window
        return window

    def forget_all_but(self, messages: Sequence[Message]) -> None:
        """Let go of messages that the conversation has no longer."""
        if len(self._origins) > len(messages) + 8:
            kept = {id(message) for message in messages}
            self._origins = {key: origin for key, origin in self._origins.items() if key in kept}

    def packed(self, messages: Sequence[Message]) -> Packed:
        """Return the conversation as bytes, a tenth of what its dictionaries take, and forget it."""
        indices = [self.index_of(message) for message in messages]
        self._origins = {}
        return Packed(zlib.compress(encode_messages(messages), PACK_LEVEL), indices)

    def unpacked(self, packed: Packed) -> list[Message]:
        """Return the conversation from its bytes."""
        messages = _messages(zlib.decompress(packed.encoded))
        for message, index in zip(messages, packed.indices, strict=True):
            self.remember(message, index)
        return messages

    def _is_own(self, message: Message) -> bool:
        """Return whether a message is one of the run under way, whatever a manager has made of it."""
        origin = self._origins.get(id(message))
        return origin is not None and origin.message is message and origin.at >= self.length


def window_faults(window: Window, messages: Sequence[Message]) -> list[str]:
    """Return what breaks the pairing in a changed window of these messages; history itself is well formed, so a mere
    end of it can only begin wrong."""
    if len(window) == 1 and isinstance(window[0], Range):
        return pairing_faults(messages[:1]) if messages and not _asks(messages[0]) else []
    return pairing_faults(messages)


def _spans(messages: Sequence[Message], indices: Sequence[int | None], length: int) -> Window:
    """Return messages at these indices of a history of `length` as a window that is open at its end."""
    window: list[Range | Inline] = []
    start: int | None = None
    end = 0
    for message, index in zip(messages, indices, strict=True):
        if start is not None:
            if index == end:
                end += 1
                continue
            window.append(Range(start, end))
        start = index
        if index is None:
            window.append(Inline(message))
        else:
            end = index + 1
    if start is not None and end < length:
        window.append(Range(start, end))
        start = None
    window.append(Range(length if start is None else start, None))
    return tuple(window)


def _asks(message: Message) -> bool:
    return any("toolUse" in block for block in message["content"])


def _custom(message: Message) -> object:
    metadata = message.get("metadata")
    return metadata.get("custom") if isinstance(metadata, dict) else None
