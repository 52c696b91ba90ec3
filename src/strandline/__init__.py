"""Strandline puts a stateful agent behind HTTP so that requests to one conversation never race.

What stands in `__all__` is imported when it is first asked for: `import strandline` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from strandline.client.awaiting import AsyncClient
    from strandline.client.blocking import Client
    from strandline.client.errors import ClientError
    from strandline.engine.admission import Ticket
    from strandline.engine.reading import Health, RunView
    from strandline.engine.requests import Request
    from strandline.engine.service import Service
    from strandline.engine.streams import Later
    from strandline.errors import StrandlineError
    from strandline.library import AgentApp, asgi, open_service, serve
    from strandline.model import (
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
else:
    _HOMES = {
        "ANONYMOUS": "model",
        "AgentApp": "library",
        "AsyncClient": "client.awaiting",
        "Client": "client.blocking",
        "ClientError": "client.errors",
        "Health": "engine.reading",
        "IfBusy": "model",
        "Later": "engine.streams",
        "Message": "model",
        "OnDisconnect": "model",
        "OnQuestion": "model",
        "Outcome": "model",
        "Request": "engine.requests",
        "RunError": "model",
        "RunStatus": "model",
        "RunView": "engine.reading",
        "Service": "engine.service",
        "SessionKey": "model",
        "StrandlineError": "errors",
        "Ticket": "engine.admission",
        "asgi": "library",
        "open_service": "library",
        "serve": "library",
        "session_key": "model",
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
