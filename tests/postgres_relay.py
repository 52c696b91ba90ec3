"""A connection to PostgreSQL that can be cut: `Relay` stands between a client and the server's socket."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Relay:
    """Passes on what clients and the server say, until it is told to `cut`.

    `cut(swallow=...)` ends each connection at the next thing that is said in that direction, which is not passed on:
    `"answer"` is what the server says, `"batch"` what the client says. Connections made later are whole again.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self._server = server / ".s.PGSQL.5432"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._swallow: str | None = None
        self._flows = threading.Event()
        self._flows.set()
        self.has_cut = threading.Event()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, swallow: str) -> None:
        """End the connection at the next thing that is said in this direction."""
        self.has_cut.clear()
        self._swallow = swallow

    def pause(self) -> None:
        """Pass nothing on any more, as on a network that is cut in silence."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass on what was held back, and all that comes."""
        self._flows.set()

    def close(self) -> None:
        """End everything."""
        self._flows.set()
        for each in (self._listener, *self._open):
            _end(each)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(str(self._server))
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                for source, to, what in ((client, server, "batch"), (server, client, "answer")):
                    threading.Thread(target=self._pass_on, args=(source, to, what), daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket, what: str) -> None:
        with suppress(OSError):
            while said := source.recv(1 << 16):
                if self._swallow == what:
                    self._swallow = None
                    self.has_cut.set()
                    break
                self._flows.wait()
                to.sendall(said)
        for each in (source, to):
            _end(each)


def _end(connection: socket.socket) -> None:
    end: tuple[Callable[[], None], ...] = (lambda: connection.shutdown(socket.SHUT_RDWR), connection.close)
    for each in end:
        with suppress(OSError):
            each()
