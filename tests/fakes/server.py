"""Serve an ASGI app over real HTTP on the loopback interface, in a thread with a loop of its own."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

STOP_S = 10.0


@contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """Serve `app` and give its URL; on leaving, no connection and no thread of it is left."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)  # from here on connections wait
    # No logging of its own: apps under test fail on purpose. An open stream does not delay the end.
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), name="test-server", daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(STOP_S)
        listener.close()
    if thread.is_alive():
        raise TimeoutError(f"the server did not stop within {STOP_S} s")
