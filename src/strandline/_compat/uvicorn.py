"""What `uvicorn` keeps private: its connections over httptools, how far each has come, and what its server holds open.

What happens to a connection is told by its parser and its transport through methods (`on_...`, `connection_...`,
`..._writing`), which a subclass overrides as well; they are uvicorn's, and are called as it calls them.
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
"""A request whose head was whole, and what becomes of it."""


def status_line(code: int) -> bytes:
    """Return the first line of an answer."""
    return STATUS_LINE[code]


class Connection(HttpToolsProtocol):
    """One connection, with words for how far it has come."""

    __slots__ = ()

    def latest_request(self) -> ServedRequest | None:
        """Return the latest request whose head was whole."""
        return self.cycle

    def has_unanswered_request(self) -> bool:
        """Return whether a whole request has not been answered yet. `pipeline`: those behind the one in work."""
        latest = self.latest_request()
        return bool(self.pipeline) or (latest is not None and not latest.response_complete and not latest.more_body)

    def behind(self) -> int:
        """Return how many requests wait behind the one in work."""
        return len(self.pipeline)

    def is_kept_alive(self) -> bool:
        """Return whether it was answered, and a timer closes it unless another request comes."""
        return self.timeout_keep_alive_task is not None

    def stop_keeping_alive(self) -> None:
        """Stop that timer: something comes."""
        self._unset_keepalive_if_required()

    def close_after_response(self) -> None:
        """Have the latest request whose head is here be the last one that is answered."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def discard_head(self) -> None:
        """Keep nothing of what was read; nothing can be read any more."""
        self.headers, self.url = [], b""
        self.parser = None  # type: ignore[assignment]


def is_body_paused(connection: Connection, request: ServedRequest) -> bool:
    """Return whether it is not the client's turn: nothing has asked for more of the body yet."""
    return connection.flow.read_paused or request.waiting_for_100_continue


def mark_disconnected(request: ServedRequest) -> None:
    """Have whoever reads the body, or writes the answer, hear that there is nobody any more."""
    request.disconnected = True
    request.message_event.set()


class Server(uvicorn.Server):
    """A server that leaves signals to others, and can be told to let go of its socket and connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield

    def stop_accepting(self) -> None:
        """Leave connections that nobody has accepted to whoever else holds the socket."""
        for server in getattr(self, "servers", ()):  # (it has none before it has begun to serve)
            server.close()

    def shutdown_connections(self) -> None:
        """Close connections that wait for a request, and each other one once it has its answer."""
        for connection in list(self.server_state.connections):
            connection.shutdown()
