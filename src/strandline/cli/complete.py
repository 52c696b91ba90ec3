"""What the shell offers after Tab: files of the right kind, and the values that a setting may have.

It is asked at every Tab, so it looks at one folder and imports nothing.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final, Literal, get_args, get_origin

MOST: Final = 200
"""No more files are offered: nobody reads them."""


def files(*suffixes: str) -> Callable[[str], list[str]]:
    """Return what completes a path: folders, and files whose names end so."""

    def complete(incomplete: str) -> list[str]:
        return list(_paths(incomplete, suffixes))[:MOST]

    return complete


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Return what completes one of a few values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def choices(kind: object) -> tuple[str, ...]:
    """Return the values that a setting of this type may have, if they are few."""
    inner = get_args(kind)[0] if get_args(kind) and get_origin(kind) is not Literal else kind
    return get_args(inner) if get_origin(inner) is Literal else ()


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    folder, _, beginning = incomplete.rpartition("/")
    prefix = f"{folder}/" if "/" in incomplete else ""
    try:
        with os.scandir(os.path.expanduser(prefix) or ".") as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
                    continue
                if entry.is_dir():
                    yield f"{prefix}{entry.name}/"
                elif entry.name.endswith(suffixes):
                    yield f"{prefix}{entry.name}"
    except OSError:
        return


TARGETS: Final = files(".py")
TOML: Final = files(".toml")
ADAPTERS: Final = one_of("strandline", "original", "agentcore", "a2a", "ag-ui")
JOURNALS: Final = files(".db")
MODELS: Final = one_of("scripted", "openai:gpt-4o-mini", "bedrock:us.amazon.nova-lite-v1:0", "ollama:llama3.2")
