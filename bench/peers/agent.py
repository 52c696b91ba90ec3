"""The agent that every Strands server of the benchmark serves: one call of the scripted model, no tools."""

from strands import Agent
from strands.types.content import Messages

from bench.peers.script import PIECE, answer
from strandline.testing import ScriptedModel


async def say(messages: Messages) -> str:
    """Give the messages to the script as roles and texts."""
    said = [(each["role"], "".join(block.get("text", "") for block in each["content"])) for each in messages]
    return await answer(said)


MODEL = ScriptedModel(say, chunk_size=PIECE)


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    return Agent(model=MODEL, callback_handler=None)
