"""A real browser for tests, without a window and without a network: it opens a page, which posts what it sees."""

import contextlib
import functools
import http.server
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
DEADLINE_S: Final = 180.0
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)


def needed(*names: str) -> str:
    """Return the path of the first of these programs that is here. None: the test is skipped; on CI it fails."""
    for name in names:
        if (found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")) is not None:
            return found
    reason = f"{names[0]} is not installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Published:
    """The files of a folder on a port of this machine. What a page posts to `/posted` is kept for `posted`."""

    def __init__(self, url: str, said: "queue.Queue[Any]") -> None:
        self.url = url
        self._said = said

    def posted(self, page: str) -> Any:
        """Open `page` in a browser that reaches no other host, and return the JSON that it posts to `/posted`."""
        browser = needed(*NAMES)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            process = subprocess.Popen(
                [browser, *FLAGS, f"--user-data-dir={profile}", page],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                return self._said.get(timeout=DEADLINE_S)
            except queue.Empty:
                raise AssertionError(f"{page} posted nothing within {DEADLINE_S} s") from None
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()


@contextmanager
def published(folder: Path) -> Iterator[Published]:
    """Serve the files of a folder for the time of a `with`."""
    said: queue.Queue[Any] = queue.Queue()

    class Files(http.server.SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    handler = functools.partial(Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Published(f"http://127.0.0.1:{server.server_port}", said)
        finally:
            server.shutdown()
            thread.join()
