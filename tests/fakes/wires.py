"""A server that speaks three protocols as their pages describe them, with a probe behind each: `wires`.

It stands in for the packages of those protocols, and does what none of them must do: it is right. With `broken` no
request waits for another one.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fakes.server import serving
from strandline.testing.probe import answer

SESSION: Final = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
MOST: Final = 20
"""How many requests of a session may be inside."""


class Full(Exception):
    pass


class Conversations:
    def __init__(self, *, broken: bool) -> None:
        self._said: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._inside: defaultdict[str, int] = defaultdict(int)
        self._broken = broken

    @asynccontextmanager
    async def _turn(self, session: str) -> Any:
        if self._inside[session] >= MOST and not self._broken:
            raise Full
        self._inside[session] += 1
        try:
            if self._broken:
                yield
            else:
                async with self._locks[session]:
                    yield
        finally:
            self._inside[session] -= 1

    async def ask(self, session: str, text: str) -> str:
        async with self._turn(session):
            said = self._said[session]
            said.append(("user", text))
            try:
                reply = await answer(said)
            except ConnectionError:
                said.append(("assistant", "(failed)"))
                raise
            said.append(("assistant", reply))
            return reply


def make_app(*, broken: bool) -> Starlette:
    conversations = Conversations(broken=broken)
    busy: set[str] = set()

    async def agentcore(request: Request) -> Response:
        session = request.headers.get(SESSION, "")
        if not 33 <= len(session) <= 256:
            return JSONResponse({"error": "session", "details": "33 to 256 characters"}, 400)
        try:
            return JSONResponse({"result": await conversations.ask(session, (await request.json())["prompt"])})
        except Full:
            return JSONResponse({"error": "busy"}, 429, {"Retry-After": "1"})
        except ConnectionError as error:
            return JSONResponse({"error": "ConnectionError", "details": str(error)}, 500)

    async def a2a(request: Request) -> Response:
        call = await request.json()
        message = call["params"]["message"]
        assert (call["jsonrpc"], call["method"], message["kind"], message["role"]) == (
            "2.0", "message/send", "message", "user",
        )  # fmt: skip
        frame = {"jsonrpc": "2.0", "id": call["id"]}
        task: dict[str, Any] = {"kind": "task", "id": message["messageId"], "contextId": message["contextId"]}
        try:
            reply = await conversations.ask(message["contextId"], message["parts"][0]["text"])
        except Full:
            return JSONResponse({**frame, "error": {"code": -32000, "message": "busy"}}, 429)
        except ConnectionError as error:
            parts = [{"kind": "text", "text": str(error)}]
            status = {"state": "failed", "message": {"kind": "message", "role": "agent", "parts": parts}}
            return JSONResponse({**frame, "result": {**task, "status": status}})
        artifact = {"artifactId": "1", "parts": [{"kind": "text", "text": reply}]}
        return JSONResponse({**frame, "result": {**task, "status": {"state": "completed"}, "artifacts": [artifact]}})

    async def agui(request: Request) -> Response:
        """Keep the conversation."""
        return await stream(request, conversations.ask)

    async def agui_stream(request: Request) -> Response:
        """Keep nothing, and refuse what comes meanwhile, as the package of AG-UI for Strands does."""
        messages = [(each["role"], each["content"]) for each in (await request.json())["messages"]]

        async def ask(session: str, text: str) -> str:
            if session in busy and not broken:
                raise Full
            busy.add(session)
            try:
                return await answer(messages)
            finally:
                busy.discard(session)

        return await stream(request, ask)

    async def stream(request: Request, ask: Callable[[str, str], Awaitable[str]]) -> Response:
        body = await request.json()
        assert {"threadId", "runId", "messages", "state", "tools", "context", "forwardedProps"} == body.keys()
        ids = {"threadId": body["threadId"], "runId": body["runId"]}
        events: list[dict[str, Any]] = [{"type": "RUN_STARTED", **ids}]
        try:
            reply = await ask(body["threadId"], body["messages"][-1]["content"])
            events += [{"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}]
            events += [
                {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": part} for part in (reply[:9], reply[9:])
            ]
            events += [{"type": "TEXT_MESSAGE_END", "messageId": "m"}, {"type": "RUN_FINISHED", **ids}]
        except Full:
            events.append({"type": "RUN_ERROR", "code": "THREAD_BUSY", "message": "busy"})
        except ConnectionError as error:
            events.append({"type": "RUN_ERROR", "message": str(error)})
        reply = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return Response(reply, media_type="text/event-stream")

    return Starlette(
        routes=[
            Route("/invocations", agentcore, methods=["POST"]),
            Route("/a2a", a2a, methods=["POST"]),
            Route("/ag-ui", agui, methods=["POST"]),
            Route("/told", agui_stream, methods=["POST"]),
        ]
    )


@contextmanager
def wires(*, broken: bool = False) -> Iterator[str]:
    """Serve it for the time of a `with`; yield its address."""
    with serving(make_app(broken=broken)) as url:
        yield url
