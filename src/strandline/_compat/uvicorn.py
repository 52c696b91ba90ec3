"""Private parts of `uvicorn`: its httptools connections, their progress, and the server's open connections.

Subclasses may also override the callbacks of the parser and transport (`on_...`, `connection_...`, `..._writing`),
which are uvicorn's own.
"""

import contextlib
from collections.abc import Iterator

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

__all__ = [
    "Config",
    "Connection",
    "ServedRequest",
    "Server",
    "ServerState",
    "is_body_paused",
    "status_line",
    "mark_disconnected",
]

ServedRequest = RequestResponseCycle
"""A request with a complete head, and its response."""


def status_line(code: int) -> bytes:
    """Return the status line of a response."""
    return STATUS_LINE[code]


class Connection(HttpToolsProtocol):
    """One connection, with its progress."""

    __slots__ = ()

    def latest_request(self) -> ServedRequest | None:
        """Return the latest request with a complete head."""
        return self.cycle

    def has_unanswered_request(self) -> bool:
        """Return whether a complete request is unanswered. `pipeline` holds those behind the current one."""
        latest = self.latest_request()
        return bool(self.pipeline) or (latest is not None and not latest.response_complete and not latest.more_body)

    def behind(self) -> int:
        """Return how many requests wait behind the current one."""
        return len(self.pipeline)

    def is_kept_alive(self) -> bool:
        """Return whether it is idle: a timer closes it unless another request arrives."""
        return self.timeout_keep_alive_task is not None

    def stop_keeping_alive(self) -> None:
        """Stop that timer: data arrives."""
        self._unset_keepalive_if_required()

    def close_after_response(self) -> None:
        """Close the connection after the response to the latest request."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def discard_head(self) -> None:
        """Drop the data read so far; nothing can be read any more."""
        self.headers, self.url = [], b""
        self.parser = None  # type: ignore[assignment]


def is_body_paused(connection: Connection, request: ServedRequest) -> bool:
    """Return whether the server has not requested more of the body yet, so that the client is not late."""
    return connection.flow.read_paused or request.waiting_for_100_continue


def mark_disconnected(request: ServedRequest) -> None:
    """Make readers of the body and writers of the response see a disconnect."""
    request.disconnected = True
    request.message_event.set()


class Server(uvicorn.Server):
    """A server that handles no signals, and can release its socket and connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers."""
        yield

    def stop_accepting(self) -> None:
        """Leave unaccepted connections to the other process that holds the socket."""
        for server in getattr(self, "servers", ()):  # (it has none before it serves)
            server.close()

    def shutdown_connections(self) -> None:
        """Close idle connections, and each other one after its response."""
        for connection in list(self.server_state.connections):
            connection.shutdown()
