"""The tool that reads what waits, where nothing can be read."""

import asyncio
from typing import Any

from strands import Agent

from strandline._agents.abnormal_exit import watch_exits
from strandline._agents.waiting import LiveWaiting
from strandline._history import UNKNOWN_WAITING
from strandline.testing import ScriptedModel
from strandline.tools import waiting_messages


def text_of(result: Any) -> str:
    assert result["status"] == "error"
    return str(result["content"][0]["text"])


def test_outside_of_a_run_the_tool_says_so_and_in_one_which_setting_turns_it_on() -> None:
    agent = Agent(model=ScriptedModel(lambda messages: "hi"), tools=[waiting_messages])
    assert "only in a run" in text_of(agent.tool.waiting_messages())
    with watch_exits():
        assert "`tell_waiting` is off" in text_of(agent.tool.waiting_messages())


def test_what_cannot_be_read_is_not_nothing() -> None:
    class Attempt:
        async def read_waiting(self, messages: int) -> Any:
            return UNKNOWN_WAITING

    async def main() -> None:
        with watch_exits() as exits:
            exits.waiting = LiveWaiting(Attempt())  # type: ignore[arg-type]
            await exits.waiting.refresh()
            assert exits.waiting.shown == {"count": None, "senders": []}
            assert "cannot be read" in text_of(await waiting_messages())

    asyncio.run(main())
