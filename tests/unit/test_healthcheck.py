"""The image's health check, asked of servers that say what a real one says, or nothing."""

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

FILE: Final = Path(__file__).parents[2] / "container" / "healthcheck.py"


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("healthcheck", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check: Final = _loaded()


@contextmanager
def answering(status: int, body: str) -> Iterator[int]:
    """Answer /readyz in this way, on a port that the system chooses."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "well"),
    [
        (200, '{"status":"ready"}', True),
        (503, '{"status":"draining"}', True),
        (503, '{"status":"starting"}', False),
        (404, "", False),
    ],
)
def test_who_takes_requests_or_stops_is_well_and_who_starts_is_not_yet(status: int, body: str, well: bool) -> None:
    with answering(status, body) as port:
        assert check.look(port) == (well, body)


def test_who_is_silent_or_not_there_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ANSWER_S", 0.05)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:  # it takes connections, and that is all
        port = silent.server_port
        assert check.look(port) == (False, "timed out")
    well, reason = check.look(port)
    assert (well, "refused" in reason) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "environment", "port"),
    [
        ([], {}, 8080),
        (["strandline", "serve"], {"PORT": "9090"}, 9090),
        ([], {"PORT": ""}, 8080),
        ([], {"PORT": "9090", "STRANDLINE_PORT": "9091"}, 9091),
        (["serve", "--port", "9092", "--max-running", "3"], {"PORT": "9090", "STRANDLINE_PORT": "9091"}, 9092),
        (["serve", "--port=9093", ""], {"PORT": "9090"}, 9093),
    ],
)
def test_it_requests_the_servers_own_port(arguments: list[str], environment: dict[str, str], port: int) -> None:
    assert check.port_of(arguments, environment) == port


def test_its_exit_code_is_what_the_engine_goes_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = tmp_path / "cmdline"
    monkeypatch.setattr(check, "FIRST", str(first))
    for status, word, code in ((200, "ready", 0), (503, "starting", 1)):
        with answering(status, word) as port:
            first.write_text(f"strandline\0serve\0--port\0{port}\0")
            assert check.main() == code
        assert capsys.readouterr().out == f"/readyz: {word}\n"
