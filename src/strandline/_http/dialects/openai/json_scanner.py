"""A JSON text that comes in pieces, cut anywhere: checked as RFC 8259 has it, and told where its outer values stand.

Keeps of the text no more than which containers are open, a number, and a part of an escape: 64 MiB take no more memory
than 64 bytes. Stricter than `json.loads`: no NaN, no half of a surrogate pair, no byte order mark, no more than
`MOST_NESTED` containers in one another. A key may come twice, as for everybody who reads JSON.
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
"""Of values and keys in at most so many containers is told."""
MOST_NESTED: Final = 1000
"""As many as what reads whole bodies has stack for."""
MOST_OF_A_NUMBER: Final = 4300
"""Characters of a number: as many as Python reads of one."""
MOST_STEPS: Final = 1_000_000
"""Bytes that are looked at one by one, a microsecond each. Nearly all is skipped in bulk, but for what is nested deep
again and again."""
_LONGEST_ESCAPE: Final = len(r"\ud83d\ude00")
_LEVELS: Final = 3
"""Of containers that are skipped in bulk: such as the content of a message, a list of parts with an image each."""

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
    """The text is no JSON."""


class Event(Enum):
    """What stands at an offset."""

    KEY_BEGINS = auto()
    KEY_ENDS = auto()
    VALUE_BEGINS = auto()
    VALUE_ENDS = auto()


class Mark(Struct, frozen=True):
    """An event; `depth` says how many containers it stands in, `at` where in the piece that was fed.

    What begins is at its first byte, what ends behind its last one. (A number that is all of the text never ends.)
    """

    event: Event
    depth: int
    at: int


class _Awaits(Enum):
    """What may come next."""

    VALUE = auto()
    FIRST_VALUE = auto()
    KEY = auto()
    FIRST_KEY = auto()
    COLON = auto()
    COMMA = auto()
    NOTHING = auto()


_MAY_CLOSE: Final = (_Awaits.COMMA, _Awaits.FIRST_VALUE, _Awaits.FIRST_KEY)


class _Partial(Enum):
    """In the middle of what the text is."""

    KEY = auto()
    STRING = auto()
    SCALAR = auto()


class JsonScanner:
    """One text."""

    def __init__(self) -> None:
        self._value, self._members, self._list = _in_bulk()
        self._open = bytearray()
        """What closes the containers that are open."""
        self._awaits = _Awaits.VALUE
        self._partial: _Partial | None = None
        self._scalar = b""
        """What there is of a number, or of true, false or null."""
        self._escape = b""
        """What there is of an escape that was cut off."""
        self._steps = 0
        self._at = 0
        """Where the piece begins in the text, and an escape before it."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def feed(self, piece: bytes) -> Iterator[Mark]:
        """Go on through the next piece, and tell what begins and ends in it. Raises `NotJson`."""
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
        """End the text. Raises `NotJson` if it is not whole."""
        self._decode(b"", is_last=True)
        if _HALF.match(self._escape):
            raise NotJson(f"{LONE_SURROGATE} (byte {self._at})")
        if self._partial is _Partial.SCALAR and not self._open:
            self._check_scalar(self._at)
        elif self._awaits is not _Awaits.NOTHING:
            raise NotJson("it ends before it is whole")

    def _decode(self, piece: bytes, *, is_last: bool = False) -> None:
        begins = self._at + len(self._escape) - len(self._utf8.getstate()[0])
        try:
            self._utf8.decode(piece, is_last)
        except UnicodeDecodeError as error:
            raise NotJson(f"it is not UTF-8 (byte {begins + error.start})") from None

    def _skip(self, text: bytes, at: int, depth: int) -> int:
        """Return where that ends which begins here and is whole in the piece: a value, or many that nobody watches."""
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

    # -- what begins ------------------------------------------------------------------------------------

    def _token(self, byte: int, at: int) -> Event | None:
        """Take in a byte that is in the middle of nothing; return what begins there. Raises `NotJson`."""
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
        """Begin a value, if the byte begins one."""
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

    # -- what goes on -----------------------------------------------------------------------------------

    def _rest(self, text: bytes, at: int, partial: _Partial) -> int:
        """Go on in what the text is in the middle of; return where that ends, or the text does. Raises `NotJson`."""
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
        """End a scalar."""
        if len(self._scalar) > MOST_OF_A_NUMBER:
            raise NotJson(f"a number of more than {MOST_OF_A_NUMBER} characters (byte {at})")
        if _SCALAR.fullmatch(self._scalar) is None:
            raise NotJson(f"invalid number or word (byte {at})")
        self._partial = None
        self._value_ended()


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    """Return where that ends which matches at a place; the patterns here match the empty text too."""
    found = pattern.match(text, at)
    return at if found is None else found.end()


@functools.cache
def _in_bulk() -> tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]:
    """Return what matches a value of so many levels, and what matches members and elements that are all of them so.

    All of it is possessive: it never goes back. A number must be followed by something, since the rest may be to come.
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
