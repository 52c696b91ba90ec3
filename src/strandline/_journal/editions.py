"""What of a waiting run can be edited, and which edition of it a client has seen. Pure."""

import hashlib
from typing import Any

import msgspec

from strandline._encoding import encode_messages
from strandline._model import Input, JoinState, Lane, Run, RunStatus


def edition(run: Run) -> str:
    """Return what names a run's input, metadata and priority: another one when one of them is another."""
    plain = msgspec.json.decode(encode_messages([run.input, run.metadata, run.priority]))
    return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()[:32]


def may_edit(run: Run) -> bool:
    """Return whether a run can be edited: it waits, has never begun, and answers no question."""
    is_apart = run.lane != Lane.ANSWER and run.join is not JoinState.APPLIED
    return is_apart and run.status is RunStatus.QUEUED and run.started_at is None


def edited_parts(
    run: Run, prompt: Input | None, metadata: dict[str, Any] | None, priority: int | None
) -> tuple[str, ...]:
    """Return the names of what an edit changes; None: that part stays."""
    parts = []
    if prompt is not None and encode_messages(prompt) != encode_messages(run.input):
        parts.append("input")
    if metadata is not None and metadata != run.metadata:
        parts.append("metadata")
    if priority is not None and priority != run.priority:
        parts.append("priority")
    return tuple(parts)
