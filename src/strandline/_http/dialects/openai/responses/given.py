"""The input of a request for a response: the user's new messages as blocks. Pure.

The server has the conversation. A client that names it by `conversation` or `previous_response_id` sends what is new:
messages of the user's. One that names its session by a header may send its whole copy, as in chat completions: then
only the last message counts.
"""

import re
from itertools import takewhile
from typing import Any, Final, Literal

import msgspec

from strandline._engine.requests import ListedMessages
from strandline._files.kinds import SHOWN_AS
from strandline._http.dialects.base64_content import decoded
from strandline._http.dialects.client_history import INSTRUCTIONS, Earlier
from strandline._http.dialects.openai import client_options
from strandline._http.dialects.openai.responses.wire import READS, ResponseRequest, called
from strandline._http.dialects.openai.results import text_in
from strandline._http.dialects.openai.wire import image_of
from strandline._http.exchange.run_request import Response as Answered
from strandline._http.exchange.run_request import Responses
from strandline._model import AnswerFormat, Block, ClientOptions, Input
from strandline.errors import Invalid

YES: Final = "yes"
NO: Final = "no"
"""What the agent gets for an approval that was given or denied."""
_DOCUMENT: Final = re.compile(r"data:([^;,]*);base64,(.*)", re.DOTALL)
_FORMATS: Final = {media_type: form for media_type, (block, form) in SHOWN_AS.items() if block == "document"}
"""The documents that models take, by their media types."""


def check_supported(body: ResponseRequest) -> None:
    """Raise `Invalid` for options that change what an answer is. Others, such as temperature, are ignored."""
    unsupported = {
        "prompt": (body.prompt is not None, "the agent has its own prompt"),
        "top_logprobs": (bool(body.top_logprobs), "there are no probabilities of its text"),
        "store": (body.store is False, "every run is stored, so that it cannot be lost"),
    }
    for name, (is_set, why) in unsupported.items():
        if is_set:
            raise Invalid(f"Leave this out: {why} - at `$.{name}`")
    if body.conversation is not None and body.previous_response_id is not None:
        raise Invalid("Name the conversation or the response before, not both - at `$.previous_response_id`")


def client_options_of(body: ResponseRequest) -> ClientOptions | None:
    """Return what the client wants of the agent. Raises `Invalid`."""
    form: AnswerFormat | None = None
    if body.text is not None:
        form = client_options.format_of(body.text.format, "$.text.format")
    return client_options.client_options_of(form, body.tools, body.tool_choice, body.parallel_tool_calls)


def prompt_of(body: ResponseRequest, *, lists_all: bool) -> Input | Responses:
    """Return the input of a run. `lists_all`: the client may list its copy of the conversation, of which only the last
    message counts, or the last answers; else all that it lists is new. Raises `Invalid`."""
    if isinstance(body.input, str):
        return body.input
    said = [(number, item) for number, item in enumerate(body.input) if not _instructs(item)]
    is_new = _is_answer if said and _is_answer(said[-1]) else _is_message
    new = list(takewhile(is_new, reversed(said)))[::-1]
    if not new:
        raise Invalid(f"The last item must be a message of the user's, or an answer - at `$.input`. {READS}")
    if len(new) < len(said) and not lists_all:
        if _is_answer(said[0]) or _is_answer(said[-1]):
            raise Invalid(f"Answer first, then send a message - at `$.input[{said[0][0]}]`")
        raise Invalid(
            f"The server has the conversation, so send only what is new, or name the session by a header"
            f" - at `$.input[{said[0][0]}]`"
        )
    if is_new is _is_answer:
        return Responses([_answer(number, item) for number, item in new])
    if lists_all or len(new) == 1:
        return _content(*new[-1])
    contents = [_content(number, item) for number, item in new]
    return [block for each in contents for block in ([{"text": each}] if isinstance(each, str) else each)]


