"""Normalizes messages that agents and tools build by hand, so that all other modules can rely on their form. Pure.

A value that is no content block becomes text, so nothing that a tool returned is lost. A message in normal form comes
back as the very same object: callers compare by identity.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from strandline._model import Block, Message, ToolResult

NAMELESS: Final = "unnamed"
"""The toolUseId of a tool block without one."""
_KINDS: Final = ("text", "toolUse", "toolResult")


def normalize_message(message: Any) -> Message:
    """Return a message in normal form, the very same object if it has that form. Blank text stays blank.

    Its role is `user` or `assistant`, its content a list of blocks. Every text is a `str` (or None), every tool block
    has an id and its other required fields.
    """
    if not isinstance(message, dict):
        return {"role": "user", "content": normalize_blocks(message)}
    given = message.get("content")
    content = normalize_blocks(given)
    role = "assistant" if message.get("role") == "assistant" else "user"
    normal: Any = message
    if content is not given or role != message.get("role"):
        normal = {**message, "role": role, "content": content}
    return cast(Message, normal)


def normalize_blocks(content: Any, *, of_result: bool = False) -> list[Block]:
    """Return the content of a message or a toolResult as blocks; the very same list if it has nothing else."""
    if content is None:
        return []
    blocks: list[Block] = []
    for item in content if isinstance(content, list | tuple) else [content]:
        if type(item) is dict and len(item) == 1 and type(item.get("text")) is str:
            blocks.append(item)
        else:
            blocks += _of_result(item) if of_result else _of_message(item)
    return content if isinstance(content, list) and same_blocks(blocks, content) else blocks


def _of_result(item: Any) -> Sequence[Block]:
    if holds(item, "toolUse") or holds(item, "toolResult"):
        return ({"text": as_text(item)},)
    return _plain(item)


def _of_message(item: Any) -> Sequence[Block]:
    if not isinstance(item, dict):
        return _plain(item)
    kinds = [kind for kind in _KINDS if kind in item]
    if len(kinds) > 1:
        others = {key: value for key, value in item.items() if key not in kinds}
        return [block for kind in kinds for block in _of_message({kind: item[kind]})] + [*_plain(others)]
    if not kinds or kinds == ["text"]:
        return _plain(item)
    kind = kinds[0]
    tool = item[kind]
    if not isinstance(tool, dict):
        return _plain(tool)
    normal = _normalize_use(tool) if kind == "toolUse" else normalize_result(tool, id_of(tool.get("toolUseId")))
    return (item if normal is tool else {**item, kind: normal},)


def _plain(item: Any) -> Sequence[Block]:
    """Return an item without tool fields as blocks: itself if it has text or a dict under its kind, else its text."""
    if not isinstance(item, dict):
        return ({"text": as_text(item)},)
    if "text" in item:
        text = item["text"]
        return (item if text is None or isinstance(text, str) else {**item, "text": as_text(text)},)
    if "json" in item or any(isinstance(value, dict) for value in item.values()):
        return (item,)
    return ({"text": as_text(item)},) if item else ()


def _normalize_use(use: dict[str, Any]) -> dict[str, Any]:
    """Return a toolUse with an id, a name and an object as its input. (Bedrock rejects any other.)"""
    named, called, given = id_of(use.get("toolUseId")), use.get("name"), use.get("input")
    if not isinstance(called, str) or not called.strip():
        called = ("" if called is None else as_text(called).strip()) or "unknown"
    if not isinstance(given, dict):
        given = {} if given is None else {"value": given}
    if named is use.get("toolUseId") and called is use.get("name") and given is use.get("input"):
        return use
    return {**use, "toolUseId": named, "name": called, "input": given}


def normalize_result(result: Any, named: str) -> ToolResult:
    """Return the value of a tool as a toolResult with this id. A status other than the two becomes `error`."""
    if not isinstance(result, dict):
        result = {"content": result}
    elif "content" not in result:
        own = {key: value for key, value in result.items() if key in ("toolUseId", "status")}
        result = {**own, "content": {key: value for key, value in result.items() if key not in own}}
    content = normalize_blocks(result["content"], of_result=True)
    status = result.get("status")
    if not isinstance(status, str) or status not in ("success", "error"):
        status = "success" if status is None else "error"
    normal: ToolResult = result
    if named is not result.get("toolUseId") or status is not result.get("status") or content is not result["content"]:
        normal = {**result, "toolUseId": named, "status": status, "content": content}
    return normal


def by_id(results: Mapping[str, ToolResult]) -> Mapping[str, ToolResult]:
    """Return results under the normalized ids of their tool blocks."""
    return {id_of(key): result for key, result in results.items()}


def id_of(value: object) -> str:
    """Return a toolUseId as text, `NAMELESS` if it is blank."""
    named = value if isinstance(value, str) else "" if value is None else as_text(value)
    return named if named.strip() else NAMELESS


def as_text(value: object) -> str:
    """Return a value as text, even if its `__str__` raises."""
    try:
        return str(value)
    except Exception:
        return f"(a {type(value).__name__} that cannot be shown as text)"


def holds(block: object, kind: str) -> bool:
    """Return whether this is a block with the key `kind`."""
    return isinstance(block, dict) and kind in block


def same_blocks(content: Sequence[Block], other: Sequence[Block]) -> bool:
    """Return whether two lists hold the very same objects. (Values in blocks may not support `==`.)"""
    return len(content) == len(other) and all(map(operator.is_, content, other))
