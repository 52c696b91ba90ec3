"""The agent of the `/chat` benchmark: one model call, no tools, Strands' own window of 40 messages."""

from strands import Agent
from strands.types.content import Messages

from strandline.testing import ScriptedModel, question


def answer(messages: Messages) -> str:
    return f"You said: {question(messages)}"


MODEL = ScriptedModel(answer)


def make_agent(session_id: str) -> Agent:
    return Agent(model=MODEL, callback_handler=None)
