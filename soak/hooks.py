"""A receiver of webhooks, in the soak's own loop: it writes down what comes, and fails by chance.

All runs and sessions have it as their webhook, by a setting of the servers. It checks signatures by the standard, with
code of its own. What it refuses, or does not answer, must come again.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import random
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from judging.evidence import Delivery
from judging.webhooks import END, OF_SESSIONS
from soak.records import ended_of_run
from soak.wire import head_of_request

SECRET: Final = b"the secret of a soak, of which nobody needs to know more"
EVENTS: Final = ("run.started", "run.joined", "run.finished", *OF_SESSIONS)
RETRIES_S: Final = (0.2, 0.5, *([1.0] * 120))
"""So often that no event is given up, whatever the receiver does."""
FAILS: Final = 0.08
"""How often it answers with an error, or hangs up: before it has the event, or after it has written it down."""
PATIENCE_S: Final = 10.0
OLD_S: Final = 300.0
"""By how much the time of a signature may be off, as receivers have it; clocks of servers are off by less."""


class Hooks:
    """Listens from the beginning, answers between `start` and `stop`. `deliveries` are what came, in order."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.deliveries: list[Delivery] = []
        self.faults: list[str] = []
        self.failed = 0
        """How often it failed."""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        weakref.finalize(self, self._socket.close)  # (of a trial that never runs)
        self._secrets = folder / "webhook-secrets"
        self._chance = random.Random(f"{seed} hooks")
        self._server: asyncio.Server | None = None

    @property
    def flags(self) -> list[str]:
        """What servers are started with."""
        self._secrets.write_text(f"anonymous whsec_{base64.b64encode(SECRET).decode()}\n")
        self._secrets.chmod(0o600)
        port = self._socket.getsockname()[1]
        return [
            *("--webhook", f"http://127.0.0.1:{port}/events", "--webhook-events", ",".join(EVENTS)),
            *("--webhook-secrets", str(self._secrets), "--webhook-allow-private"),
            *("--webhook-retries", ",".join(map(str, RETRIES_S))),
        ]

    async def start(self) -> None:
        """Begin to answer."""
        self._server = await asyncio.start_server(self._answer, sock=self._socket)

    async def stop(self) -> None:
        """Close everything."""
        if self._server is None:
            self._socket.close()
            return
        self._server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        how = self._chance.choice(("refuses", "hangs up", "forgets")) if self._chance.random() < FAILS else "answers"
        try:
            async with asyncio.timeout(PATIENCE_S):
                headers = await head_of_request(reader)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.failed += how != "answers"
                if how in ("answers", "forgets"):
                    self.deliveries.append(delivery_of(headers, body, time.time()))
                if how in ("answers", "refuses"):
                    status = "204 No Content" if how == "answers" else "500 Internal Server Error"
                    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # its server has died, or stands still: it comes again
        except (ValueError, KeyError) as error:
            self.faults.append(f"an event of the webhook cannot be read: {error!r}")
        finally:
            writer.close()


def delivery_of(headers: dict[str, str], body: bytes, now_s: float) -> Delivery:
    """Return what the judge sees of an event."""
    event: dict[str, Any] = json.loads(body)
    run: dict[str, Any] = event["data"]
    if event["type"] in OF_SESSIONS:
        run = {"run_id": "", "status": "", **run}
    return Delivery(
        id=headers.get("webhook-id", ""),
        kind=event["type"],
        run_id=run["run_id"],
        session=run["session_id"],
        content=hashlib.sha256(body).digest(),
        status=run["status"],
        end=ended_of_run({"error": None, "output": "", "input_requests": [], **run}) if event["type"] == END else None,
        is_signed=_is_signed(headers, body, now_s),
    )


def _is_signed(headers: dict[str, str], body: bytes, now_s: float) -> bool:
    """Return whether a signature is that of Standard Webhooks, and not old."""
    signed_s = headers.get("webhook-timestamp", "")
    if not signed_s.isdigit() or abs(now_s - int(signed_s)) > OLD_S:
        return False
    said = f"{headers.get('webhook-id', '')}.{signed_s}.".encode() + body
    own = base64.b64encode(hmac.new(SECRET, said, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(each, f"v1,{own}") for each in headers.get("webhook-signature", "").split())
