"""The form of messages: what agents and tools build by hand, put into a form that the rest can trust. Pure.

What is no block is told as text; nothing that a tool returned is dropped for its form. What already has the form comes
back as the very same object, so that it can be told by identity.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from strandline._model import Block, Message, ToolResult

NAMELESS: Final = "unnamed"
"""The toolUseId of a tool block that has none."""
_KINDS: Final = ("text", "toolUse", "toolResult")


def formed(message: Any) -> Message:
    """Return a message in whose form one can trust; the very same if it has that form. What is blank stays so.

    Its role is one of the two, its content a list of blocks; texts are text (or None), tool blocks have all that
    belongs to them.
    """
    if not isinstance(message, dict):
        return {"role": "user", "content": blocks_of(message)}
    given = message.get("content")
    content = blocks_of(given)
    role = "assistant" if message.get("role") == "assistant" else "user"
    formed: Any = message
    if content is not given or role != message.get("role"):
        formed = {**message, "role": role, "content": content}
    return cast(Message, formed)


def blocks_of(content: Any, *, of_result: bool = False) -> list[Block]:
    """Return the content of a message or of a toolResult as blocks; the very same list if it is one of blocks."""
    if content is None:
        return []
    told: list[Block] = []
    for item in content if isinstance(content, list | tuple) else [content]:
        if type(item) is dict and len(item) == 1 and type(item.get("text")) is str:
            told.append(item)
        else:
            told += _of_result(item) if of_result else _of_message(item)
    return content if isinstance(content, list) and same_blocks(told, content) else told


def _of_result(item: Any) -> Sequence[Block]:
    if holds(item, "toolUse") or holds(item, "toolResult"):
        return ({"text": told_as_text(item)},)
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
    formed = _formed_use(tool) if kind == "toolUse" else formed_result(tool, id_of(tool.get("toolUseId")))
    return (item if formed is tool else {**item, kind: formed},)


def _plain(item: Any) -> Sequence[Block]:
    """Return what holds no tool as blocks: a block of text, one of another kind (which holds a dict), else its text."""
    if not isinstance(item, dict):
        return ({"text": told_as_text(item)},)
    if "text" in item:
        text = item["text"]
        return (item if text is None or isinstance(text, str) else {**item, "text": told_as_text(text)},)
    if "json" in item or any(isinstance(value, dict) for value in item.values()):
        return (item,)
    return ({"text": told_as_text(item)},) if item else ()


def _formed_use(use: dict[str, Any]) -> dict[str, Any]:
    """Return a toolUse with an id, a name and an object as its input, which Bedrock insists on."""
    named, called, given = id_of(use.get("toolUseId")), use.get("name"), use.get("input")
    if not isinstance(called, str) or not called.strip():
        called = ("" if called is None else told_as_text(called).strip()) or "unknown"
    if not isinstance(given, dict):
        given = {} if given is None else {"value": given}
    if named is use.get("toolUseId") and called is use.get("name") and given is use.get("input"):
        return use
    return {**use, "toolUseId": named, "name": called, "input": given}


def formed_result(result: Any, named: str) -> ToolResult:
    """Return what a tool has returned as a toolResult with this id; a status that is neither of the two is an error."""
    if not isinstance(result, dict):
        result = {"content": result}
    elif "content" not in result:
        own = {key: value for key, value in result.items() if key in ("toolUseId", "status")}
        result = {**own, "content": {key: value for key, value in result.items() if key not in own}}
    content = blocks_of(result["content"], of_result=True)
    status = result.get("status")
    if not isinstance(status, str) or status not in ("success", "error"):
        status = "success" if status is None else "error"
    formed: ToolResult = result
    if named is not result.get("toolUseId") or status is not result.get("status") or content is not result["content"]:
        formed = {**result, "toolUseId": named, "status": status, "content": content}
    return formed


def by_id(results: Mapping[str, ToolResult]) -> Mapping[str, ToolResult]:
    """Return results by the ids that their tool blocks have in proper form."""
    return {id_of(key): result for key, result in results.items()}


def id_of(value: object) -> str:
    """Return a toolUseId as text that is not blank."""
    named = value if isinstance(value, str) else "" if value is None else told_as_text(value)
    return named if named.strip() else NAMELESS


def told_as_text(value: object) -> str:
    """Return a value as text, whatever its own `__str__` does."""
    try:
        return str(value)
    except Exception:
        return f"(a {type(value).__name__} that cannot be told)"


def holds(block: object, kind: str) -> bool:
    """Return whether this is a block with the key `kind`."""
    return isinstance(block, dict) and kind in block


def same_blocks(content: Sequence[Block], other: Sequence[Block]) -> bool:
    """Return whether two lists hold the very same blocks; what agents put into blocks may not know how to compare."""
    return len(content) == len(other) and all(map(operator.is_, content, other))
