"""JSON for messages and records: whatever an agent puts into a message comes out of a journal as it was.

Bytes (images, documents) are kept in the form that Strands' own session files use:
`{"__bytes_encoded__": true, "data": BASE64}`. What JSON cannot hold (a date, an object in a tool's input) is kept
as its text, infinite and missing numbers as null; lone surrogates become `?`, and what is nested deeper than any sane
message, or in itself, is cut off. Encoding therefore never fails on a message that an agent could build.
"""

import base64
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, cast, overload

import msgspec

T = TypeVar("T")

_MARK: Final = "__bytes_encoded__"
_MARK_BYTES: Final = _MARK.encode()
_DEEPEST: Final = 200
_LEAVES: Final = frozenset({str, int, float, bool, type(None)})


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"(a {type(value).__name__} that cannot be told)"


_encoder: Final = msgspec.json.Encoder(enc_hook=_text)


def encode(value: object) -> bytes:
    """Return `value` (records, messages, plain values) as JSON; bytes in it become plain base64 text."""
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, TypeError, RecursionError):
        return _encoder.encode(_plain(value, 0))


def encode_messages(value: object) -> bytes:
    """Return a record that holds messages as JSON, bytes wrapped. As fast as `encode` where there are no bytes."""
    try:
        return _encoder.encode(_wrapped(value) if _has_bytes(value) else value)
    except (UnicodeEncodeError, TypeError, RecursionError):
        return _encoder.encode(_plain(value, 0))


@overload
def decoder(kind: type[T]) -> Callable[[bytes], T]: ...
@overload
def decoder(kind: object) -> Callable[[bytes], Any]: ...
def decoder(kind: Any) -> Callable[[bytes], Any]:
    """Return a function that reads what `encode_messages` wrote as `kind`."""
    typed = msgspec.json.Decoder(kind)

    def decode(data: bytes) -> Any:
        if _MARK_BYTES in data:
            return msgspec.convert(_unwrapped(msgspec.json.decode(data)), kind)
        return typed.decode(data)

    return decode


def _has_bytes(value: object) -> bool:
    """Tell whether there are bytes anywhere; on the way of every run, hence the loop and the exact types."""
    kind = type(value)
    if kind in _LEAVES:
        return False
    inner: Iterable[object]
    if kind is dict:
        inner = cast(dict[object, object], value).values()
    elif kind is list or kind is tuple:
        inner = cast(list[object], value)
    elif isinstance(value, msgspec.Struct):
        inner = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    else:
        return isinstance(value, bytes | bytearray | memoryview)
    for item in inner:  # noqa: SIM110 (a third faster than any())
        if type(item) not in _LEAVES and _has_bytes(item):
            return True
    return False


def _wrapped(value: object) -> object:
    """Return `value` with its bytes in the form that is kept, structs taken apart."""
    match value:
        case bytes() | bytearray() | memoryview():
            return {_MARK: True, "data": base64.b64encode(value).decode()}
        case dict():
            return {key: _wrapped(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_wrapped(item) for item in value]
        case msgspec.Struct():
            return _apart(value, _wrapped)
        case _:
            return value


def _unwrapped(value: object) -> object:
    match value:
        case {"__bytes_encoded__": True, "data": str(data), **others} if not others:
            return base64.b64decode(data)
        case dict():
            return {key: _unwrapped(item) for key, item in value.items()}
        case list():
            return [_unwrapped(item) for item in value]
        case _:
            return value


def _plain(value: object, depth: int) -> object:
    """Return `value` as what the encoder surely takes: the slow way, for what it has refused."""
    if depth > _DEEPEST:
        return "(nested too deep)"
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case bool() | float() | None:
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)
        case bytes() | bytearray() | memoryview():
            return _wrapped(value)
        case dict():
            return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item, depth + 1) for item in value]
        case msgspec.Struct():
            return _apart(value, lambda item: _plain(item, depth + 1))
        case _:
            return _single(value)


def _single(value: object) -> object:
    """Return one value that holds no others: dates and the like as the encoder writes them, all else as text."""
    try:
        return msgspec.json.decode(_encoder.encode(value))
    except (UnicodeEncodeError, TypeError, RecursionError):
        return _plain(_text(value), 0)


def _key(key: object) -> str:
    return str(_plain(key if isinstance(key, str) else _text(key), 0))


def _apart(record: msgspec.Struct, inner: Callable[[object], object]) -> object:
    """Return a struct as the encoder would write it, its fields passed through `inner`."""
    kind = record.__struct_config__
    fields = [
        (name, inner(getattr(record, attribute)))
        for attribute, name in zip(record.__struct_fields__, record.__struct_encode_fields__, strict=True)
    ]
    if kind.array_like:
        return [*([] if kind.tag is None else [kind.tag]), *(item for _, item in fields)]
    named: dict[str, object] = {} if kind.tag is None else {cast(str, kind.tag_field): kind.tag}
    return named | dict(fields)
