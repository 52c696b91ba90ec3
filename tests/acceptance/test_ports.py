"""Ports that tests hold are theirs until they end, and their servers can listen there."""

import random
import socket
from functools import partial
from itertools import chain

import pytest

import ports
from ports import reserved_port


def test_a_reserved_port_refuses_connections_until_its_server_listens_and_again_afterwards() -> None:
    port = reserved_port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        with (
            socket.create_server(("127.0.0.1", port)) as server,
            socket.create_connection(("127.0.0.1", port), timeout=5),
        ):
            server.accept()[0].close()


def test_a_port_is_reserved_once_and_ports_in_a_row_only_if_all_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = reserved_port()
    drawn = chain((taken, taken - 1), iter(partial(random.randrange, ports.FROM, ports.TO - 2), None))
    monkeypatch.setattr(random, "randrange", lambda *_: next(drawn))
    first = reserved_port(2)
    assert first not in (taken, taken - 1)
    for port in (first, first + 1):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
