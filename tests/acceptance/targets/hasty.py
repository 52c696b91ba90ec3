"""The soak's agent on a server that was broken on purpose: it checkpoints a round after its tools, not before."""

from typing import Any

from soak.target import make_agent
from strandline._engine.execution import LiveAttempt

__all__ = ["make_agent"]

_begin_round, _end_round = LiveAttempt.begin_round, LiveAttempt.end_round


async def _begin_at_once(self: LiveAttempt) -> None:
    self.results = {}


async def _keep_in_memory(self: LiveAttempt, tool_use_id: str, result: dict[str, Any]) -> None:
    self.results = {**self.results, tool_use_id: result}


async def _checkpoint_all(self: LiveAttempt, state: dict[str, Any] | None) -> None:
    closing = self.messages.pop()
    await _begin_round(self)
    self.messages.append(closing)
    await _end_round(self, state)


LiveAttempt.begin_round = _begin_at_once  # type: ignore[method-assign]
LiveAttempt.end_tool = _keep_in_memory  # type: ignore[method-assign]
LiveAttempt.end_round = _checkpoint_all  # type: ignore[method-assign]
