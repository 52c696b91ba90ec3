"""JSON for messages and records: whatever an agent puts into a message comes out of a journal as it was.

Bytes (images, documents) are kept in the form that Strands' own session files use:
`{"__bytes_encoded__": true, "data": BASE64}`. What JSON cannot hold (a date, an object in a tool's input) is kept
as its text; lone surrogates become `?`. Encoding therefore never fails on a message that an agent could build.
"""

import base64
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast, overload

import msgspec

T = TypeVar("T")

_MARK: Final = "__bytes_encoded__"
_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def encode(value: object) -> bytes:
    """Return `value` (records, messages, plain values) as JSON."""
    try:
        encoded = _encoder.encode(value)
    except (UnicodeEncodeError, TypeError, RecursionError):
        return _encoder.encode(_plain(msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=str, str_keys=True)))
    return encoded


def encode_messages(value: object) -> bytes:
    """Return a record that holds messages as JSON, bytes wrapped. As fast as `encode` where there are no bytes."""
    if _has_bytes(value):
        return encode(_wrapped(value))
    return encode(value)


@overload
def decoder(kind: type[T]) -> Callable[[bytes], T]: ...
@overload
def decoder(kind: object) -> Callable[[bytes], Any]: ...
def decoder(kind: Any) -> Callable[[bytes], Any]:
    """Return a function that reads what `encode_messages` wrote as `kind`."""
    typed = msgspec.json.Decoder(kind)

    def decode(data: bytes) -> Any:
        if _MARK.encode() in data:
            return msgspec.convert(_unwrapped(msgspec.json.decode(data)), kind)
        return typed.decode(data)

    return decode


def _has_bytes(value: object) -> bool:
    match value:
        case str() | int() | float() | None:
            return False
        case dict():
            return any(map(_has_bytes, value.values()))
        case list() | tuple():
            return any(map(_has_bytes, value))
        case bytes() | bytearray():
            return True
        case msgspec.Struct():
            return any(_has_bytes(getattr(value, name)) for name in value.__struct_fields__)
        case _:
            return False


def _wrapped(value: object) -> object:
    match value:
        case bytes() | bytearray():
            return {_MARK: True, "data": base64.b64encode(value).decode()}
        case dict():
            return {key: _wrapped(item) for key, item in value.items()}
        case list() | tuple():
            return [_wrapped(item) for item in value]
        case msgspec.Struct():
            tag = type(value).__struct_config__
            fields = [(name, _wrapped(getattr(value, name))) for name in value.__struct_encode_fields__]
            if tag.array_like:
                head = [] if tag.tag is None else [tag.tag]
                return [*head, *(item for _, item in fields)]
            named: dict[str, object] = {} if tag.tag is None else {cast(str, tag.tag_field): tag.tag}
            return named | dict(fields)
        case _:
            return value


def _unwrapped(value: object) -> object:
    match value:
        case {"__bytes_encoded__": True, "data": str(data)}:
            return base64.b64decode(data)
        case dict():
            return {key: _unwrapped(item) for key, item in value.items()}
        case list():
            return [_unwrapped(item) for item in value]
        case _:
            return value


def _plain(value: Any) -> object:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {str(_plain(str(key))): _plain(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [_plain(item) for item in value]
        case _:
            return value
