"""Messages of history and inputs of runs as items of a conversation, and pages of these as OpenAI lists them. Pure.

The id of an item says where it is: the index of its message in history (none: in the input of a run), and its place in
that. So a page can begin after any item, and nothing is stored for it.
"""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct
from starlette.requests import Request

from strandline._encoding import encode_messages
from strandline._model import Block, Input
from strandline.errors import Invalid

MOST_ITEMS: Final = 100
DEFAULT_ITEMS: Final = 20
ITEM_ID: Final = "^(msg|rs|fc|fco)_([0-9]{1,15})_([0-9]{1,6})$"
"""The ids of items of history."""
_PLACE: Final = re.compile(ITEM_ID.strip("^$"), re.ASCII)


class ItemList(Struct, frozen=True, kw_only=True):
    """A page of items."""

    object: Literal["list"] = "list"
    data: Annotated[list[dict[str, Any]], Meta(description="Items of OpenAI's Responses API")]
    first_id: str
    last_id: str
    has_more: bool


class Page(Struct, frozen=True):
    """Which items a request asks for."""

    limit: int
    is_ascending: bool
    after: str | None

    @property
    def after_index(self) -> int | None:
        """The index of the message of the item after which the page begins. Raises `Invalid`."""
        if self.after is None:
            return None
        if (found := _PLACE.fullmatch(self.after)) is None:
            raise Invalid("after must be the id of an item")
        return int(found[2])

    def of(self, items: list[dict[str, Any]], *, more: bool = False) -> ItemList:
        """Return the page of these items, which are in its order; `more`: there are others beyond them."""
        ids = [each["id"] for each in items]
        if self.after is not None:
            items = items[ids.index(self.after) + 1 :] if self.after in ids else items
        shown = items[: self.limit]
        first, last = (shown[0]["id"], shown[-1]["id"]) if shown else ("", "")
        return ItemList(data=shown, first_id=first, last_id=last, has_more=more or len(items) > len(shown))


def page_of(request: Request) -> Page:
    """Return which items a request asks for: `limit` (1 to 100, default 20), `order` (default `desc`) and `after`.

    Raises `Invalid`.
    """
    query = request.query_params
    limit, order = query.get("limit", str(DEFAULT_ITEMS)), query.get("order", "desc")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= MOST_ITEMS):
        raise Invalid(f"limit must be a whole number from 1 to {MOST_ITEMS}")
    if order not in ("asc", "desc"):
        raise Invalid("order must be asc or desc")
    return Page(int(limit), order == "asc", query.get("after"))


def items_of(role: str, content: Input, place: Callable[[str, int], str]) -> list[dict[str, Any]]:
    """Return a message as items, in their order; `place` gives the id of one by its kind and number in the message."""
    items: list[dict[str, Any]] = []
    open_message: dict[str, Any] | None = None
    blocks: list[Block] = [{"text": content}] if isinstance(content, str) else content
    for block in blocks:
        item = _item(block)
        if item is None:
            if open_message is None:
                open_message = {
                    "id": place("msg", len(items)),
                    "type": "message",
                    "status": "completed",
                    "role": role,
                    "content": [],
                }
                items.append(open_message)
            open_message["content"].append(_part(block, role))
            continue
        open_message = None
        kind, shown = item
        items.append({"id": place(kind, len(items)), **shown})
    return items


def of_history(index: int) -> Callable[[str, int], str]:
    """Return what gives ids to the items of a message in history."""
    return lambda kind, number: f"{kind}_{index}_{number}"


def of_run(run_id: str) -> Callable[[str, int], str]:
    """Return what gives ids to the items of a run's input."""
    return lambda kind, number: f"{kind}_{run_id}_input_{number}"


def _item(block: Block) -> tuple[str, dict[str, Any]] | None:
    """Return the kind and the fields of a block that is an item of its own; None if it is a part of a message."""
    match block:
        case {"toolUse": {"toolUseId": call_id, "name": name, "input": given}}:
            call = {"type": "function_call", "call_id": call_id, "name": name, "arguments": _json(given)}
            return "fc", {**call, "status": "completed"}
        case {"toolResult": {"toolUseId": call_id, **result}}:
            done = {"type": "function_call_output", "call_id": call_id, "output": _output(result.get("content") or [])}
            return "fco", {**done, "status": "completed"}
        case {"reasoningContent": {"reasoningText": {"text": text}}}:
            content = [{"type": "reasoning_text", "text": text}]
            return "rs", {"type": "reasoning", "summary": [], "content": content, "status": "completed"}
        case {"interruptResponse": {"interruptId": request_id, "response": answer}}:
            text = answer if isinstance(answer, str) else _json(answer)
            given = {"type": "function_call_output", "call_id": request_id, "output": text}
            return "fco", {**given, "status": "completed"}
    return None


def _json(value: object) -> str:
    return encode_messages(value).decode()


def _output(content: Any) -> str:
    texts = [part["text"] if "text" in part else _named(part) for part in content]
    return "\n".join(texts)


def _named(part: Mapping[str, Any]) -> str:
    """Return JSON as text; other content by the name of its kind."""
    return _json(part["json"]) if "json" in part else f"({', '.join(part)})"


def _part(block: Block, role: str) -> dict[str, Any]:
    match block:
        case {"text": str(text)} if role == "assistant":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        case {"text": str(text)}:
            return {"type": "input_text", "text": text}
        case {"image": {"format": kind, "source": {"bytes": bytes(content)}}}:
            return {"type": "input_image", "image_url": _url(f"image/{kind}", content), "detail": "auto"}
        case {"document": {"name": name, "source": {"bytes": bytes(content)}}}:
            return {"type": "input_file", "filename": name, "file_data": _url("application/octet-stream", content)}
        case {"file": {"id": file_id}}:
            return {"type": "input_file", "file_id": file_id}
    return {"type": "output_text" if role == "assistant" else "input_text", "text": _named(block), **_more(role)}


def _more(role: str) -> dict[str, Any]:
    return {"annotations": [], "logprobs": []} if role == "assistant" else {}


def _url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
