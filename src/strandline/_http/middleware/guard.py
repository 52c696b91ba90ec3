"""Protects the agent from foreign web pages: checks `Host`, `Origin` and `Sec-Fetch-Site`.

A page can point its own host name at any address that its reader can reach (DNS rebinding). The browser then treats
this server as the page's own, and only the `Host` header reveals it. So the names are checked:

- listening on loopback: the names of this machine, and `allowed_hosts`;
- listening beyond it, without keys or with `allowed_hosts`: `localhost`, `allowed_hosts` and IP addresses, which cannot
  be rebound;
- inside another server (`strandline.asgi`), which alone knows how it listens: as on loopback for each request that
  arrived there, else only with `allowed_hosts`.

An `Origin` is refused unless it is the `Host`'s own or in `cors_origins`. Without one, `Sec-Fetch-Site: cross-site` is
refused, except for a link to a page. Probes are exempt, because load balancers use any name or none; `/health` then
answers with one word (`is_named`).
"""

import functools
import ipaddress
import re
from typing import Final

from starlette.types import Scope

from strandline._config import is_loopback
from strandline._http import wire
from strandline._settings import AppSettings

EXEMPT: Final = frozenset({"/livez", "/readyz", "/ping", "/health"})
PAGES: Final = frozenset({"/docs", "/", "/console"})
"""HTML pages, which other sites may link to."""
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
ALL_HOSTS: Final = "*"
"""In `allowed_hosts`: accept every name."""
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(?::\d*)?")
_PLAIN_NAME: Final = re.compile(r"[a-z0-9_.-]{1,253}")


class Guard:
    """Finds foreign requests before their bodies are read."""

    def __init__(self, settings: AppSettings, *, loopback: bool | None, keys: bool = False) -> None:
        self._loopback = loopback
        self._hosts = frozenset(host.lower() for host in (*LOOPBACK_NAMES, *settings.allowed_hosts))
        self._checks_beyond_loopback = bool(settings.allowed_hosts) or (loopback is False and not keys)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.cors_origins)

    def refusal(self, scope: Scope) -> str | None:
        """Return why a request is refused, None if it is allowed."""
        path = wire.inner_path(scope)
        if path in EXEMPT:
            return None
        found: dict[bytes, str] = {}
        mode = ""
        cross_site = False
        for name, value in scope["headers"]:
            if name in (b"host", b"origin"):
                if name in found:
                    return f"the request has two {name.decode().capitalize()} headers"
                found[name] = value.decode("latin-1").lower()
            elif name == b"sec-fetch-site":
                cross_site = cross_site or value.strip().lower() == b"cross-site"
            elif name == b"sec-fetch-mode":
                mode = value.decode("latin-1").strip().lower()
        host, origin = found.get(b"host", ""), found.get(b"origin", "")
        if not self._answers(scope, host):
            return _unknown(host)
        # Not `urlsplit`, which raises for some values: an origin is a scheme and a host.
        if origin and origin not in self._origins and (not host or origin.partition("://")[2] != host):
            return f"a page of {origin} may not call this server (setting cors_origins)"
        if cross_site and not origin and not (path in PAGES and mode == "navigate" and scope["method"] == "GET"):
            return "a page of another site may not call this server (setting cors_origins)"
        return None

    def is_named(self, scope: Scope) -> bool:
        """Return whether a request names this server, for exempt routes."""
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        return len(hosts) < 2 and self._answers(scope, hosts[0] if hosts else "")

    def _answers(self, scope: Scope, host: str) -> bool:
        by_loopback = _came_by_loopback(scope) if self._loopback is None else self._loopback
        if not by_loopback and not self._checks_beyond_loopback:
            return True
        name = _name_of(host)
        if host in self._hosts or name in self._hosts or ALL_HOSTS in self._hosts:
            return True
        return not by_loopback and _is_address(name)


def _unknown(host: str) -> str:
    """Return why a `Host` is refused, and how to allow it."""
    name = _name_of(host)
    setting = f"STRANDLINE_ALLOWED_HOSTS={name}" if _PLAIN_NAME.fullmatch(name) else "allowed_hosts"
    return (
        f"the Host header names {host or 'nothing'}, which is not this server: it accepts localhost, IP addresses"
        " (unless it listens on loopback), and the names in the setting allowed_hosts. To allow this name, set"
        f" {setting}"
    )


def _came_by_loopback(scope: Scope) -> bool:
    """Return whether a request arrived at a loopback address (ASGI's `server`)."""
    address = (scope.get("server") or ("",))[0]
    return is_loopback(address.removeprefix("::ffff:"))


def _name_of(host: str) -> str:
    """Return the name or address in a `Host` header, without the port; empty if it is malformed."""
    found = _HOST.fullmatch(host)
    return "" if found is None else found[1]


@functools.lru_cache(maxsize=256)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return ("[" in name) == (":" in name)
