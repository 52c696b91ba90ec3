"""Agno's AgentOS around an Agno agent with the same script; sessions in a SQLite file, history shown to the model."""

import sys
from collections.abc import AsyncIterator
from typing import Any

from agno.agent import Agent
from agno.db.sqlite import AsyncSqliteDb
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.os import AgentOS

from bench.peers.apps.serving import listen, serve
from bench.peers.script import answer, pieces

WINDOW_RUNS = 20
"""As many messages as Strands keeps by default: 40."""


class Scripted(Model):  # type: ignore[misc]  # its package is not where types are checked
    """The fake model, for Agno."""

    async def ainvoke(self, messages: list[Message], **more: Any) -> ModelResponse:
        """Return the script's answer."""
        return ModelResponse(role="assistant", content=await self._answer(messages))

    async def ainvoke_stream(self, messages: list[Message], **more: Any) -> AsyncIterator[ModelResponse]:
        """Yield the script's answer in pieces."""
        for piece in pieces(await self._answer(messages)):
            yield ModelResponse(role="assistant", content=piece)

    async def _answer(self, messages: list[Message]) -> str:
        return await answer([(each.role, str(each.content)) for each in messages if each.role != "system"])

    def invoke(self, *args: Any, **more: Any) -> ModelResponse:
        """Not called by an async server."""
        raise NotImplementedError

    def invoke_stream(self, *args: Any, **more: Any) -> Any:
        """Not called by an async server."""
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **more: Any) -> ModelResponse:
        raise NotImplementedError

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        raise NotImplementedError


if __name__ == "__main__":
    agent = Agent(
        id="bench",
        name="bench",
        model=Scripted(id="scripted"),
        db=AsyncSqliteDb(db_file=sys.argv[1]),
        add_history_to_context=True,
        num_history_runs=WINDOW_RUNS,
        telemetry=False,
    )
    serve(AgentOS(agents=[agent], telemetry=False).get_app(), *listen())
