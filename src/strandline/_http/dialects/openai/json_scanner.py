"""Scans JSON that arrives in pieces, cut anywhere: checks it (RFC 8259) and reports where its outer values are.

Keeps only the open containers, a partial number and a partial escape: 64 MiB take no more memory than 64 bytes.
Stricter than `json.loads`: no NaN, no lone surrogate, no byte order mark, at most `MOST_NESTED` nested containers. A
key may be repeated, as in other JSON parsers.
"""

import codecs
import functools
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final

from msgspec import Struct

from strandline._http.wire import LONE_SURROGATE

WATCHED: Final = 2
"""Values and keys in at most this many containers are reported."""
MOST_NESTED: Final = 1000
"""The maximum of the parser for whole bodies."""
MOST_OF_A_NUMBER: Final = 4300
"""Maximum length of a number in characters, the same as Python's."""
MOST_STEPS: Final = 1_000_000
"""Maximum of bytes scanned one by one, a microsecond each. Nearly everything is skipped in bulk, except repeated deep
nesting."""
_LONGEST_ESCAPE: Final = len(r"\ud83d\ude00")
_LEVELS: Final = 3
"""Levels of containers that are skipped in bulk, such as a message's content: a list of parts, each with an image."""

_CHARACTERS: Final = (
    rb'(?:[^"\\\x00-\x1f]++'
    rb'|\\(?:["\\/bfnrt]'
    rb"|u(?:(?![dD][89a-fA-F])[0-9a-fA-F]{4}|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})))*+"
)
_STRING: Final = rb'"%b"' % _CHARACTERS
_WORD: Final = rb"(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?|true|false|null)"
_S: Final = rb"[ \t\n\r]*+"

_IN_STRING: Final = re.compile(_CHARACTERS)
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACE: Final = re.compile(_S)
_LETTERS: Final = re.compile(rb"[-+.0-9A-Za-z]*+")
_SCALAR: Final = re.compile(_WORD)


_QUOTE, _BACKSLASH, _COLON, _COMMA, _BRACKET, _BRACE = b'"\\:,[{'
_CLOSED_BY: Final = {_BRACKET: ord("]"), _BRACE: ord("}")}
_BEGIN_SCALARS: Final = frozenset(b"-0123456789tfn")


class NotJson(ValueError):
    """The text is not JSON."""


class Event(Enum):
    """The kind of a mark."""

    KEY_BEGINS = auto()
    KEY_ENDS = auto()
    VALUE_BEGINS = auto()
    VALUE_ENDS = auto()


class Mark(Struct, frozen=True):
    """An event; `depth` is the number of containers around it, `at` its offset in the piece.

    A beginning is at the first byte, an end after the last one. (A number that is the whole text never ends.)
    """

    event: Event
    depth: int
    at: int


class _Awaits(Enum):
    """The token that may come next."""

    VALUE = auto()
    FIRST_VALUE = auto()
    KEY = auto()
    FIRST_KEY = auto()
    COLON = auto()
    COMMA = auto()
    NOTHING = auto()


_MAY_CLOSE: Final = (_Awaits.COMMA, _Awaits.FIRST_VALUE, _Awaits.FIRST_KEY)


class _Partial(Enum):
    """The kind of the token that the text is in the middle of."""

    KEY = auto()
    STRING = auto()
    SCALAR = auto()


