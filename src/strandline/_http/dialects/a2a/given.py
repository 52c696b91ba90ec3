"""What a client of A2A sends, as the input of a run. Pure."""

from typing import Any, Final, TypeVar

import msgspec
from msgspec import convert

from strandline._encoding import encode
from strandline._files.kinds import SHOWN_AS
from strandline._http.dialects.a2a.wire import Fault, SendParams, SentMessage
from strandline._http.dialects.base64_content import decoded
from strandline._http.exchange.idempotency import key_in_body
from strandline._http.exchange.run_request import Response, Responses, RunOptions
from strandline._model import Block, Input, InputRequest
from strandline.errors import Invalid

T = TypeVar("T")

OURS: Final = "a2a"
"""The key of a run's metadata for what its answers repeat of a message."""
_OPTIONS: Final = "strandline"
"""The key of a request's metadata for the options of its run."""
_ROLES: Final = ("user", "ROLE_USER")


def params_of(params: dict[str, Any] | None, kind: type[T]) -> T:
    """Return the parameters of a method. Raises `Invalid`."""
    try:
        return convert(params or {}, kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"{error} of `params`") from None


def prompt_of(message: SentMessage) -> Input:
    """Return the input of a run. Raises `Invalid`, and `Fault` for content that agents do not get."""
    key_in_body(message.message_id, "$.message.messageId")
    if message.role not in _ROLES:
        raise Invalid(f"A message must be the user's, not of role {message.role} - at `$.message.role`")
    if not message.parts:
        raise Invalid("A message needs parts - at `$.message.parts`")
    blocks = [_block(part, f"$.message.parts[{at}]") for at, part in enumerate(message.parts)]
    if len(blocks) == 1 and "text" in blocks[0]:
        text: str = blocks[0]["text"]
        return text
    return blocks


def given_id(metadata: dict[str, Any]) -> str | None:
    """Return the id of the message that a run was requested by; None if it came another way."""
    about = metadata.get(OURS)
    found = about.get("message_id") if isinstance(about, dict) else None
    return found if isinstance(found, str) else None


def answer_of(message: SentMessage, requests: list[InputRequest]) -> Responses:
    """Return what a message answers: a text or data to one input request, or data with `responses` to several.

    Raises `Invalid`.
    """
    for part in message.parts:
        match part:
            case {"data": {"responses": list(given)}}:
                return Responses([_answer(each) for each in given])
    if len(requests) > 1:
        raise Invalid(
            'Several things are asked: answer all in a data part, {"responses": [{"id": ..., "response": ...}]}'
            " - at `$.message.parts`"
        )
    match message.parts:
        case [{"text": str(value)}] | [{"data": value}] if value is not None:
            return Responses([Response(requests[0].id, value)])
    raise Invalid("An answer is one part: a text, or data that is not null - at `$.message.parts`")


def _answer(given: object) -> Response:
    match given:
        case {"id": str(request_id), "response": value} if value is not None:
            return Response(request_id, value)
    raise Invalid("Each of `responses` has an `id` and a `response`, any JSON but null - at `$.message.parts`")


def options_of(params: SendParams) -> RunOptions:
    """Return the options of the run, with the metadata that it gets. Raises `Invalid`."""
    sent = {**(params.metadata or {}), **(params.message.metadata or {})}
    given = sent.pop(_OPTIONS, None)
    try:
        options = RunOptions() if given is None else convert(given, RunOptions)
    except msgspec.ValidationError as error:
        raise Invalid(f"{error} of `metadata.{_OPTIONS}`") from None
    kept = {**sent, **(options.metadata or {})}
    about = {"message_id": params.message.message_id}
    if params.message.task_id:
        about["task_id"] = params.message.task_id
    return msgspec.structs.replace(options, metadata={**kept, OURS: about})


def counting(params: SendParams) -> bytes:
    """Return what of a request counts: the same message again is the same run, however it is to be answered."""
    message = params.message
    return encode([message.context_id, message.task_id, message.parts, message.metadata, params.metadata])


def _block(part: dict[str, Any], there: str) -> Block:
    """Return a part as a block of Strands, in the form of either version. Raises `Invalid`, `Fault`."""
    match part:
        case {"text": str(text)}:
            return {"text": text}
        case {"data": data}:
            return {"text": encode(data).decode()}
        case {"file": {"bytes": str(data), **about}}:
            return _file(data, about.get("mimeType"), about.get("name"), there)
        case {"raw": str(data)}:
            return _file(data, part.get("mediaType"), part.get("filename"), there)
        case {"url": _} | {"file": {"uri": _}}:
            raise Fault("CONTENT_TYPE_NOT_SUPPORTED", f"No URL is fetched; send the file's bytes - at `{there}`")
    raise Invalid(f"A part must have `text`, `data`, or the bytes of a file - at `{there}`")


def _file(data: str, kind: object, name: object, there: str) -> Block:
    media_type = kind.partition(";")[0].strip().lower() if isinstance(kind, str) else ""
    shown = SHOWN_AS.get("image/jpeg" if media_type == "image/jpg" else media_type)
    if shown is None:
        known = ", ".join(sorted(SHOWN_AS))
        raise Fault("CONTENT_TYPE_NOT_SUPPORTED", f"The type of a file must be one of {known} - at `{there}`")
    block, form = shown
    source = {"bytes": decoded(data, "file", there)}
    if block == "image":
        return {block: {"format": form, "source": source}}
    title = name if isinstance(name, str) and name.strip() else block
    return {block: {"format": form, "name": title, "source": source}}
