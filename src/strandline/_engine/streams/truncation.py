"""Messages, arguments and results as they are published: plain JSON, a copy, truncated where it is too large. Pure.

Text of the model and of people is published whole. Arguments and results of tools, and other content (images,
documents), are published up to a number of bytes: history has them whole.
"""

from typing import Any

import msgspec

from strandline._encoding import encode_messages
from strandline._model import Block, Message, ToolResult


def truncate_message(message: Message, most: int) -> tuple[Message, bool]:
    """Return a message with no block of more than `most` bytes of JSON, texts apart, and whether one was cut."""
    blocks = [_truncate_block(block, most) for block in message["content"]]
    return {"role": message["role"], "content": [block for block, _ in blocks]}, any(cut for _, cut in blocks)


def plain(message: Message) -> Message:
    """Return a whole copy of a message, as plain JSON."""
    if len(message) == 2:
        return {"role": message["role"], "content": [_copied(block) for block in message["content"]]}
    copied: Message = msgspec.json.decode(encode_messages(message))
    return copied


def truncate_arguments(given: object, most: int) -> tuple[Any, bool]:
    """Return the arguments of a tool, or None and True if they take more than `most` bytes of JSON."""
    encoded = encode_messages(given)
    return (None, True) if len(encoded) > most else (msgspec.json.decode(encoded), False)


def truncate_result(result: ToolResult, most: int) -> tuple[ToolResult, bool]:
    """Return a toolResult, and whether it was cut to its first characters, as one text."""
    encoded = encode_messages(result)
    if len(encoded) <= most:
        return msgspec.json.decode(encoded), False
    shortened: ToolResult = {key: result[key] for key in ("toolUseId", "status") if key in result}
    content = result.get("content")
    texts = [block["text"] for block in content if isinstance(block.get("text"), str)] if content else []
    text = "\n".join(texts) if texts else encode_messages(content).decode()
    return msgspec.json.decode(encode_messages(shortened | {"content": [{"text": text[:most]}]})), True


def _copied(block: Block) -> Block:
    """Return a whole copy of a block, as plain JSON. Nearly all are a text and nothing else."""
    if len(block) == 1 and type(text := block.get("text")) is str:
        return {"text": text}
    copied: Block = msgspec.json.decode(encode_messages(block))
    return copied


def _truncate_block(block: Block, most: int) -> tuple[Block, bool]:
    if "text" in block:
        return _copied(block), False
    if "toolResult" in block:
        result, cut = truncate_result(block["toolResult"], most)
        return {"toolResult": result}, cut
    if "toolUse" in block:
        use = block["toolUse"]
        given, cut = truncate_arguments(use.get("input"), most)
        return {"toolUse": {"toolUseId": use.get("toolUseId"), "name": use.get("name"), "input": given}}, cut
    encoded = encode_messages(block)
    if len(encoded) <= most:
        return msgspec.json.decode(encoded), False
    return {"text": f"(a block of {len(encoded)} bytes: {', '.join(map(str, block))})"}, True
