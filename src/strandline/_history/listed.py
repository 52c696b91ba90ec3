"""What a client's list of messages and the inputs of runs have in common. Pure.

Texts are compared as people read them: line by line, without the space around and between words, and in one form of
Unicode. Everything but text is left out, since clients send images again in another form, or not at all.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from strandline._history.texts import EMPTY_MESSAGE, SAID_MEANWHILE
from strandline._model import Block, Input, Message, answered

LONGEST: Final = 2_000
"""Of a longer text only its digest is kept: a client's list stays in memory as a whole."""
MOST_LISTED: Final = 1_000
"""How many messages of a client are compared with how many turns, the last ones of each."""
_SPACE: Final = re.compile(r"\s+")


def plain_text(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    """Return the text of a message for comparisons; "" for one without any."""
    if isinstance(content, str):
        text = content
    else:
        text = "\n".join(part for block in content or () if isinstance(part := block.get("text"), str))
    lines = (_SPACE.sub(" ", line).strip() for line in unicodedata.normalize("NFC", text).splitlines())
    return "\n".join(filter(None, lines))


def kept(text: str) -> str:
    """Return what is kept of a plain text in a client's list."""
    if len(text) <= LONGEST:
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def input_text(given: Input) -> str | None:
    """Return the text of a run's input; that of the answer if it answers one request by a text; None for other
    answers, which no chat program lists."""
    if not answered(given) or isinstance(given, str):
        return plain_text(given)
    responses = [block["interruptResponse"]["response"] for block in given if "interruptResponse" in block]
    return plain_text(responses[0]) if len(responses) == 1 and isinstance(responses[0], str) else None


def said_in(messages: Iterable[Message]) -> list[str]:
    """Return what people said in the messages of a turn whose runs are deleted, as far as that can be known."""
    parts: list[list[Block]] = []
    for message in messages:
        if message["role"] != "user":
            continue
        for block in message["content"]:
            if not parts or block.get("text") == SAID_MEANWHILE:
                parts.append([])
            if "text" in block and block["text"] not in (SAID_MEANWHILE, EMPTY_MESSAGE):
                parts[-1].append(block)
    return [plain_text(part) for part in parts]


class Listed:
    """The texts of a client's list, as they are `kept`, each found by its number."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._equal: defaultdict[str, list[int]] = defaultdict(list)
        self._beginning: defaultdict[str, list[list[str]]] = defaultdict(list)
        for number, text in enumerate(texts):
            self._equal[text].append(number)
        for text in self._equal:
            lines = text.split("\n")
            if text:
                self._beginning[lines[0]].append(lines)

    def like(self, text: str | None) -> tuple[int, ...]:
        """Return the numbers of the listed messages that are equal to what a run said.

        If none is, that of the longest whose lines the run's text has, one after the other: programs add what they
        have found to the last message, and list it without that from then on.
        """
        if text is None:
            return ()
        if (whole := kept(text)) in self._equal:
            return tuple(self._equal[whole])
        lines = text.split("\n")
        found: list[str] = []
        for at, line in enumerate(lines):
            for listed in self._beginning.get(line, ()):
                if lines[at : at + len(listed)] == listed and len(listed) >= len(found):
                    found = listed
        return tuple(self._equal["\n".join(found)]) if found else ()
