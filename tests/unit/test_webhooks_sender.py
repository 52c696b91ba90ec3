"""What sends events to webhooks, against receivers on sockets: signatures, and connections that are never kept."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from strandline._engine.webhooks import SendResult, ToSend
from strandline._model import ANONYMOUS, Principal
from strandline._webhooks import sender as sender_module
from strandline._webhooks.resolver import LookUp
from strandline._webhooks.secrets import Secrets
from strandline._webhooks.sender import HttpSender
from strandline._webhooks.signing import new_secret

DEADLINE_S = 30.0
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def sent(
    folder: Path,
    secrets: list[str],
    payload: bytes,
    serve: Serve,
    *,
    host: str = "",
    look_up: LookUp | None = None,
    returned: asyncio.Event | None = None,
) -> SendResult:
    """Send a payload to a receiver once, and return the result when the receiver has ended. `returned` is set when
    the sender has."""
    file = folder / "secrets"
    file.write_text("".join(f"anonymous {each}\n" for each in secrets))
    ended = asyncio.get_running_loop().create_future()

    async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()
            ended.set_result(None)

    server = await asyncio.start_server(serving, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    more = {} if look_up is None else {"look_up": look_up}
    sending = HttpSender(Secrets(file), allow_private=True, **more)
    sending.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            url = f"http://{host or ('127.0.0.1' if look_up is None else 'receiver.test')}:{port}/hook"
            result = await sending.send(ToSend("event-1", url, ANONYMOUS, by_server=False, payload=payload))
            if returned is not None:
                returned.set()
            if not host:
                await ended
    finally:
        sending.close()
        server.close()
    return result


async def read_request(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    headers = dict(re.findall(r"^([\w-]+): (.*)\r$", head, re.MULTILINE))
    return headers, await reader.readexactly(int(headers["content-length"]))


@pytest.mark.parametrize("of", [0, 1])
def test_the_official_library_verifies_what_is_sent(of: int, tmp_path: Path) -> None:
    """With each of two secrets, and with no other; and nothing that was changed."""
    library = import_module("standardwebhooks")
    secrets, payload = [new_secret(), new_secret()], json.dumps({"type": "run.finished", "data": "ä"}).encode()
    came: list[tuple[dict[str, str], bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await read_request(reader))
        writer.write(NO_CONTENT)
        await writer.drain()

    assert asyncio.run(sent(tmp_path, secrets, payload, serve)).received
    ((headers, body),) = came
    assert library.Webhook(secrets[of]).verify(body, headers) == json.loads(payload)
    for secret, changed in ((new_secret(), body), (secrets[of], body + b" ")):
        with pytest.raises(library.WebhookVerificationError, match="No matching signature"):
            library.Webhook(secret).verify(changed, headers)


def test_a_receiver_that_reads_nothing_keeps_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not read when the sender gives up is dropped: it sees the end before it has all."""
    payload, returned = b"x" * 32 * 1024 * 1024, asyncio.Event()
    read = 0

    async def give_up(*_: object) -> None:
        raise TimeoutError

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        await returned.wait()
        with suppress(ConnectionResetError):
            while chunk := await reader.read(1024 * 1024):
                read += len(chunk)

    monkeypatch.setattr(asyncio.StreamWriter, "drain", give_up)
    result = asyncio.run(sent(tmp_path, [new_secret()], payload, serve, returned=returned))
    assert (result.received, result.is_slow) == (False, True)
    assert read < len(payload)


def test_a_host_that_no_name_can_have_is_not_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("nothing connects")

    result = asyncio.run(sent(tmp_path, [new_secret()], b"{}", serve, host=f"{'a' * 64}.example"))
    assert (result.received, result.detail) == (False, "its host was not found")
    assert caplog.records == []


def test_a_name_server_that_hangs_delays_nobody_else_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts of one caller whose look-ups hang: another one's event is received, and the sender closes at once."""
    release = threading.Event()

    def look_up(host: str, port: int) -> list[str]:
        if host.startswith("slow"):
            assert release.wait(DEADLINE_S)
        return ["127.0.0.1"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(NO_CONTENT)
        await writer.drain()
        writer.close()

    async def main() -> None:
        file = tmp_path / "secrets"
        file.write_text(f"eve {new_secret()}\nada {new_secret()}\n")
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender = HttpSender(Secrets(file), allow_private=True, look_up=look_up)
        sender.start()

        async def send(principal: str, host: str) -> SendResult:
            url = f"http://{host}:{port}/"
            return await sender.send(ToSend("event-1", url, Principal(principal), by_server=False, payload=b"{}"))

        async with asyncio.timeout(DEADLINE_S):
            hanging = [asyncio.create_task(send("eve", f"slow-{number}.test")) for number in range(200)]
            assert (await send("ada", "quick.test")).received
            monkeypatch.setattr(sender_module, "TOTAL_S", 0.05)
            late = await send("eve", "slow-0.test")
            assert late == SendResult(False, "its host was not looked up within 0.05 s", is_slow=True)
            sender.close()
            server.close()
        for each in hanging:
            each.cancel()

    try:
        asyncio.run(main())
    finally:
        release.set()


def test_an_address_that_does_not_answer_leaves_time_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first of two addresses of a host, which drops what it gets."""
    connect = asyncio.open_connection

    async def connecting(address: str, port: int, **more: object) -> object:
        if address == "192.0.2.1":
            await asyncio.Event().wait()
        return await connect(address, port, **more)  # type: ignore[arg-type]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(NO_CONTENT)
        await writer.drain()

    monkeypatch.setattr(asyncio, "open_connection", connecting)
    monkeypatch.setattr(sender_module, "CONNECT_S", 0.01)
    secrets = [new_secret()]
    assert asyncio.run(sent(tmp_path, secrets, b"{}", serve, look_up=lambda *_: ["192.0.2.1", "127.0.0.1"])).received
