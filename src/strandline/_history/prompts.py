"""The message that a run begins with, and who said a message.

A message keeps its sender in its `metadata.custom`, which Strands keeps with the message and sends to no model.
"""

import re
from typing import Any, Final

from msgspec import ValidationError, convert, to_builtins

from strandline._history.texts import EMPTY_MESSAGE, without_blank_text
from strandline._model import ANONYMOUS, Block, Input, Message, Principal, Sender, answered
from strandline._normalize import holds, normalize_blocks

SENDER: Final = "sender"
"""Its key in the custom metadata of a message."""
_FIELD: Final = re.compile(r"\{(id|name|text)\}")


def prompt_message(prompt: Input, sender: Sender | None = None) -> Message:
    """Return the user message for a run's input; blank text becomes `(empty message)`, since providers refuse it."""
    if isinstance(prompt, str):
        content: list[Block] = [{"text": prompt if prompt.strip() else EMPTY_MESSAGE}]
    else:
        blocks = [block for block in prompt if not holds(block, "toolUse") and not holds(block, "toolResult")]
        content = without_blank_text(normalize_blocks(blocks)) or [{"text": EMPTY_MESSAGE}]
    return with_sender({"role": "user", "content": content}, sender)


def effective_sender(sender: Sender | None, principal: Principal) -> Sender | None:
    """Return who sent a run: who it says, else the name of its key; None without keys."""
    if sender is None and principal != ANONYMOUS:
        return Sender(principal, principal)
    return sender


def with_sender(message: Message, sender: Sender | None) -> Message:
    """Return a message that says who sent it; the same one for None. The argument is not changed."""
    if sender is None:
        return message
    metadata: dict[str, Any] = dict(message.get("metadata") or {})
    metadata["custom"] = {**(metadata.get("custom") or {}), SENDER: to_builtins(sender)}
    return {**message, "metadata": metadata}


def without_sender(message: Message) -> Message:
    """Return a message that does not say who sent it; the same one if it did not. The argument is not changed."""
    if named_sender(message) is None:
        return message
    metadata: dict[str, Any] = dict(message["metadata"])
    metadata["custom"] = {name: each for name, each in metadata["custom"].items() if name != SENDER}
    return {**message, "metadata": metadata}


def named_sender(message: Message) -> Sender | None:
    """Return who a message says that sent it. Agents can build any metadata, so nothing here trusts its form."""
    metadata = message.get("metadata")
    custom = metadata.get("custom") if isinstance(metadata, dict) else None
    if isinstance(custom, dict) and SENDER in custom:
        try:
            return convert(custom[SENDER], Sender)
        except ValidationError:
            pass
    return None


def sender_of(message: Message, principal: Principal) -> Sender | None:
    """Return who said a message of history; None for an assistant's, for results of tools, and without keys if nobody
    was named."""
    if message["role"] != "user":
        return None
    if (named := named_sender(message)) is not None:
        return named
    if principal == ANONYMOUS or any("toolResult" in block for block in message["content"]):
        return None
    return effective_sender(None, principal)


def as_read(prompt: Input, sender: Sender | None, template: str | None) -> Input:
    """Return a run's input as its agent reads it, with its sender, if there are a template and a sender.

    The template is filled once, and nothing that a caller wrote is filled again. Of content blocks the first text is
    shown so. Answers to input requests stay as they are.
    """
    if template is None or sender is None or answered(prompt):
        return prompt
    if isinstance(prompt, str):
        return _filled(template, sender, prompt if prompt.strip() else EMPTY_MESSAGE)
    for number, block in enumerate(prompt):
        if isinstance(text := block.get("text"), str):
            return [*prompt[:number], {"text": _filled(template, sender, text)}, *prompt[number + 1 :]]
    return [{"text": _filled(template, sender, "")}, *prompt]


def _filled(template: str, sender: Sender, text: str) -> str:
    values = {"id": sender.id, "name": sender.name, "text": text}
    return _FIELD.sub(lambda found: values[found[1]], template)
