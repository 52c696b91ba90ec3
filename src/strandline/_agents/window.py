"""The positions of an agent's messages in history, so that its window can be stored as ranges.

Conversation managers rewrite the list of messages in the middle of a run: they drop, shorten, pin and summarise.
A message counts as the one in history only while it and its list of blocks are the same objects and its custom
metadata (where pins are) has not changed; any other is stored in the window itself. Knows no agent framework.
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
    """Compressed messages and their positions in history."""

    encoded: bytes
    indices: list[int | None]


class Origins:
    """The positions of a conversation's messages in history, and the window in the journal."""

    def __init__(self, record: AgentRecord) -> None:
        self.length = record.length
        """The length of history before the current run."""
        self.window = record.window
        self._origins: dict[int, _Origin] = {}
        for message, index in zip(record.messages, record.origins, strict=True):
            self.remember(message, index)

    def remember(self, message: Message, index: int | None) -> None:
        """Note that `message` is the one at `index` of history; None: it is not in history."""
        if index is not None:
            custom = copy.deepcopy(_custom(message))
            self._origins[id(message)] = _Origin(message, message["content"], custom, index)

    def index_of(self, message: Message) -> int | None:
        """Return the position of a message in history, None if it has changed or is not there."""
        origin = self._origins.get(id(message))
        if origin is None or origin.message is not message or origin.content is not message["content"]:
            return None
        return origin.at if origin.custom == _custom(message) else None

    def before_run(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages before those of the current run, which a manager may have changed."""
        return list(takewhile(lambda message: not self._is_own(message), messages))

    def follow(self, messages: Sequence[Message], added: int, *, whole_run: bool = False) -> Window | None:
        """Note that history has grown by `added` messages; return the window of `messages`, None if unchanged.

        With `whole_run` all added messages come after `messages`, as history has them. The open end of a window does
        not count as a change.
        """
        length = self.length if whole_run else self.length + added
        self.length += added
        window = _spans(messages, [self.index_of(message) for message in messages], length)
        if window == self.window:
            return None
        self.window = window
        return window

    def prune(self, messages: Sequence[Message]) -> None:
        """Drop the positions of messages that left the conversation."""
        if len(self._origins) > len(messages) + 8:
            ids = {id(message) for message in messages}
            self._origins = {key: origin for key, origin in self._origins.items() if key in ids}

    def packed(self, messages: Sequence[Message]) -> Packed:
        """Compress the conversation to a tenth of its size in memory, and drop its positions."""
        indices = [self.index_of(message) for message in messages]
        self._origins = {}
        return Packed(zlib.compress(encode_messages(messages), PACK_LEVEL), indices)

    def unpacked(self, packed: Packed) -> list[Message]:
        """Decompress the conversation."""
        messages = _messages(zlib.decompress(packed.encoded))
        for message, index in zip(messages, packed.indices, strict=True):
            self.remember(message, index)
        return messages

    def _is_own(self, message: Message) -> bool:
        """Return whether a message belongs to the current run, even if a manager has changed it."""
        origin = self._origins.get(id(message))
        return origin is not None and origin.message is message and origin.at >= self.length


def window_faults(window: Window, messages: Sequence[Message]) -> list[str]:
    """Return the pairing faults of a changed window. History is well formed, so a suffix of it can only begin wrong."""
    if len(window) == 1 and isinstance(window[0], Range):
        return pairing_faults(messages[:1]) if messages and not _requests_tools(messages[0]) else []
    return pairing_faults(messages)


def _spans(messages: Sequence[Message], indices: Sequence[int | None], length: int) -> Window:
    """Return the window, open at its end, of messages at these indices of a history of `length`."""
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


def _requests_tools(message: Message) -> bool:
    return any("toolUse" in block for block in message["content"])


def _custom(message: Message) -> object:
    metadata = message.get("metadata")
    return metadata.get("custom") if isinstance(metadata, dict) else None