class JsonScanner:
    """The scanner of one text."""

    def __init__(self) -> None:
        self._value, self._members, self._list = _in_bulk()
        self._open = bytearray()
        """The closing brackets of the open containers."""
        self._awaits = _Awaits.VALUE
        self._partial: _Partial | None = None
        self._scalar = b""
        """The beginning of a number, or of true, false or null."""
        self._escape = b""
        """The beginning of an escape that was cut off."""
        self._steps = 0
        self._at = 0
        """The offset in the text of the piece, and of the escape before it."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def feed(self, piece: bytes) -> Iterator[Mark]:
        """Scan the next piece, and yield what begins and ends in it. Raises `NotJson`."""
        self._decode(piece)
        before = len(self._escape)
        text, self._escape = self._escape + piece, b""
        at, end = 0, len(text)
        while at < end:
            if (partial := self._partial) is not None:
                at = self._rest(text, at, partial)
                if self._partial is None and len(self._open) <= WATCHED:
                    event = Event.KEY_ENDS if partial is _Partial.KEY else Event.VALUE_ENDS
                    yield Mark(event, len(self._open), at - before)
                continue
            byte = text[at]
            if byte in b" \t\n\r":
                at = _end(_SPACE, text, at)
                continue
            depth = len(self._open)
            if (skipped := self._skip(text, at, depth)) > at:
                if depth == WATCHED:
                    yield Mark(Event.VALUE_BEGINS, depth, at - before)
                    yield Mark(Event.VALUE_ENDS, depth, skipped - before)
                at = skipped
                continue
            begins = self._token(byte, self._at + at)
            at += 1
            if begins is not None and depth <= WATCHED:
                yield Mark(begins, depth, at - 1 - before)
            elif len(self._open) < depth <= WATCHED + 1:
                yield Mark(Event.VALUE_ENDS, depth - 1, at - before)
        self._at += end - len(self._escape)

    def close(self) -> None:
        """End the text. Raises `NotJson` if it is incomplete."""
        self._decode(b"", is_last=True)
        if _HALF.match(self._escape):
            raise NotJson(f"{LONE_SURROGATE} (byte {self._at})")
        if self._partial is _Partial.SCALAR and not self._open:
            self._check_scalar(self._at)
        elif self._awaits is not _Awaits.NOTHING:
            raise NotJson("it ends too early")

    def _decode(self, piece: bytes, *, is_last: bool = False) -> None:
        begins = self._at + len(self._escape) - len(self._utf8.getstate()[0])
        try:
            self._utf8.decode(piece, is_last)
        except UnicodeDecodeError as error:
            raise NotJson(f"it is not UTF-8 (byte {begins + error.start})") from None

    def _skip(self, text: bytes, at: int, depth: int) -> int:
        """Return the end of what begins here and is complete in the piece: a value, or many that are not reported."""
        awaits = self._awaits
        if not WATCHED <= depth <= MOST_NESTED - _LEVELS or awaits is _Awaits.COMMA or awaits is _Awaits.COLON:
            return at
        if awaits is _Awaits.VALUE or awaits is _Awaits.FIRST_VALUE:
            in_list = depth > WATCHED and self._open[-1] == _CLOSED_BY[_BRACKET]
            found = (self._list if in_list else self._value).match(text, at)
        else:
            found = self._members.match(text, at) if depth > WATCHED else None
        if found is None:
            return at
        self._awaits = _Awaits.COMMA
        return found.end()

    # -- tokens -----------------------------------------------------------------------------------------

    def _token(self, byte: int, at: int) -> Event | None:
        """Process a byte between tokens; return what begins there. Raises `NotJson`."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise NotJson(f"it has too much structure (byte {at})")
        awaits = self._awaits
        if awaits is _Awaits.COMMA and byte == _COMMA:
            self._awaits = _Awaits.KEY if self._open[-1] == _CLOSED_BY[_BRACE] else _Awaits.VALUE
        elif awaits is _Awaits.COLON and byte == _COLON:
            self._awaits = _Awaits.VALUE
        elif awaits in (_Awaits.KEY, _Awaits.FIRST_KEY) and byte == _QUOTE:
            self._partial = _Partial.KEY
            return Event.KEY_BEGINS
        elif awaits in (_Awaits.VALUE, _Awaits.FIRST_VALUE) and self._is_value(byte, at):
            return Event.VALUE_BEGINS
        elif awaits in _MAY_CLOSE and self._open and byte == self._open[-1]:
            self._open.pop()
            self._value_ended()
        else:
            raise NotJson(f"invalid character (byte {at})")
        return None

    def _is_value(self, byte: int, at: int) -> bool:
        """Begin a value if the byte begins one; return whether it does."""
        if byte == _QUOTE:
            self._partial = _Partial.STRING
        elif byte in _CLOSED_BY:
            if len(self._open) == MOST_NESTED:
                raise NotJson(f"more than {MOST_NESTED} levels in one another (byte {at})")
            self._open.append(_CLOSED_BY[byte])
            self._awaits = _Awaits.FIRST_VALUE if byte == _BRACKET else _Awaits.FIRST_KEY
        elif byte in _BEGIN_SCALARS:
            self._partial = _Partial.SCALAR
            self._scalar = bytes((byte,))
        else:
            return False
        return True

    def _value_ended(self) -> None:
        self._awaits = _Awaits.COMMA if self._open else _Awaits.NOTHING

    # -- partial tokens --------------------------------------------------------------------------------

    def _rest(self, text: bytes, at: int, partial: _Partial) -> int:
        """Continue a partial token; return where it ends, or the text does. Raises `NotJson`."""
        if partial is _Partial.SCALAR:
            end = _end(_LETTERS, text, at)
            self._scalar += text[at:end]
            if end < len(text) or len(self._scalar) > MOST_OF_A_NUMBER:
                self._check_scalar(self._at + at)
            return end
        end = _end(_IN_STRING, text, at)
        if end == len(text):
            return end
        if text[end] == _QUOTE:
            self._partial = None
            if partial is _Partial.KEY:
                self._awaits = _Awaits.COLON
            else:
                self._value_ended()
            return end + 1
        if text[end] == _BACKSLASH and len(text) - end < _LONGEST_ESCAPE:
            self._escape = text[end:]
            return len(text)
        if _HALF.match(text, end):
            raise NotJson(f"{LONE_SURROGATE} (byte {self._at + end})")
        raise NotJson(f"invalid character or escape in a string (byte {self._at + end})")

    def _check_scalar(self, at: int) -> None:
        """Check and end a scalar."""
        if len(self._scalar) > MOST_OF_A_NUMBER:
            raise NotJson(f"a number of more than {MOST_OF_A_NUMBER} characters (byte {at})")
        if _SCALAR.fullmatch(self._scalar) is None:
            raise NotJson(f"invalid number or word (byte {at})")
        self._partial = None
        self._value_ended()


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Return the end of a match at an offset. (The patterns here also match empty text.)"""
    found = pattern.match(text, at)
    return at if found is None else found.end()


@functools.cache
def _in_bulk() -> tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]:
    """Return patterns for a value of at most `_LEVELS` levels, and for members and elements that have only such values.

    All are possessive: they never backtrack. A number must be followed by something, because the rest may be missing.
    """
    value = scalar = rb"%b|%b(?=[ \t\n\r,\]}])" % (_STRING, _WORD)
    for _ in range(_LEVELS):
        elements = rb"(?:(?:%b)%b(?:,%b(?!\])|(?=\])))*+" % (value, _S, _S)
        members = rb"(?:%b%b:%b(?:%b)%b(?:,%b(?!\})|(?=\})))*+" % (_STRING, _S, _S, value, _S, _S)
        value = rb"%b|\[%b%b\]|\{%b%b\}" % (scalar, _S, elements, _S, members)
    value = rb"(?:%b)" % value
    member = rb"%b%b:%b%b" % (_STRING, _S, _S, value)
    members, elements = (rb"%b(?:%b,%b%b)*+" % (each, _S, _S, each) for each in (member, value))
    return re.compile(value), re.compile(members), re.compile(elements)
