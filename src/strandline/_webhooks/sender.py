"""Sends signed events by HTTP, in a thread with an event loop of its own, so that no run waits for a receiver.

Each goes over a connection of its own, to an address that was checked just before and is the one that is connected to;
TLS verifies the name. No redirect is followed, no proxy is used, and nothing of an answer is kept but its status.
"""

import asyncio
import logging
import ssl
import threading
import time
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, urlsplit

import h11

from strandline._engine.webhooks import SendResult, ToSend
from strandline._model import Principal
from strandline._webhooks.addresses import is_public
from strandline._webhooks.failures import NotSent, reason
from strandline._webhooks.resolver import LookUp, Resolver, look_up
from strandline._webhooks.secrets import Secrets
from strandline._webhooks.signing import headers

_log = logging.getLogger("strandline.webhooks")

TOTAL_S: Final = 10.0
"""How long an event may take, from the look-up of its host to the answer."""
BODY_S: Final = 1.0
MOST_ANSWER: Final = 64 * 1024
"""How long, and how many bytes, of an answer are read after its status: then its connection is closed."""
CONNECT_S: Final = 3.0
"""How long a connection to one of several addresses may take, except to the last one."""
REFRESH_S: Final = 2.0
"""How often the secrets are read."""
_PORTS: Final = {"https": 443, "http": 80}
GONE: Final = 410


class _Progress:
    """What an attempt has not reached yet, for people."""

    __slots__ = ("missing",)

    def __init__(self) -> None:
        self.missing = "its host was not looked up"


class HttpSender:
    """Implements `strandline._engine.webhooks.Sender`."""

    def __init__(self, secrets: Secrets, *, allow_private: bool, look_up: LookUp = look_up) -> None:
        self._secrets = secrets
        self._allow_private = allow_private
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="strandline-webhooks", daemon=True)
        self._resolver = Resolver(look_up)
        self._tls = ssl.create_default_context()
        self._is_closed = False

    def can_sign(self, principal: Principal) -> bool:
        """Return whether there is a secret of a principal."""
        return self._secrets.has(principal)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Drop what is being sent, and end the thread."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def send(self, event: ToSend) -> SendResult:
        """Send an event once, from any loop."""
        if self._is_closed:
            return SendResult(received=False, detail="the server is stopping")
        sending = asyncio.run_coroutine_threadsafe(self._send(event), self._loop)
        return await asyncio.wrap_future(sending)

    # -- in the thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        refreshing = self._loop.create_task(self._refresh())
        self._loop.run_forever()
        tasks = [*asyncio.all_tasks(self._loop), refreshing]
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            with suppress(RuntimeError):  # (no thread is available)
                await self._loop.run_in_executor(None, self._secrets.refresh)

    async def _send(self, event: ToSend) -> SendResult:
        signed_by = self._secrets.signing(event.principal, by_server=event.by_server)
        if not signed_by:
            return SendResult(
                received=False, detail="there is no secret to sign it with: add one to the file of webhook_secrets"
            )
        progress = _Progress()
        try:
            async with asyncio.timeout(TOTAL_S):
                signed = headers(event.id, int(time.time()), event.payload, signed_by)
                status = await self._post(event, signed, progress)
        except TimeoutError:
            return SendResult(received=False, detail=f"{progress.missing} within {TOTAL_S:g} s", is_slow=True)
        except NotSent as error:
            return SendResult(received=False, detail=str(error))
        except (OSError, h11.RemoteProtocolError) as error:
            return SendResult(received=False, detail=reason(error))
        except Exception as error:
            _log.exception("event %s cannot be sent", event.id)
            return SendResult(received=False, detail=type(error).__name__)
        moved = ", and redirects are not followed" if 300 <= status < 400 else ""
        detail = f"the answer was status {status}{moved}"
        return SendResult(received=200 <= status < 300, detail=detail, is_final=status == GONE)

    async def _post(self, event: ToSend, signed: dict[str, str], progress: _Progress) -> int:
        """Send an event, and return the status of the answer."""
        url = urlsplit(event.url)
        if url.hostname is None or (url.scheme != "https" and not self._allow_private):
            raise NotSent("the URL may not be used any more (setting webhook_allow_private)")
        port = url.port or _PORTS[url.scheme]
        addresses = await self._resolver.addresses(url.hostname, port, event.principal)
        progress.missing = "no connection"
        reader, writer = await self._connect(url, addresses, port)
        progress.missing = "no answer"
        try:
            connection = h11.Connection(h11.CLIENT)
            request = h11.Request(
                method="POST",
                target=(url.path or "/") + (f"?{url.query}" if url.query else ""),
                headers=[
                    ("host", url.netloc),
                    ("content-type", "application/json"),
                    ("content-length", str(len(event.payload))),
                    ("user-agent", "strandline"),
                    ("connection", "close"),
                    *signed.items(),
                ],
            )
            writer.write(
                (connection.send(request) or b"")
                + (connection.send(h11.Data(event.payload)) or b"")
                + (connection.send(h11.EndOfMessage()) or b"")
            )
            await writer.drain()
            return await _answer(connection, reader)
        finally:
            # Not `close`, which waits for a receiver that reads nothing, or answers no end of TLS.
            writer.transport.abort()

    async def _connect(
        self, url: SplitResult, addresses: list[str], port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to one of the addresses of a host, all of which must be public."""
        if not self._allow_private and not all(map(is_public, addresses)):
            raise NotSent("its host has an address that is not public (setting webhook_allow_private)")
        failure: OSError | None = None
        tls = {"ssl": self._tls, "server_hostname": url.hostname} if url.scheme == "https" else {}
        for address in addresses:
            try:
                async with asyncio.timeout(None if address is addresses[-1] else CONNECT_S):
                    return await asyncio.open_connection(address, port, **tls)  # type: ignore[arg-type]
            except ssl.SSLError:
                raise
            except OSError as error:  # (also of the timeout)
                failure = error
        raise failure or NotSent("its host has no address")


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> int:
    """Return the status of an answer; some of its body is read, so that its sender sees no broken connection."""
    status: int | None = None
    left, until = MOST_ANSWER, None
    try:
        while left > 0:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status, until = event.status_code, asyncio.get_running_loop().time() + BODY_S
            elif isinstance(event, h11.Data):
                left -= len(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
            elif event is h11.NEED_DATA:
                async with asyncio.timeout_at(until):
                    connection.receive_data(await reader.read(16 * 1024))
    except (OSError, TimeoutError, h11.RemoteProtocolError):
        if status is None:
            raise
    if status is None:
        raise NotSent("the connection was closed before an answer came")
    return status
