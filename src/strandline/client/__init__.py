"""A typed client of Strandline servers: `Client` and, for async code, `AsyncClient`.

`_plans` decides, without I/O, what to send, what an answer means, where to resume and how long to wait; the two clients
only carry plans out. Nothing here knows the inside of a server.
"""

from typing import TYPE_CHECKING, Any

from strandline._model import InputRequest, Sender, Webhook
from strandline.client._answers import (
    Branch,
    CancelledRuns,
    Delivery,
    Effect,
    File,
    Fork,
    ForkedFrom,
    ForkOf,
    HistoryMessage,
    OpenTool,
    Problem,
    Restored,
    Run,
    Schedule,
    Session,
    Token,
    Tree,
    WebhookTest,
    Why,
)
from strandline.client._async_client import AsyncClient
from strandline.client._errors import (
    ClientError,
    Conflict,
    NoServer,
    NotFound,
    NotNow,
    NotStrandline,
    Refused,
    Unauthorized,
)
from strandline.client._events import (
    Event,
    MessageAdded,
    ReasoningDelta,
    RunChanged,
    RunFinished,
    RunJoined,
    RunPosition,
    RunQueued,
    RunRestarted,
    RunStalled,
    RunStarted,
    StreamGap,
    TextDelta,
    TextReset,
    ToolFinished,
    ToolStarted,
    Unknown,
    Usage,
)
from strandline.client._requests import (
    AgainOptions,
    CheckedTool,
    RunOptions,
    ScheduleChanges,
    ScheduleOptions,
    SessionOptions,
)
from strandline.client._sync_client import Client

__all__ = [
    "AgainOptions",
    "AsyncClient",
    "Branch",
    "CancelledRuns",
    "CheckedTool",
    "Client",
    "ClientError",
    "Conflict",
    "Delivery",
    "Effect",
    "Event",
    "File",
    "Fork",
    "ForkOf",
    "ForkedFrom",
    "HistoryMessage",
    "InputRequest",
    "MessageAdded",
    "NoServer",
    "NotFound",
    "NotNow",
    "NotStrandline",
    "OpenTool",
    "Problem",
    "ReasoningDelta",
    "Refused",
    "Restored",
    "Run",
    "RunChanged",
    "RunFinished",
    "RunJoined",
    "RunOptions",
    "RunPosition",
    "RunQueued",
    "RunRestarted",
    "RunStalled",
    "RunStarted",
    "Schedule",
    "ScheduleChanges",
    "ScheduleOptions",
    "Sender",
    "Session",
    "SessionOptions",
    "StreamGap",
    "TextDelta",
    "TextReset",
    "Token",
    "ToolFinished",
    "ToolStarted",
    "Tree",
    "Unauthorized",
    "Unknown",
    "Usage",
    "Webhook",
    "WebhookTest",
    "Why",
]

if TYPE_CHECKING:
    Wishes = RunOptions
else:

    def __getattr__(name: str) -> Any:
        if name != "Wishes":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import warnings

        warnings.warn("Wishes is deprecated: use RunOptions", DeprecationWarning, stacklevel=2)
        return RunOptions
