"""An agent that ends in every way an agent can; the question says which. Served by `tools/pages/endings.py`.

A step that has to be waited for makes a file `reached-SESSION` in the current folder.
"""

import asyncio
import time
from pathlib import Path

from strands import Agent, ToolContext, tool
from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results, say, stop


def _wait() -> None:
    """Work until the file `go-on` is there, as a tool that nobody can stop."""
    while not Path("go-on").exists():
        time.sleep(0.01)


def _reached(session: str) -> None:
    Path(f"reached-{session}").touch()


def _may_go_on() -> bool:
    _reached("crash-model")
    return Path("go-on").exists()


@tool(context=True)
def book(city: str, tool_context: ToolContext) -> str:
    """Book a flight.

    Args:
        city: where to
        tool_context: given by the agent
    """
    if city == "Atlantis":
        raise ValueError("there is no airport in Atlantis")
    if city == "Rome":
        _reached(tool_context.invocation_state["session_id"])
        _wait()
    return f"booked {city}"


async def script(messages: Messages) -> Answer:
    """Answer as the question says."""
    prompt, done = question(messages), list(results(messages).values())
    if prompt == "Are you there?":
        return "Yes."
    if prompt.startswith("Fail"):
        return [say("Let me think. "), ConnectionError("the model provider is out of order")]
    if prompt.startswith("Write"):
        return [say("Once upon a time, "), stop("max_tokens")]
    if prompt.startswith("Think"):
        return [say("Let me think. "), await asyncio.sleep(3600, "never")]
    if not done:
        return [say("I will book it. "), call("book", {"city": prompt.split()[-1].rstrip(".")})]
    if prompt == "Book Paris.":
        _reached("cancel")
        await asyncio.sleep(3600)
    if prompt == "Book Oslo." and not _may_go_on():
        await asyncio.sleep(3600)
    return f"Done: {done[0]}"


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(model=ScriptedModel(script), tools=[book])
