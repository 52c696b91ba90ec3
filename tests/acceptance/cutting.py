"""A TCP proxy before a server that cuts connections in the middle: `Cutting`. A test says after how many bytes."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Cutting:
    """Hands on what goes to and fro. `after()` gives the bytes that a connection may get before it is cut; None: all.

    It is cut in the middle of a frame, wherever that is.
    """

    def __init__(self, port: int, after: Callable[[], int | None]) -> None:
        self.cuts = 0
        self._to = port
        self._after = after
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._start(self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """End all connections."""
        _end(self._listener)
        while self._threads:
            with self._lock:
                ours, threads = list(self._sockets), list(self._threads)
            for each in ours:
                _end(each)
            for thread in threads:
                thread.join()
            with self._lock:
                self._threads = [each for each in self._threads if each not in threads]
        self._listener.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="cutting", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets += [client, server]
            self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        upwards = threading.Thread(target=_hand_on, args=(client, server), name="cutting up", daemon=True)
        upwards.start()
        left = self._after()
        with client, server:
            with suppress(OSError):
                while some := server.recv(4096):
                    if left is not None and len(some) >= left:
                        client.sendall(some[:left])
                        with self._lock:
                            self.cuts += 1
                        break
                    left = None if left is None else left - len(some)
                    client.sendall(some)
            _end(client)
            _end(server)
            upwards.join()
            with self._lock:
                self._sockets.remove(client)
                self._sockets.remove(server)


def _hand_on(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(4096):
            to.sendall(some)
    _end(to)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(url: str, after: Callable[[], int | None]) -> Iterator[tuple[str, Cutting]]:
    """Put a proxy before a server for the time of a `with`; give its address and itself."""
    proxy = Cutting(int(url.rpartition(":")[2]), after)
    try:
        yield f"http://127.0.0.1:{proxy.port}", proxy
    finally:
        proxy.close()
