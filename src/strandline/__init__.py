"""Strandline puts a stateful agent behind HTTP so that requests to one conversation never race.

What stands in `__all__` is imported when it is first asked for: `import strandline` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from strandline._engine.admission import Ticket
    from strandline._engine.reading import Health, RunView
    from strandline._engine.requests import Request
    from strandline._engine.service import Service
    from strandline._engine.streams import Later
    from strandline._library import AgentApp, asgi, open_service, serve
    from strandline._model import (
        ANONYMOUS,
        IfBusy,
        Message,
        OnDisconnect,
        OnQuestion,
        Outcome,
        RunError,
        RunStatus,
        SessionKey,
        session_key,
    )
    from strandline.client._async_client import AsyncClient
    from strandline.client._errors import ClientError
    from strandline.client._sync_client import Client
    from strandline.errors import StrandlineError
else:
    _HOMES = {
        "ANONYMOUS": "_model",
        "AgentApp": "_library",
        "AsyncClient": "client._async_client",
        "Client": "client._sync_client",
        "ClientError": "client._errors",
        "Health": "_engine.reading",
        "IfBusy": "_model",
        "Later": "_engine.streams",
        "Message": "_model",
        "OnDisconnect": "_model",
        "OnQuestion": "_model",
        "Outcome": "_model",
        "Request": "_engine.requests",
        "RunError": "_model",
        "RunStatus": "_model",
        "RunView": "_engine.reading",
        "Service": "_engine.service",
        "SessionKey": "_model",
        "StrandlineError": "errors",
        "Ticket": "_engine.admission",
        "asgi": "_library",
        "open_service": "_library",
        "serve": "_library",
        "session_key": "_model",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'strandline' has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(f"strandline.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "ANONYMOUS",
    "AgentApp",
    "AsyncClient",
    "Client",
    "ClientError",
    "Health",
    "IfBusy",
    "Later",
    "Message",
    "OnDisconnect",
    "OnQuestion",
    "Outcome",
    "Request",
    "RunError",
    "RunStatus",
    "RunView",
    "Service",
    "SessionKey",
    "StrandlineError",
    "Ticket",
    "__version__",
    "asgi",
    "open_service",
    "serve",
    "session_key",
]
