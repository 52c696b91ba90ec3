"""What of a run's text its client has been sent, where a protocol cannot withdraw any of it.

A model whose call starts over says its text again, a guard may replace a message, a slow client misses some: what was
sent stays sent. So nothing is sent twice that is the same, and where the text is another one, it follows whole after a
blank line. Values only.
"""

from typing import Final

from strandline._engine.events import Event, MessageAdded, RunRestarted, StreamGap, TextDelta, TextReset
from strandline._model import Message

BREAK: Final = "\n\n"
"""Between two messages, and between a text that counts no more and the one that does."""


class SentText:
    """Each method takes what the run tells, and returns what is to be sent now, which is often nothing."""

    __slots__ = ("_again", "_any", "_deaf", "_over", "_shown")

    def __init__(self) -> None:
        self._shown: list[str] = []
        """What was sent of the message that is being said; of the last one, when that is over."""
        self._over = True
        self._any = False
        self._again: str | None = None
        """What the model has said since its text was withdrawn, as long as that is the same."""
        self._deaf = False
        """Pieces are missing: what comes makes no text until the message is whole."""

    def heard(self, event: Event) -> str:
        """Take any event but the end: of most there is nothing to say."""
        match event:
            case TextDelta(text):
                return self.piece(text)
            case MessageAdded(message) if message["role"] == "assistant":
                return self.whole(text_of(message))
            case RunRestarted(messages=messages):
                return self.kept([text_of(message) for message in messages if message["role"] == "assistant"])
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
        """Note that the text since the last message counts no more."""
        if not self._over and self._shown:
            self._again = ""

    def gap(self) -> None:
        """Note that something was missed."""
        self._deaf = True

    def whole(self, text: str) -> str:
        """Take the text of a whole message, of which pieces may have come before."""
        shown = "" if self._over else "".join(self._shown)
        return self._completed(shown, text)

    def end(self, text: str) -> str:
        """Take the text of the last message, as the run has left it: it may have got an end of its own."""
        return self._completed("".join(self._shown), text)

    def kept(self, texts: list[str]) -> str:
        """Take the messages that are kept of a run that starts again: whoever heard the run before has them."""
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
    """Return the text of a message, as its pieces were told."""
    return "".join(block.get("text") or "" for block in message["content"])


def _squeezed(text: str) -> str:
    """Return a text without its space: what stands between two blocks of a message is told in one way only."""
    return "".join(text.split())
