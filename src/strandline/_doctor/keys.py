"""The API keys: whether they can be read, and who can change their file."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from strandline._access.source import Keys
from strandline._config import FIELDS, OF_CLIENTS
from strandline._doctor.finding import Finding, note, ok, problem
from strandline._settings import Settings
from strandline.errors import SettingsError


def keys(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the API keys."""
    if not settings.has_keys:
        if misplaced := OF_CLIENTS & environ.keys():
            yield note("keys", f"{', '.join(sorted(misplaced))} is for clients; it gives nobody access to a server")
        else:
            yield ok("keys", "none: clients need no key")
        return
    try:
        ring = Keys(settings).ring
    except SettingsError as error:
        yield problem("keys", str(error))
        return
    names = sorted({key.principal for key in ring.keys})
    operators = sum(key.operator for key in ring.keys)
    yield ok("keys", f"{len(ring)} for {', '.join(names)}; {operators} for operators")
    unbound = {
        "max_queued_per_caller": f"{settings.max_queued} runs may wait",
        "max_running_per_caller": f"{settings.max_running} execute",
    }
    unset = [name for name in unbound if getattr(settings, FIELDS[name]) is None]
    if len(names) > 1 and unset:
        yield note(
            "keys",
            f"each of {len(names)} callers may fill the whole server: {', '.join(unbound[name] for name in unset)}",
            f"set {' and '.join(unset)}",
        )
    if settings.api_keys_file is not None:
        yield from _file(Path(settings.api_keys_file))


def _file(file: Path) -> Iterator[Finding]:
    found = file.stat()
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield problem("keys", f"others than its owner can write to {file}, and so add keys", "chmod 600")
    if found.st_uid not in (0, os.geteuid()):
        yield note("keys", f"{file} belongs to user {found.st_uid}, who can add keys")
