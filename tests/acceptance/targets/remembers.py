"""An agent that answers with all that was asked in the conversation that its model sees."""

from strands import Agent
from strands.types.content import Messages

from strandline.testing import ScriptedModel


def script(messages: Messages) -> str:
    """Return the texts of the user, in order."""
    return " | ".join(
        block["text"]
        for message in messages
        if message["role"] == "user"
        for block in message["content"]
        if "text" in block
    )


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    return Agent(model=ScriptedModel(script))
