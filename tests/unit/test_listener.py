"""Where a server listens for other servers, and at which address they reach it."""

import socket
from contextlib import closing
from typing import Any

import pytest

from strandline._listener import address_for_servers, listen_for_servers
from strandline._settings import Settings
from strandline.errors import SettingsError, SetupError


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "127.0.0.1:{port}"),
        ({"cluster_listen": "localhost:0"}, "localhost:{port}"),
        ({"cluster_listen": "0.0.0.0:0", "cluster_address": "10.0.0.7"}, "10.0.0.7:{port}"),
        ({"cluster_listen": "0.0.0.0:0", "cluster_address": "pod-1.internal:81"}, "pod-1.internal:81"),
        ({"cluster_address": "[fd00::1]"}, "[fd00::1]:{port}"),
        ({"cluster_address": "[fd00::1]:81"}, "[fd00::1]:81"),
    ],
)
def test_other_servers_reach_a_server_where_it_listens_or_where_it_is_named(
    settings: dict[str, Any], address: str
) -> None:
    found = Settings(**settings)
    with closing(listen_for_servers(found)) as listener:
        assert address_for_servers(found, listener) == address.format(port=listener.getsockname()[1])


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_a_server_that_listens_everywhere_is_reached_where_its_machines_name_leads(
    listen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.1.2.3")
    found = Settings(cluster_listen=listen)
    with closing(listen_for_servers(found)) as listener:
        assert address_for_servers(found, listener) == f"10.1.2.3:{listener.getsockname()[1]}"


@pytest.mark.parametrize("own", ["127.0.1.1", ""])
def test_an_address_that_nobody_can_reach_has_to_be_named(own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(name: str) -> str:
        if not own:
            raise socket.gaierror("no such name")
        return own

    monkeypatch.setattr(socket, "gethostbyname", look_up)
    for address in ("0.0.0.0:0", "[::]:0"):
        with pytest.raises(SettingsError, match="cluster_address"):
            listen_for_servers(Settings(cluster_listen=address))


def test_a_port_that_is_taken_is_reported_with_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match="cluster_listen"):
            listen_for_servers(Settings(cluster_listen=f"127.0.0.1:{port}"))
    with pytest.raises(SetupError, match="cluster_listen"):
        listen_for_servers(Settings(cluster_listen="127.0.0.1:99999"))
