"""A receiver of webhooks: an HTTP server in this process that remembers what came, and answers what a test says."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from strandline._webhooks.signing import headers, secret_of

DEADLINE_S = 90.0


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def type(self) -> str:
        return str(self.event["type"])

    def is_signed_by(self, secret: str) -> bool:
        """Return whether one of the signatures is that of a secret."""
        key = secret_of(secret)
        assert key is not None
        signed = headers(self.id, int(self.headers["webhook-timestamp"]), self.body, [key])["webhook-signature"]
        return signed in self.headers["webhook-signature"].split(" ")


class Receiver:
    """`answers` decides the status of each request; a number below 0 hangs until `release` is set.

    With `tls` it is at an `https` URL, of the name `localhost`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.answers: Callable[[Received], int] = lambda _: 204
        self.release = threading.Event()
        self._came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                request = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                status = receiver._note(request)
                if status < 0:
                    receiver.release.wait(DEADLINE_S)
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", receiver.url + "/redirected")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Listening(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Listening(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
            self.url = f"https://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="receiver")
        self._thread.start()

    def _note(self, request: Received) -> int:
        with self._came:
            self.received.append(request)
            self._came.notify_all()
            return self.answers(request)

    def until(self, condition: Callable[[list[Received]], object], what: str) -> list[Received]:
        """Return what came once a condition about it is true. Fails, naming `what`, when it has not become so."""
        end = time.monotonic() + DEADLINE_S
        with self._came:
            while not condition(self.received):
                if not self._came.wait(end - time.monotonic()):
                    came = [(each.type, each.id) for each in self.received]
                    raise AssertionError(f"not within {DEADLINE_S} s: {what}; there came {came}")
            return list(self.received)

    def of(self, run_id: str) -> list[Received]:
        """Return what came of a run."""
        with self._came:
            return [each for each in self.received if each.event["data"].get("run_id") == run_id]

    def close(self) -> None:
        """End the server."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Have a receiver for the time of a `with`."""
    receiver = Receiver(tls)
    try:
        yield receiver
    finally:
        receiver.close()
