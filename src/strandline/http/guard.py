"""A web page must not drive a local agent: which `Host` and which `Origin` are answered.

`Host` is checked while the server listens on a loopback address (a page could point its own name there), or when
`allowed_hosts` is set. Where nobody knows how the server listens, since it is another one's, each request says it.
An `Origin` is refused unless it is the `Host`'s own or in `cors_origins`. Probes are exempt.
"""

from collections.abc import Sequence
from typing import Final

from starlette.types import Scope

from strandline.config import is_loopback
from strandline.http import wire

EXEMPT: Final = frozenset({"/livez", "/readyz", "/ping", "/health"})
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Tells which requests are foreign, before anything of them is read."""

    def __init__(
        self, *, loopback: bool | None, allowed_hosts: Sequence[str] = (), cors_origins: Sequence[str] = ()
    ) -> None:
        self._hosts = frozenset(host.lower() for host in (*LOOPBACK_NAMES, *allowed_hosts))
        self._checks_hosts = True if loopback or allowed_hosts else loopback
        """None: for requests that come in on a loopback address."""
        self._origins = frozenset(origin.rstrip("/").lower() for origin in cors_origins)

    def refusal(self, scope: Scope) -> str | None:
        """Return why a request is refused, None if it is not."""
        if wire.inner_path(scope) in EXEMPT:
            return None
        host = origin = ""
        for name, value in scope["headers"]:
            if name == b"host":
                if host:
                    return "the request has two Host headers"
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origin = value.decode("latin-1").lower()
        checks = _came_by_loopback(scope) if self._checks_hosts is None else self._checks_hosts
        if checks and host not in self._hosts and _name_of(host) not in self._hosts:
            return f"the Host header names {host or 'nothing'}, which is not this server (setting allowed_hosts)"
        # Not `urlsplit`: an origin is a scheme and a host, and whatever else stands there must not be an error.
        if origin and origin not in self._origins and (not host or origin.partition("://")[2] != host):
            return f"a page of {origin} may not call this server (setting cors_origins)"
        return None


def _came_by_loopback(scope: Scope) -> bool:
    """Tell whether a request has reached its server at an address of this machine only (`server` of ASGI)."""
    address = (scope.get("server") or ("",))[0]
    return is_loopback(address.removeprefix("::ffff:"))


def _name_of(host: str) -> str:
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]
