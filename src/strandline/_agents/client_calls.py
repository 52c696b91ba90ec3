"""How calls of a client's tools are named: as interrupts of the agent, and as input requests. Pure."""

import uuid
from typing import Final

CLIENT_TOOL: Final = "client_tool"
"""The name of their interrupts. Their reason has this key, too."""
_NAME: Final = uuid.uuid5(uuid.NAMESPACE_OID, CLIENT_TOOL)


def request_id_of(tool_use_id: str) -> str:
    """Return the id of the input request that a call of a client's tool is: that of its interrupt, as Strands makes it
    for a `BeforeToolCallEvent`."""
    return f"v1:before_tool_call:{tool_use_id}:{_NAME}"
