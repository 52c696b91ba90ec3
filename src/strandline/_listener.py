"""The listening socket: created from the settings, or inherited from another process."""

import ipaddress
import os
import re
import socket
import weakref
from typing import Final

from msgspec.structs import replace

from strandline._settings import Settings
from strandline.errors import SettingsError, SetupError

BACKLOG = 2048
"""How many connections may wait to be accepted; the system may allow fewer."""

MAX_PORT: Final = 65_535
_HAS_PORT: Final = re.compile(r"^[^:]*:\d+$|\]:\d+$")


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket. Raises `SetupError` with what to do."""
    choose = "--port (0: the system chooses)"
    return _listening(settings.host, settings.port, choose)


def listen_alone(settings: Settings) -> socket.socket | None:
    """Return a listening socket of this server alone, if one is set. Raises `SetupError` with what to do."""
    return None if settings.own_port is None else _listening(settings.host, settings.own_port, "--own-port")


def _listening(host: str, port: int, choose: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise SetupError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Choose another with {choose}, or stop the"
            " program that listens there"
        ) from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def settings_of_each(settings: Settings) -> list[Settings]:
    """Return the settings of each of the `servers`. A port that is set is the first one's, and rises.

    Raises `SettingsError` if ports do not suffice.
    """
    return [
        replace(
            settings,
            own_port=None if settings.own_port is None else _risen(settings.own_port, number, "own_port"),
            cluster_listen=_with_port_risen(settings.cluster_listen, number, "cluster_listen"),
            cluster_address=None
            if settings.cluster_address is None
            else _with_port_risen(settings.cluster_address, number, "cluster_address"),
        )
        for number in range(settings.servers)
    ]


def _with_port_risen(address: str, number: int, name: str) -> str:
    """Return an address with a later port, unless the system chooses it, or the address has none."""
    if not _HAS_PORT.search(address):
        return address
    host, _, port = address.rpartition(":")
    return address if int(port) == 0 else f"{host}:{_risen(int(port), number, name)}"


def _risen(port: int, number: int, name: str) -> int:
    if port + number > MAX_PORT:
        raise SettingsError(
            f"{name} has port {port} for the first server, and there are not enough ports above. Choose a lower one"
        )
    return port + number


def listen_for_servers(settings: Settings) -> socket.socket:
    """Return a listening socket for the other servers of the cluster. Raises `SetupError` with what to do."""
    host, port = _parts(settings.cluster_listen)
    if settings.cluster_address is None and _is_unspecified(host) and _own_address() is None:
        raise SettingsError(
            f"cluster_listen is {settings.cluster_listen}, and the name of this machine has no address that other"
            " servers could reach: set cluster_address to one"
        )
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise SetupError(
            f"cannot listen on {settings.cluster_listen} for other servers: {getattr(error, 'strerror', error)}. Choose"
            " another with cluster_listen (port 0: the system chooses)"
        ) from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def address_for_servers(settings: Settings, listener: socket.socket) -> str:
    """Return where other servers reach that listener."""
    port = listener.getsockname()[1]
    host, _ = _parts(settings.cluster_listen)
    own = _own_address() if _is_unspecified(host) else None
    named = settings.cluster_address or own or (f"[{host}]" if ":" in host else host)
    return named if _HAS_PORT.search(named) else f"{named}:{port}"


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _own_address() -> str | None:
    """Return the address that this machine's name has, as in containers; None: it is one of this machine only."""
    try:
        found = socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
    return None if ipaddress.ip_address(found).is_loopback else found


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def inherited(descriptor: int) -> socket.socket:
    """Return a listening socket from another process. Children of this process do not inherit it."""
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def close_in_forks(listener: socket.socket) -> None:
    """Replace a socket, while it is open, by /dev/null in processes that user code forks.

    A forked process pool may outlive a killed server, and would keep the address in use.
    """
    reference = weakref.ref(listener)

    def replace() -> None:
        if (ours := reference()) is not None and ours.fileno() >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, ours.fileno(), inheritable=False)
            os.close(nothing)

    os.register_at_fork(after_in_child=replace)