def has_results(body: ResponseRequest) -> bool:
    """Return whether a request has results of the client's tools."""
    items = body.input if isinstance(body.input, list) else []
    call_ids = (item.get("call_id") for item in items if _is_answer((0, item)))
    return any(isinstance(each, str) and called(each) is not None for each in call_ids)


def listed_in(body: ResponseRequest, how: Literal["follow", "refuse"]) -> ListedMessages | None:
    """Return what a client that sends its whole copy of the conversation lists before its message; None if it sends a
    text, which is new."""
    if isinstance(body.input, str):
        return None
    earlier = Earlier()
    for item in body.input:
        role, content = item.get("role"), item.get("content")
        parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else None
        earlier.add(role if isinstance(role, str) else "", content if isinstance(content, str) else parts)
    return ListedMessages(earlier.texts, earlier.is_cut, how)


def _instructs(item: dict[str, Any]) -> bool:
    role = item.get("role")
    return isinstance(role, str) and role in INSTRUCTIONS


def _is_message(numbered: tuple[int, dict[str, Any]]) -> bool:
    return numbered[1].get("type", "message") == "message" and numbered[1].get("role") == "user"


def _is_answer(numbered: tuple[int, dict[str, Any]]) -> bool:
    return numbered[1].get("type") in ("function_call_output", "mcp_approval_response")


def _answer(number: int, item: dict[str, Any]) -> Answered:
    """Return the answer to a question. Raises `Invalid`."""
    match item:
        case {"type": "mcp_approval_response", "approval_request_id": str(request_id), "approve": bool(approves)}:
            return Answered(request_id, YES if approves else NO)
        case {"type": "function_call_output", "call_id": str(call_id), "output": str() | list() as output}:
            text = text_in(output, "input_text", f"$.input[{number}].output")
            tool = called(call_id)
            return Answered(call_id, _value(text)) if tool is None else Answered(tool, text)
    raise Invalid(
        "An answer is a function_call_output with `call_id` and `output`, a text, or an mcp_approval_response with"
        f" `approval_request_id` and `approve` - at `$.input[{number}]`"
    )


def _value(output: str) -> Any:
    """Return the JSON that the output of a question is, else its text."""
    try:
        return msgspec.json.decode(output)
    except (msgspec.DecodeError, RecursionError):
        return output


def _content(number: int, item: dict[str, Any]) -> Input:
    content, there = item.get("content"), f"$.input[{number}].content"
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise Invalid(f"A message needs content: a text, or a list of parts - at `{there}`")
    return [_block(part, f"{there}[{at}]") for at, part in enumerate(content)]


def _block(part: object, there: str) -> Block:
    """Return a part of a message as a block of Strands. Raises `Invalid`."""
    match part:
        case {"type": "input_text", "text": str(text)}:
            return {"text": text}
        case {"type": "input_image", "image_url": str(url)}:
            return image_of(url, there)
        case {"type": "input_image" | "input_file", "file_id": str(file_id)}:
            return {"file": file_id}
        case {"type": "input_file", "file_data": str(data), **others}:
            return _document(data, others.get("filename"), there)
        case {"type": "input_file", "file_url": _}:
            raise Invalid(f"No URL is fetched: send the file as `file_data`, or upload it - at `{there}`")
    raise Invalid(f"A part must be an input_text, input_image or input_file, with its content - at `{there}`")


def _document(data: str, name: object, there: str) -> Block:
    """Return a document that was sent as a data: URL. Raises `Invalid`."""
    found = _DOCUMENT.fullmatch(data)
    kind = None if found is None else _FORMATS.get(found[1])
    if found is None or kind is None:
        raise Invalid(f"`file_data` must be a data: URL (base64) of one of {', '.join(_FORMATS)} - at `{there}`")
    content = decoded(found[2], "file", there)
    title = name if isinstance(name, str) and name else "document"
    return {"document": {"format": kind, "name": title, "source": {"bytes": content}}}
