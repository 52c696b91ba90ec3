"""Requests: what callers send, checked and made into runs that the journal can accept.

`Request` is a request for a run; `RunBuilder` makes a `NewRun` of it: limits, defaults, lane and key. `check_content`
is the allowlist of content blocks. Everything here is a value or a check: nothing is stored, and other runs do not
matter.
"""

from strandline._agents.client_calls import request_id_of
from strandline._engine.requests.checked_tools import CheckedTool, ToolOutcome, not_resolvable, resolution
from strandline._engine.requests.client_list import Continues, Differs, GoesBack, ListedMessages, place_in
from strandline._engine.requests.client_options import (
    MOST_TOOLS,
    TOOL_NAME,
    client_options_in,
    tools_without_effect_in,
    with_client_options,
    without_client_options,
)
from strandline._engine.requests.content import (
    ALWAYS_ALLOWED,
    FORMATS,
    LOCATION,
    LONGEST_NAME,
    NEVER_ALLOWED,
    check_content,
)
from strandline._engine.requests.derived import Kept, again_request, kept_of, resolve_request
from strandline._engine.requests.request import (
    END_OF_TIME_S,
    Replaced,
    Request,
    RunEdit,
    check_key,
    is_storable,
    newer_of,
)
from strandline._engine.requests.run_builder import RunBuilder, check_sender, checked_priority, fingerprint_of
from strandline._engine.requests.webhook import EVENTS, NO_SECRETS, check_url, check_webhook

__all__ = [
    "END_OF_TIME_S",
    "EVENTS",
    "NO_SECRETS",
    "FORMATS",
    "LOCATION",
    "LONGEST_NAME",
    "MOST_TOOLS",
    "TOOL_NAME",
    "NEVER_ALLOWED",
    "ALWAYS_ALLOWED",
    "CheckedTool",
    "Continues",
    "Differs",
    "GoesBack",
    "Kept",
    "ListedMessages",
    "Replaced",
    "RunBuilder",
    "Request",
    "RunEdit",
    "request_id_of",
    "ToolOutcome",
    "again_request",
    "check_content",
    "check_key",
    "check_sender",
    "check_url",
    "check_webhook",
    "checked_priority",
    "client_options_in",
    "tools_without_effect_in",
    "fingerprint_of",
    "is_storable",
    "kept_of",
    "newer_of",
    "not_resolvable",
    "place_in",
    "resolution",
    "resolve_request",
    "with_client_options",
    "without_client_options",
]
