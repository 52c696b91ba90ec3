"""Agents whose conversations are kept by session managers of Strands, in files below `kept/`."""

from strands import Agent
from strands.session import FileSessionManager
from strands.types.content import Messages

from strandline.testing import ScriptedModel, question


def script(messages: Messages) -> str:
    """Say which questions are in the conversation."""
    if question(messages) == "fail":
        raise ConnectionError("the provider is out of order")
    return " ".join(block["text"] for each in messages if each["role"] == "user" for block in each["content"])


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    return Agent(model=ScriptedModel(script), session_manager=FileSessionManager(session_id, storage_dir="kept"))


def make_apart(session_id: str, principal: str) -> Agent:
    """Build the agent of one session of one principal, whose files are in a folder of its own."""
    manager = FileSessionManager(session_id, storage_dir=f"kept/{principal}")
    return Agent(model=ScriptedModel(script), session_manager=manager)
