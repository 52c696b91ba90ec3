"""Shell completion: files of the right kind, values of a setting, sessions and runs of the server.

It runs at every Tab, so completing files reads one folder and imports nothing. Sessions and runs come from the server
that the command would call; if it does not answer within a second, nothing is offered and nothing is printed.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import typer

MOST: Final = 200
"""The most suggestions that are offered."""
MOST_FETCHED: Final = 1000
WAIT_S: Final = 1.0
"""How long the server may take to answer."""


def files(*suffixes: str) -> Callable[[str], list[str]]:
    """Return a completer of paths: folders, and files with these suffixes."""

    def complete(incomplete: str) -> list[str]:
        return list(_paths(incomplete, suffixes))[:MOST]

    return complete


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Return a completer of fixed values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def sessions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the server's sessions that begin with the typed text."""
    return [name for name in _names(ctx, "sessions", "session_id") if name.startswith(incomplete)][:MOST]


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the latest runs that begin with the typed text."""
    return [run_id for run_id in _names(ctx, "runs", "run_id") if run_id.startswith(incomplete)][:MOST]


def sessions_and_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return sessions, and runs once a character was typed."""
    return [*sessions(ctx, incomplete), *(runs(ctx, incomplete) if incomplete else [])][:MOST]


def _names(ctx: typer.Context, what: str, name: str) -> list[str]:
    """Return distinct names from the server's list; none if it does not answer in time."""
    try:
        return list(dict.fromkeys(str(each[name]) for each in _fetched(ctx, what)[what]))
    except (Exception, SystemExit):  # completion prints no errors
        return []


def _fetched(ctx: typer.Context, what: str) -> Any:
    import contextlib

    from strandline._cli.address import address, api_key

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        url, key = address(ctx.params.get("url")), api_key(ctx.params.get("key_file"))
        import httpx

        from strandline.client._transport import options

        with httpx.Client(**{**options(url, key), "timeout": WAIT_S}) as client:
            return client.get(f"/v1/{what}", params={"limit": MOST_FETCHED}).raise_for_status().json()


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
SESSIONS: Final = sessions
RUNS: Final = runs
SESSIONS_AND_RUNS: Final = sessions_and_runs
STATUSES: Final = one_of("queued", "running", "succeeded", "failed", "cancelled", "needs_input")
