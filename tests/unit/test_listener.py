"""Where a server listens for other servers, and at which address they reach it."""

import socket
from contextlib import closing
from typing import Any

import pytest

from strandline._listener import address_for_servers, listen_alone, listen_for_servers, settings_of_each
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


def test_each_of_several_servers_has_ports_of_its_own_where_the_first_ones_are_set() -> None:
    settings = Settings(servers=3, port=80, own_port=9101, cluster_listen="[::1]:8081", cluster_address="a.internal:81")
    each = settings_of_each(settings)
    assert [server.own_port for server in each] == [9101, 9102, 9103]
    assert [server.cluster_listen for server in each] == ["[::1]:8081", "[::1]:8082", "[::1]:8083"]
    assert [server.cluster_address for server in each] == ["a.internal:81", "a.internal:82", "a.internal:83"]
    assert {server.port for server in each} == {80}


def test_ports_that_the_system_chooses_and_addresses_without_one_are_the_same_for_all() -> None:
    settings = Settings(servers=3, cluster_listen="0.0.0.0:0", cluster_address="10.0.0.7")
    assert settings_of_each(settings) == [settings] * 3
    assert listen_alone(settings) is None


@pytest.mark.parametrize(
    "settings", [{"own_port": 65_534}, {"cluster_listen": "[::]:65534"}, {"cluster_address": "a:65534"}]
)
def test_servers_that_would_have_no_port_are_refused(settings: dict[str, Any]) -> None:
    assert len(settings_of_each(Settings(servers=2, **settings))) == 2
    with pytest.raises(SettingsError, match=f"{next(iter(settings))} has port 65534 for the first server"):
        settings_of_each(Settings(servers=3, **settings))


def test_a_port_of_its_own_that_is_taken_is_reported_with_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SetupError, match="--own-port"):
        listen_alone(Settings(own_port=taken.getsockname()[1]))
