"""The address of the server, and who can reach it."""

import errno
import socket
from typing import Any

from strandline._config import check_exposure, is_loopback
from strandline._doctor.finding import Finding, note, ok, problem
from strandline._doctor.machine import fetch_json
from strandline._settings import Settings
from strandline.errors import SettingsError


def exposure(settings: Settings) -> Finding:
    """Check who can reach the agent."""
    try:
        check_exposure(settings)
    except SettingsError as error:
        return problem("exposure", str(error))
    if is_loopback(settings.host):
        return ok("exposure", f"{settings.host}: only programs on this machine can connect")
    if settings.has_keys:
        return ok("exposure", f"{settings.host}: clients that reach it need an API key")
    return note("exposure", f"anyone who reaches {settings.host} can use the agent: no API key is needed")


def port(settings: Settings) -> Finding:
    """Check whether the port is free, or who answers there. It is bound for a moment, without listening."""
    if settings.port == 0:
        return ok("port", "chosen by the system")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host.strip("[]"), settings.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _taken(settings)
            reason = error.strerror or str(error)
            return problem(
                "port", f"{settings.host} port {settings.port}: {reason}", "choose another with --port or --host"
            )
    return ok("port", f"{settings.port} is free")


def _taken(settings: Settings) -> Finding:
    host = settings.host if is_loopback(settings.host) else "127.0.0.1"
    url = f"http://[{host.strip('[]')}]" if ":" in host else f"http://{host}"
    try:
        health: Any = fetch_json(f"{url}:{settings.port}/health")
    except OSError:
        health = None
    if isinstance(health, dict) and {"agent_id", "queue_depth", "version"} <= health.keys():
        state = "ready" if health.get("ready") else "not ready"
        counts = f"{health.get('running', 0)} running, {health['queue_depth']} waiting"
        return note(
            "port",
            f"{settings.port}: Strandline {health['version']} ({health['agent_id']}) answers there, {state}: {counts}",
        )
    return problem(
        "port", f"{settings.port} is in use by another program", "choose another with --port, or stop that program"
    )
