"""What was seen from outside, in order: what clients received, what user code did, what the operator did."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import Any, Final

from msgspec import Struct

from strandline._model import Message

REWORDED: Final = " as "
"""Between the text that a run goes by and the name of the edit that gave it another wording."""
MEANWHILE: Final = "(Said meanwhile, while you were working:)"
"""Before what a run says that has joined another."""


class Event(Struct, frozen=True, array_like=True):
    """Something that was seen, at virtual second `at`; `what` names it, and says what is in `details`.

    By clients: `requested` `accepted` `refused` `reused` `unsure` `outcome` `later` `missing` `history` `hung_up`, and
    with their answers `reading_history` `cancelling` `sweeping` `checking` `moving` `pausing` `resuming` `deleting`. By
    user code: `entered` `model` `said` `round` `checkpointed` `begun` `thread` `effect` `rested` `finished` `left`
    `blocks`. By the operator: `started` `crashed` `fenced` `draining` `drained` `exhausted` `clock` `quiet`. By
    the server: `forgetful` `forgot`. Of workers: `worker_died` `stands`. By the disk: `kept`, the result of a tool that
    is durable.
    Of several servers: `frozen` `woken` `cut` `joined`, by the database `down` `up`, and `owned`, a session by a
    process or (0) by nobody.
    """

    at: float
    what: str
    run: str
    details: dict[str, Any]


class Record:
    """The events of one world, in the order in which they happened."""

    def __init__(self, *, show: bool = False) -> None:
        self.events: list[Event] = []
        self.faults: list[str] = []
        """What went wrong in plain sight."""
        self._show = show

    def note(self, at: float, what: str, run: str = "", **details: Any) -> None:
        """Write down an event."""
        event = Event(at, what, run, details)
        self.events.append(event)
        if self._show:
            shown = "  ".join(f"{name}={value!r}"[:120] for name, value in details.items())
            print(f"{at:10.4f}  {what:9}  {run:8}  {shown}")

    def fault(self, at: float, sentence: str) -> None:
        """Write down that something is not as it was promised."""
        self.faults.append(f"at {at:.4f} {sentence}")

    def digest(self) -> str:
        """Return a hash of all that happened: the same for the same seed."""
        digest = hashlib.sha256()
        for event in self.events:
            digest.update(repr((event.at, event.what, event.run, event.details)).encode())
        return digest.hexdigest()


def name_in(text: str) -> str:
    """Return the text that a run goes by, whatever wording edits have given it."""
    return text.split(REWORDED)[0]


def wording_of(text: str) -> str:
    """Return the name of the edit that gave a text its wording, "" if none did."""
    return text.partition(REWORDED)[2]


def joined_texts(messages: Sequence[Message]) -> list[str]:
    """Return what runs say that have joined the one with these messages, in order: first those that were collected."""
    return [*_collected_texts(messages), *_said_meanwhile(messages)]


def _collected_texts(messages: Sequence[Message]) -> Iterator[str]:
    """Yield what stands in the first message behind the text that its run goes by."""
    first = messages[0]["content"] if messages and messages[0]["role"] == "user" else []
    if all("text" in block for block in first):
        texts = (block["text"] for block in first[1:])
        yield from takewhile(lambda text: text != MEANWHILE, texts)


def _said_meanwhile(messages: Sequence[Message]) -> list[str]:
    texts = [block.get("text", "") for message in messages for block in message["content"]]
    return [said for mark, said in pairwise(texts) if mark == MEANWHILE]


def line_of(messages: list[Message]) -> str:
    """Return a conversation as one line, to be compared with another."""
    return " ".join(_shown(block) for message in messages for block in message["content"])


def _shown(block: dict[str, Any]) -> str:
    if "toolUse" in block:
        return f"?{block['toolUse']['toolUseId']}"
    if "toolResult" in block:
        return f"={block['toolResult']['toolUseId']}"
    return f"{block['text']!r}"
