"""A model provider over real HTTP that speaks OpenAI's chat completions and says what a test scripts.

It streams texts and tool calls as server-sent events, waits at gates, refuses with any status, and cuts a
stream in the middle. It knows nothing of Strands; point `OpenAIModel(client_args=provider.client_args)` at it.
"""

import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fakes.server import serving


class Waitable(Protocol):
    async def wait(self) -> object: ...


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool; without an id it is named after its place, `call-REQUEST-PLACE`."""

    name: str
    input: dict[str, Any] = field(default_factory=dict)
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """The stream is silent until the gate opens; what stands before it has been sent."""

    gate: Waitable


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is closed here, in the middle of the stream."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP error in OpenAI's form in place of an answer."""

    status: int
    message: str = "refused by the test"
    headers: dict[str, str] = field(default_factory=dict)


Part = str | ToolCall | Wait | Cut
Reply = str | Sequence[Part] | Refusal


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request as the provider got it."""

    number: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, in OpenAI's form."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def roles(self) -> list[str]:
        """The roles of its messages."""
        return [message["role"] for message in self.messages]

    @property
    def question(self) -> str:
        """The text of the last user message."""
        content = next(message["content"] for message in reversed(self.messages) if message["role"] == "user")
        if isinstance(content, str):
            return content
        return "".join(part.get("text", "") for part in content)


Script = Callable[[ReceivedRequest], Reply]


def throttled(message: str = "Rate limit reached") -> Refusal:
    """Make the refusal that a provider gives to a client that asks too often."""
    return Refusal(429, message)


class Provider:
    """A provider that serves as long as it is entered. `script` answers what no queued reply answers.

    `with Provider("Hello", throttled(), script=lambda received: received.question) as provider: ...`
    """

    def __init__(self, *replies: Reply, script: Script | None = None) -> None:
        self.requests: list[ReceivedRequest] = []
        """All requests so far, in order of arrival."""
        self._replies = list(replies)
        self._script = script
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._url: str | None = None

    def __enter__(self) -> Self:
        routes = [
            Route("/v1/chat/completions", self._complete, methods=["POST"]),
            Route("/v1/models", self._models),
        ]
        self._url = self._stack.enter_context(serving(Starlette(routes=routes)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The base URL that a client of OpenAI's wants, `.../v1`."""
        assert self._url is not None, "enter the provider first"
        return f"{self._url}/v1"

    @property
    def client_args(self) -> dict[str, Any]:
        """Arguments of OpenAI's client. It does not retry by itself: with its back-off, tests would be slow."""
        return {"api_key": "none", "base_url": self.url, "max_retries": 0}

    def then(self, *replies: Reply) -> None:
        """Queue further replies; may be called from any thread."""
        with self._lock:
            self._replies.extend(replies)

    # -- the endpoints --------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "fake", "object": "model", "owned_by": "tests"}]})

    async def _complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        with self._lock:
            received = ReceivedRequest(len(self.requests) + 1, body, dict(request.headers))
            self.requests.append(received)
            queued = self._replies.pop(0) if self._replies else None
        reply = queued if queued is not None else self._scripted(received)
        if isinstance(reply, Refusal):
            kind = "rate_limit_exceeded" if reply.status == 429 else "server_error"
            error = {"message": reply.message, "type": kind, "param": None, "code": kind}
            return JSONResponse({"error": error}, reply.status, reply.headers)
        parts = [reply] if isinstance(reply, str) else list(reply)
        if body.get("stream"):
            return StreamingResponse(_events(received, parts), media_type="text/event-stream")
        return JSONResponse(_whole(received, parts))

    def _scripted(self, received: ReceivedRequest) -> Reply:
        if self._script is None:
            return Refusal(400, f"the test has no reply for request {received.number}")
        return self._script(received)


# -- the wire -----------------------------------------------------------------------------------------


def _call(received: ReceivedRequest, index: int, call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.input)}
    call_id = call.call_id or f"call-{received.number}-{index}"
    return {"index": index, "id": call_id, "type": "function", "function": function}


def _usage(received: ReceivedRequest, parts: Sequence[Part]) -> dict[str, int]:
    asking, answering = len(received.messages), len(parts)
    return {"prompt_tokens": asking, "completion_tokens": answering, "total_tokens": asking + answering}


async def _events(received: ReceivedRequest, parts: Sequence[Part]) -> AsyncIterator[str]:
    def event(delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _sse({**_envelope(received, "chat.completion.chunk"), "choices": [choice]})

    yield event({"role": "assistant", "content": ""})
    calls = 0
    for part in parts:
        match part:
            case str():
                # In pieces of a word each, as a model speaks.
                for piece in re.findall(r"\s*\S+\s*$|\s*\S+|\s+", part):
                    yield event({"content": piece})
            case ToolCall():
                whole = _call(received, calls, part)
                arguments = whole["function"]["arguments"]
                half = len(arguments) // 2
                whole["function"]["arguments"] = arguments[:half]
                yield event({"tool_calls": [whole]})
                rest = {"index": calls, "function": {"arguments": arguments[half:]}}
                yield event({"tool_calls": [rest]})
                calls += 1
            case Wait(gate):
                await gate.wait()
            case Cut():
                raise ConnectionAbortedError("cut by the test")
    yield event({}, "tool_calls" if calls else "stop")
    if (received.body.get("stream_options") or {}).get("include_usage"):
        usage = _usage(received, parts)
        yield _sse({**_envelope(received, "chat.completion.chunk"), "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _whole(received: ReceivedRequest, parts: Sequence[Part]) -> dict[str, Any]:
    calls = [_call(received, index, part) for index, part in enumerate(p for p in parts if isinstance(p, ToolCall))]
    text = "".join(part for part in parts if isinstance(part, str))
    message = {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    return {**_envelope(received, "chat.completion"), "choices": [choice], "usage": _usage(received, parts)}


def _envelope(received: ReceivedRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"answer-{received.number}",
        "object": kind,
        "created": 0,
        "model": received.body.get("model", "fake"),
    }


def _sse(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
