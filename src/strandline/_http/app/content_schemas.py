"""The OpenAPI schemas of the content that callers may send, as `_engine/requests/content.py` accepts it."""

from typing import Any, Final

from strandline._engine.requests import ALWAYS_ALLOWED, FORMATS, LOCATION, LONGEST_NAME, NEVER_ALLOWED

_REF: Final = "#/components/schemas/{name}"
_NAME: Final = "ContentBlock"
_BYTES: Final = "EncodedBytes"
BLOCK: Final = {"$ref": _REF.format(name=_NAME)}
FILE_ID: Final = {"type": "string", "pattern": "^file_[0-9a-f]{32}$"}
_BASE64: Final = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$"


def schemas(allowed: frozenset[str]) -> dict[str, Any]:
    """Return the components: a content block, and bytes in JSON. `allowed` is the setting `allowed_content`."""
    kinds = [*ALWAYS_ALLOWED, *sorted(allowed - {LOCATION, *ALWAYS_ALLOWED, *NEVER_ALLOWED})]
    encoded = {
        **_object({"__bytes_encoded__": {"const": True}, "data": {"type": "string", "pattern": _BASE64}}),
        "description": "Bytes in JSON, as base64",
    }
    block = {
        "description": "A content block in the format of Strands: an object with one key, its kind",
        "type": "object",
        "oneOf": [_object({kind: _content(kind, allowed)}) for kind in kinds],
    }
    return {_NAME: block, _BYTES: encoded}


def _content(kind: str, allowed: frozenset[str]) -> dict[str, Any]:
    """Return the schema of the value under a kind of content."""
    if kind == "text":
        return {"type": "string"}
    if kind == "file":
        record = {"name": {"type": "string"}, "type": {"type": "string"}, "size": {"type": "integer"}}
        return {"anyOf": [FILE_ID, _object({"id": FILE_ID}, **record)]}
    if kind not in FORMATS:
        return {"type": "object"}
    fields: dict[str, Any] = {"format": {"enum": list(FORMATS[kind])}, "source": _source(allowed)}
    if kind != "document":
        return _object(fields)
    return _object(
        {**fields, "name": {"type": "string", "pattern": r"\S", "maxLength": LONGEST_NAME}},
        citations={"anyOf": [_object({"enabled": {"type": "boolean"}}), {"type": "null"}]},
        context={"type": ["string", "null"]},
    )


def _source(allowed: frozenset[str]) -> dict[str, Any]:
    """Return the schema of a source: bytes, or a location if that is allowed."""
    sent = _object({"bytes": {"$ref": _REF.format(name=_BYTES)}})
    if LOCATION not in allowed:
        return sent
    location = {"type": "object", "required": ["type"], "properties": {"type": {"type": "string"}}}
    return {"anyOf": [sent, _object({LOCATION: location})]}


def _object(fields: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object with these fields, perhaps the optional ones, and no others."""
    return {
        "type": "object",
        "required": list(fields),
        "properties": {**fields, **optional},
        "additionalProperties": False,
    }
