"""OpenAI's own clients, as tests use them."""

from typing import Any

from openai import AsyncOpenAI, OpenAI

from acceptance.server import DEADLINE_S, Server


def connected(server: Server, **options: Any) -> OpenAI:
    """Return a client of this server."""
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE_S, **options)


def connected_async(server: Server, **options: Any) -> AsyncOpenAI:
    """Return an async client of this server."""
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=DEADLINE_S, **options)
