"""The text of a run sent so far, for protocols that cannot withdraw any of it.

A model call that starts over repeats its text, a guard may replace a message, a slow client may miss some. So text
that is the same is not sent twice, and text that differs follows whole after a blank line. Values only.
"""

from typing import Final

from strandline._engine.events import Event, MessageAdded, RunRestarted, StreamGap, TextDelta, TextReset
from strandline._model import Message

BREAK: Final = "\n\n"
"""Between two messages, and between withdrawn text and its replacement."""


class SentText:
    """Each method takes an event of the run and returns the text to send now, often none."""

    __slots__ = ("_again", "_any", "_deaf", "_over", "_shown")

    def __init__(self) -> None:
        self._shown: list[str] = []
        """The pieces sent of the current message, or of the last one if that is complete."""
        self._over = True
        self._any = False
        self._again: str | None = None
        """The text repeated since the withdrawal, while it is the same as before."""
        self._deaf = False
        """Whether pieces are missing, so that none is sent until the message is whole."""

    def heard(self, event: Event) -> str:
        """Take any event but the end. Most have no text."""
        match event:
            case TextDelta(text):
                return self.piece(text)
            case MessageAdded(message) if message["role"] == "assistant":
                return self.whole(text_of(message))
            case RunRestarted(messages=messages):
                return self.resumed([text_of(message) for message in messages if message["role"] == "assistant"])
            case TextReset():
                self.withdrawn()
            case StreamGap():
                self.gap()
        return ""

    def piece(self, text: str) -> str:
        """Take a piece of the model's text."""
        if self._deaf:
            return ""
        before = ""
        if self._over:
            self._shown, self._over = [], False
            before = BREAK if self._any else ""
        if self._again is not None:
            return self._said_again(text)
        self._shown.append(text)
        self._any = True
        return before + text

    def withdrawn(self) -> None:
        """Discard the text since the last message."""
        if not self._over and self._shown:
            self._again = ""

    def gap(self) -> None:
        """Note that events are missing."""
        self._deaf = True

    def whole(self, text: str) -> str:
        """Take the text of a whole message, whose pieces may have been sent."""
        shown = "" if self._over else "".join(self._shown)
        return self._completed(shown, text)

    def end(self, text: str) -> str:
        """Take the final text of the last message, to which an ending may have been added."""
        return self._completed("".join(self._shown), text)

    def resumed(self, texts: list[str]) -> str:
        """Take the messages that a restarted run keeps. A client that was connected before has them."""
        if self._any:
            self.withdrawn()
            return ""
        return "".join(self.whole(text) for text in texts)

    def _completed(self, shown: str, text: str) -> str:
        self._again, self._deaf, self._over = None, False, True
        self._shown = [text]
        if not text.strip() or _squeezed(shown) == _squeezed(text):
            return ""
        before = BREAK if self._any else ""
        self._any = True
        return text[len(shown) :] if shown and text.startswith(shown) else before + text

    def _said_again(self, text: str) -> str:
        shown, said = "".join(self._shown), (self._again or "") + text
        if shown.startswith(said):
            self._again = said
            return ""
        self._again, self._shown = None, [said]
        return said[len(shown) :] if said.startswith(shown) else BREAK + said


def text_of(message: Message) -> str:
    """Return the text of a message, as in its pieces."""
    return "".join(block.get("text") or "" for block in message["content"])


def _squeezed(text: str) -> str:
    """Return a text without whitespace: pieces and whole messages separate blocks differently."""
    return "".join(text.split())
