"""What an input may contain: content for the agent, and nothing that acts with the server's authority. Pure.

An allowlist, in the forms of `strands.types.content` and `strands.types.media` (Bedrock's): text, and images, documents
and videos that come with their bytes. Other kinds act for the server's operator: a `location` is fetched under the
server's cloud role, `guardContent` limits a guardrail to itself, a `cachePoint` costs money, reasoning and citations
are the model's own words. The setting `allowed_content` names kinds that callers may send all the same.

It applies to runs only, not to blocks that agents and tools build, nor to sessions that an operator imports.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from strandline._files.blocks import FILE, id_in
from strandline._model import Input
from strandline.errors import Invalid

NEVER_ALLOWED: Final = frozenset({"toolUse", "toolResult", "interruptResponse"})
"""Blocks of tools and answers: no setting allows them, since they would break the pairing of history."""
LOCATION: Final = "location"
"""The name in `allowed_content` of a source that is fetched."""
FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("png", "jpeg", "gif", "webp"),
    "document": ("pdf", "csv", "doc", "docx", "xls", "xlsx", "html", "txt", "md"),
    "video": ("flv", "mkv", "mov", "mpeg", "mpg", "mp4", "three_gp", "webm", "wmv"),
    "audio": (
        *("mp3", "opus", "wav", "aac", "flac", "mp4", "ogg", "mkv", "mka", "x-aac", "m4a", "mpeg", "mpga"),
        *("pcm", "webm"),
    ),
}
"""The formats of each kind of media (`strands.types.media`, 1.62)."""
ALWAYS_ALLOWED: Final = ("text", "image", "document", "video", "file")
"""The kinds that every server accepts."""
LONGEST_NAME: Final = 200
"""Characters of a document's name, Bedrock's limit."""
_KEYS: Final = ("format", "source")
_KEYS_OF_A_DOCUMENT: Final = ("format", "name", "source", "citations", "context")
_KEYS_OF_A_FILE: Final = frozenset({"id", "name", "type", "size"})
_SHOWN: Final = 40


def check_content(given: Input, allowed: Collection[str]) -> None:
    """Raise `Invalid` unless callers may send this; a setting adds the kinds in `allowed` to `ALWAYS_ALLOWED`.

    The error names the block and says what it may be.
    """
    if isinstance(given, str):
        return
    if not given:
        raise Invalid("input must be a text, or a list of at least one content block")
    for number, block in enumerate(given):
        _check_block(block, f"input[{number}]", allowed)


def _check_block(block: Mapping[str, Any], there: str, allowed: Collection[str]) -> None:
    if len(block) != 1:
        raise Invalid(
            f"{there} must have one key, the kind of the content block, such as `text` or `image`;"
            f" it has {', '.join(f'`{_shown(each)}`' for each in list(block)[:5]) or 'none'}"
        )
    ((kind, value),) = block.items()
    if kind in NEVER_ALLOWED or kind == LOCATION or (kind not in ALWAYS_ALLOWED and kind not in allowed):
        raise Invalid(f"{there} is of kind `{_shown(kind)}`, which callers may not send. {_accepted(kind, allowed)}")
    if kind == "text":
        if not isinstance(value, str):
            raise Invalid(f"{there}.text must be a text")
        return
    if kind == FILE:
        if id_in(block) is None or (isinstance(value, dict) and not value.keys() <= _KEYS_OF_A_FILE):
            raise Invalid(f"{there}.file must be the id of a file that was uploaded into this session")
        return
    if not isinstance(value, dict):
        raise Invalid(f"{there}.{_shown(kind)} must be an object")
    if kind in FORMATS:
        _check_media(kind, value, f"{there}.{kind}", allowed)


def _check_media(kind: str, media: Mapping[str, Any], there: str, allowed: Collection[str]) -> None:
    keys = _KEYS_OF_A_DOCUMENT if kind == "document" else _KEYS
    for name in media:
        if name not in keys:
            raise Invalid(f"{there} has `{_shown(name)}`; it may have {_listed(keys, 'and')}")
    if media.get("format") not in FORMATS[kind]:
        raise Invalid(f"{there}.format must be {_listed(FORMATS[kind], 'or')}")
    _check_source(media.get("source"), f"{there}.source", allowed)
    if kind != "document":
        return
    title, citations, context = media.get("name"), media.get("citations"), media.get("context")
    if not (isinstance(title, str) and title.strip() and len(title) <= LONGEST_NAME):
        raise Invalid(f"{there}.name must be a text of 1 to {LONGEST_NAME} characters: models need one")
    if citations is not None and not (
        isinstance(citations, dict) and citations.keys() == {"enabled"} and isinstance(citations["enabled"], bool)
    ):
        raise Invalid(f'{there}.citations must be {{"enabled": true}} or {{"enabled": false}}')
    if not (context is None or isinstance(context, str)):
        raise Invalid(f"{there}.context must be a text")


def _check_source(source: object, there: str, allowed: Collection[str]) -> None:
    match source:
        case {"bytes": bytes(data), **others} if data and not others:
            return
        case {"location": location, **others} if LOCATION in allowed and not others:
            if not (isinstance(location, dict) and isinstance(location.get("type"), str)):
                raise Invalid(f"{there}.location must be an object with a `type`")
            return
    other = next(iter(source), None) if isinstance(source, dict) and "bytes" not in source else None
    sent = "" if other is None else f", not `{_shown(other)}`"
    fetched = "" if LOCATION in allowed else " (a `location` is fetched only where `allowed_content` has `location`)"
    raise Invalid(
        f'{there} must be {{"bytes": BYTES}}{sent}: the content itself, in JSON as'
        f' {{"__bytes_encoded__": true, "data": BASE64}}, and not empty{fetched}'
    )


def _accepted(kind: str, allowed: Collection[str]) -> str:
    """Say which kinds are accepted, and who can change that."""
    kinds = _listed([*ALWAYS_ALLOWED, *sorted({*allowed} - {LOCATION, *ALWAYS_ALLOWED, *NEVER_ALLOWED})], "and")
    if kind == "interruptResponse":
        return f"Input requests are answered by `responses`; blocks may be {kinds}"
    if kind in NEVER_ALLOWED:
        return f"Tools are the agent's own; blocks may be {kinds}"
    return f"Send {kinds}, or have the server's operator add this kind to the setting allowed_content"


def _listed(names: "list[str] | tuple[str, ...]", word: str) -> str:
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last


def _shown(name: object) -> str:
    """Return a caller's name for something, short enough to quote."""
    text = str(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
