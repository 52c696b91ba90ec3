"""Strandline puts a stateful agent behind HTTP so that requests to one conversation never race.

What `__all__` names is imported when it is first used: `import strandline` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from strandline._agents.function import Session
    from strandline._agents.port import RunContext
    from strandline._engine.events import Reason, Why
    from strandline._engine.files import File, FilePage
    from strandline._engine.loops import WorkerLoad
    from strandline._engine.reading import Health, RestoredView, RunPage, RunView
    from strandline._engine.requests import CheckedTool, Request, RunEdit, ToolOutcome
    from strandline._engine.schedules import (
        Missed,
        Overlap,
        ScheduleChange,
        ScheduleRequest,
        ScheduleView,
        ScheduleViews,
    )
    from strandline._engine.streams import Later
    from strandline._engine.webhooks import DeliveryPage, DeliveryView, SendResult
    from strandline._journal.port import (
        Effect,
        Forked,
        HistoryPage,
        OpenTool,
        SessionPage,
        SessionTree,
        Superseded,
        TreeBranch,
        TreeFork,
    )
    from strandline._library import AgentApp, AppKeywords, ServerKeywords, ServiceKeywords, asgi, open_service, serve
    from strandline._logs import JsonFormatter
    from strandline._model import (
        ANONYMOUS,
        AnswerFormat,
        ClientOptions,
        ClientTool,
        CollectOptions,
        ErrorCode,
        FileId,
        ForkedFrom,
        GoBack,
        IfBusy,
        InputRequest,
        JoinState,
        Message,
        OnDisconnect,
        OnQuestion,
        Outcome,
        Place,
        Principal,
        RunDefaults,
        RunError,
        RunId,
        RunStatus,
        RunSummary,
        RunWebhook,
        ScheduleId,
        Sender,
        SessionId,
        SessionKey,
        SessionView,
        Webhook,
        session_key,
    )
    from strandline._service import CancelledRuns, Service, Ticket
    from strandline.client import AsyncClient, Client, ClientError
    from strandline.errors import StrandlineError
else:
    _HOMES = {
        "ANONYMOUS": "_model",
        "AgentApp": "_library",
        "AnswerFormat": "_model",
        "AppKeywords": "_library",
        "AsyncClient": "client",
        "CancelledRuns": "_service",
        "CheckedTool": "_engine.requests",
        "Client": "client",
        "ClientError": "client",
        "ClientOptions": "_model",
        "ClientTool": "_model",
        "CollectOptions": "_model",
        "DeliveryPage": "_engine.webhooks",
        "DeliveryView": "_engine.webhooks",
        "Effect": "_journal.port",
        "ErrorCode": "_model",
        "File": "_engine.files",
        "FileId": "_model",
        "FilePage": "_engine.files",
        "Forked": "_journal.port",
        "ForkedFrom": "_model",
        "GoBack": "_model",
        "Health": "_engine.reading",
        "HistoryPage": "_journal.port",
        "IfBusy": "_model",
        "InputRequest": "_model",
        "JoinState": "_model",
        "JsonFormatter": "_logs",
        "Later": "_engine.streams",
        "Message": "_model",
        "Missed": "_engine.schedules",
        "OnDisconnect": "_model",
        "OnQuestion": "_model",
        "OpenTool": "_journal.port",
        "Outcome": "_model",
        "Overlap": "_engine.schedules",
        "Place": "_model",
        "Principal": "_model",
        "Reason": "_engine.events",
        "Request": "_engine.requests",
        "RestoredView": "_engine.reading",
        "RunContext": "_agents.port",
        "RunDefaults": "_model",
        "RunEdit": "_engine.requests",
        "RunError": "_model",
        "RunId": "_model",
        "RunPage": "_engine.reading",
        "RunStatus": "_model",
        "RunSummary": "_model",
        "RunView": "_engine.reading",
        "RunWebhook": "_model",
        "ScheduleChange": "_engine.schedules",
        "ScheduleId": "_model",
        "ScheduleRequest": "_engine.schedules",
        "ScheduleView": "_engine.schedules",
        "ScheduleViews": "_engine.schedules",
        "SendResult": "_engine.webhooks",
        "Sender": "_model",
        "ServerKeywords": "_library",
        "Service": "_service",
        "ServiceKeywords": "_library",
        "Session": "_agents.function",
        "SessionId": "_model",
        "SessionKey": "_model",
        "SessionPage": "_journal.port",
        "SessionTree": "_journal.port",
        "SessionView": "_model",
        "StrandlineError": "errors",
        "Superseded": "_journal.port",
        "Ticket": "_service",
        "ToolOutcome": "_engine.requests",
        "TreeBranch": "_journal.port",
        "TreeFork": "_journal.port",
        "Webhook": "_model",
        "Why": "_engine.events",
        "WorkerLoad": "_engine.loops",
        "asgi": "_library",
        "open_service": "_library",
        "serve": "_library",
        "session_key": "_model",
    }

    _MODULES = frozenset({"client", "errors", "events", "providers", "testing"})

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _MODULES:  # (type checkers see them through the imports above)
            return import_module(f"strandline.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'strandline' has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"strandline.{_HOMES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_MODULES})


__all__ = [
    "ANONYMOUS",
    "AgentApp",
    "AnswerFormat",
    "AppKeywords",
    "AsyncClient",
    "CancelledRuns",
    "CheckedTool",
    "Client",
    "ClientError",
    "ClientOptions",
    "ClientTool",
    "CollectOptions",
    "DeliveryPage",
    "DeliveryView",
    "Effect",
    "ErrorCode",
    "File",
    "FileId",
    "FilePage",
    "Forked",
    "ForkedFrom",
    "GoBack",
    "Health",
    "HistoryPage",
    "IfBusy",
    "InputRequest",
    "JoinState",
    "JsonFormatter",
    "Later",
    "Message",
    "Missed",
    "OnDisconnect",
    "OnQuestion",
    "OpenTool",
    "Outcome",
    "Overlap",
    "Place",
    "Principal",
    "Reason",
    "Request",
    "RestoredView",
    "RunContext",
    "RunDefaults",
    "RunEdit",
    "RunError",
    "RunId",
    "RunPage",
    "RunStatus",
    "RunSummary",
    "RunView",
    "RunWebhook",
    "ScheduleChange",
    "ScheduleId",
    "ScheduleRequest",
    "ScheduleView",
    "ScheduleViews",
    "SendResult",
    "Sender",
    "ServerKeywords",
    "Service",
    "ServiceKeywords",
    "Session",
    "SessionId",
    "SessionKey",
    "SessionPage",
    "SessionTree",
    "SessionView",
    "StrandlineError",
    "Superseded",
    "Ticket",
    "ToolOutcome",
    "TreeBranch",
    "TreeFork",
    "Webhook",
    "Why",
    "WorkerLoad",
    "__version__",
    "asgi",
    "open_service",
    "serve",
    "session_key",
]
