"""An agent whose code raises errors that quote what callers must not know."""

from strands import Agent
from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, question, say, stop

URL = "postgresql://ada:hunter2@db.internal/pay"


def script(messages: Messages) -> Answer:
    """Fail, run out of tokens, or answer."""
    match question(messages):
        case "fail":
            return [say("let me see"), ConnectionError(f"cannot reach {URL}")]
        case "long":
            return [say("half an ans"), stop("max_tokens")]
        case other:
            return f"answer to {other}"


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session; that of `unbuilt` cannot be built."""
    if session_id == "unbuilt":
        raise LookupError(f"no such user at {URL}")
    return Agent(model=ScriptedModel(script), callback_handler=None)
