"""Stands in for a model, so that the container runs without a key: it counts questions."""

from strands.types.content import Messages

from strandline.testing import ScriptedModel, question


def script(messages: Messages) -> str:
    """Say what was asked, and how many questions that makes."""
    return f"Question {(len(messages) + 1) // 2}: {question(messages)}"


scripted = ScriptedModel(script)
