"""The blocks of one message in the form that providers accept, and the tools that it calls or answers."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from strandline._history.texts import (
    DISMISSED,
    DONE,
    NO_OUTPUT,
    NOT_DONE,
    NOT_RETURNED,
    UNKNOWN_OUTCOME,
    without_blank_text,
)
from strandline._model import Block, Message, ToolResult
from strandline._normalize import NAMELESS, as_text, normalize_result, same_blocks


def valid_blocks(content: Iterable[Block], own: str) -> list[Block]:
    """Return the blocks that a provider accepts from one role, whose only tool blocks are of the kind `own`.

    A repeated toolUseId gets a new id, in toolUses and toolResults alike.
    """
    other = "toolUse" if own == "toolResult" else "toolResult"
    valid = _apart([block for block in without_blank_text(content) if other not in block], own)
    return [with_output(block) if "toolResult" in block else block for block in valid]


def _apart(content: Iterable[Block], own: str) -> list[Block]:
    """Return the blocks, each of the kind `own` with a unique id."""
    apart: list[Block] = []
    ids: set[str] = set()
    for block in content:
        if own in block:
            named = _unused(block[own]["toolUseId"], ids)
            ids.add(named)
            if named != block[own]["toolUseId"]:
                block = {**block, own: {**block[own], "toolUseId": named}}
        apart.append(block)
    return apart


def distinct(message: Message) -> Message:
    """Return a normalized message, each of its tool blocks with a unique id."""
    content = _apart(_apart(message["content"], "toolUse"), "toolResult")
    return message if same_blocks(content, message["content"]) else {**message, "content": content}


def _unused(name: str, used: set[str]) -> str:
    if name not in used:
        return name
    return next(each for each in (f"{name}-{n}" for n in count(2)) if each not in used)


def with_output(block: Block) -> Block:
    """Return a toolResult block that is not empty: some providers refuse an empty one, and with it the session."""
    result = block["toolResult"]
    content = without_blank_text(result["content"]) or [{"text": NO_OUTPUT}]
    return block if same_blocks(content, result["content"]) else {**block, "toolResult": {**result, "content": content}}


def open_tool_uses(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return the toolUse blocks of the last message, which the next message has to answer."""
    if not messages or messages[-1]["role"] != "assistant":
        return []
    return [block["toolUse"] for block in messages[-1]["content"] if "toolUse" in block]


def results_for(uses: Iterable[Mapping[str, str]], results: Mapping[str, ToolResult]) -> list[Block]:
    """Return a toolResult block for each toolUse: its result, or one that says that its outcome is unknown."""
    ids = [use["toolUseId"] for use in uses]
    return [
        with_output({"toolResult": normalize_result(results[each], each) if each in results else unknown_result(each)})
        for each in ids
    ]


def unknown_result(tool_use_id: str) -> ToolResult:
    """Return the result of a tool whose outcome is unknown."""
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": UNKNOWN_OUTCOME}]}


def not_done_result(tool_use_id: str, by: str) -> ToolResult:
    """Return the result of a tool that did nothing before a crash, as a person says, and has not started again."""
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": NOT_DONE.format(by=by)}]}


def done_result(tool_use_id: str, by: str, content: Sequence[Block] = ()) -> ToolResult:
    """Return the result of a tool that took effect before a crash, as a person says, with what it returned."""
    return {"toolUseId": tool_use_id, "status": "success", "content": [*content, {"text": DONE.format(by=by)}]}


def dismissed_result(tool_use_id: str) -> ToolResult:
    """Return the result of a tool that asked a person and got no answer."""
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": DISMISSED}]}


def not_returned_result(tool_use_id: str) -> ToolResult:
    """Return the result of a client's tool whose result nobody has sent."""
    return {"toolUseId": tool_use_id, "status": "error", "content": [{"text": NOT_RETURNED}]}


def without_stray_results(uses: Iterable[Mapping[str, str]], content: list[Block]) -> list[Block]:
    """Drop toolResults that answer no toolUse; the content of those without an id becomes text."""
    ids = {use["toolUseId"] for use in uses}
    blocks: list[Block] = []
    for block in content:
        if "toolResult" not in block or block["toolResult"]["toolUseId"] in ids:
            blocks.append(block)
        elif block["toolResult"]["toolUseId"].startswith(NAMELESS):
            unnamed = (each for each in block["toolResult"]["content"] if each.get("text") != NO_OUTPUT)
            blocks += [{"text": as_text(each["json"])} if "json" in each else each for each in unnamed]
    return without_blank_text(blocks)
