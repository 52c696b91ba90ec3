"""Messages to other servers: which of them are reached at the addresses that they have given."""

import asyncio
import socket
import time

import pytest

from cluster_support import View, pair, run, servers
from strandline._clock import SystemClock
from strandline._http.forwarding.others import Others, advice
from strandline._journal.cluster import Peer


def test_a_server_is_reached_if_it_answers_to_its_own_name_whatever_its_clock_says() -> None:
    class Late(SystemClock):
        def now(self) -> float:
            return super().now() - 600.0

    async def scene() -> None:
        async with pair() as (found, first, _, _):
            others = Others(lambda: View(found.town, 0), Late(), last=time.time_ns())
            try:
                assert await others.unreached() == []
                assert await others.unreached() == [], "also a second time, over connections that are kept"
            finally:
                others.pool.close()
            await found.start()
            assert await first.forwarder._others.unreached() == []

    run(scene)


def test_what_answers_at_a_servers_address_must_be_that_server() -> None:
    async def scene() -> None:
        async with pair() as (found, first, owner, _):
            web = first.url.removeprefix("http://")
            with socket.create_server(("127.0.0.1", 0)) as silent:
                found.town.peers |= {
                    7: Peer(7, owner.address, "0"),
                    8: Peer(8, web, "0"),
                    9: Peer(9, "", "0"),
                    10: Peer(10, "127.0.0.1:1", "0"),
                    11: Peer(11, f"127.0.0.1:{silent.getsockname()[1]}", "0"),
                }
                unreached = {peer.id: why for peer, why in await first.forwarder._others.unreached()}
            assert set(unreached) == {7, 8, 9, 10, 11}
            assert "another server answers there" in unreached[7]
            assert "something else answers there" in unreached[8]
            assert "nothing answers within" in unreached[11]

    run(scene)


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "503 Service Unavailable"])
def test_what_something_else_answers_at_a_servers_address_reaches_no_client(
    status: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        proofs = f"strandline-proof: {'0' * 64}\r\n"
        writer.write(f"HTTP/1.1 {status}\r\n{proofs}content-length: 5\r\n\r\nhello".encode())
        await reader.read()
        writer.close()

    async def scene() -> None:
        async with pair(lease_s=-2.8) as (found, _, owner, client):
            other = await asyncio.start_server(say, "127.0.0.1", 0)
            try:
                address = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
                found.town.peers = {**found.town.peers, owner.id: Peer(owner.id, address, "0")}
                for method, path in (("GET", "/v1/sessions/s"), ("POST", "/v1/sessions/s/pause")):
                    answer = await client.request(method, path)
                    assert (answer.status_code, answer.json()["code"]) == (503, "moved")
                assert "something else answers there" in caplog.text
                found.town.peers = {**found.town.peers, owner.id: Peer(owner.id, address, "0", proves=False)}
                answer = await client.get("/v1/sessions/s")
                assert answer.text == "hello", "an older server proves nothing, and is believed"
            finally:
                other.close()

    run(scene)


def test_the_advice_is_about_the_machine_if_the_address_leads_to_its_own_only() -> None:
    for address in ("127.0.0.1:8081", "localhost:8081", "[::1]:8081"):
        assert "leads to the same machine only" in advice(Peer(1, address, "0"))
    assert "leads to the same machine only" not in advice(Peer(1, "10.0.0.7:8081", "0"))


def test_a_server_that_only_starts_when_it_is_asked_first_is_no_trouble(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with servers(lease_s=2.0) as found:
            first = await found.start()
            found.town.peers |= {2: Peer(2, "127.0.0.1:1", "0")}
            others, asked = first.forwarder._others, asyncio.Event()
            ask = others.unreached

            async def noted() -> list[tuple[Peer, str]]:
                unreached = await ask()
                asked.set()
                return unreached

            monkeypatch.setattr(others, "unreached", noted)
            looking = asyncio.create_task(first.forwarder.look_around())
            await asked.wait()
            await found.start()  # (it is the second, and gives its address)
            await looking
            assert "cannot be reached" not in caplog.text
            found.town.peers |= {3: Peer(3, "127.0.0.1:1", "0")}
            await first.forwarder.look_around()
            assert caplog.text.count("server 3 cannot be reached at 127.0.0.1:1") == 1

    run(scene)
