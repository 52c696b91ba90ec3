"""JSON for messages and records: what an agent puts into a message comes out of a journal unchanged.

Bytes (images, documents) are stored in the form of Strands' own session files: `{"__bytes_encoded__": true, "data":
BASE64}`. A value without a JSON form (a date, an object in a tool's input) is stored as text, infinity and NaN as null.
Lone surrogates become `?`, and cyclic or absurdly deep nesting is cut off. So encoding never fails on a message that an
agent can build.

An agent's own dict with the key `__bytes_encoded__` is stored as `{"__bytes_encoded__": false, "data": DICT}`, and
comes out as that dict.
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
_ARRAYS: Final = (list, tuple, set, frozenset)
_BYTES: Final = (bytes, bytearray, memoryview)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:
        return f"(a {type(value).__name__} that cannot be shown as text)"


_encoder: Final = msgspec.json.Encoder(enc_hook=_text)


def encode(value: object) -> bytes:
    """Return `value` (records, messages, plain values) as JSON; bytes in it become plain base64 text."""
    try:
        return _encoder.encode(value)
    except (UnicodeEncodeError, TypeError, RecursionError):
        return _encoder.encode(_plain(value, 0))


def encode_messages(value: object) -> bytes:
    """Return a record with messages as JSON, bytes wrapped. As fast as `encode` if there are no bytes."""
    try:
        return _encoder.encode(_wrapped(value) if _to_wrap(value) else value)
    except (UnicodeEncodeError, TypeError, RecursionError):
        return _encoder.encode(_plain(value, 0))


@overload
def decoder(kind: type[T]) -> Callable[[bytes], T]: ...
@overload
def decoder(kind: object) -> Callable[[bytes], Any]: ...
def decoder(kind: Any) -> Callable[[bytes], Any]:
    """Return a function that decodes what `encode_messages` wrote as `kind`."""
    typed = msgspec.json.Decoder(kind)

    def decode(data: bytes) -> Any:
        if _MARK_BYTES in data:
            return msgspec.convert(_unwrapped(msgspec.json.decode(data)), kind)
        return typed.decode(data)

    return decode


def _to_wrap(value: Any) -> bool:
    """Return whether a value has bytes or our mark in it. Every run pays for this, hence the loop and the exact
    types."""
    kind = type(value)
    if kind in _LEAVES:
        return False
    inner: Iterable[object]
    if isinstance(value, str):  # (an enum)
        return False
    if kind is dict:
        if _MARK in value:
            return True
        inner = value.values()
    elif kind is list or kind is tuple:
        inner = value
    elif isinstance(value, msgspec.Struct):
        inner = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        if _MARK in value:
            return True
        inner = value.values()
    elif isinstance(value, _ARRAYS):
        inner = value
    else:
        return isinstance(value, _BYTES)
    for item in inner:  # noqa: SIM110 (a third faster than any())
        if type(item) not in _LEAVES and _to_wrap(item):
            return True
    return False


def _wrapped(value: object) -> object:
    """Return `value` with its bytes in the stored form, structs as dicts."""
    match value:
        case bytes() | bytearray() | memoryview():
            return {_MARK: True, "data": base64.b64encode(value).decode()}
        case dict():
            return _escaped({key: _wrapped(item) for key, item in value.items()})
        case list() | tuple() | set() | frozenset():
            return [_wrapped(item) for item in value]
        case msgspec.Struct():
            return _apart(value, _wrapped)
        case _:
            return value


def _escaped(mapping: dict[Any, object]) -> object:
    """Return a dict in a form that cannot be mistaken for encoded bytes."""
    return {_MARK: False, "data": mapping} if _MARK in mapping else mapping


def _unwrapped(value: object) -> object:
    """Return a decoded value with its bytes as bytes; changes it in place, without recursion."""
    whole: list[Any] = [value]
    holders: list[Any] = [whole]
    while holders:
        holder = holders.pop()
        for key, item in holder.items() if type(holder) is dict else enumerate(holder):
            if type(item) is dict and _MARK in item:
                item = holder[key] = _unmarked(item)
            if type(item) is dict or type(item) is list:
                holders.append(item)
    return whole[0]


def _unmarked(mapping: dict[str, Any]) -> object:
    """Return the bytes or the dict that a marked dict stands for; any other is an agent's own dict."""
    match mapping:
        case {"__bytes_encoded__": True, "data": str(data), **others} if not others:
            try:
                return base64.b64decode(data, validate=True)
            except ValueError:
                return mapping
        case {"__bytes_encoded__": False, "data": {"__bytes_encoded__": _} as data, **others} if not others:
            return data
        case _:
            return mapping


def _plain(value: object, depth: int) -> object:
    """Return `value` in a form that the encoder accepts: the slow way, for values that it has refused."""
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
            return _escaped({_key(key): _plain(item, depth + 1) for key, item in value.items()})
        case list() | tuple() | set() | frozenset():
            return [_plain(item, depth + 1) for item in value]
        case msgspec.Struct():
            return _apart(value, lambda item: _plain(item, depth + 1))
        case _:
            return _single(value)


def _single(value: object) -> object:
    """Return a scalar: dates and the like as the encoder writes them, all else as text."""
    try:
        return msgspec.json.decode(_encoder.encode(value))
    except (UnicodeEncodeError, TypeError, RecursionError):
        return _plain(_text(value), 0)


def _key(key: object) -> str:
    return str(_plain(key if isinstance(key, str) else _text(key), 0))


def _apart(record: msgspec.Struct, inner: Callable[[object], object]) -> object:
    """Return a struct as the encoder would write it, its fields passed through `inner`."""
    kind = record.__struct_config__
    values = [getattr(record, attribute) for attribute in record.__struct_fields__]
    if kind.array_like:
        return [*([] if kind.tag is None else [kind.tag]), *map(inner, values)]
    named: dict[str, object] = {} if kind.tag is None else {cast(str, kind.tag_field): kind.tag}
    defaults = record.__struct_defaults__
    defaults = (msgspec.NODEFAULT,) * (len(values) - len(defaults)) + defaults
    for name, value, default in zip(record.__struct_encode_fields__, values, defaults, strict=True):
        if value is not msgspec.UNSET and not (kind.omit_defaults and _is_default(value, default)):
            named[name] = inner(value)
    return named


def _is_default(value: object, default: object) -> bool:
    """Return whether the encoder omits a value: the default itself, or an empty one from `list`, `dict` or `set`."""
    if value is default:
        return True
    factory = getattr(default, "factory", None)
    return factory in (list, dict, set) and type(value) is factory and not value
