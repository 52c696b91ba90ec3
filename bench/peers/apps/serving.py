"""How every app of the benchmark is served: uvicorn on a port that the system chooses, its URL on standard error."""

import logging
import socket
import sys
from typing import Any

import uvicorn


def listen() -> tuple[socket.socket, str]:
    """Open a port on loopback; return its socket and its URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def serve(app: Any, listener: socket.socket, url: str) -> None:
    """Serve until SIGTERM. Logs below errors are off for all, so that none pays for them."""
    logging.disable(logging.WARNING)
    print(url, file=sys.stderr, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])
