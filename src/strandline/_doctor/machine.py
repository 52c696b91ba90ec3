"""The machine: Python, packages, open files, the clock and model providers."""

import importlib.metadata
import ipaddress
import json
import os
import platform
import resource
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from strandline import __version__
from strandline._compat import TESTED_VERSIONS, bounds, is_tested
from strandline._doctor.finding import Finding, note, ok, problem
from strandline._providers import PACKAGES, installed, lacks, to_install
from strandline._settings import Settings

PROBE_TIMEOUT_S: Final = 1.0
"""How long to wait for a server on this machine."""
FEW_FILES: Final = 1024
EARLIEST: Final = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""A clock that shows less is wrong."""
OLLAMA: Final = "http://127.0.0.1:11434"


def python() -> Finding:
    """Report the Python version and the platform."""
    return ok("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def packages() -> Iterator[Finding]:
    """Check the versions of Strandline's dependencies."""
    for name in TESTED_VERSIONS:
        version = _version(name)
        if version is None:
            yield problem("packages", f"{name} is not installed", "pip install strandline")
            return
        if not is_tested(name, version):
            fix = f"pip install '{name}{bounds(name)}'"
            yield problem("packages", f"{name} {version} is not a supported version", fix)
            return
    shown = (*TESTED_VERSIONS, "uvloop", "starlette")
    versions = ", ".join(f"{name} {_version(name) or 'missing'}" for name in shown)
    yield ok("packages", f"strandline {__version__}, {versions}")


def open_files(settings: Settings) -> Finding:
    """Check the limit of open files: clients and agents need them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1):
        return ok("open files", "unlimited")
    if soft >= max(FEW_FILES, 2 * settings.max_running):
        return ok("open files", f"up to {soft:,}")
    most = "" if hard in (resource.RLIM_INFINITY, -1) else f" (up to {hard:,} without root)"
    return note("open files", f"only {soft:,}, and each waiting client needs one", f"ulimit -n 4096{most}")


def clock(journal: Path | None, now: float | None = None) -> Finding:
    """Check whether the clock can be right: run ids, keys and retention depend on it."""
    now = time.time() if now is None else now
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    newest = 0.0
    if journal is not None:
        try:
            newest = journal.stat().st_mtime
        except OSError:
            pass
    if now < EARLIEST:
        return problem("clock", f"{shown}, which is in the past", "set the clock of this machine")
    if newest > now + 60:
        return problem(
            "clock", f"{shown}, but the journal was last written after that", "set the clock of this machine"
        )
    return ok("clock", shown)


def model_providers() -> Iterator[Finding]:
    """Check each model provider. A missing one matters only to agents that use it."""
    for provider in PACKAGES:
        if not installed(provider):
            yield note(provider, "its package is not installed", to_install(provider))
        elif (missing := lacks(provider)) is not None:
            message, _, fix = missing.partition(". ")
            yield note(provider, message, fix)
        elif provider == "ollama":
            yield _ollama()
        else:
            yield ok(provider, "credentials found (not tested)")


def fetch_json(url: str) -> Any:
    """Return the JSON answer of a server on this machine, of any status, or None if it is not JSON.

    Raises `OSError` if nothing answers in time.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PROBE_TIMEOUT_S) as response:
            body = response.read(1 << 16)
    except urllib.error.HTTPError as error:
        body = error.read(1 << 16)
    try:
        return json.loads(body)
    except ValueError:
        return None


def _ollama() -> Finding:
    given = os.environ.get("OLLAMA_HOST") or OLLAMA
    url = given if "://" in given else f"http://{given}"
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 11434
    if host == "0.0.0.0":
        host = "127.0.0.1"
    if host != "localhost" and not _is_loopback(host):
        return ok("ollama", f"at {url}, not tested: it is another machine")
    try:
        answer = fetch_json(f"{parts.scheme}://{host}:{port}/api/version")
    except OSError:
        return note("ollama", f"nothing answers at {url}", "ollama serve")
    version = answer.get("version") if isinstance(answer, dict) else None
    return ok("ollama", f"version {version} answers at {url}") if version else note("ollama", f"{url} is not Ollama")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
