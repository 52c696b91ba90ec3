"""The limit of HTTP: a Starlette app that answers `/chat` without asking anybody, and waits without end at `/wait`."""

import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


async def chat(request: Request) -> JSONResponse:
    body = await request.json()
    text = f"You said: {body['message']}"
    return JSONResponse({"status": "success", "response": text, "session_id": body["session_id"]})


async def health(request: Request) -> JSONResponse:
    return JSONResponse({"status": "healthy", "processing": False, "queue_depth": 0})


class Wait:
    """A response that begins, and says nothing until its client has left: the least that a subscriber can take."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass


def main() -> None:
    routes = [Route("/chat", chat, methods=["POST"]), Route("/health", health), Route("/wait", Wait())]
    app = Starlette(routes=routes)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()
