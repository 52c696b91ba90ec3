"""What a message of the soak says: the run's label, and then, word by word, what its agent does.

    c3-17 work.30+awork.10 think.40 asks.5

Each word is a round of tool calls, all at once, `TOOL.MILLISECONDS`, except `think.40` (the model is silent before its
next answer) and `error` (the model fails). Then comes the answer: the label and all results.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

LABEL: Final = re.compile(r"[a-z]\d+-\d+")
ASKING: Final = ("asks", "asksagain")
TOOLS: Final = ("work", "awork", "fails", "afails", "again", "stubborn", *ASKING)
"""`a...` is async; `...fails` raises; `...again` may be started again; `stubborn` does not hear that it should end;
`asks...` asks a person first."""
AGAIN: Final = frozenset({"again", "asksagain"})
MEANWHILE: Final = "(Said meanwhile, while you were working:)"
"""Before what another message says that has joined the run."""
FILE: Final = "[The file "
"""How what a model reads of a file begins."""
OUT_OF_ORDER: Final = "the provider is out of order"


def texts_of(message: Any) -> tuple[list[str], list[str]]:
    """Return the texts of a user's message: its own, and those of messages that have joined its run."""
    texts = [block["text"] for block in message["content"] if "text" in block and not block["text"].startswith(FILE)]
    own = texts.index(MEANWHILE) if MEANWHILE in texts else len(texts)
    return texts[:own], [text for text in texts[own:] if text != MEANWHILE]


def answer(label: str, results: Sequence[str]) -> str:
    """Return what the agent says at the end of a run whose tools had these results."""
    return f"{label}: {', '.join(results) or 'nothing done'}"


def request_name(label: str, place: int) -> str:
    """Return what the tool at a place of a round asks under."""
    return f"{label}.{place}"


def as_said(said: str) -> str:
    """Return how a tool's result quotes the answer that it got."""
    return f" as {said} said"


class Call(Struct, frozen=True):
    """One tool call: how long the tool works, in milliseconds."""

    tool: str
    ms: int


class Turn(Struct, frozen=True):
    """One answer of the model: after `think_ms` it asks for `calls`, fails, or (neither) says the end."""

    think_ms: int = 0
    calls: tuple[Call, ...] = ()
    error: bool = False

    def requests_input(self, label: str) -> set[str]:
        """Return the names of its input requests."""
        return {request_name(label, place) for place, each in enumerate(self.calls) if each.tool in ASKING}


class Message(Struct, frozen=True):
    """A message, read."""

    label: str
    turns: tuple[Turn, ...]

    @property
    def fails(self) -> bool:
        """Whether the model fails in the end."""
        return self.turns[-1].error

    @property
    def calls(self) -> list[Call]:
        """All tool calls that it leads to, in order."""
        return [call for turn in self.turns for call in turn.calls]


def read(text: str) -> Message:
    """Read a message; the last turn is the one that ends the run."""
    label, *words = text.split()
    turns: list[Turn] = []
    think_ms = 0
    for word in words:
        if LABEL.fullmatch(word):
            continue  # (another message, that was collected into the same turn)
        if word == "error":
            return Message(label, (*turns, Turn(think_ms, error=True)))
        if word.startswith("think."):
            think_ms = int(word.partition(".")[2])
            continue
        calls = (each.partition(".") for each in word.split("+"))
        turns.append(Turn(think_ms, tuple(Call(tool, int(ms)) for tool, _, ms in calls)))
        think_ms = 0
    return Message(label, (*turns, Turn(think_ms)))
