"""What a person found out about the tools of a crashed run. Values only."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from msgspec import UNSET, Struct

from strandline._history import done_result
from strandline._model import Block, Resolution, RunId, ToolDone, ToolNotDone
from strandline.errors import Invalid, NotResolvable


class ToolOutcome(StrEnum):
    """What a tool has done, as a person found out."""

    DONE = "done"
    """It has taken effect: the run continues with its result."""
    NOT_DONE = "not_done"
    """It has done nothing: the run starts it again."""


class CheckedTool(Struct, frozen=True):
    """A tool that a person has checked. `result` is what it returned, a text or any JSON; UNSET: not known."""

    tool_use_id: str
    outcome: ToolOutcome
    result: Any = UNSET


def resolution(run_id: RunId, tools: Sequence[CheckedTool], *, by: str) -> Resolution:
    """Return what `by` found out about a crashed run. Raises `Invalid`."""
    ids = [each.tool_use_id for each in tools]
    if len(set(ids)) < len(ids):
        raise Invalid("tools must name each tool once")
    return Resolution(run_id=run_id, tools=tuple(_checkpoint(each, by) for each in tools))


def not_resolvable(run_id: RunId | str) -> NotResolvable:
    """Return the error for a run that cannot continue."""
    return NotResolvable(
        f"run {run_id} cannot continue: it did not crash in a tool, was resolved before, or another run has begun since"
    )


def _checkpoint(tool: CheckedTool, by: str) -> ToolDone | ToolNotDone:
    if tool.outcome is ToolOutcome.DONE:
        return ToolDone(tool.tool_use_id, done_result(tool.tool_use_id, by, _content(tool.result)))
    if tool.result is not UNSET:
        raise Invalid(f"tool {tool.tool_use_id} is not_done, so it has no result")
    return ToolNotDone(tool.tool_use_id, by)


def _content(result: Any) -> list[Block]:
    if result is UNSET or result is None:
        return []
    return [{"text": result}] if isinstance(result, str) else [{"json": result}]
